"""Identity: conventions checked against arithmetic on a small network, frames chosen, and MobileFace where its file is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astronaut_clips import fill, make_sample, portrait, swaying
from tiny_onnx import recogniser

from infra import assets
from infra.errors import LikenessError
from preprocessing import catalogue, templates
from preprocessing.apply import run_in_memory
from preprocessing.fields import FACE_VALID, LANDMARKS_5, VIDEO, identity
from preprocessing.operators.identity import CONVENTIONS, Embedder, Identity, aligned, spread

DIMS = {"antelopev2": 512, "buffalo_l": 512, "mobileface": 256}
needs_mobileface = pytest.mark.skipif(assets.locate(assets.get("mobileface")) is None, reason="LIKENESS_ASSETS has no mobileface")
corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")


def ready(path: Path, variant: str, **settings: int) -> Identity:
    operator = catalogue.producer(f"identity_{variant}", {f"identity_{variant}": settings})
    assert isinstance(operator, Identity)
    operator.asset_paths = {variant: path}
    operator.setup()
    return operator


def by_hand(face: np.ndarray, weight: np.ndarray, bias: np.ndarray, mean: float, scale: float) -> np.ndarray:
    blocks = ((face.astype(np.float64) - mean) / scale).reshape(7, 16, 7, 16, 3).mean((1, 3))
    return blocks.transpose(2, 0, 1).ravel() @ weight + bias


def length_one(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def sample():
    frames = swaying(6)
    frames[2] = 0
    return fill(make_sample(frames), LANDMARKS_5, FACE_VALID)


@pytest.mark.parametrize("variant", DIMS)
def test_each_variant_by_its_convention(tmp_path, sample, variant):
    path, weight, bias = recogniser(tmp_path / "net.onnx", DIMS[variant])
    found = ready(path, variant, most_frames=3)(sample)[identity(variant)]
    frames = list(sample[VIDEO])
    # Valid are 0, 1, 3, 4, 5: of these the first, the middle, the last.
    faces = [aligned(frames[place], sample[LANDMARKS_5][place]) for place in (0, 3, 5)]
    if variant == "antelopev2":
        want = np.mean([by_hand(face, weight, bias, 127.5, 127.5) for face in faces], 0)
        assert np.linalg.norm(want) > 2
    elif variant == "buffalo_l":
        want = length_one(np.mean([length_one(by_hand(face, weight, bias, 127.5, 127.5)) for face in faces], 0))
    else:
        views = [[length_one(by_hand(view, weight, bias, 0, 1)) for view in (face, face[:, ::-1])] for face in faces]
        want = length_one(np.mean([length_one(np.mean(pair, 0)) for pair in views], 0))
    assert found.shape == (DIMS[variant],)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, atol=2e-4 * np.abs(want).max())
    assert np.array_equal(found, ready(path, variant, most_frames=3)(sample)[identity(variant)])


def test_faces_enter_as_insightface_aligns_them(sample):
    import cv2

    frame, points = next(iter(sample[VIDEO])), sample[LANDMARKS_5][0]
    m = templates.opencv_matrix(templates.matrix("arcface", 112, points))
    assert np.array_equal(aligned(frame, points), cv2.warpAffine(frame, m, (112, 112), borderValue=0.0))


def test_without_a_face_it_is_zero(tmp_path):
    path, _, _ = recogniser(tmp_path / "net.onnx", 256)
    empty = fill(make_sample(np.full((3, 64, 96, 3), 127, np.uint8)), LANDMARKS_5, FACE_VALID)
    found = ready(path, "mobileface")(empty)[identity("mobileface")]
    assert found.shape == (256,)
    assert found.dtype == np.float32
    assert not found.any()


def test_frames_are_spread_over_the_valid_ones():
    places = np.array([2, 3, 5, 8, 9, 11, 20])
    assert spread(places, 8).tolist() == places.tolist()
    assert spread(places, 3).tolist() == [2, 8, 20]
    assert spread(places, 2).tolist() == [2, 20]
    assert spread(places, 1).tolist() == [8]
    assert spread(places[:0], 3).tolist() == []


def test_variants_are_operators_of_their_own(tmp_path):
    assert {*DIMS, "coarse"} == set(CONVENTIONS)
    names = {f"identity_{variant}" for variant in DIMS}
    assert names <= set(catalogue.operator_names())
    for name in names:
        operator = catalogue.producer(name, {name: {"most_frames": 2}})
        assert operator.name == name
        assert operator.params.most_frames == 2
        assert operator.assets == (name.removeprefix("identity_"),)
        assert operator.reads == (VIDEO, LANDMARKS_5, FACE_VALID)
    assert catalogue.producer("identity_coarse").assets == ()
    assert Identity.of_field("identity_cluster") is None
    with pytest.raises(LikenessError, match="unknown field 'identity_arcface'"):
        catalogue.producer("identity_arcface")


def test_another_network_is_refused(tmp_path):
    with pytest.raises(LikenessError, match=r"asset buffalo_l takes .*96, 96.*\(n, 3, 112, 112\)"):
        Embedder("buffalo_l", recogniser(tmp_path / "small.onnx", 512, size_px=96)[0])
    wrong = Embedder("buffalo_l", recogniser(tmp_path / "dims.onnx", 128)[0])
    with pytest.raises(LikenessError, match=r"asset buffalo_l gives \(1, 128\)"):
        wrong([np.zeros((112, 112, 3), np.uint8)])


def test_without_the_weights_the_error_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    with pytest.raises(LikenessError, match=r"antelopev2 is not here.*place glintr100.onnx from .*non-commercial"):
        catalogue.producer("identity_antelopev2").setup()


@needs_mobileface
def test_mobileface_knows_the_astronaut():
    field = identity("mobileface")
    clip = fill(make_sample(swaying(4)), field)[field]
    mirrored = fill(make_sample(portrait()[None, :, ::-1]), field)[field]
    assert np.linalg.norm(clip) == pytest.approx(1, abs=1e-5)
    assert clip @ mirrored > 0.9


@corpus
@needs_mobileface
def test_mobileface_on_labelled_photos():
    faces = Path(os.environ["LIKENESS_CORPUS"]) / "faces"
    files = ("obama_1.jpg", "obama_2.jpg", "obama_240p.jpg", "obama_3.jpg", "biden_1.jpg", "biden_2.jpg")
    found = np.array([run_in_memory(faces / file, [identity("mobileface")])[identity("mobileface")] for file in files])
    cosines, same = found @ found.T, np.equal.outer([f[0] for f in files], [f[0] for f in files])
    assert cosines[same].min() > 0.35
    assert cosines[~same].max() < 0.21


def test_the_coarse_one_needs_no_network_and_sees_light_not_brightness():
    rng = np.random.default_rng(0)
    cells = np.clip(rng.normal(120, 40, (2, 16, 16, 1)), 20, 200).astype(np.uint8)
    faces = list(cells.repeat(7, 1).repeat(7, 2).repeat(3, 3))
    embed = Embedder("coarse", None)
    one, other = embed(faces)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ embed([faces[0] + np.uint8(30)])[0] == pytest.approx(1, abs=1e-4)  # brighter all over
    assert one @ embed([np.ascontiguousarray(faces[0][:, ::-1])])[0] == pytest.approx(1, abs=1e-5)  # mirrored
    assert one @ other < 0.5
