"""Reading a dataset: rows, and the bytes of any field of any row, by seeking through the indexes.

A reader trusts one manifest and never looks at what else lies in the folder, so a build beside it does not disturb it.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field as attribute
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from infra import digest as digests
from infra.errors import LikenessError
from infra.storage.columns import parse_index
from infra.storage.copies import Changed, local_all, open_local, read_whole
from infra.storage.ledger import read_ledger
from infra.storage.manifest import FieldInfo, Manifest, head_digest, read_manifest
from infra.storage.objects import as_path, is_object
from infra.storage.selection import Selection, current, read_selection
from infra.storage.tombstones import TAKEN_DOWN, Tombstones

MAX_OPEN_FILES = 256


@dataclass(frozen=True)
class Row:
    """One row: `place` is its number within shard number `shard`.

    `source` is its SOURCE record, with the `person`, `split` and `tags` that the manifest gives its file.
    """

    key: str
    shard: int
    place: int
    source: Mapping[str, Any] = attribute(compare=False, repr=False)


class Dataset:
    """A dataset as one manifest describes it; make it with `open_dataset`.

    May be forked and pickled: files are read by position, and every process opens its own.

    Attributes:
        root: its folder.
        digest: of the manifest.
        manifest: everything the dataset consists of.
        tombstones: what was taken down when it was opened; no such row is given out.
        selection: what was opened of it, None for all rows.
    """

    def __init__(
        self, root: Path, digest: str, manifest: Manifest, tombstones: Tombstones | None = None, selection: Selection | None = None
    ) -> None:
        self.root, self.digest, self.manifest = root, digest, manifest
        self.tombstones = tombstones or Tombstones()
        self._rows: list[Row] | None = None  # of the manifest, hidden or not: a row's place counts them all
        self._standing: list[Row] = []  # without those taken down
        self._hidden: dict[str, str] = {}  # row key -> why it is not given out
        self._by_key: dict[str, Row] = {}
        # (field, shard) -> offset and size per row of the shard, int64 (2, rows); size -1 where there is no value
        self._places: dict[tuple[str, int], np.ndarray] = {}
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._process = os.getpid()
        self.selection = current(self, selection) if selection else None
        if self.selection:
            lost = [line.key for line in self.selection.dropped] + [line.key for line in self.selection.missing]
            self._hidden |= dict.fromkeys(lost, f"not in selection {self.selection.name}")

    def __del__(self) -> None:
        if getattr(self, "_process", 0) == os.getpid():
            for handle in self._files.values():
                os.close(handle)

    def __reduce__(self) -> tuple:
        return (open_dataset, (self.root, self.digest, self.selection.name if self.selection else None))

    def __len__(self) -> int:
        return len(self.rows())

    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        return self.manifest.fields

    @property
    def view(self) -> dict[str, str]:
        """What tells these rows from all rows of the manifest: the selection's name and rules, and the digest of the keys.

        Empty where nothing is hidden. With the manifest's digest it names the rows exactly.
        """
        rows = self.rows()
        named = {"selection": self.selection.name, "rules": self.selection.rules_sha256} if self.selection else {}
        return named | {"rows": digests.of_json([row.key for row in rows])} if self._hidden or named else {}

    def field(self, name: str) -> FieldInfo:
        """Raises:
        LikenessError: the dataset has no such field; tells the command that adds it.
        """
        if name not in self.fields:
            near = get_close_matches(name, self.fields, n=1)
            raise LikenessError(
                f"dataset {self.root} has no field {name!r}" + (f" (nearest: {near[0]})" if near else ""),
                allowed=", ".join(sorted(self.fields)),
                fix=f"add it with: likeness data add {self.root} --field {name}",
            )
        return self.fields[name]

    def made_with(self, name: str) -> Mapping[str, str]:
        """Checksums of the model files that a field's column was made with, by asset name."""
        return self.manifest.columns[self.field(name).column].assets

    def rows(self) -> list[Row]:
        """All rows, shard after shard, in the order of the tars; without those taken down or not selected."""
        standing = self.standing_rows()
        return [row for row in standing if row.key not in self._hidden] if self._hidden else standing

    def standing_rows(self) -> list[Row]:
        """All rows that are not taken down, selected or not. Read once, from ingest's ledgers."""
        self._read_rows()
        return self._standing

    def _read_rows(self) -> list[Row]:
        """Every row of the manifest."""
        if self._rows is not None:
            return self._rows
        column = self.manifest.columns[self.manifest.ingest]
        about = {s.path: {"person": s.person, "split": s.split, "tags": s.tags} for s in self.manifest.sources}
        down = {s.path: self.tombstones.covers_source(s.path, s.person, s.sha256) for s in self.manifest.sources}
        rows = []
        self._fetch_all([(column.files(self.root, n)[2], entry.ledger_sha256) for n, entry in enumerate(column.shards)])
        for shard in range(len(self.manifest.shards)):
            path = column.files(self.root, shard)[2]
            try:
                ledger = read_ledger(path, column.shards[shard].ledger_sha256)
            except Exception as error:
                raise _damaged(path, self.root, f"can't be read: {error}") from error
            for place, line in enumerate(ledger):
                record = json.loads(line.source)
                source = record.get("path")
                known = about.get(source, {})
                if record.get("tracks", 1) > 1:  # several people in one file: nobody knows that they are one
                    known = known | {"person": f"{known.get('person', '')}#{record['track']}"}
                rows.append(Row(line.key, shard, place, record | known))
                if down.get(source) or self.tombstones.covers_row(line.key, record):
                    self._hidden[line.key] = TAKEN_DOWN
        self._rows, self._by_key = rows, {row.key: row for row in rows}
        self._standing = [row for row in rows if self._hidden.get(row.key) != TAKEN_DOWN]
        return rows

    @property
    def taken_down(self) -> int:
        """Rows of the manifest that are taken down."""
        return len(self._read_rows()) - len(self._standing)

    def row(self, key: str) -> Row:
        """Raises:
        LikenessError: no row has this key, or it is taken down or not selected.
        """
        self._read_rows()
        if key in self._hidden:
            raise LikenessError(f"row {key} of dataset {self.root} is {self._hidden[key]}")
        if key not in self._by_key:
            there = [known for known in self._by_key if known not in self._hidden]
            near = [known for known in there if key in known][:3] or get_close_matches(key, there, n=3)
            fix = f"nearest: {', '.join(near)}" if near else f"list them with: likeness data show {self.root} --rows"
            raise LikenessError(f"dataset {self.root} has no row {key!r}", fix=fix)
        return self._by_key[key]

    def has(self, row: Row | str, field: str) -> bool:
        """Whether the value was written; False where it was quarantined, the source has none (no sound), or it is taken down."""
        row = self.row(row) if isinstance(row, str) else row
        places = self._members(field, row.shard)
        return bool(places[1, row.place] >= 0) and self._hidden.get(row.key) != TAKEN_DOWN

    def open_member(self, row: Row | str, field: str) -> tuple[Path, int, int]:
        """Where the value lies: file, offset and size in bytes, for readers that want a part of it.

        Raises:
            LikenessError: there is no such field, or no value for this row (see `has`).
        """
        row = self.row(row) if isinstance(row, str) else row
        offset, size = (int(n) for n in self._members(field, row.shard)[:, row.place])
        if self._hidden.get(row.key) == TAKEN_DOWN:
            raise LikenessError(f"row {row.key} of dataset {self.root} is {TAKEN_DOWN}")
        if size < 0:
            raise LikenessError(
                f"row {row.key} has no {field}: it was quarantined, or its source has none",
                fix=f"see why with: likeness data show {self.root} {row.key}",
            )
        return self.manifest.columns[self.field(field).column].files(self.root, row.shard)[0], offset, size

    def read(self, row: Row | str, field: str) -> bytes:
        """The stored bytes of one value; `preprocessing.codecs.decode` makes them a value.

        Raises:
            LikenessError: see `open_member`.
        """
        path, offset, size = self.open_member(row, field)
        return self.read_part(path, offset, size)

    def read_part(self, path: Path, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of one of the dataset's tars; keeps the file open for the next call."""
        data = os.pread(self._handle(path), size, offset)
        if len(data) != size:
            raise _damaged(path, self.root, f"ends before byte {offset + size}")
        return data

    def _handle(self, path: Path) -> int:
        if self._process != os.getpid():  # after a fork: leave the parent's handles to the parent
            self._files, self._process = OrderedDict(), os.getpid()
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) >= MAX_OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        if is_object(path):  # a copy that made room for others is still there while it is open
            for old in [old for old, handle in self._files.items() if os.fstat(handle).st_nlink == 0]:
                os.close(self._files.pop(old))
        try:
            handle = self._files[path] = open_local(path, self._sha256.get(path, "") if is_object(path) else "")
        except Changed as error:
            raise _damaged(path, self.root, error.what.partition(": ")[2]) from None
        except OSError as error:
            raise _damaged(path, self.root, f"can't be opened: {error.strerror}") from None
        return handle

    @cached_property
    def _sha256(self) -> dict[Path, str]:
        """Of all tars of the manifest."""
        return {column.files(self.root, shard)[0]: entry.sha256
                for column in self.manifest.columns.values() for shard, entry in enumerate(column.shards)}  # fmt: skip

    def _fetch_all(self, files: list[tuple[Path, str]]) -> None:
        """Small files on object storage together, since each takes a round trip; what is wrong with them is seen at their use."""
        if is_object(self.root):
            with suppress(OSError, Changed):
                local_all(files)

    def _members(self, field: str, shard: int) -> np.ndarray:
        if (field, shard) not in self._places:
            column = self.manifest.columns[self.field(field).column]
            tar, index, _ = column.files(self.root, shard)
            if is_object(tar):  # its bytes are checked when they have come
                if not any(name == field for name, _ in self._places):
                    self._fetch_all([(column.files(self.root, n)[1], entry.idx_sha256) for n, entry in enumerate(column.shards)])
            elif not tar.exists() or tar.stat().st_size != column.shards[shard].bytes:
                raise _damaged(tar, self.root, "is missing, or not of the size in the manifest")
            try:
                members = list(parse_index(read_whole(index, column.shards[shard].idx_sha256)))
            except (OSError, ValueError, Changed) as error:
                raise _damaged(index, self.root, f"can't be read: {error}") from None
            place = {row.key: row.place for row in self._shard_rows(shard)}
            names = {m.field for m in members} | {f.name for f in self.fields.values() if f.column == self.field(field).column}
            for name in names:
                self._places[name, shard] = np.full((2, len(place)), -1, np.int64)
            for m in members:
                self._places[m.field, shard][:, place[m.key]] = m.offset, m.size
        return self._places[field, shard]

    def _shard_rows(self, shard: int) -> list[Row]:
        start = sum(entry.rows for entry in self.manifest.shards[:shard])
        return self._read_rows()[start : start + self.manifest.shards[shard].rows]


