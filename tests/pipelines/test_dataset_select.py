"""`likeness data select`, and training on what a selection keeps."""

from __future__ import annotations

import json
from pathlib import Path

import dataset_toy as toy
import pytest
from dataset_toy import TOOLBOX
from typed import likeness

from infra.storage import open_dataset
from models.wav2lip.stages import ExpertStage
from pipelines.dataset.build import Report, build
from pipelines.dataset.request import load_request, updated
from pipelines.dataset.select import listed, refresh, select
from training.loader import Stream

TINY = ("--preset", "tiny")


@pytest.fixture
def toys(tmp_path: Path) -> tuple[Path, Path]:
    """Sources, and their dataset: 15 rows, `summed.frames` from 0 to 120."""
    toy.write_sources(tmp_path / "clips")
    make(tmp_path / "set", tmp_path / "clips")
    return tmp_path / "clips", tmp_path / "set"


def make(root: Path, *sources: Path) -> Report:
    request = updated(load_request(root), sources=[str(s) for s in sources], fields=["summed"])
    return build(root, request, TOOLBOX, runner="serial")


def tars(root: Path) -> dict[Path, tuple[int, int]]:
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in (root / "columns").rglob("*") if file.is_file()}


def test_select_writes_one_file_and_moving_a_threshold_touches_no_tar(toys: tuple[Path, Path]) -> None:
    root = toys[1]
    before = tars(root)
    toy.calls.clear()
    first = json.loads(likeness("data", "select", root, "large", "--where", "summed.frames >= 60", "--json").stdout)
    second = json.loads(likeness("data", "select", root, "large", "--where", "summed.frames >= 90", "--json").stdout)
    assert first["all"] == second["all"] == 15
    assert first["kept"] > second["kept"] > 0
    assert first["kept"] + len(first["dropped"]) + len(first["missing"]) == 15
    assert all(line["value"] < 60 == line["threshold"] and line["measure"] == "summed.frames" for line in first["dropped"])
    assert (tars(root), toy.calls) == (before, [])
    assert [f.name for f in (root / "selections").iterdir()] == ["large.json"]
    assert len(open_dataset(f"{root}:large").rows()) == second["kept"]
    told = likeness("data", "select", root, "large", "--where", "summed.frames >= 60", "--dry-run").stdout
    assert f"15 rows = {first['kept']} kept" in told
    assert len(open_dataset(root, selection="large").rows()) == second["kept"]
    shown = likeness("data", "select", root, "--list").stdout
    assert f"large: {second['kept']} of 15 rows; summed.frames >= 90" in shown
    assert "removed" in likeness("data", "select", root, "large", "--remove").stdout
    assert likeness("data", "select", root, "--list").stdout == "no selections yet\n"


def test_a_selection_follows_the_dataset(toys: tuple[Path, Path]) -> None:
    source, root = toys
    select(root, "large", ["summed.frames >= 60"])
    stored = (root / "selections" / "large.json").read_bytes()
    was = {row.key for row in open_dataset(root, selection="large").rows()}
    old = open_dataset(root).digest
    (source / "speaker0" / "New.mp4").write_text("50 50 50\n0")
    make(root)
    (root / "selections" / "large.json").write_bytes(stored)  # as a build that knows no selections would leave it
    data = open_dataset(root, selection="large")
    assert len({row.key for row in data.rows()} - was) == 1  # decided anew, in memory
    assert [line["stale"] for line in listed(root)] == [True]
    assert {row.key for row in open_dataset(root, old, "large").rows()} == was
    (notice,) = refresh(root)
    assert notice == f"selection large keeps {len(was) + 1} of 17 rows now; it kept {len(was)} of 15"
    assert refresh(root) == []
    assert [line["stale"] for line in listed(root)] == [False]
    assert open_dataset(root, selection="large").view == data.view
    (root / "selections" / "large.json").write_bytes(stored)
    assert make(root).notices == [notice]  # a build decides again by itself
    assert [line["stale"] for line in listed(root)] == [False]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{set}", "x", "--where", "summed.frame >= 60"], "no row has a measure 'summed.frame' (nearest: summed.frames)"),
        (["{set}", "x", "--where", "sumed.frames >= 60"], "has no field 'sumed' (nearest: summed)"),
        (["{set}", "Bad Name", "--where", "summed.frames >= 60"], "selection name 'Bad Name'; allowed: lower-case"),
        (["{set}"], "no selection named"),
        (["{set}", "x"], "has no selection 'x'; allowed: none yet"),
        (["{set}", "x", "--remove"], "has no selection 'x'"),
    ],
)
def test_mistakes_get_one_line(toys: tuple[Path, Path], words: list[str], says: str) -> None:
    told = likeness("data", "select", *(word.format(set=toys[1]) for word in words), code=2).stderr
    assert says in told
    assert len(told.strip().splitlines()) == 1


def test_training_sees_only_the_kept_rows_and_says_so(dataset: Path, tmp_path: Path) -> None:
    people = sorted({row.source["person"] for row in open_dataset(dataset).rows() if row.source["split"] == "train"})
    assert len(people) > 1
    likeness("data", "select", dataset, "without", "--where", f"source.person != {people[0]}")
    words = ("train", "wav2lip", "--stage", "expert", *TINY, "loop.steps=2", "loop.save_every=1")
    (made,) = json.loads(likeness(*words, "--data", f"{dataset}:without", "--json", workspace=tmp_path).stdout)
    (run,) = tmp_path.glob("runs/*")
    (facts,) = [json.loads(f.read_text()) for f in run.glob("artefact/*.json") if "dataset_rows" in f.read_text()]
    data = open_dataset(dataset, selection="without")
    assert facts["dataset_rows"] == {"clips": data.view}
    assert facts["datasets"] == {"clips": data.digest}
    assert data.view["selection"] == "without"
    seen = Stream("clips", ExpertStage.sources["clips"], data, "train", 0).rows
    assert {row.source["person"] for row in seen} == set(people[1:])
    record = json.loads(likeness("model", "lineage", made["version"], "--json", workspace=tmp_path).stdout)
    assert record["datasets"] == [{"name": "dataset:without", "digest": data.digest}]

    # the same command with other kept rows is another run, not the old one gone on
    likeness("data", "select", dataset, "without", "--where", f"source.person != {people[1]}")
    told = likeness(*words, "--data", f"{dataset}:without", "--dry-run", "--json", workspace=tmp_path).stdout
    assert json.loads(told)[0]["run_dir"] != str(run)
    told = likeness(*words, "--data", dataset, "--dry-run", workspace=tmp_path).stdout
    assert str(run.name) not in told
    assert "selection" not in told
    likeness("data", "select", dataset, "without", "--remove")
    told = likeness(*words, "--data", f"{dataset}:without", workspace=tmp_path, code=2).stderr
    assert "has no selection 'without'" in told
