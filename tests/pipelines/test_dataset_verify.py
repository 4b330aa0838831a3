"""`likeness data verify` finds what is wrong: a flipped byte in any kind of file, a missing file, a ledger that does not add up."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dataset_toy as toy
import numpy as np
import pytest
from dataset_toy import TOOLBOX
from typed import likeness

from infra import digest
from infra.errors import LikenessError
from infra.storage.fits import write_fit
from infra.storage.ledger import read_commit, read_ledger, write_ledger
from infra.storage.manifest import commit_manifest, head_digest, read_manifest
from infra.storage.selection import read_selection
from pipelines.dataset.build import build
from pipelines.dataset.request import load_request, updated
from pipelines.dataset.select import select
from pipelines.dataset.takedown import find_impact, take_down
from pipelines.dataset.verify import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with all kinds of files: two manifests, a selection, a fit, a tombstone."""
    folder = tmp_path_factory.mktemp("verify")
    toy.write_sources(folder / "clips", 6)
    root = folder / "set"
    for fields in (["doubled"], ["summed", "fragile"]):
        build(root, updated(load_request(root), sources=[str(folder / "clips")], fields=fields), TOOLBOX, runner="serial")
    select(root, "large", ["summed.frames >= 30"])
    facts = {"version": 1, "params": {}, "reads": {}, "rows": 4, "rows_sha256": "0" * 64}
    write_fit(root, "groups", {"a": np.arange(100)}, str(head_digest(root)), **facts)
    take_down(root, find_impact(root, sources=["clips/speaker0/Clip 4.mp4"], reason="asked"))
    verdict = verify(root)
    assert (verdict.problems, verdict.taken_down, verdict.purged) == ([], 1, 0)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "set")
    return tmp_path / "set"


def found(root: Path, quick: bool = False) -> list[str]:
    """What is wrong, as a user reads it."""
    try:
        return [str(problem) for problem in verify(root, quick=quick).problems]
    except LikenessError as error:
        return [str(error)]


def head_manifest(root: Path) -> Path:
    return root / "manifests" / f"{head_digest(root)}.json"


KINDS: dict[str, Callable[[Path], Path]] = {
    "tar": lambda root: sorted(root.glob("columns/sum/*/*.tar"))[0],
    "index": lambda root: sorted(root.glob("columns/ingest/*/*.idx"))[0],
    "ledger": lambda root: sorted(root.glob("columns/double/*/*.ledger.parquet"))[0],
    "manifest": head_manifest,
    "old manifest": lambda root: next(p for p in (root / "manifests").iterdir() if p != head_manifest(root)),
    "HEAD": lambda root: root / "HEAD",
    "sources": lambda root: root / "sources.parquet",
    "selection": lambda root: root / "selections" / "large.json",
    "tombstones": lambda root: root / "tombstones.json",
    "fit": lambda root: next(root.glob("fits/groups/*.npz")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_found(root: Path, kind: str) -> None:
    path = KINDS[kind](root)
    data = path.read_bytes()
    rng = random.Random(kind)
    for place in (0, len(data) // 2, len(data) - 2, *(rng.randrange(len(data)) for _ in range(3))):
        bit = 1 << rng.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        problems = found(root)
        assert problems, f"byte {place} of {len(data)}, bit {bit}"
        name = "fits/groups" if kind == "fit" else "has no manifest" if kind == "HEAD" else path.name
        assert any(name in problem for problem in problems)
        assert len(problems) == 1
    path.write_bytes(data)
    assert found(root) == []


@pytest.mark.parametrize("kind", ["tar", "index", "ledger", "manifest", "sources", "fit"])
@pytest.mark.parametrize("quick", [True, False])
def test_a_missing_file_is_found(root: Path, kind: str, quick: bool) -> None:
    KINDS[kind](root).unlink()
    (problem,) = found(root, quick)
    assert "missing" in problem or "no manifest" in problem or "can't be read" in problem or "no file" in problem


def test_quick_looks_at_sizes_and_reads_little(root: Path) -> None:
    tar = KINDS["tar"](root)
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    assert found(root, quick=True) == []
    tar.write_bytes(data[:-512])
    (problem,) = found(root, quick=True)
    assert f"{len(data) - 512} bytes, the manifest has {len(data)}" in problem
    told = likeness("data", "verify", root, "--quick", code=2).stdout
    assert "1 problems" in told


@pytest.mark.parametrize("lie", ["a row less", "a row twice", "quarantined without a reason", "written but not in the tar"])
def test_a_ledger_that_does_not_add_up_is_found(root: Path, lie: str) -> None:
    """The digests are those of the lie, so only the laws can find it."""
    manifest = read_manifest(root, str(head_digest(root)))
    name, column = next((name, c) for name, c in manifest.columns.items() if c.operator == "double")
    tar, _, path = column.files(root, 0)
    rows, commit = read_ledger(path), read_commit(path)
    assert commit
    entry = column.shards[0]
    if lie == "a row less":
        rows = rows[1:]
    elif lie == "a row twice":
        rows = [*rows, rows[0]]
    elif lie == "quarantined without a reason":
        rows[0] = replace(rows[0], status="quarantined")
        entry = entry.model_copy(update={"written": entry.written - 1, "quarantined": entry.quarantined + 1})
    else:
        rows[0] = replace(rows[0], key=rows[0].key[:-1] + "7")
    write_ledger(path, rows, commit)
    entry = entry.model_copy(update={"ledger_sha256": digest.of_file(path)})
    changed = column.model_copy(update={"shards": (entry, *column.shards[1:])})
    commit_manifest(root, manifest.model_copy(update={"columns": manifest.columns | {name: changed}}))
    problems = found(root)
    assert problems
    assert all(path.name in problem or tar.name in problem for problem in problems)
    assert all("this is a bug" in problem for problem in problems)


def test_a_selection_that_keeps_what_its_rules_drop_is_found(root: Path) -> None:
    path = KINDS["selection"](root)
    stored = read_selection(root, "large")
    path.write_bytes(stored.model_copy(update={"dropped": stored.dropped[1:], "kept": stored.kept + 1}).encoded())
    (problem,) = found(root)
    assert "selections/large.json: is not what its rules come to" in problem


def test_what_was_purged_must_not_come_back(root: Path, whole: Path) -> None:
    take_down(root, find_impact(root, sources=["clips/speaker0/Clip 4.mp4"]), purged=True)
    assert found(root) == []
    old = head_manifest(whole)
    shutil.copy(old, root / "manifests")
    (problem,) = found(root)
    assert f"{old.name}: names what was purged" in problem
    shard = next(p for p in whole.glob("columns/ingest/*/*.ledger.parquet") if any("clip-4" in r.key for r in read_ledger(p)))
    (root / "manifests" / old.name).unlink()
    for path in shard.parent.glob(shard.name.split(".")[0] + ".*"):
        shutil.copy(path, root / path.relative_to(whole))
    problems = found(root)
    assert len(problems) == 3
    assert all("holds a row that was purged" in problem for problem in problems)
    likeness("data", "takedown", root, "--purge")
    assert found(root) == []
