"""The laws of datasets, on toy operators: conservation, kill and resume, columns left alone, nothing computed twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import dataset_toy as toy
import pytest
import webdataset
from dataset_toy import TOOLBOX

from infra.storage import open_dataset
from infra.storage.ledger import read_ledger
from pipelines.dataset.build import Report, build
from pipelines.dataset.request import load_request, updated
from pipelines.dataset.verify import verify

FIELDS = ["summed", "fragile"]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    toy.write_sources(tmp_path / "clips")
    return tmp_path / "clips"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sources, and a dataset built from them in one go."""
    folder = tmp_path_factory.mktemp("unbroken")
    toy.write_sources(folder / "clips")
    make(folder / "set", folder / "clips")
    return folder / "clips", folder / "set"


def make(root: Path, source: Path | None = None, fields: list[str] | None = None, **options) -> Report:
    """Build with the toy operators; `options` go to `build`."""
    request = updated(load_request(root), sources=[str(source)] if source else [], fields=fields or FIELDS)
    return build(root, request, TOOLBOX, **options)


def contents(root: Path) -> dict[str, bytes]:
    """Everything that must not depend on how a dataset was built."""
    files = [*(root / "columns").rglob("*"), *(root / "manifests").iterdir(), root / "HEAD", root / "sources.parquet"]
    return {str(f.relative_to(root)): f.read_bytes() for f in files if f.is_file()}


def test_every_file_and_every_row_has_one_outcome(unbroken: tuple[Path, Path]) -> None:
    source, root = unbroken
    data = open_dataset(root)
    files = {f"clips/{f.relative_to(source).as_posix()}" for f in source.rglob("*.mp4")}
    assert {entry.path for entry in data.manifest.sources} == files
    outcomes = {entry.path: (entry.status, entry.reason) for entry in data.manifest.sources if entry.status != "ingested"}
    assert outcomes == {
        "clips/empty.mp4": ("refused", "empty file"),
        "clips/words.mp4": ("quarantined", "ValueError: invalid literal for int() with base 10: 'no'"),
    }
    keys = [row.key for row in data.rows()]
    assert len(keys) == 15 == len(set(keys))
    assert sorted(keys) == sorted(key for entry in data.manifest.sources for key in entry.keys)
    for column in data.manifest.columns.values():
        ledger = [row for shard in range(len(data.manifest.shards)) for row in read_ledger(column.files(root, shard)[2])]
        assert [row.key for row in ledger] == keys
        assert all(row.status == "written" for row in ledger)


def test_values_come_back(unbroken: tuple[Path, Path]) -> None:
    data = open_dataset(unbroken[1])
    row = next(row for row in data.rows() if row.source["path"].endswith("Clip 3.mp4") and row.source["segment"] == 1)
    assert row.key.startswith("clips-speaker1-clip-3-")
    assert row.key.endswith("-0001")
    assert data.read(row, "summed") == b'{"frames":42,"shifted":32.0}'  # 3 4 6 1, three channels; doubled and 1 more
    tar = data.open_member(row, "summed")[0]
    assert row.key in {sample["__key__"] for sample in webdataset.WebDataset(str(tar), shardshuffle=False)}


