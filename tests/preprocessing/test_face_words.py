"""Words for faces and heads: proportions to words, movements to words, and ConsistentID's marks."""

from __future__ import annotations

import numpy as np
import pytest
from astronaut_clips import fill, make_sample, swaying

from preprocessing.face_attributes import FaceAttributes, description, face_attributes, mouth_words
from preprocessing.face_words import MARKER, PART_WORDS, PLAIN_DESCRIPTION, marked_description
from preprocessing.fields import LANDMARKS_478
from preprocessing.head_moves import PITCH, YAW, head_moves, legs

MEAN = {
    "width": 0.816, "jaw": 0.79, "eye_opening": 0.32, "eye_distance": 0.246, "nose": 0.258, "mouth": 0.41, "lips": 0.32,
    "gap": 0.02, "smile": 0.01,
}  # fmt: skip
PARTS = ["Face", "Left_Eye", "Left_Ear", "Nose", "Upper_Lip"]


def face(**other: float) -> FaceAttributes:
    return FaceAttributes(**{**MEAN, **other})


@pytest.mark.parametrize(
    ("attributes", "yaw"), [({}, 0), ({"width": 0.7, "jaw": 0.9}, 30), ({"gap": 0.5, "smile": 0.1, "lips": 0.1}, 0)]
)
def test_a_description_names_every_part_once_and_in_order(attributes: dict, yaw: float):
    text = description(face(**attributes), yaw)
    words = text.replace(",", "").replace(".", "").split()
    assert [w for w in words if w in PART_WORDS] == list(PART_WORDS)
    marked, kept = marked_description(text, PARTS)
    assert marked.count(MARKER) == len(kept) == 5
    assert [clause.split(f" {MARKER}")[0].split()[-1] for clause in marked.split(",") if MARKER in clause] == list(PART_WORDS)


def test_words_follow_the_numbers():
    assert "a long face" in description(face(width=0.75), 0)
    assert "a wide face with a broad jaw" in description(face(width=0.86, jaw=0.83), 0)
    assert "ears of which one is turned away" in description(face(), -30)
    assert "nearly shut wide-set eyes" in description(face(eye_opening=0.1, eye_distance=0.27), 0)
    assert "a narrow nose" in description(face(nose=0.2), 0)
    assert "a small mouth that smiles with full lips closed" in description(face(mouth=0.3, smile=0.08, lips=0.5), 0)
    assert mouth_words(face()) == ""
    assert mouth_words(face(gap=0.15)) == "with parted lips"
    assert mouth_words(face(gap=0.15, smile=0.09)) == "smiling with parted lips"
    assert mouth_words(face(smile=0.09)) == "smiling with closed lips"
    assert mouth_words(face(smile=-0.09)) == "with the corners of the mouth turned down"
    assert mouth_words(face(smile=0.2, gap=0.6)) == "with the mouth wide open"


def test_the_astronaut_smiles_and_turning_the_mesh_changes_little():
    sample = fill(make_sample(swaying(1)), LANDMARKS_478)
    mesh = sample[LANDMARKS_478][0].astype(np.float64)
    plain = face_attributes(mesh)
    assert mouth_words(plain) == "smiling with parted lips"
    turn = np.array([[np.cos(0.6), 0, np.sin(0.6)], [0, 1, 0], [-np.sin(0.6), 0, np.cos(0.6)]])
    for moved in (mesh @ turn.T, mesh * 2.5 + 40):
        assert vars(face_attributes(moved)) == pytest.approx(vars(plain), abs=1e-9)


def test_what_is_not_parsed_or_not_said_gets_no_mark():
    marked, kept = marked_description(PLAIN_DESCRIPTION, ["Nose", "Hair", "Left_Eye", "Right_Eye"])
    assert marked == f"two eyes {MARKER}, one nose {MARKER} and one mouth,"
    assert kept == ["Nose", "Hair", "Left_Eye", "Right_Eye"]
    assert marked_description("Nothing of the kind at all here", PARTS)[1] == []
    assert marked_description("A Nose, a nose and the nose.", ["Nose"]) == (
        "", []
    )  # as published: the first mention counts, whatever its case, but only lower case is marked


def wave(angle: np.ndarray, axis: int) -> np.ndarray:
    pose = np.zeros((len(angle), 3), np.float32)
    pose[:, axis] = angle
    return pose


def moves(angle: np.ndarray, axis: int, valid: np.ndarray | None = None) -> list[str]:
    return head_moves(wave(angle, axis), np.ones(len(angle), bool) if valid is None else valid, 25.0)


def test_movements_of_the_head():
    ramp = np.concatenate([np.zeros(20), np.linspace(0, 30, 30), np.full(20, 30), np.linspace(30, 0, 25), np.zeros(10)])
    assert moves(ramp, YAW) == ["turns the head to the right", "turns to the front"]
    assert moves(-ramp, YAW) == ["turns the head to the left", "turns to the front"]
    assert moves(-ramp, PITCH) == ["looks down", "looks straight ahead"]
    assert moves(5 * np.sin(np.arange(200) / 3), YAW) == []
    assert moves(12 * np.sin(np.arange(60) / 3), PITCH) == ["nods"]
    assert moves(20 * np.sin(np.arange(60) / 3), YAW) == ["shakes the head"]
    assert moves(ramp[:1], YAW) == []
    assert moves(ramp, YAW, np.zeros(len(ramp), bool)) == []
    holes = np.arange(len(ramp)) % 3 == 0
    assert moves(np.where(holes, ramp, 0), YAW, holes) == ["turns the head to the right", "turns to the front"]
    both = wave(ramp, YAW)
    both[:, PITCH] = np.concatenate([ramp[45:], np.zeros(45)])  # looks straight ahead while the head turns
    assert head_moves(both, np.ones(len(both), bool), 25.0) == [
        "turns the head to the right", "looks straight ahead", "turns to the front",
    ]  # fmt: skip
    found = legs(np.array([0, 5, 20, 18, 19, 3, 4, 2.0]), YAW)
    assert [(leg.first, leg.last) for leg in found] == [(0, 2), (2, 7)]
