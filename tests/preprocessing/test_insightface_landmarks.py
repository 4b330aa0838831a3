"""insightface's landmark operators on small networks of their layout, whose answers can be worked out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from astronaut_clips import fill, make_sample, swaying
from tiny_onnx import recogniser

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.fields import FACE_BOX, FACE_VALID, LANDMARKS_3D_68, LANDMARKS_106, VIDEO
from preprocessing.operators.insightface_landmarks import cut

LAYOUTS = {LANDMARKS_106.name: (LANDMARKS_106, 106, 2, 106), LANDMARKS_3D_68.name: (LANDMARKS_3D_68, 68, 3, 1103)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_points_by_hand(tmp_path, name):
    field, count, dims, rows = LAYOUTS[name]
    path, weight, bias = recogniser(tmp_path / "points.onnx", rows * dims, size_px=192)
    operator = catalogue.producer(name)
    assert operator.assets == (name,)
    operator.asset_paths = {name: path}
    operator.setup()
    frames = swaying(3)
    frames[1] = 0
    sample = fill(make_sample(frames), FACE_BOX)
    found = operator(sample)[field]
    assert found.shape == (3, count, dims)
    assert found.dtype == np.float32
    assert not found[1].any()
    for place, frame in enumerate(sample[VIDEO]):
        if not sample[FACE_VALID][place]:
            continue
        x0, y0, x1, y1 = sample[FACE_BOX][place].astype(float)
        side, centre = 1.5 * max(x1 - x0, y1 - y0), np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        # insightface's own crop: whole-number centres, the box's centre at 96.
        scale = 192 / side
        m = np.array([[scale, 0, 96 - (centre[0] - 0.5) * scale], [0, scale, 96 - (centre[1] - 0.5) * scale]])
        blocks = cv2.warpAffine(frame, m, (192, 192)).astype(np.float64).reshape(12, 16, 12, 16, 3).mean((1, 3))
        raw = (blocks.transpose(2, 0, 1).ravel() @ weight + bias).reshape(rows, dims)[-count:]
        want = np.column_stack([((raw[:, :2] + 1) * 96 - m[:, 2]) / scale + 0.5, raw[:, 2:] * 96 / scale])
        np.testing.assert_allclose(found[place], want, rtol=1e-4, atol=0.05 * side / 192)


def test_the_middle_of_the_crop_is_the_middle_of_the_box():
    """A network that answers 0 means the box's centre, on either count."""
    _, scale, shift = cut(np.zeros((100, 100, 3), np.uint8), np.array([20, 30, 60, 50]))
    assert scale == pytest.approx(192 / 60)
    np.testing.assert_allclose((96 - shift) / scale + 0.5, [40, 40])
    face, _, _ = cut(np.full((10, 10, 3), 9, np.uint8), np.array([0, 0, 10, 10]))
    assert face[96, 96].tolist() == [9, 9, 9]
    assert face[2, 2].tolist() == [0, 0, 0]
    with pytest.raises(LikenessError, match="face box of 0 px"):
        cut(face, np.zeros(4))


def test_other_networks_are_refused(tmp_path, monkeypatch):
    operator = catalogue.producer(LANDMARKS_106.name)
    operator.asset_paths = {"landmarks_106": recogniser(tmp_path / "a.onnx", 212, size_px=112)[0]}
    with pytest.raises(LikenessError, match=r"landmarks_106 takes .*112"):
        operator.setup()
    operator.asset_paths = {"landmarks_106": recogniser(tmp_path / "b.onnx", 200, size_px=192)[0]}
    operator.setup()
    with pytest.raises(LikenessError, match="gives 200 numbers; allowed: 212"):
        operator(fill(make_sample(swaying(1)), FACE_BOX))
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    for name, file in (("landmarks_106", "2d106det.onnx"), ("landmarks_3d_68", "1k3d68.onnx")):
        with pytest.raises(LikenessError, match=rf"asset {name} is not here.*place {file} .*licence: insightface"):
            catalogue.producer(name).setup()


def test_a_clip_without_a_face(tmp_path):
    operator = catalogue.producer(LANDMARKS_106.name)
    operator.asset_paths = {"landmarks_106": recogniser(tmp_path / "a.onnx", 212, size_px=192)[0]}
    operator.setup()
    assert not operator(fill(make_sample(np.full((2, 64, 64, 3), 90, np.uint8)), FACE_BOX))[LANDMARKS_106].any()
