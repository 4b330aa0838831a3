"""Blendshapes where their network is, action units by rule and by a small network of ME-GraphAU's layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astronaut_clips import fill, make_sample, swaying
from tiny_onnx import recogniser

from infra import assets
from infra.errors import LikenessError
from preprocessing import action_units, catalogue, fields
from preprocessing.action_units import BLENDSHAPES, LABELS, OTHER, RULES, UNSEEN, agreement, from_blendshapes, multi_hot
from preprocessing.apply import run_in_memory
from preprocessing.fields import BLENDSHAPES_52, FACE_VALID, LANDMARKS_478, aligned_face
from preprocessing.operator import Sample
from preprocessing.operators.expressions import ActionUnits, GraphNetwork, drawn, labels_above

needs_landmarker = pytest.mark.skipif(
    assets.locate(assets.get("face_landmarker")) is None, reason="LIKENESS_ASSETS has no face_landmarker"
)
corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")
BY_SHAPES, BY_GRAPH = fields.action_units("blendshapes"), fields.action_units("megraphau")


def shapes(n: int = 1, **values: float) -> np.ndarray:
    out = np.zeros((n, 52), np.float32)
    for name, value in values.items():
        out[:, BLENDSHAPES.index(name)] = value
    return out


def test_labels():
    assert len(LABELS) == len(set(LABELS)) == 41
    assert LABELS[:4] == ("AU1", "AU2", "AU4", "AU5")
    assert LABELS[26:29] == ("AU39", "AUL1", "AUR1")
    assert sum(label[2] in "LR" for label in LABELS) == 14
    assert set(RULES) | set(UNSEEN) == set(LABELS)
    assert set(action_units.THRESHOLDS) <= set(RULES)
    assert len(BLENDSHAPES) == 52
    assert {name for rule in RULES.values() for group in rule for name in group} <= set(BLENDSHAPES)


def test_rules():
    assert from_blendshapes(shapes(2)) == [[], []]
    smile = shapes(mouthSmileLeft=0.8, mouthSmileRight=0.7)
    assert from_blendshapes(smile) == [["AU12"]]
    assert from_blendshapes(smile, {"AU12": 0.75}) == [[]]  # the weaker side counts
    narrowed = shapes(mouthSmileLeft=0.8, mouthSmileRight=0.7, eyeSquintLeft=0.6, eyeSquintRight=0.46)
    assert from_blendshapes(narrowed) == [["AU6", "AU12"]]
    assert from_blendshapes(shapes(browDownLeft=0.6)) == [["AUL4"]]
    assert from_blendshapes(shapes(browDownLeft=0.6, browDownRight=0.5)) == [["AU4"]]
    assert from_blendshapes(shapes(jawOpen=0.26)) == [["AU25"]]
    assert from_blendshapes(shapes(jawOpen=0.7)) == [["AU25", "AU26", "AU27"]]
    with pytest.raises(LikenessError, match=r"blendshapes of shape \(1, 51\)"):
        from_blendshapes(np.zeros((1, 51)))


def test_targets_of_the_head():
    assert multi_hot([]).tolist() == [0] * 42
    found = multi_hot(["AU12", "AUR14", "wink"])
    assert np.flatnonzero(found).tolist() == [LABELS.index("AU12"), 40, OTHER]


def test_agreement_is_averaged_over_clips():
    truth = [["AU1", "AU2"], ["AU4"], [], ["AU6", "AU7", "AU9"]]
    found = [["AU1"], [], ["AU5"], ["AU6", "AU7", "AU12", "AU25"]]
    scores = agreement(truth, found)
    assert scores["precision"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert scores["recall"] == pytest.approx((1 / 2 + 0 + 2 / 3) / 3)
    assert scores["f1"] == pytest.approx((2 / 3 + 0 + 4 / 7) / 3)
    with pytest.raises(LikenessError, match="no clip has action units"):
        agreement([[]], [["AU1"]])


def test_frames_are_drawn_by_seed_and_key():
    places = np.array([3, 5, 8, 13, 21])
    found = drawn(places, 3, 0, "clip")
    assert sorted(set(found)) == found.tolist()
    assert set(found) <= set(places)
    assert np.array_equal(found, drawn(places, 3, 0, "clip"))
    draws = {tuple(drawn(places, 3, seed, f"clip{key}")) for seed in range(4) for key in range(10)}
    assert len(draws) > 5
    assert drawn(places[:2], 3, 0, "clip").tolist() == [3, 5]
    assert drawn(places[:0], 3, 0, "clip").tolist() == []


def test_a_clip_has_what_all_its_frames_have():
    values = shapes(4, mouthSmileLeft=0.9, mouthSmileRight=0.9)
    values[1, BLENDSHAPES.index("jawOpen")] = 0.5
    sample = Sample("clip", {BLENDSHAPES_52.name: values, FACE_VALID.name: np.array([True, True, False, True])})
    found = fill(sample, BY_SHAPES)[BY_SHAPES]
    assert found == {"frames": [0, 1, 3], "per_frame": [["AU12"], ["AU12", "AU25", "AU26"], ["AU12"]], "labels": ["AU12"]}
    empty = Sample("clip", {BLENDSHAPES_52.name: values, FACE_VALID.name: np.zeros(4, bool)})
    assert fill(empty, BY_SHAPES)[BY_SHAPES] == {"frames": [], "per_frame": [], "labels": []}


def graph_operator(path: Path, **settings: object) -> ActionUnits:
    operator = catalogue.producer("action_units_megraphau", {"action_units_megraphau": settings})
    assert isinstance(operator, ActionUnits)
    assert operator.assets == ("megraphau",)
    operator.asset_paths = {"megraphau": path}
    operator.setup()
    return operator


@pytest.fixture(scope="module")
def faces() -> Sample:
    frames = swaying(5)
    frames[2] = 0
    return fill(make_sample(frames), aligned_face("five", 224), FACE_VALID)


@pytest.mark.parametrize("squashed", [True, False])
def test_the_graph_network_by_hand(tmp_path, faces, squashed):
    path, weight, bias = recogniser(tmp_path / "au.onnx", 41, size_px=224, squashed=squashed)
    operator = graph_operator(path, output="score" if squashed else "logit")
    found = operator(faces)[BY_GRAPH]
    assert len(found["frames"]) == 3
    assert 2 not in found["frames"]
    for place, labels in zip(found["frames"], found["per_frame"], strict=True):
        face = faces[aligned_face("five", 224)][place] / 255
        blob = (face - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        scores = 1 / (1 + np.exp(-(blob.reshape(14, 16, 14, 16, 3).mean((1, 3)).transpose(2, 0, 1).ravel() @ weight + bias)))
        sure = np.abs(scores - 0.5) > 1e-3
        assert [label for label in labels if sure[LABELS.index(label)]] == [
            label for label, score, clear in zip(LABELS, scores, sure, strict=True) if clear and score > 0.5
        ]
    assert found["labels"] == [label for label in LABELS if all(label in labels for labels in found["per_frame"])]


def test_the_strongest_counts_always():
    scores = np.full(41, 0.1)
    scores[LABELS.index("AU9")] = 0.4
    assert labels_above(scores, 0.5, strongest=True) == ["AU9"]
    assert labels_above(scores, 0.5, strongest=False) == []
    scores[[0, 40]] = 0.6, 0.5
    assert labels_above(scores, 0.5, strongest=True) == ["AU1"]


def test_wrong_networks_and_outputs_are_named(tmp_path, faces):
    face = faces[aligned_face("five", 224)][0]
    with pytest.raises(LikenessError, match=r"megraphau takes .*112, 112.*\(n, 3, 224, 224\)"):
        GraphNetwork(recogniser(tmp_path / "small.onnx", 41)[0])
    with pytest.raises(LikenessError, match=r"megraphau gives \(1, 12\)"):
        GraphNetwork(recogniser(tmp_path / "twelve.onnx", 12, size_px=224)[0])(face)
    with pytest.raises(LikenessError, match="output=logit"):
        GraphNetwork(recogniser(tmp_path / "raw.onnx", 41, size_px=224)[0])(face)
    with pytest.raises(LikenessError, match="thresholds for AU9, which blendshapes do not tell"):
        catalogue.producer("action_units_blendshapes", {"action_units_blendshapes": {"thresholds": {"AU9": 0.2}}})


def test_what_is_no_landmarker_is_refused(tmp_path):
    operator = catalogue.producer("blendshapes_52")
    (tmp_path / "face_landmarker.task").write_bytes(b"no zip")
    operator.asset_paths = {"face_landmarker": tmp_path / "face_landmarker.task"}
    with pytest.raises(LikenessError, match=r"face_landmarker.task holds no face_blendshapes.tflite.*fetch face_landmarker again"):
        operator.setup()


@needs_landmarker
def test_the_astronaut_smiles():
    frames = swaying(4)
    frames[1] = 0
    sample = fill(make_sample(frames), BLENDSHAPES_52, BY_SHAPES)
    found = sample[BLENDSHAPES_52]
    assert found.shape == (4, 52)
    assert not found[1].any()
    for name in ("mouthSmileLeft", "mouthSmileRight"):
        assert found[[0, 2, 3], BLENDSHAPES.index(name)].min() > 0.6
    assert found[:, BLENDSHAPES.index("eyeBlinkLeft")].max() < 0.4
    assert {"AU12", "AU25"} <= set(sample[BY_SHAPES]["labels"])


@needs_landmarker
def test_blendshapes_are_googles():
    """The same numbers as the whole landmarker gives for its own mesh of the same picture."""
    import mediapipe as mp

    from preprocessing.operators.mediapipe_blendshapes import BlendshapeNetwork

    path = assets.find("face_landmarker")
    vision = mp.tasks.vision
    options = vision.FaceLandmarkerOptions(
        base_options=mp.tasks.BaseOptions(model_asset_path=str(path)), output_face_blendshapes=True, num_faces=1
    )
    picture = swaying(1)[0]
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        result = landmarker.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=picture))
    mesh = np.array([(p.x, p.y, p.z) for p in result.face_landmarks[0]]) * (288, 288, 288)
    wanted = np.array([entry.score for entry in result.face_blendshapes[0]])
    found = BlendshapeNetwork(path)(mesh.astype(np.float32), 288, 288)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@corpus
@needs_landmarker
def test_happy_and_not():
    folder = Path(os.environ["LIKENESS_CORPUS"]) / "faces"
    happy = run_in_memory(folder / "sadtalker_happy1.png", [BY_SHAPES, LANDMARKS_478])[BY_SHAPES]["labels"]
    assert {"AU12", "AU25", "AU10"} <= set(happy)
    assert not {"AU12", "AU25"} & set(run_in_memory(folder / "uniface_man1.jpg", [BY_SHAPES])[BY_SHAPES]["labels"])
