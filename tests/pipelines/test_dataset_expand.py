"""Derived datasets: rows made from a parent's rows, here a row per person followed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from typed import likeness

from infra.storage import open_dataset
from preprocessing.codecs import decode
from preprocessing.fields import AUDIO, FACE_BOX, FACE_TRACK, TIMELINE
from preprocessing.media.mux import write_video

N_FRAMES = 30


def two_people(appears: int = 0) -> np.ndarray:
    """(30, 240, 480, 3): the astronaut's head twice, the right one mirrored and there from frame `appears` on."""
    head = np.ascontiguousarray(skimage.data.astronaut()[20:260, 100:340])
    frames = np.stack([np.concatenate([head, head[:, ::-1]], 1)] * N_FRAMES)
    frames[:appears, :, 240:] = 90
    return frames


def sound(n: int) -> np.ndarray:
    return np.arange(n * 640, dtype=np.int16)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expand")
    (folder / "clips").mkdir()
    write_video(folder / "clips" / "two.mp4", two_people(appears=4), 25, sound(N_FRAMES))
    write_video(folder / "clips" / "nobody.mp4", np.full((N_FRAMES, 64, 64, 3), 90, np.uint8), 25, sound(N_FRAMES))
    root = folder / "parent"
    likeness("data", "build", root, "--source", folder / "clips", "--field", "face_detections", "--runner", "serial")
    return root


def test_each_person_followed_is_a_row_named_after_its_parent(parent: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in parent.glob("columns/**/*.*")}
    child = tmp_path / "people"
    fields = ["--field", "face_box", "--field", "audio"]
    least = ["--set", "face_tracks.min_frames=10"]
    likeness("data", "expand", parent, child, "--by", "face_tracks", *fields, *least, "--runner", "serial")
    assert {path: path.read_bytes() for path in before} == before
    data = open_dataset(child)
    (above,) = [row for row in open_dataset(parent).rows() if "two" in row.key]
    assert [row.key for row in data.rows()] == [f"{above.key}-t00", f"{above.key}-t01"]
    boxes = {}
    for row in data.rows():
        track = decode(FACE_TRACK, data.read(row, "face_track"))
        box = decode(FACE_BOX, data.read(row, "face_box"))
        timeline = decode(TIMELINE, data.read(row, "timeline"))
        assert len(track) == len(box) == len(timeline) == row.source["n_frames"]
        assert len(decode(AUDIO, data.read(row, "audio"))) == 640 * len(track)
        assert row.source["parent"] == above.key
        side = "left" if box[-1, 0] < 240 else "right"
        boxes[side] = row
        assert (box[:, 2] < 240).all() if side == "left" else (box[:, 0] > 240).all()
    assert (boxes["left"].source["start"], boxes["right"].source["start"]) == ("0/1", "4/25")
    assert decode(AUDIO, data.read(boxes["right"], "audio"))[0] == pytest.approx(4 * 640, abs=200)
    assert {e.path: e.status for e in data.manifest.sources} == {"clips/two.mp4": "ingested", "clips/nobody.mp4": "refused"}
    assert json.loads((parent / "derived.json").read_text()) == [str(child)]

    again = json.loads(likeness("data", "build", child, "--json").stdout)
    assert (again["units"], again["digest"]) == (0, data.digest)
    setting = ["--set", "face_tracks.min_frames=29"]
    other = json.loads(likeness("data", "build", child, *setting, "--json", "--runner", "serial").stdout)
    assert other["rows"] == 1  # the other one is seen in 26 frames only
    assert open_dataset(child).manifest.ingest != data.manifest.ingest


def test_new_sources_of_the_parent_append_shards(parent: Path, tmp_path: Path) -> None:
    child = tmp_path / "people"
    likeness("data", "expand", parent, child, "--field", "face_track", "--runner", "serial")
    before = {path: path.read_bytes() for path in child.glob("columns/**/*.*")}
    more = tmp_path / "more"
    more.mkdir()
    write_video(more / "third.mp4", two_people(), 25, sound(N_FRAMES))
    likeness("data", "build", parent, "--source", more, "--runner", "serial")
    report = json.loads(likeness("data", "build", child, "--json", "--runner", "serial").stdout)
    assert (report["units"], report["rows"]) == (1, 4)
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_taken_down_above_is_gone_below_at_once(parent: Path, tmp_path: Path) -> None:
    above = tmp_path / "above"
    shutil.copytree(parent, above)
    child = tmp_path / "people"
    likeness("data", "expand", above, child, "--field", "face_track", "--runner", "serial")
    rows = open_dataset(child).rows()
    assert {row.source["person"] for row in rows if "two" in row.key} == {"clips/two#0", "clips/two#1"}  # not one person
    (key,) = {row.source["parent"] for row in rows if "clips-two" in row.key}
    likeness("data", "takedown", above, "--key", key)
    assert [row.key for row in open_dataset(child).rows()] == [row.key for row in rows if row.source["parent"] != key]
    likeness("data", "build", child, "--runner", "serial")  # nothing brings it back
    assert not [row for row in open_dataset(child).rows() if row.source["parent"] == key]


def test_mistakes_are_named(parent: Path, tmp_path: Path) -> None:
    failed = likeness("data", "expand", parent, tmp_path / "x", "--by", "faces", code=2)
    assert "unknown expander 'faces'; allowed: face_tracks, shots" in failed.stderr
    likeness("data", "expand", parent, tmp_path / "c", "--field", "face_track", "--runner", "serial")
    assert "takes its sources from there" in likeness("data", "build", tmp_path / "c", "--source", tmp_path, code=2).stderr
    assert "not a derived one" in likeness("data", "expand", parent, parent, code=2).stderr