def open_dataset(path: str | Path, digest: str | None = None, selection: str | None = None) -> Dataset:
    """The dataset in folder `path` (or at `s3://BUCKET/FOLDER`) as its HEAD says, or as manifest `digest` (64 hex digits) does.

    Args:
        path: also `DATASET:SELECTION`.
        selection: name of one; only the rows it keeps are given out. Its rules are applied anew where the stored outcome is
            of another manifest.

    Raises:
        LikenessError: there is no finished dataset, no such selection, or its manifest is damaged.
    """
    folder, named = split_reference(str(path))
    root, selection = as_path(folder), selection or named
    digest = digest or head_digest(root)
    if digest is None:
        if (root / "request.json").exists():
            raise LikenessError(f"{root} has no finished build", fix=f"finish it with: likeness data build {root}")
        what = "is not a dataset" if root.exists() else "does not exist"
        raise LikenessError(f"{root} {what}", fix=f"build one with: likeness data build {root} --source FOLDER")
    root = root.absolute()
    chosen = read_selection(root, selection) if selection else None
    return Dataset(root, digest, read_manifest(root, digest), Tombstones.over(root), chosen)


def split_reference(text: str) -> tuple[str, str | None]:
    """`DATASET` or `DATASET:SELECTION` -> folder, selection's name or None."""
    folder, colon, name = text.rpartition(":")
    if colon and folder and re.fullmatch(r"[\w-]+", name) and (is_object(as_path(folder)) or not Path(text).exists()):
        return folder, name
    return text, None


def _damaged(path: Path, root: Path, what: str) -> LikenessError:
    return LikenessError(f"{path} {what}", fix=f"find all damage with: likeness data verify {root}")
