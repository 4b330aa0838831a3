"""Detectors: SCRFD decoded by hand and from a small network of its layout, YuNet where its file is, the operator's settings."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from astronaut_clips import fill, make_sample, portrait, swaying
from tiny_onnx import SCRFD_DISTANCES, SCRFD_SHIFTS, scrfd

from infra import assets
from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.apply import run_in_memory
from preprocessing.detectors import decode_scrfd, letterbox, non_maximum, open_detector
from preprocessing.fields import FACE_BOX, FACE_DETECTIONS, FACE_TRACK, FACE_VALID, LANDMARKS_478, VIDEO
from preprocessing.operators.face_detect import FaceDetect
from preprocessing.operators.face_track import iou

needs_yunet = pytest.mark.skipif(assets.locate(assets.get("yunet")) is None, reason="LIKENESS_ASSETS has no yunet")
corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")


def maps(size_px: int = 64) -> list[np.ndarray]:
    """Nothing found at all."""
    counts = [2 * (size_px // stride) ** 2 for stride in (8, 16, 32)]
    return [np.zeros((n, width), np.float32) for width in (1, 4, 10) for n in counts]


def test_scrfds_anchors_boxes_and_points():
    outputs = maps()
    outputs[0][2 * (3 * 8 + 5) + 1] = 0.7  # stride 8: row 3, column 5, second anchor
    outputs[3][2 * (3 * 8 + 5) + 1] = (1, 2, 3, 4)
    outputs[6][2 * (3 * 8 + 5) + 1] = np.arange(10)
    outputs[2][2 * (1 * 2 + 0)] = 0.9  # stride 32: row 1, column 0
    outputs[5][2 * (1 * 2 + 0)] = (0.5, 0.5, 1, 1)
    outputs[1][3] = 0.49  # too weak
    boxes, points = decode_scrfd(outputs, 64, 0.5)
    np.testing.assert_allclose(boxes, [[-16, 16, 32, 64, 0.9], [40 - 8, 24 - 16, 40 + 24, 24 + 32, 0.7]])
    assert boxes.dtype == points.dtype == np.float32
    np.testing.assert_allclose(points[0], np.tile([0, 32], (5, 1)))
    np.testing.assert_allclose(points[1], (40, 24) + 8 * np.arange(10).reshape(5, 2))
    assert decode_scrfd([o[None] for o in outputs], 64, 0.5)[0].shape == (2, 5)  # networks that keep the batch axis
    assert decode_scrfd(maps(), 64, 0.5)[0].shape == (0, 5)
    with pytest.raises(LikenessError, match="128 scores at stride 8 for 96 px"):
        decode_scrfd(outputs, 96, 0.5)


def test_of_boxes_over_each_other_the_best_stays():
    boxes = np.array([[0, 0, 9, 9, 0.9], [0, 0, 9, 4, 0.8], [0, 0, 9, 3, 0.7], [20, 0, 29, 9, 0.6], [21, 0, 30, 9, 0.5]])
    # The second covers 5 of the first's 10 rows (0.5), the third 4 (0.4, which is not more than 0.4).
    assert non_maximum(boxes, 0.4).tolist() == [0, 2, 3]
    assert non_maximum(boxes, 0.39).tolist() == [0, 3]
    assert non_maximum(boxes[:0], 0.4).tolist() == []


def test_letterbox():
    for shape, inner, scale in (((480, 640), (480, 640), 1), ((1000, 500), (640, 320), 0.64), ((100, 333), (192, 640), 1.92)):
        square, found = letterbox(np.full((*shape, 3), 9, np.uint8), 640)
        assert square.shape == (640, 640, 3)
        assert square[: inner[0], : inner[1]].min() == 9
        assert square.sum() == 9 * 3 * inner[0] * inner[1]
        assert found == pytest.approx(scale)


def picture(height: int, width: int, squares: list[tuple[int, int, int, tuple[int, int, int]]]) -> np.ndarray:
    out = np.zeros((height, width, 3), np.uint8)
    for x, y, side, colour in squares:
        out[y : y + side, x : x + side] = colour
    return out


def test_scrfd_from_file_to_boxes_in_the_pictures_own_px(tmp_path):
    detect = open_detector("scrfd", scrfd(tmp_path / "tiny.onnx"))
    # 1280 x 960: shrunk by 2. A white cell at (64, 96) and a red one at (400, 200) of the square; a blue one is none.
    boxes, points = detect(picture(960, 1280, [(128, 192, 64, (255,) * 3), (800, 400, 16, (255, 0, 0)), (32, 32, 16, (0, 0, 255))]))
    left, top, right, bottom = SCRFD_DISTANCES
    want = [[64 - 32 * left, 96 - 32 * top, 64 + 32 * right, 96 + 32 * bottom],
            [400 - 8 * left, 200 - 8 * top, 400 + 8 * right, 200 + 8 * bottom]]  # fmt: skip
    np.testing.assert_allclose(boxes[:, :4], 2 * np.array(want))
    assert boxes[:, 4] == pytest.approx([1 / (1 + np.exp(-2.977)), 1 / (1 + np.exp(-1.95))], abs=2e-3)
    shifts = np.reshape(SCRFD_SHIFTS, (5, 2))
    np.testing.assert_allclose(points, 2 * np.array([(64, 96) + 32 * shifts, (400, 200) + 8 * shifts]))
    # A photo of 4000 px and one of 64: shrunk and grown into the same square.
    large, _ = detect(picture(4000, 3000, [(800, 1200, 200, (255,) * 3)]))
    np.testing.assert_allclose(large[:, :4], 6.25 * np.array([[128 - 32, 192 - 48, 128 + 64, 192 + 80]]), rtol=1e-5)
    small, _ = detect(np.full((64, 64, 3), 255, np.uint8))  # white all over: the first anchor is at the corner
    np.testing.assert_allclose(small[0, :4], 0.1 * np.array([-32, -48, 64, 80]), rtol=1e-5)
    assert detect(picture(50, 60, [])).boxes.shape == (0, 5)


def test_the_operator_with_scrfd(tmp_path):
    operator = catalogue.producer("face_detections", {"face_detect": {"backend": "scrfd", "min_score": 0.9}})
    assert operator.assets == ("scrfd",)
    operator.asset_paths = {"scrfd": scrfd(tmp_path / "tiny.onnx")}
    operator.setup()
    frame = picture(640, 640, [(64, 96, 32, (255,) * 3), (400, 200, 8, (255, 0, 0))])
    sample = make_sample(np.stack([frame, np.zeros_like(frame), frame, frame]))
    sample[VIDEO].damaged[2] = True
    found = operator(sample)[FACE_DETECTIONS]
    assert found[:, 0].tolist() == [0, 3]  # the red one scores 0.88
    assert found[0, 1:5].tolist() == [32, 48, 128, 176]
    assert found.dtype == np.float32
    operator.asset_paths = {"scrfd": scrfd(tmp_path / "without_points.onnx", outputs=6)}
    with pytest.raises(LikenessError, match=r"without_points.onnx has 6 outputs.*9: scores"):
        operator.setup()
    (tmp_path / "text.onnx").write_text("no network")
    operator.asset_paths = {"scrfd": tmp_path / "text.onnx"}
    with pytest.raises(LikenessError, match="text.onnx does not load"):
        operator.setup()


def test_settings_of_the_backends(tmp_path, monkeypatch):
    assert FaceDetect().assets == ()
    for wrong, message in (
        ({"backend": "dlib"}, "mediapipe | yunet | scrfd"), ({"min_score": 0.3}, "nothing below 0.5"),
        ({"backend": "yunet", "min_score": 0}, "min_score"), ({"longest_side_px": 650}, "multiple of 32"),
        ({"longest_side_px": 1280}, "sizes of its own"),
    ):  # fmt: skip
        with pytest.raises(LikenessError, match=message.replace("|", r"\|")):
            catalogue.producer("face_detections", {"face_detect": wrong})
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    for backend, file in (("yunet", "yunet_n_640_640.onnx"), ("scrfd", "det_10g.onnx")):
        operator = catalogue.producer("face_detections", {"face_detect": {"backend": backend, "min_score": 0.3}})
        with pytest.raises(LikenessError, match=rf"asset {backend} is not here.*place {file} from https.*licence"):
            operator.setup()
    with pytest.raises(LikenessError, match="detector yunet without its file"):
        open_detector("yunet")


def test_mediapipe_is_the_default_and_gives_no_points():
    faces = open_detector("mediapipe")(portrait())
    assert faces.points is None
    assert faces.boxes.shape == (1, 5)


@needs_yunet
def test_yunet_sees_what_mediapipe_sees():
    frames = swaying(3)
    with_yunet = fill(make_sample(frames), FACE_DETECTIONS, FACE_TRACK, FACE_VALID, FACE_BOX, face_detect={"backend": "yunet"})
    usual = fill(make_sample(frames), FACE_BOX, FACE_DETECTIONS, LANDMARKS_478)
    assert with_yunet[FACE_VALID].all()
    assert with_yunet[FACE_DETECTIONS][:, 0].tolist() == [0, 1, 2]
    for a, b, box in zip(with_yunet[FACE_DETECTIONS], usual[FACE_DETECTIONS], usual[FACE_BOX], strict=True):
        assert iou(a[1:5], b[1:5]) > 0.5
        assert iou(a[1:5], box) > 0.6
    eye = fill(make_sample(frames), LANDMARKS_478)[LANDMARKS_478][0, [33, 133], :2].mean(0)
    points = open_detector("yunet", assets.find("yunet"))(frames[0]).points
    assert np.linalg.norm(points[0, 0] - eye) < 4


@needs_yunet
@pytest.mark.parametrize("scale", [0.4, 3, 14])
def test_yunet_in_photos_of_any_size(scale):
    detect = open_detector("yunet", assets.find("yunet"))
    usual = portrait()
    grown = cv2.resize(usual, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    assert scale < 14 or len(grown) > 4000
    (box,), (points,) = detect(grown)
    (usual_box,), (usual_points,) = detect(usual)
    side = usual_box[2] - usual_box[0]
    assert np.abs(box[:4] / scale - usual_box[:4]).max() < 0.12 * side
    assert np.abs(points / scale - usual_points).max() < 0.06 * side


@needs_yunet
def test_yunet_depends_on_nothing_but_the_picture():
    noise = np.random.default_rng(0).integers(0, 255, (96, 200, 3), dtype=np.uint8)
    pictures = [portrait(), noise, portrait(side=200), noise[:1, :1], noise[:, :3], portrait()[:100, :288]]
    fresh = [open_detector("yunet", assets.find("yunet"), 0.02)(picture) for picture in pictures]
    used = open_detector("yunet", assets.find("yunet"), 0.02)
    for order in (range(6), reversed(range(6)), (3, 0, 3, 4, 0, 4)):
        for place in order:
            again = used(pictures[place])
            assert again.boxes.tobytes() == fresh[place].boxes.tobytes()
            assert again.points.tobytes() == fresh[place].points.tobytes()
            assert np.abs(again.boxes).max(initial=0) < 1000
    assert len(fresh[0].boxes)


@corpus
@needs_yunet
def test_faces_in_groups():
    groups = Path(os.environ["LIKENESS_CORPUS"]) / "groups"
    for file, yunet, mediapipe in (("insightface_t1.jpg", 6, 3), ("couple.jpg", 2, 2), ("meeting.jpg", 5, 4)):
        for backend, count in (("yunet", yunet), ("mediapipe", mediapipe)):
            sample = run_in_memory(groups / file, [FACE_DETECTIONS, FACE_VALID], {"face_detect": {"backend": backend}})
            assert len(sample[FACE_DETECTIONS]) == count, (file, backend)
            assert sample[FACE_VALID].all(), (file, backend)