def test_a_dataset_nobody_has_any_more_keeps_no_file_open(unbroken: tuple[Path, Path]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        data = open_dataset(unbroken[1])
        assert all(data.read(row, "doubled") for row in data.rows())
        del data
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the listing itself


def test_second_run_computes_nothing(sources: Path, tmp_path: Path) -> None:
    first = make(tmp_path / "set", sources)
    before = contents(tmp_path / "set")
    toy.calls.clear()
    second = make(tmp_path / "set")
    assert (second.digest, second.changed, second.units, toy.calls) == (first.digest, False, 0, [])
    assert contents(tmp_path / "set") == before


def test_clips_are_decoded_once_for_all_operators(sources: Path, tmp_path: Path) -> None:
    toy.decodes.clear()
    report = make(tmp_path / "set", sources)
    assert len(toy.decodes) == report.rows  # by `sum` and `fragile` together


def test_dataset_does_not_depend_on_where_it_and_its_sources_lie(unbroken: tuple[Path, Path], tmp_path: Path) -> None:
    toy.write_sources(tmp_path / "elsewhere" / "clips")
    make(tmp_path / "other", tmp_path / "elsewhere" / "clips")
    assert contents(tmp_path / "other") == contents(unbroken[1])


def test_adding_a_field_leaves_other_tars_alone_and_equals_asking_at_once(unbroken: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "set"
    make(root, unbroken[0], ["summed"])
    before = contents(root)
    stats = {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in (root / "columns").rglob("*") if f.is_file()}
    toy.calls.clear()
    report = make(root, fields=["fragile"])
    assert report.changed
    assert {name for name, _ in toy.calls} == {"fragile"}
    assert {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in stats} == stats
    assert {k: v for k, v in contents(root).items() if k in before and k.startswith("columns")} == {
        k: v for k, v in before.items() if k.startswith("columns")
    }
    assert open_dataset(root).digest == open_dataset(unbroken[1]).digest


def test_new_sources_append_shards(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    make(root, sources)
    before = contents(root)
    splits = {entry.person: entry.split for entry in open_dataset(root).manifest.sources}
    (sources / "another").mkdir()
    (sources / "another" / "aaa.mp4").write_text("5 6 7")
    toy.calls.clear()
    report = make(root)
    assert (report.units, report.rows) == (1, 16)
    assert {key for _, key in toy.calls} <= {"clips/another/aaa.mp4", open_dataset(root).rows()[-1].key}
    after = contents(root)
    assert all(after[name] == data for name, data in before.items() if name.startswith("columns"))
    now = {entry.person: entry.split for entry in open_dataset(root).manifest.sources}
    assert splits.items() <= now.items()


def run_toy(root: Path, source: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, toy.__file__, str(root), str(source), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def check_kill_and_resume(unbroken: tuple[Path, Path], root: Path, *flags: str) -> None:
    """Kill a build with `flags`, look at what is there, resume it; the result is that of an unbroken build."""
    killed = run_toy(root, unbroken[0], *flags)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    report = make(root, unbroken[0])
    assert contents(root) == contents(unbroken[1])
    assert verify(root).problems == []
    assert not (root / "tmp").exists()
    assert report.notices[0].startswith("took over the lock of a build that died")


RENAMES = 51  # of an unbroken toy build: three per column and shard, and a few for manifest, HEAD and caches


@pytest.mark.parametrize("kill_at", sorted(random.Random(7).sample(range(1, RENAMES + 1), 4)))
def test_killed_at_any_point_and_rerun_gives_the_same_bytes(unbroken: tuple[Path, Path], tmp_path: Path, kill_at: int) -> None:
    check_kill_and_resume(unbroken, tmp_path / "set", "--kill-at", str(kill_at))


def test_number_of_renames_is_as_the_kill_tests_assume(unbroken: tuple[Path, Path], tmp_path: Path) -> None:
    done = run_toy(tmp_path / "set", unbroken[0])
    assert done.stdout.split() == [open_dataset(unbroken[1]).digest, str(RENAMES)], done.stderr


@pytest.mark.long
@pytest.mark.parametrize("kill_at", range(1, RENAMES + 1, toy.EVERY))
def test_killed_at_every_point(unbroken: tuple[Path, Path], tmp_path: Path, kill_at: int) -> None:
    check_kill_and_resume(unbroken, tmp_path / "set", "--kill-at", str(kill_at))


@pytest.mark.long
def test_killed_on_ray_and_rerun_gives_the_same_bytes(unbroken: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "set"
    command = [sys.executable, toy.__file__, str(root), str(unbroken[0]), "--runner", "ray"]
    driver = subprocess.Popen(command, env=os.environ | {"TOY_NAP_S": "0.05"}, stdout=subprocess.DEVNULL)
    while driver.poll() is None and not list(root.glob("columns/*/*/*.ledger.parquet")):
        time.sleep(0.02)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    make(root, unbroken[0])
    assert contents(root) == contents(unbroken[1])
    time.sleep(2)  # workers outlive their driver for a moment
    assert verify(root).problems == []
    assert contents(root) == contents(unbroken[1])


def test_ray_and_serial_give_the_same_bytes(ray_session: None, unbroken: tuple[Path, Path], tmp_path: Path) -> None:
    report = make(tmp_path / "set", unbroken[0], runner="ray", workers=2)
    assert report.units == 3
    assert contents(tmp_path / "set") == contents(unbroken[1])


def test_a_dying_worker_costs_the_sample_only(ray_session: None, sources: Path, tmp_path: Path) -> None:
    (sources / "speaker0" / "Clip 4.mp4").write_text("1 2\n66 66\n3 4")
    report = make(tmp_path / "set", sources, ["deadly"], runner="ray", workers=2)
    (problem,) = [p for p in report.problems if p["operator"] == "deadly"]
    assert problem["name"].endswith("-0001")
    assert "worker process died" in problem["reason"]
    data = open_dataset(tmp_path / "set")
    assert [data.has(row, "deadly") for row in data.rows()].count(False) == 1
