"""The manifest: everything a dataset consists of, named by digests, in one immutable file.

`manifests/DIGEST.json` is canonical JSON and DIGEST its sha256; `HEAD` holds the digest of the current one and is replaced
last. Only contents stand in it: no times, no machine paths, no predecessor, so that the same contents have the same digest
whichever way they were reached. `history.jsonl` tells when HEAD moved from where to where, and is not part of any digest.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra import digest
from infra.errors import LikenessError
from infra.storage.atomic import write_whole
from infra.storage.columns import stem
from infra.storage.object_lock import check_held
from infra.storage.objects import is_object

SCHEMA_VERSION = 2


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceEntry(_Part):
    """One input file. `path` starts with the label of its root folder; `reason` tells why there are no rows."""

    path: str
    bytes: int
    sha256: str = ""
    person: str = ""
    split: str = ""
    tags: dict[str, str] = {}
    caption: str = ""
    status: Literal["ingested", "refused", "quarantined"]
    reason: str = ""
    keys: tuple[str, ...] = ()


class ShardEntry(_Part):
    """One shard: the sources it was cut from (paths), and its number of rows, the same in all columns."""

    sources: tuple[str, ...]
    rows: int


class ColumnShard(_Part):
    """Files of one shard of one column; `written + quarantined` is the shard's number of rows."""

    revision: int = 0
    written: int
    quarantined: int
    bytes: int
    sha256: str
    idx_sha256: str
    ledger_sha256: str


class Column(_Part):
    """What one operator wrote: a tar per shard. `reads` names fields, `params` are its resolved settings."""

    operator: str
    version: int
    digest: str
    params: dict[str, Any]
    assets: dict[str, str] = {}
    reads: tuple[str, ...]
    shards: tuple[ColumnShard, ...]

    @property
    def folder(self) -> str:
        """Where its files lie below the dataset."""
        return column_folder(self.operator, self.digest)

    def files(self, root: Path, shard: int) -> tuple[Path, Path, Path]:
        """Paths of tar, index and ledger of shard number `shard`."""
        return column_files(root, self.operator, self.digest, shard, self.shards[shard].revision)


class FitEntry(_Part):
    """A fit that columns were made with (see `infra.storage.fits`).

    `reads` maps the fields it was made from to their columns, `rows_of` says which rows were taken (empty: all), `rows` how many
    had a value, `rows_sha256` is the digest of their keys, `sha256` that of its file.
    """

    version: int
    params: dict[str, Any]
    reads: dict[str, str]
    rows_of: dict[str, str] = {}
    rows: int
    rows_sha256: str
    sha256: str


class FieldInfo(_Part):
    """A field as stored: its type (see `preprocessing.fields.Field`) and the column that holds it."""

    name: str
    codec: str
    extension: str
    dtype: str
    shape: tuple[int | str, ...]
    rate: str
    meaning: str
    unit: str = ""
    colour: str = ""
    coordinates: str = ""
    operator: str
    version: int
    digest: str

    @property
    def column(self) -> str:
        return column_name(self.operator, self.digest)


class Manifest(_Part):
    """A dataset. `columns` is keyed by `OPERATOR/DIGEST8`, ingest's column by `ingest`'s own."""

    schema_version: int = SCHEMA_VERSION
    shard_sources: int
    wanted: tuple[str, ...]
    ingest: str
    sources: tuple[SourceEntry, ...]
    shards: tuple[ShardEntry, ...]
    fields: dict[str, FieldInfo]
    columns: dict[str, Column]
    fits: dict[str, FitEntry] = {}

    def encoded(self) -> bytes:
        return digest.canonical_json(self.model_dump(mode="json"))


def column_name(operator: str, operator_digest: str) -> str:
    return f"{operator}/{operator_digest[:8]}"


def column_folder(operator: str, operator_digest: str) -> str:
    return f"columns/{column_name(operator, operator_digest)}"


def column_files(root: Path, operator: str, operator_digest: str, shard: int, revision: int) -> tuple[Path, Path, Path]:
    """Paths of tar, index and ledger."""
    folder, name = root / column_folder(operator, operator_digest), stem(shard, revision)
    return folder / f"{name}.tar", folder / f"{name}.idx", folder / f"{name}.ledger.parquet"


def head_digest(root: Path) -> str | None:
    """Digest of the current manifest, or None where nothing has been built."""
    try:
        return (root / "HEAD").read_text().strip() or None
    except FileNotFoundError:
        return None


def read_manifest(root: Path, wanted: str) -> Manifest:
    """The manifest called `wanted` (64 hex digits).

    Raises:
        LikenessError: it is missing, damaged, or of a version this program does not read.
    """
    path = root / "manifests" / f"{wanted}.json"
    try:
        data = path.read_bytes()
    except OSError:
        raise LikenessError(f"dataset {root} has no manifest {wanted[:12]}", fix="see its manifests/ folder") from None
    if digest.of_bytes(data) != wanted:
        raise LikenessError(
            f"{path}: bytes changed since it was written",
            fix=f"delete it and {root / 'HEAD'}, then run: likeness data build {root} (finished columns are kept)",
        )
    version = json.loads(data).get("schema_version")
    if version != SCHEMA_VERSION:
        raise LikenessError(f"{path} has schema version {version}", allowed=str(SCHEMA_VERSION), fix="update likeness")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise LikenessError(f"{path}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}", fix="update likeness") from None


def commit_manifest(root: Path, manifest: Manifest) -> str:
    """Write the manifest and move HEAD to it, unless it is there already; the digest."""
    data = manifest.encoded()
    name = digest.of_bytes(data)
    before = head_digest(root)
    path = root / "manifests" / f"{name}.json"
    if before == name and path.exists():
        return name
    write_whole(root, path, data)
    move = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "from": before, "to": name}
    _note_move(root / "history.jsonl", json.dumps(move) + "\n")
    check_held(root)
    write_whole(root, root / "HEAD", f"{name}\n".encode())
    return name


def _note_move(history: Path, line: str) -> None:
    if is_object(history):  # which knows no appending; the lock keeps others away
        history.write_text((history.read_text() if history.exists() else "") + line)
        return
    with open(history, "a") as file:
        file.write(line)
