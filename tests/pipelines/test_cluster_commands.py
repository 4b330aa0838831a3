"""The commands of the Kubernetes jobs, with a dataset of ours in the place of theirs, up to where work would begin."""

from __future__ import annotations

from pathlib import Path

import yaml
from typed import likeness

KUBERNETES = Path(__file__).parents[2] / "infra" / "kubernetes"


def words_of(name: str, places: dict[str, Path]) -> list[str]:
    job = yaml.safe_load((KUBERNETES / name).read_text())
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "likeness"
    return [str(places.get(word, word)) for word in words]


def test_the_build_is_planned(clips: Path, tmp_path: Path) -> None:
    words = words_of("build.yaml", {"/data/talks": tmp_path / "talks", "/data/videos": clips})
    told = likeness(*words, "--dry-run").stdout
    assert "face_box" in told
    assert not (tmp_path / "talks").exists()


def test_the_training_resolves(dataset: Path, tmp_path: Path) -> None:
    words = words_of("train.yaml", {"/data/talks": dataset, "/data/work": tmp_path})
    told = likeness(*words, "--dry-run").stdout
    assert "loop.batch_size = 64" in told
    assert "loop.zero_stage = 2" in told
    assert not (tmp_path / "runs").exists()
