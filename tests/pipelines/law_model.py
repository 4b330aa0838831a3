"""What a toy dataset must hold, computed from the source files alone, and the checks of the laws that need no such model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dataset_toy as toy
import pytest

from infra.storage import Dataset, open_dataset
from infra.storage.ledger import read_ledger
from infra.storage.tombstones import Tombstones, of_text
from pipelines.dataset.build import Report, build
from pipelines.dataset.request import Request
from pipelines.dataset.sources import row_key, source_key
from pipelines.dataset.stored import named_files, stored_manifests
from pipelines.dataset.verify import verify
from preprocessing.codecs import decode

EXHAUSTIVE = pytest.mark.skipif(toy.EVERY > 1, reason="more of the same: LIKENESS_EXHAUSTIVE=1 tries them")

Values = dict[tuple[str, str], Any]  # (row key, field) -> value as JSON would have it
NO_STONES = Tombstones()
READS_FRAMES = {"summed", "fragile"}
Stat = tuple[int, int, int]


def outcome(text: str) -> tuple[str, list[list[int]]]:
    """Status of a toy source, and the numbers of its rows."""
    if not text.strip():
        return "refused", []
    try:
        return "ingested", [[int(word) for word in line.split()] for line in text.strip().split("\n")]
    except ValueError:
        return "quarantined", []


def row_values(numbers: list[int], silent: bool, by: int) -> dict[str, Any]:
    """All that can be made of a row; 13 is one too many for `fragile` and `batched`."""
    values: dict[str, Any] = {} if 13 in numbers else {"fragile": [float(n) for n in numbers]}
    if not silent:
        doubled = [2.0 * n for n in numbers]
        shifted = [n + by for n in doubled]
        values |= {"doubled": doubled, "shifted": shifted, "summed": {"frames": 3 * sum(numbers), "shifted": sum(shifted)}}
        if 13 not in numbers:
            values |= {"batched": {"sum": sum(doubled)}, "after": {"both": sum(doubled) + sum(shifted)}}
    return values


def expected(texts: Mapping[str, str], fields: Iterable[str], by: int = 1) -> Values:
    """(row key, field) -> value, for sources with these texts by path."""
    return {
        (row_key(source_key(path), segment), name): value
        for path, text in texts.items() for segment, numbers in enumerate(outcome(text)[1])
        for name, value in row_values(numbers, "silent" in path, by).items() if name in fields
    }  # fmt: skip


def keys(texts: Mapping[str, str], stones: Tombstones = NO_STONES) -> set[str]:
    """Of the rows that are given out."""
    rows = {row_key(source_key(path), n): {"sha256": of_text(text), "segment": n}
            for path, text in texts.items() if not is_down(path, text, stones) for n in range(len(outcome(text)[1]))}  # fmt: skip
    return {key for key, source in rows.items() if not stones.covers_row(key, source)}


def person(path: str) -> str:
    """Whom a source without a list is of: its folder, or itself."""
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else path.rpartition(".")[0]


def is_down(path: str, text: str, stones: Tombstones) -> bool:
    return stones.covers_source(path, person(path), of_text(text))


def stored(data: Dataset) -> Values:
    """The same of a dataset, for the fields that the model knows."""
    names = [name for name in data.fields if name in toy.TOYS]
    return {
        (row.key, name): decoded if isinstance(decoded := decode(toy.TOYS[name], data.read(row, name)), dict) else decoded.tolist()
        for row in data.rows() for name in names if data.has(row, name)
    }  # fmt: skip


def make(root: Path, source: Path, fields: Iterable[str], by: int = 1, **options: Any) -> Report:
    """Bring a toy dataset to what is asked for."""
    operators = {"shift": {"by": by}} if {"shifted", "summed", "after"} & set(fields) else {}
    request = Request(roots={source.name: str(source)}, fields=list(fields), operators=operators)
    return build(root, request, toy.TOOLBOX, **({"runner": "serial"} | options))


def contents(root: Path) -> dict[str, bytes]:
    """Files that HEAD names, and what must not depend on how they came about."""
    head = open_dataset(root)
    files = named_files(root, json.loads(head.manifest.encoded()))
    files |= {root / "HEAD", root / "sources.parquet", root / "manifests" / f"{head.digest}.json"}
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def check_whole(root: Path, texts: Mapping[str, str]) -> None:
    """Law 1, and that nothing is damaged: all files and rows accounted for, each once, with reasons."""
    data, stones = open_dataset(root), Tombstones.load(root)
    entries = {entry.path: entry for entry in data.manifest.sources}
    assert len(entries) == len(data.manifest.sources)
    down = {path for path, text in texts.items() if is_down(path, text, stones)}
    standing = {path: outcome(texts[path])[0] for path in texts.keys() - down}
    empty = {path for path, status in standing.items() if status == "ingested" and not keys({path: texts[path]}, stones)}
    assert {path: entries[path].status for path in standing} == standing | {path: entries[path].status for path in empty}
    assert {stones.name(path, person(path)) for path in down} <= entries.keys()
    others = {entry.path: entry.reason for entry in entries.values() if entry.path not in standing}
    assert bool(others) <= bool(stones)
    assert all(bool(entry.reason) == (entry.status != "ingested") for entry in entries.values())
    rows = [row.key for row in data.rows()]
    assert len(rows) == len(set(rows))
    assert set(rows) == keys(texts, stones)
    in_shards = [[row.key for shard in range(len(column.shards)) for row in read_ledger(column.files(root, shard)[2])]
                 for column in data.manifest.columns.values()]  # fmt: skip
    for ledger in in_shards:
        assert ledger == in_shards[0]
        assert [key for key in ledger if stones or key in set(rows)] == ledger
        assert [key for key in ledger if key in set(rows)] == rows
    verdict = verify(root)
    assert verdict.problems == []
    assert not (root / "tmp").exists()


def check_idle(root: Path, source: Path, fields: Iterable[str], by: int = 1) -> None:
    """Law 4."""
    before, had = open_dataset(root).digest, {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    toy.calls.clear()
    again = make(root, source, fields, by)
    assert (again.digest, again.changed, again.units, again.attempts, toy.calls) == (before, False, 0, 0, [])
    ours = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert ours == had


@dataclass
class Watch:
    """Law 3: files that some manifest names stay as they were, for as long as it is there."""

    root: Path
    seen: dict[Path, Stat] = field(default_factory=dict)

    def look(self) -> None:
        now: dict[Path, Stat] = {}
        for manifest in stored_manifests(self.root).values():
            assert manifest is not None
            for path in named_files(self.root, manifest):
                stat = path.stat()
                now[path] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        assert {path: now[path] for path in now if path in self.seen} == {path: s for path, s in self.seen.items() if path in now}
        self.seen = now
