"""Taking sources, people or rows out of a dataset: what it touches, and the tombstones that hide it from then on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from infra import digest
from infra.errors import LikenessError
from infra.storage import Dataset, open_dataset
from infra.storage.lock import build_lock
from infra.storage.objects import as_path
from infra.storage.tombstones import Kind, Tombstone, Tombstones, of_text, segment_of
from pipelines.dataset.expand import derived_datasets
from pipelines.dataset.purge import Purged, purge
from pipelines.dataset.request import load_request
from pipelines.dataset.select import refresh
from pipelines.dataset.stored import PAGES, column_shards, holds_any, learnt_from, names_any, stored_manifests


@dataclass(frozen=True)
class Impact:
    """What a takedown touches.

    Attributes:
        rows: keys of HEAD's rows that were given out so far.
        sources: their names in HEAD's manifest.
        files, bytes: column files that hold such rows, whoever names them, and their size.
        manifests: digests of those that name such sources or rows.
        derived: datasets made from this one's rows, where they were last built; they are taken down by themselves.
        fits: learnt from such a manifest's rows; a purge makes them anew.
        models: registered versions that were trained on such a manifest; they stay.
        stones: what will be written.
    """

    rows: list[str]
    sources: list[str]
    files: list[str]
    bytes: int
    manifests: list[str]
    derived: list[str]
    fits: list[str]
    models: list[str]
    stones: list[Tombstone] = field(repr=False)


def find_impact(
    root: Path, sources: Sequence[str] = (), people: Sequence[str] = (), keys: Sequence[str] = (), reason: str = "",
    models: Iterable[tuple[str, Iterable[str]]] = (),
) -> Impact:  # fmt: skip
    """What taking these down would touch; writes nothing.

    Args:
        sources: names as in the manifest, or files below the dataset's roots.
        models: registered versions, each with the digests of the datasets it was trained on.

    Raises:
        LikenessError: no such source, person or row was ever in this dataset.
    """
    root = root.absolute()
    dataset = open_dataset(root)
    before = dataset.tombstones
    finder = _Finder(root, dataset, before)
    stones = [
        *(finder.stone("source", finder.source(name), reason) for name in sources),
        *(finder.stone("person", finder.person(name), reason) for name in people),
        *(finder.stone("key", finder.key(name), reason) for name in keys),
    ]
    new = Tombstones(tuple(stones))
    manifests = [name for name, manifest in finder.manifests.items() if manifest is None or names_any(manifest, new)]
    files = [path for group in column_shards(root) if holds_any(group, new) for path in group]
    return Impact(
        [row.key for row in dataset.standing_rows() if _covers(new, row.source, row.key)],
        [entry.path for entry in dataset.manifest.sources if new.covers_source(entry.path, entry.person, entry.sha256)],
        [path.relative_to(root).as_posix() for path in files], sum(path.stat().st_size for path in files), manifests,
        [str(place) for place in derived_datasets(root) if place.exists()],
        learnt_from(root, manifests),
        [name for name, digests in models if set(digests) & set(manifests)], stones,
    )  # fmt: skip


def take_down(root: Path, impact: Impact, purged: bool = False) -> Purged | None:
    """Write the tombstones, so that readers leave the rows out from now on; with `purged`, remove every byte of them too.

    May be killed at any point and run again. A purge that was cut short goes on, also with an impact of nothing.

    Raises:
        LikenessError: a build is running.
    """
    root = root.absolute()
    with build_lock(root):
        stones = {(stone.kind, stone.sha256): stone for stone in Tombstones.load(root).entries}
        for stone in impact.stones:
            known = stones.get((stone.kind, stone.sha256))
            stones[stone.kind, stone.sha256] = _merged(known, stone) if known else stone
        if impact.stones:
            Tombstones(tuple(stones.values())).save(root)
            for name in PAGES:
                (root / name).unlink(missing_ok=True)
            refresh(root)
        return purge(root) if purged else None


def _merged(known: Tombstone, new: Tombstone) -> Tombstone:
    """One tombstone of both; to be purged again where the new one covers more."""
    names = ("paths", "contents", "rows", "segments")
    parts = {part: tuple(sorted({*getattr(known, part), *getattr(new, part)})) for part in names}
    if all(parts[part] == getattr(known, part) for part in parts):
        return known
    return known.model_copy(update=parts | {"purged": False, "value": new.value})


def _covers(stones: Tombstones, source: Any, key: str) -> bool:
    names = (source.get(name, "") for name in ("path", "person", "sha256"))
    return stones.covers_source(*names) or stones.covers_row(key, source)


class _Finder:
    """Finds what a name stands for, in all manifests of the dataset."""

    def __init__(self, root: Path, dataset: Dataset, before: Tombstones) -> None:
        self.root, self.dataset, self.before = root, dataset, before
        self.manifests = stored_manifests(root)
        self.entries = [entry for manifest in self.manifests.values() if manifest for entry in manifest["sources"]]

    def source(self, name: str) -> str:
        paths = {entry["path"] for entry in self.entries}
        if name in paths or self.before.covers_source(name):
            return name
        request = load_request(self.root)
        file = as_path(name).expanduser().resolve()
        for label, place in (request.roots if request else {}).items():
            if file.is_relative_to(above := as_path(place)):
                return f"{label}/{file.name if file == above else file.relative_to(above).as_posix()}"
        raise self._unknown("source", name, paths)

    def person(self, name: str) -> str:
        people = {entry.get("person", "") for entry in self.entries} - {""}
        if name in people or self.before.covers_source("", name):
            return name
        raise self._unknown("person", name, people)

    def key(self, name: str) -> str:
        keys = {key for entry in self.entries for key in entry.get("keys", ())}
        if name in keys or self.before.covers_key(name):
            return name
        raise self._unknown("row", name, keys)

    def _unknown(self, what: str, name: str, known: Iterable[str]) -> LikenessError:
        near = get_close_matches(name, known, n=3)
        return LikenessError(f"dataset {self.root} has no {what} {name!r}" + (f" (nearest: {', '.join(near)})" if near else ""),
                             fix=f"see: likeness data show {self.root} --rows, or its sources.parquet")

    def stone(self, kind: Kind, value: str, reason: str) -> Tombstone:
        """The tombstone, with the digests of everything that it covers: also of files with the same bytes under other names."""
        attribute = {"source": "path", "person": "person"}.get(kind, "")
        contents = {e["sha256"] for e in self.entries if attribute and e.get(attribute) == value and e.get("sha256")}
        if kind == "source" and (file := self._file(value)):
            contents.add(digest.of_file(file))
        paths = {e["path"] for e in self.entries if e.get("sha256") in contents or (attribute and e.get(attribute) == value)}
        paths |= {value} if kind == "source" else set()
        rows = {key for e in self.entries if e["path"] in paths for key in e.get("keys", ())}
        segments: set[str] = set()
        if kind == "key":
            standing = self.dataset.standing_rows()
            segments = {segment_of(row.source) for row in standing if row.key == value} - {""}
            rows = {value} | {row.key for row in standing if segment_of(row.source) in segments}
        return Tombstone(
            kind=kind, sha256=of_text(value), value=value, reason=reason, date=date.today().isoformat(),
            paths=tuple(sorted(map(of_text, paths))), contents=tuple(sorted(contents)), rows=tuple(sorted(map(of_text, rows))),
            segments=tuple(sorted(segments)),
        )  # fmt: skip

    def _file(self, path: str) -> Path | None:
        """The source as a file of its own, where it is one and is at hand."""
        label, _, inner = path.partition("/")
        request = load_request(self.root)
        where = as_path(request.roots[label]) if request and label in request.roots else None
        if where is None:
            return None
        file = where if where.is_file() else where / inner
        return file if file.is_file() else None
