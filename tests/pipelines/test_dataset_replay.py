"""`likeness data replay`, `quarantine` and `retry`: toy operators, and the project's own on the demo clips."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import dataset_toy as toy
import numpy as np
import pytest
from dataset_toy import TOOLBOX
from typed import likeness

from infra.errors import LikenessError
from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.replay import Replay, quarantined
from pipelines.dataset.request import updated
from preprocessing.media.mux import write_video


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows fail in `fragile`, a file in ingest."""
    folder = tmp_path_factory.mktemp("replay")
    toy.write_sources(folder / "clips", 4)
    (folder / "clips" / "speaker0" / "unlucky.mp4").write_text("1 13\n13\n4 5")
    request = updated(None, sources=[str(folder / "clips")], fields=["fragile", "summed"])
    build(folder / "set", request, TOOLBOX, runner="serial")
    return folder / "set"


def key_of(root: Path, path: str, segment: int = 0) -> str:
    return next(r.key for r in open_dataset(root).rows() if r.source["path"].endswith(path) and r.source["segment"] == segment)


@pytest.mark.parametrize("operator", ["ingest", "double", "shift", "sum", "fragile"])
def test_replayed_values_are_the_stored_ones(root: Path, tmp_path: Path, operator: str) -> None:
    key = key_of(root, "Clip 3.mp4", 1)
    toy.calls.clear()
    done = Replay(root, key, operator, toolbox=TOOLBOX).run(tmp_path)
    assert [name for name, _ in toy.calls] == [operator]  # and nothing else, not even what its inputs are made by
    assert {field["compared"] for field in done.fields} == {"same"}
    data = open_dataset(root)
    for field in done.fields:
        (file,) = tmp_path.glob(f"{field['field']}.*")
        assert file.read_bytes() == data.read(key, field["field"])
        assert len(file.read_bytes()) == field["bytes"]
    assert done.wall_s >= 0
    assert sorted(done.files) == sorted(map(str, tmp_path.iterdir()))


def test_settings_change_the_values_and_are_not_remembered(root: Path) -> None:
    key = key_of(root, "Clip 3.mp4")
    request = (root / "request.json").read_bytes()
    done = Replay(root, key, "shift", ["shift.by=5"], TOOLBOX).run()
    assert done.fields[0]["compared"] == "not stored"
    assert (root / "request.json").read_bytes() == request
    with pytest.raises(LikenessError, match="input shifted is stored by shift with other settings"):
        Replay(root, key, "sum", ["shift.by=5"], TOOLBOX)


def test_failures_come_with_their_own_traceback(root: Path) -> None:
    with pytest.raises(ValueError, match="13 in clips") as caught:
        Replay(root, key_of(root, "unlucky.mp4"), "fragile", toolbox=TOOLBOX).run()
    assert caught.traceback[-1].name == "work"
    toy.Fragile.mended = True
    try:
        done = Replay(root, key_of(root, "unlucky.mp4"), "fragile", toolbox=TOOLBOX).run()
    finally:
        toy.Fragile.mended = False
    assert [field["compared"] for field in done.fields] == ["not stored"]


def test_a_source_is_wanted_only_by_who_reads_it(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "set")
    request = json.loads((root / "request.json").read_text())
    request["roots"] = {"clips": str(tmp_path / "gone")}
    (tmp_path / "set" / "request.json").write_text(json.dumps(request))
    key = key_of(root, "Clip 3.mp4")
    assert Replay(tmp_path / "set", key, "shift", toolbox=TOOLBOX).run().fields[0]["compared"] == "same"
    with pytest.raises(LikenessError, match="source clips/speaker1/Clip 3.mp4 of row .* is gone, and sum reads it"):
        Replay(tmp_path / "set", key, "sum", toolbox=TOOLBOX)


def test_mistakes_name_the_nearest(root: Path) -> None:
    with pytest.raises(LikenessError, match=r"no operator 'summ' makes a field of .* \(nearest: sum\)"):
        Replay(root, key_of(root, "Clip 3.mp4"), "summ", toolbox=TOOLBOX)
    with pytest.raises(LikenessError, match="has no row 'clip'"):
        Replay(root, "clip", "sum", toolbox=TOOLBOX)


def test_quarantine_lists_files_and_rows_with_traces(root: Path) -> None:
    lines = json.loads(likeness("data", "quarantine", root, "--json").stdout)
    assert [(line["name"], line["operator"], line["error"]) for line in lines] == [
        (key_of(root, "unlucky.mp4"), "fragile", "ValueError"), (key_of(root, "unlucky.mp4", 1), "fragile", "ValueError"),
        ("clips/words.mp4", "ingest", "ValueError")]  # fmt: skip
    assert "work" in lines[0]["trace"]
    assert lines[2]["message"].startswith("invalid literal for int()")
    assert {line["operator"] for line in quarantined(root, "ingest")} == {"ingest"}
    told = likeness("data", "quarantine", root, "--op", "fragile").stdout
    assert "2 quarantined; try them again with: likeness data retry" in told
    assert "nearest: fragile" in likeness("data", "quarantine", root, "--op", "fragil", code=2).stderr


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of noise through the project's own operators: no face, but pictures and sound. One has its pictures damaged."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(6)]
    (folder / "clips").mkdir()
    write_video(folder / "clips" / "clip.mp4", frames, Fraction(25), rng.integers(-9000, 9000, 3840).astype(np.int16))
    damaged = bytearray((folder / "clips" / "clip.mp4").read_bytes())
    start, stop = damaged.index(b"mdat") + 1000, len(damaged) - 3000
    damaged[start:stop] = rng.integers(0, 255, stop - start, np.uint8).tobytes()
    (folder / "clips" / "damaged.mp4").write_bytes(damaged)
    words = ("--field", "mel80", "--field", "face_track", "--runner", "serial")
    likeness("data", "build", folder / "set", "--source", folder / "clips", *words)
    return folder / "set"


@pytest.mark.parametrize("operator", ["ingest", "mel80", "face_detect", "face_track"])
def test_commands_on_real_operators(real: Path, tmp_path: Path, operator: str) -> None:
    row = next(r for r in open_dataset(real).rows() if r.source["path"] == "clips/clip.mp4")
    done = json.loads(likeness("data", "replay", real, row.key, "--op", operator, "--out", tmp_path / "out", "--json").stdout)
    assert {field["compared"] for field in done["fields"]} == {"same"}
    assert len(os.listdir(tmp_path / "out")) >= len(done["fields"])
    told = likeness("data", "replay", real, row.key, "--op", operator).stdout
    assert ", same" in told


def test_a_failing_command_shows_the_traceback(real: Path) -> None:
    row = next(r for r in open_dataset(real).rows() if r.source["path"] == "clips/damaged.mp4")
    told = likeness("data", "replay", real, row.key, "--op", "face_detect", code=1).stderr
    assert "Traceback (most recent call last)" in told
    assert "face_detect.py" in told


def test_retry_tries_again(real: Path) -> None:
    before = json.loads(likeness("data", "quarantine", real, "--json").stdout)
    report = json.loads(likeness("data", "retry", real, "--runner", "serial", "--json").stdout)
    assert report["attempts"] == len(before) == 1
    after = json.loads(likeness("data", "quarantine", real, "--json").stdout)
    assert [line["tries"] for line in after] == [line["tries"] + 1 for line in before]
    assert "is not a dataset" in likeness("data", "retry", real.parent / "none", code=2).stderr
