"""The bytes of a dataset do not depend on the order in which it was asked for, nor on who worked on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dataset_toy as toy
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interrupt import stopping
from law_model import Watch, contents, expected, make, stored

from infra.storage import open_dataset

FIELDS = ("doubled", "shifted", "summed", "fragile", "batched", "after")


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sources with something wrong in every way, and a dataset of all fields made from them in one build."""
    folder = tmp_path_factory.mktemp("at_once")
    toy.write_sources(folder / "clips", 8)
    (folder / "clips" / "silent.mp4").write_text("1 2\n3")
    (folder / "clips" / "speaker1" / "unlucky.mp4").write_text("1 13\n2 2")
    make(folder / "set", folder / "clips", FIELDS)
    return folder / "clips", folder / "set"


def test_the_dataset_of_one_build_is_what_its_sources_say(at_once: tuple[Path, Path]) -> None:
    source = at_once[0]
    texts = {f"clips/{path.relative_to(source)}": path.read_text() for path in source.rglob("*.mp4")}
    assert stored(open_dataset(at_once[1])) == expected(texts, FIELDS)


ORDERS = st.permutations(FIELDS).flatmap(
    lambda names: st.sets(st.integers(1, len(names) - 1), max_size=3).map(lambda cuts: _parts(names, sorted(cuts))))


def _parts(names: list[str], cuts: list[int]) -> list[list[str]]:
    return [names[start:end] for start, end in zip([0, *cuts], [*cuts, len(names)], strict=True)]


def test_fields_in_any_order_and_any_number_of_builds_give_the_same_files(at_once: tuple[Path, Path], tmp_path: Path) -> None:
    source, whole = at_once
    want = contents(whole)

    @settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(parts=ORDERS)
    def check(parts: list[list[str]]) -> None:
        root, asked, watch = tmp_path / "set", list[str](), Watch(tmp_path / "set")
        shutil.rmtree(root, ignore_errors=True)
        for names in parts:
            asked += names
            with stopping():  # without syncing
                make(root, source, asked)
            watch.look()
        assert contents(root) == want

    check()


@pytest.mark.parametrize("workers", [1, 2, 3])  # the session has cores for two: the third waits for ever, and nobody for it
def test_ray_gives_what_one_process_gives(ray_session: None, at_once: tuple[Path, Path], tmp_path: Path, workers: int) -> None:
    make(tmp_path / "set", at_once[0], FIELDS, runner="ray", workers=workers)
    assert contents(tmp_path / "set") == contents(at_once[1])


@pytest.mark.long
def test_three_workers_and_a_pool_for_the_network_give_the_same(at_once: tuple[Path, Path], tmp_path: Path) -> None:
    for name, flags in (("three", ["--workers", "3"]), ("pool", ["--gpus", "1"])):
        command = [sys.executable, toy.__file__, str(tmp_path / name), str(at_once[0]), "--runner", "ray", "--fields", *FIELDS]
        path = {"PYTHONPATH": os.pathsep.join([str(Path(toy.__file__).parent), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run([*command, *flags], env=os.environ | path, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr[-3000:]
        assert contents(tmp_path / name) == contents(at_once[1])
