"""One wide WebDataset out of a dataset's columns, for tools that know nothing of ours."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra import digest
from infra.digest import canonical_json
from infra.errors import LikenessError
from infra.storage import Dataset, open_dataset
from infra.storage.atomic import sync
from infra.storage.dataset import Row
from infra.storage.ledger import LedgerRow, read_ledger

FACTS = "json"  # the member with a row's source facts
_MEMBER = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_BLOCK = 512


@dataclass
class Export:
    """What was written: `export.json` beside the tars.

    Attributes:
        dataset, view: the manifest's digest, and which of its rows (`Dataset.view`).
        split: the only one taken, "" for all.
        members: name in the tars -> field.
        rows: asked for; each is in a tar or skipped.
        skipped: why -> number of rows.
        tars: name, rows, bytes and sha256 of each.
    """

    dataset: str
    view: dict[str, str]
    split: str
    members: dict[str, str]
    rows: int
    skipped: dict[str, int] = field(default_factory=dict)
    tars: list[dict[str, Any]] = field(default_factory=list)


def export(
    root: Path, out: Path, fields: Sequence[str], *, rename: Mapping[str, str] = {}, selection: str | None = None,
    split: str = "", shard_bytes: int = 256 << 20, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Export:  # fmt: skip
    """Write tars with one sample per row: `KEY.MEMBER` for each field, and `KEY.json` with its source facts.

    A row that lacks one of the fields is skipped, and counted with the reason. `out` appears when it is whole; a run that was
    killed is gone on with by the same call. The same dataset and request give the same bytes.

    Args:
        rename: field -> member name in place of `FIELD.EXT`, such as `jpg`.
        shard_bytes: a tar is closed before it would grow larger.
        progress: called with rows done and in all.

    Raises:
        LikenessError: an unknown field, split or selection, two members of one name, or `out` is there already.
    """
    dataset = open_dataset(root, selection=selection)
    if out.exists():
        raise LikenessError(f"{out} exists", fix="name a new folder, or delete it")
    rows = [row for row in dataset.rows() if not split or row.source["split"] == split]
    if not rows:
        splits = sorted({row.source["split"] for row in dataset.rows()})
        raise LikenessError(f"no row of split {split!r}" if split else "no row", allowed=", ".join(splits))
    members = _members(dataset, fields, rename)
    made = Export(dataset.digest, dataset.view, split, members, len(rows))
    request = digest.of_json([asdict(made), shard_bytes])
    part = out.with_name(f".{out.name}.part")
    _write(dataset, rows, made, part, request, shard_bytes, progress)
    if made.rows != sum(made.skipped.values()) + sum(tar["rows"] for tar in made.tars):
        raise RuntimeError(f"conservation of rows broken in export: {made}")
    (part / "export.json").write_bytes(canonical_json(asdict(made)) + b"\n")
    (part / _STATE).unlink(missing_ok=True)
    sync(part)
    os.replace(part, out)
    return made


def _members(dataset: Dataset, fields: Sequence[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Member name -> field."""
    if not fields:
        raise LikenessError("no field named", allowed=", ".join(sorted(dataset.fields)), fix="name one: --field NAME")
    for name in rename:
        if name not in fields:
            raise LikenessError(f"--rename {name}", allowed=f"a field to export: {', '.join(fields)}")
    members: dict[str, str] = {}
    for name in dict.fromkeys(fields):
        info = dataset.field(name)
        member = rename.get(name, f"{name}.{info.extension}")
        if not _MEMBER.fullmatch(member) or member == FACTS or member in members:
            raise LikenessError(f"member name {member!r} of field {name}",
                                allowed=f"letters, digits, _ and dots, each name once; {FACTS} holds the source facts")
        members[member] = name
    return members


_STATE = "state.json"


def _write(
    dataset: Dataset, rows: list[Row], made: Export, part: Path, request: str, shard_bytes: int,
    progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    done = _resumed(part, made, request)
    skipped = Counter(made.skipped)
    reasons = _Reasons(dataset)
    while done < len(rows):
        path = part / f"{len(made.tars):06d}.tar"
        size = count = 0
        with open(path, "wb") as file, _tar_writer(file) as writer:
            for row in rows[done:]:
                lacking = next((name for name in made.members.values() if not dataset.has(row, name)), None)
                if lacking is not None:
                    skipped[f"{lacking}: {reasons.why(row, lacking)}"] += 1
                else:
                    sample: dict[str, Any] = {member: dataset.read(row, name) for member, name in made.members.items()}
                    sample[FACTS] = canonical_json(dict(row.source) | {"key": row.key})
                    needs = sum(_BLOCK - (-len(data) // _BLOCK * _BLOCK) for data in sample.values())
                    if count and size + needs > shard_bytes:
                        break
                    writer.write({"__key__": row.key, **sample})
                    size, count = size + needs, count + 1
                done += 1
                progress(done, len(rows))
        sync(path)
        if count:
            made.tars.append({"name": path.name, "rows": count, "bytes": path.stat().st_size, "sha256": digest.of_file(path)})
        else:
            path.unlink()
        made.skipped = dict(sorted(skipped.items()))
        state = part / f"{_STATE}.new"
        state.write_text(json.dumps({"request": request, "done": done, "tars": made.tars, "skipped": made.skipped}))
        os.replace(state, part / _STATE)


def _tar_writer(file: Any) -> Any:
    from webdataset import TarWriter  # imports torch

    return TarWriter(file, encoder=False, user="", group="", mode=0o444, mtime=0)


def _resumed(part: Path, made: Export, request: str) -> int:
    """Rows that a killed run of the same request has done; whatever else it left is removed."""
    try:
        state = json.loads((part / _STATE).read_text())
        whole = state["request"] == request and all((part / t["name"]).stat().st_size == t["bytes"] for t in state["tars"])
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return 0
    made.tars, made.skipped = state["tars"], state["skipped"]
    return state["done"]


class _Reasons:
    """Why rows lack values, from the ledgers."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.ledgers: dict[tuple[str, int], dict[str, LedgerRow]] = {}

    def why(self, row: Row, name: str) -> str:
        place = self.dataset.field(name).column, row.shard
        if place not in self.ledgers:
            column = self.dataset.manifest.columns[place[0]]
            self.ledgers[place] = {line.key: line for line in read_ledger(column.files(self.dataset.root, row.shard)[2])}
        line = self.ledgers[place][row.key]
        if line.status == "written":
            return "the source has none"
        return f"refused: {line.message}" if line.error == "Refused" else f"quarantined: {line.error}"
