"""The ledger of a column shard: one line per row, and the commit mark.

A ledger is moved into place last, after the tar and the index it describes, and names their digests: where a readable ledger
lies, its shard of the column is whole. It holds no times and no machine paths, so the same work gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from infra.digest import canonical_json
from infra.storage.copies import local

Status = Literal["written", "quarantined"]

_SCHEMA = pa.schema([
    ("key", pa.string()), ("status", pa.string()), ("error", pa.string()), ("message", pa.string()),
    ("trace", pa.string()), ("tries", pa.int32()), ("inputs", pa.string()), ("source", pa.string()),
])  # fmt: skip
_METADATA = b"likeness"


@dataclass
class LedgerRow:
    """What became of one row.

    Attributes:
        error: exception type; "MissingInput" where an input of the row was quarantined.
        trace: the innermost frames of the traceback, files by their last two path parts.
        tries: committed attempts, counted up by `--retry-quarantined`.
        inputs: digest of the bytes this row was computed from; equal digests let a rebuild copy the row.
        source: in ingest's ledger the row's SOURCE record as JSON, so that listing rows needs no tar; else "".
    """

    key: str
    status: Status
    error: str = ""
    message: str = ""
    trace: str = ""
    tries: int = 1
    inputs: str = ""
    source: str = ""


@dataclass
class Commit:
    """What a ledger vouches for.

    Attributes:
        tar_bytes, tar_sha256, idx_sha256: the files beside it.
        inputs: what the shard was computed from: column -> sha256 of its tar; for ingest "sources" -> their digest.
        sources: in ingest's ledger one record per source of the shard, with its outcome; else empty.
    """

    tar_bytes: int
    tar_sha256: str
    idx_sha256: str
    inputs: dict[str, str]
    sources: list[dict[str, Any]] = field(default_factory=list)


def write_ledger(path: Path, rows: list[LedgerRow], commit: Commit) -> None:
    """Write to `path` (a temporary one: see `infra.storage.atomic`)."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)
    table = table.replace_schema_metadata({_METADATA: canonical_json(asdict(commit))})
    pq.write_table(table, path, compression="none")


def read_commit(path: Path) -> Commit | None:
    """The commit mark, or None where there is none that can be read."""
    try:
        metadata = pq.read_metadata(local(path)).metadata
        return Commit(**json.loads(metadata[_METADATA]))
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
        return None


def read_ledger(path: Path, sha256: str = "") -> list[LedgerRow]:
    """All rows in the order of the tar.

    Args:
        sha256: of the file, where it is known: on object storage a copy that is here then needs no request.

    Raises:
        OSError, pa.ArrowException: the file is missing or damaged.
    """
    return [LedgerRow(**row) for row in pq.read_table(local(path, sha256), columns=_SCHEMA.names, use_threads=False).to_pylist()]
