"""Operators that want a GPU: batches, pools of their own, and what follows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dataset_toy as toy
import pytest
from dataset_toy import TOOLBOX

from infra.storage import open_dataset
from pipelines.dataset.build import Report, build
from pipelines.dataset.graph import resolve
from pipelines.dataset.request import updated

FIELDS = ["after", "summed"]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    toy.write_sources(tmp_path / "clips")
    return tmp_path / "clips"


def make(root: Path, sources: Path, fields: list[str] = FIELDS, runner: str = "serial") -> Report:
    return build(root, updated(None, sources=[str(sources)], fields=fields), TOOLBOX, runner=runner, workers=2)  # type: ignore[arg-type]


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.glob("columns/**/*.*"))}


def test_cpu_operators_are_fused_and_each_gpu_operator_stands_alone() -> None:
    graph = resolve(TOOLBOX, FIELDS, {})
    assert [(pool, [node.name for node in nodes]) for pool, nodes in graph.segments()] == [
        ("cpu", ["ingest", "double", "shift", "sum"]), ("batched", ["batched"]), ("cpu", ["after"]),
    ]  # fmt: skip


def test_rows_go_through_in_batches_and_give_what_single_rows_give(tmp_path: Path, sources: Path, monkeypatch) -> None:
    toy.calls.clear()
    make(tmp_path / "batches", sources)
    sizes = Counter(key.count("+") + 1 for name, key in toy.calls if name == "batched")
    assert sizes[3] >= 3
    data = open_dataset(tmp_path / "batches")
    for row in data.rows():
        assert json.loads(data.read(row, "after"))["both"] > json.loads(data.read(row, "batched"))["sum"]
    monkeypatch.setattr(toy.Batched, "batch_size", 1)
    make(tmp_path / "rows", sources)
    assert files(tmp_path / "rows") == files(tmp_path / "batches")


def test_of_a_batch_that_fails_only_the_culprit_is_quarantined(tmp_path: Path, sources: Path) -> None:
    (sources / "speaker0" / "Clip 4.mp4").write_text("1 2\n13 13\n3 4")
    report = make(tmp_path / "set", sources)
    failed = [problem for problem in report.problems if problem["operator"] == "batched"]
    assert [problem["reason"] for problem in failed] == ["ValueError: 26 is too much"]
    data = open_dataset(tmp_path / "set")
    assert len(data) == sum(data.has(row, "batched") for row in data.rows()) + 1
    assert report.starved == {"after": 1}


def run(root: Path, sources: Path, log: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, toy.__file__, str(root), str(sources), "--runner", "ray", "--fields", *FIELDS, *more]
    return subprocess.run(command, env=os.environ | {"TOY_LOG": str(log)}, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.long
def test_gpu_operators_have_processes_of_their_own_and_a_death_there_costs_one_row(tmp_path: Path, sources: Path) -> None:
    make(tmp_path / "serial", sources)
    done = run(tmp_path / "gpu", sources, tmp_path / "log", "--gpus", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(tmp_path / "gpu") == files(tmp_path / "serial")
    workers = {line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}
    assert len(workers) == 2  # half a GPU each

    (sources / "speaker0" / "Clip 4.mp4").write_text("1 2\n66 66\n3 4")
    done = run(tmp_path / "deadly", sources, tmp_path / "log", "--gpus", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    data = open_dataset(tmp_path / "deadly")
    dead = [row.key for row in data.rows() if not data.has(row, "batched")]
    assert len(dead) == 1
    assert dead[0].startswith("clips-speaker0-clip-4-")
    assert dead[0].endswith("-0001")


@pytest.mark.long
def test_without_gpus_they_take_turns_with_the_others(tmp_path: Path, sources: Path, ray_session: None) -> None:
    make(tmp_path / "serial", sources)
    make(tmp_path / "ray", sources, runner="ray")
    assert files(tmp_path / "ray") == files(tmp_path / "serial")
