"""The source list: a table (text with tabs, CSV or Parquet) that says which files count, and what is known about them.

Columns: `path`; if wanted `person` (or `speaker`), `split`, `caption`; any other column is a tag.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import LikenessError
from infra.storage.copies import local
from infra.storage.objects import as_path, is_object
from pipelines.dataset.request import Request

SPLITS = ("train", "val", "test")
_OWN = ("path", "person", "speaker", "split", "caption")


@dataclass(frozen=True)
class Line:
    """What the list says about one file; "" where it says nothing."""

    person: str = ""
    split: str = ""
    caption: str = ""
    tags: dict[str, str] = field(default_factory=dict)


def read_list(request: Request, files: Mapping[str, object]) -> dict[str, Line]:
    """Source path -> its line. Paths may be absolute, or start at a root's label, or at a root.

    Raises:
        LikenessError: the list can't be read, has no paths, or none that fits; names the line.
    """
    file = as_path(request.source_list)
    rows = _rows(file)
    if not rows or "path" not in rows[0]:
        header = ", ".join(map(repr, rows[0])) if rows else "nothing"
        raise LikenessError(f"--list {file}: first line has {header}", allowed="a line of column names with tabs between: "
                            "path, and if wanted person, split, caption and tags of your own; then a line per file")
    entries: dict[str, Line] = {}
    for number, row in enumerate(rows, 2):
        if "" in row:
            raise LikenessError(f"--list {file}, line {number}: more cells than column names", fix="check its tabs")
        cells = {name: value.strip() for name, value in row.items()}
        text, split = cells["path"], cells.get("split", "")
        if split and split not in SPLITS:
            raise LikenessError(f"--list {file}, line {number}: split {split!r}", allowed=", ".join(SPLITS) + " or empty")
        matches = [p for p in _readings(text, request) if p in files] or [f"{next(iter(request.roots))}/{text.lstrip('/')}"]
        if len(matches) > 1:
            raise LikenessError(f"--list {file}, line {number}: {text} could be {' or '.join(matches)}",
                                fix="start the path with the label of its root")
        if matches[0] in entries:
            raise LikenessError(f"--list {file}, line {number}: {text} stands there twice", fix="keep one of the lines")
        entries[matches[0]] = Line(
            cells.get("person") or cells.get("speaker", ""), split, cells.get("caption", ""),
            {name: value for name, value in cells.items() if name not in _OWN},
        )  # fmt: skip
    if not any(path in files for path in entries):
        what = f"--list {file}: none of its {len(entries)} paths is a file below the sources; the first is {rows[0]['path']}"
        raise LikenessError(what, allowed=f"paths as seen from {' or '.join(request.roots.values())}, or absolute ones")
    return entries


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(local(file), use_threads=False).to_pylist()
            return [{name: "" if value is None else str(value) for name, value in row.items()} for row in table]
        with open(local(file), newline="", encoding="utf-8-sig") as stream:
            delimiter = "," if file.suffix == ".csv" else "\t"
            return list(csv.DictReader(stream, delimiter=delimiter, restkey="", restval=""))
    except (OSError, ValueError, csv.Error) as error:
        raise LikenessError(f"--list {file}: {error}", allowed="a text table with tabs, .csv or .parquet") from None


def _readings(text: str, request: Request) -> list[str]:
    """Source paths that a path of the list may mean."""
    roots = {label: as_path(where) for label, where in request.roots.items()}
    file = as_path(text)
    if text.startswith("/") or is_object(file):
        if not is_object(file):
            file = Path(os.path.normpath(text))
            file = file.parent.resolve() / file.name
        return [f"{label}/{file.name if file == root or _is_file(root) else file.relative_to(root).as_posix()}"
                for label, root in roots.items() if file.is_relative_to(root)]
    clean = os.path.normpath(text)
    return list(dict.fromkeys([clean, *(f"{label}/{clean}" for label in request.roots)]))


def _is_file(root: Path) -> bool:
    return not is_object(root) and root.is_file()
