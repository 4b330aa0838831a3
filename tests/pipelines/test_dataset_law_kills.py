"""Law 2 at points that hypothesis draws: killed between and within writes, or without room on the disk, and run again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dataset_toy as toy
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interrupt import HOW, How, count, stop, stopping
from law_model import EXHAUSTIVE, Watch, check_idle, check_whole, contents, expected, make, stored

from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.expand import ExpandIngest, derived_datasets
from pipelines.dataset.request import Request
from pipelines.dataset.verify import verify
from preprocessing.expander import Child, Expander
from preprocessing.fields import SOURCE, VIDEO
from preprocessing.operator import OperatorParams, Sample

FIELDS = ("after", "summed", "fragile")  # three segments: CPU, one that wants a GPU, CPU again
NEW = {"speaker0/Clip 2.mp4": "9 9 9\n13", "speaker1/new.mp4": "4 5"}  # what a second build finds: changed, new


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sources and a dataset of one build."""
    folder = tmp_path_factory.mktemp("first")
    toy.write_sources(folder / "clips", 6)
    make(folder / "set", folder / "clips", FIELDS)
    return folder / "clips", folder / "set"


@pytest.fixture(scope="module")
def second(first: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same after two sources and a setting."""
    folder = tmp_path_factory.mktemp("second")
    shutil.copytree(first[0], folder / "clips")
    shutil.copytree(first[1], folder / "set")
    for name, text in NEW.items():
        (folder / "clips" / name).write_text(text)
    make(folder / "set", folder / "clips", FIELDS, 2)
    return folder / "clips", folder / "set"


@pytest.fixture(scope="module")
def retried(second: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a retry that failed again."""
    root = tmp_path_factory.mktemp("retried") / "set"
    shutil.copytree(second[1], root)
    assert make(root, second[0], FIELDS, 2, retry=True).changed
    return root


def texts(source: Path) -> dict[str, str]:
    return {f"clips/{path.relative_to(source)}": path.read_text() for path in source.rglob("*.mp4")}


def check_first(first: tuple[Path, Path], root: Path, at: int, how: How) -> None:
    shutil.rmtree(root, ignore_errors=True)
    stop(lambda: make(root, first[0], FIELDS), at, how)
    with stopping():
        make(root, first[0], FIELDS)
    assert contents(root) == contents(first[1])
    check_whole(root, texts(first[0]))
    check_idle(root, first[0], FIELDS)
    assert verify(root).others == (0, 0)  # nothing twice


def check_later(before: Path, source: Path, want: Path, root: Path, at: int, how: How, retry: bool = False) -> None:
    """`before` is what there was, `want` what an unbroken build made of it."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(before, root)
    watch = Watch(root)
    watch.look()
    stop(lambda: make(root, source, FIELDS, 2, retry=retry), at, how)
    head = open_dataset(root).digest
    assert stored(open_dataset(root)) == stored(open_dataset(want if head == open_dataset(want).digest else before))
    watch.look()
    with stopping():
        make(root, source, FIELDS, 2, retry=retry and head == open_dataset(before).digest)
    watch.look()
    assert contents(root) == contents(want)
    check_whole(root, texts(source))
    assert stored(open_dataset(root)) == expected(texts(source), toy.TOYS, 2)
    check_idle(root, source, FIELDS, 2)


QUICK = settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
LONG = settings(QUICK, max_examples=40)
POINTS = {"part": st.floats(0, 1), "how": st.sampled_from(HOW)}


def at_points(check: Any, run: Any, chosen: settings) -> None:
    """`check` a step and a way of stopping, for points drawn from all of a run."""
    steps = count(run)
    chosen(given(**POINTS)(lambda part, how: check(1 + int(part * (steps - 1)), how)))()


@pytest.mark.parametrize("chosen", [QUICK, pytest.param(LONG, marks=EXHAUSTIVE)], ids=["some", "many"])
def test_a_first_build_stopped_anywhere(first: tuple[Path, Path], tmp_path: Path, chosen: settings) -> None:
    check = partial(check_first, first, tmp_path / "set")
    at_points(check, lambda: make(tmp_path / "counted", first[0], FIELDS), chosen)


@pytest.mark.parametrize("chosen", [QUICK, pytest.param(LONG, marks=EXHAUSTIVE)], ids=["some", "many"])
def test_a_later_build_stopped_anywhere(
    first: tuple[Path, Path], second: tuple[Path, Path], tmp_path: Path, chosen: settings
) -> None:
    shutil.copytree(first[1], tmp_path / "counted")
    check = partial(check_later, first[1], second[0], second[1], tmp_path / "set")
    at_points(check, lambda: make(tmp_path / "counted", second[0], FIELDS, 2), chosen)


@pytest.mark.parametrize("chosen", [QUICK, pytest.param(LONG, marks=EXHAUSTIVE)], ids=["some", "many"])
def test_a_retry_stopped_anywhere(second: tuple[Path, Path], retried: Path, tmp_path: Path, chosen: settings) -> None:
    shutil.copytree(second[1], tmp_path / "counted")
    check = partial(check_later, second[1], second[0], retried, tmp_path / "set", retry=True)
    at_points(check, lambda: make(tmp_path / "counted", second[0], FIELDS, 2, retry=True), chosen)


@pytest.mark.parametrize("kill_at", [23, 41])
def test_segments_killed_by_the_system(first: tuple[Path, Path], tmp_path: Path, kill_at: int) -> None:
    root = tmp_path / "set"
    command = [sys.executable, toy.__file__, str(root), str(first[0]), "--fields", *FIELDS, "--kill-at", str(kill_at)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    make(root, first[0], FIELDS)
    assert contents(root) == contents(first[1])
    check_whole(root, texts(first[0]))


# derived datasets


class StartingIngest(toy.ToyIngest):
    """With what an expander asks of a SOURCE record; a frame is a sample of sound."""

    def __call__(self, path: Path, source: Any) -> Any:
        rows = super().__call__(path, source)
        return [(n, {**values, SOURCE: {**values[SOURCE], "start": "0/1", "rate_hz": 25}}) for n, values in rows]


class Frames(Expander):
    """A row per frame whose number is odd."""

    name, version = "frames", 1
    reads, writes = (VIDEO, toy.DOUBLED), ()
    Params = OperatorParams

    def __call__(self, parent: Sample) -> list[Child]:
        toy.calls.append((self.name, parent.key))
        return [Child(f"t{n:02d}", n, n + 1, {}) for n, twice in enumerate(parent[toy.DOUBLED]) if twice / 2 % 2]


PARENT = replace(toy.TOOLBOX, ingest=lambda settings: StartingIngest())
CHILDREN = ("after", "shifted")


def expand(root: Path, parent: Path) -> Any:
    open_clip = partial(toy.ToyClip, budget_bytes=0)
    tools = replace(toy.TOOLBOX, ingest=lambda settings: ExpandIngest(Frames(), open_dataset(parent), open_clip))
    return build(root, Request(parent=str(parent), expander="frames", fields=list(CHILDREN)), tools, runner="serial")


@pytest.fixture(scope="module")
def family(first: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A parent, and a dataset derived from it."""
    folder = tmp_path_factory.mktemp("family")
    source = folder / "clips"
    shutil.copytree(first[0], source)
    (source / "even.mp4").write_text("2 4")  # no children
    build(folder / "parent", Request(roots={"clips": str(source)}, fields=["doubled"]), PARENT, runner="serial")
    expand(folder / "child", folder / "parent")
    return folder / "parent", folder / "child"


def test_children_are_those_of_the_parents_rows_and_a_second_run_computes_nothing(family: tuple[Path, Path]) -> None:
    parent, child = open_dataset(family[0]), open_dataset(family[1])
    odd = {f"{row.key}-t{n:02d}": number for row in parent.rows()
           for n, number in enumerate(int(twice) // 2 for twice in stored(parent)[row.key, "doubled"]) if number % 2}  # fmt: skip
    assert {row.key for row in child.rows()} == set(odd)
    values = stored(child)
    assert {key: values[key, "shifted"] for key in odd} == {key: [2.0 * number + 1] for key, number in odd.items()}
    assert {e.path: e.reason for e in child.manifest.sources if e.status != "ingested"} == {
        "clips/even.mp4": "no-children: frames finds nothing in it to make rows of"}
    files = {path: path.read_bytes() for folder in family for path in folder.rglob("*") if path.is_file()}
    toy.calls.clear()
    again = expand(family[1], family[0])
    assert (again.changed, again.units, again.attempts, toy.calls) == (False, 0, 0, [])
    assert {path: path.read_bytes() for folder in family for path in folder.rglob("*") if path.is_file()} == files


def test_a_child_stopped_anywhere(family: tuple[Path, Path], tmp_path: Path) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    shutil.copytree(family[0], parent)
    columns = {path: path.read_bytes() for path in parent.rglob("columns/**/*.*")}

    def check(at: int, how: How) -> None:
        shutil.rmtree(child, ignore_errors=True)
        stop(lambda: expand(child, parent), at, how)
        with stopping():
            expand(child, parent)
        assert contents(child) == contents(family[1])
        assert (verify(child).problems, verify(child).others) == ([], (0, 0))
        assert verify(parent).problems == []
        assert child in derived_datasets(parent)
        toy.calls.clear()
        assert (expand(child, parent).units, toy.calls) == (0, [])

    at_points(check, lambda: expand(tmp_path / "counted", parent), QUICK)
    assert {path: path.read_bytes() for path in columns} == columns
    assert json.loads((child / "request.json").read_text())["parent"] == str(parent)
