"""Body key points: MediaPipe's on a real picture, and DWPose's way in and out on small networks whose answers are known."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from astronaut_clips import fill, make_sample
from tiny_onnx import recogniser, simcc, yolox

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.apply import run_in_memory
from preprocessing.body_estimators import DwPose, decode_simcc, decode_yolox, nms, pose_region
from preprocessing.body_layouts import BODY, COCO_17, FACE, FEET, LEFT_HAND, RIGHT_HAND, object_keypoint_similarity
from preprocessing.fields import BODY_MEASURES, LANDMARKS_68, POSE_133, SOURCE, VIDEO
from preprocessing.operator import Sample

corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")


def place(name: str) -> int:
    return COCO_17.index(name)


@pytest.fixture(scope="module")
def astronaut() -> Sample:
    """Three frames of her, the second one empty."""
    frames = np.stack([skimage.data.astronaut()] * 3)
    frames[1] = 90
    return fill(make_sample(frames), POSE_133, BODY_MEASURES, LANDMARKS_68)


def test_mediapipe_on_the_astronaut(astronaut):
    pose = astronaut[POSE_133]
    assert pose.shape == (3, 133, 3)
    assert pose.dtype == np.float32
    body = pose[0, BODY]
    for name in ("nose", "left_eye", "right_eye", "left_shoulder", "right_shoulder"):
        assert body[place(name), 2] > 0.9, name
    # She faces us: her left is the picture's right. Her face is about 100 px wide around (225, 120).
    assert np.linalg.norm(body[place("nose"), :2] - (222, 115)) < 25
    assert body[place("left_shoulder"), 0] - body[place("right_shoulder"), 0] > 120
    assert body[place("left_eye"), 0] > body[place("right_eye"), 0]
    assert (pose[0, FACE, 2] == 1).all()
    assert np.abs(pose[0, FACE, :2] - astronaut[LANDMARKS_68][0]).mean() < 3  # the mesh, from another first box


def test_nobody_is_a_row_of_zeros_and_the_next_frame_begins_anew(astronaut):
    pose = astronaut[POSE_133]
    assert not pose[1].any()
    assert np.array_equal(pose[0], pose[2])


def test_measures(astronaut):
    found = astronaut[BODY_MEASURES]
    assert found["body_seen_share"] == found["upper_body_share"] == found["face_points_share"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["full_body_share"] == 0  # her legs are not in the picture
    assert found["pose_motion"] == 0


def test_measures_by_hand():
    pose = np.zeros((3, 133, 3), np.float32)
    pose[:, :23] = [(x, 100 + 10 * x, 0.9) for x in range(23)]
    pose[1, :23, 0] += 11  # every point moves by 11 px, and back
    pose[:2, LEFT_HAND] = (5, 5, 1)
    sample = Sample("a", {POSE_133.name: pose, SOURCE.name: {"width": 100, "height": 400, "fps": "25/1"}})
    found = fill(sample, BODY_MEASURES)[BODY_MEASURES]
    assert found["body_height_share"] == pytest.approx(220 / 400)
    assert found["body_score"] == pytest.approx(0.9)
    assert found["hands_share"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["pose_motion"] == pytest.approx(25 * 11 / 220, rel=1e-5)
    assert found["full_body_share"] == 1


def test_hands_and_face_can_be_left_out(astronaut):
    plain = fill(make_sample(np.stack([skimage.data.astronaut()])), POSE_133, body_pose={"hands": False, "face": False})[POSE_133]
    assert np.array_equal(plain[0, : FEET.stop], astronaut[POSE_133][0, : FEET.stop])
    assert not plain[0, FEET.stop :].any()


def test_yolox_decodes_as_published():
    rng = np.random.default_rng(1)
    out = rng.uniform(0, 1, (8400, 85)).astype(np.float32)
    boxes, scores = decode_yolox(out)
    for row, stride, x, y in ((0, 8, 0, 0), (81, 8, 1, 1), (6400 + 43, 16, 3, 1), (8000 + 399, 32, 19, 19)):
        cx, cy, w, h = (out[row, 0] + x) * stride, (out[row, 1] + y) * stride, *(np.exp(out[row, 2:4]) * stride)
        np.testing.assert_allclose(boxes[row], (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), rtol=1e-5, atol=1e-4)
        assert scores[row] == pytest.approx(out[row, 4] * out[row, 5])
    with pytest.raises(LikenessError, match=r"yolox_l gives \(100, 85\)"):
        decode_yolox(out[:100])


def test_nms_keeps_the_best_of_overlapping_boxes():
    boxes = np.array([[0, 0, 99, 99], [10, 10, 109, 109], [200, 0, 299, 99], [0, 0, 99, 99]], float)
    # 90 x 90 shared of 2 x 100 x 100 - 90 x 90: 0.68
    assert nms(boxes, np.array([0.5, 0.9, 0.7, 0.8]), 0.45) == [1, 2]
    assert nms(boxes, np.array([0.5, 0.9, 0.7, 0.8]), 0.69) == [1, 3, 2]


def test_the_region_has_a_margin_and_the_networks_shape():
    middle, size = pose_region(np.array([10, 20, 110, 420]), 288 / 384)
    assert middle.tolist() == [60, 220]
    assert size.tolist() == [500 * 0.75, 500]
    _, wide = pose_region(np.array([0, 0, 400, 100]), 0.75)
    assert wide.tolist() == [500, 500 / 0.75]


def test_simcc_takes_the_highest_bin_and_the_lower_height():
    x, y = np.zeros((1, 3, 576), np.float32), np.zeros((1, 3, 768), np.float32)
    x[0, 0, 101], y[0, 0, 700] = 0.9, 0.6
    x[0, 1, 5], y[0, 1, 6] = 0.2, 0.8
    x[0, 2] = -1  # scores below 0: not there
    found = decode_simcc(x, y, 288, 384)
    np.testing.assert_allclose(found, [[50.5, 350, 0.6], [2.5, 3, 0.2], [0, 0, 0]], rtol=1e-6)


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dwpose")
    yolox(folder / "yolox_l.onnx")
    simcc(folder / "dw.onnx")
    return folder


def scene(blue_at: list[tuple[int, int]], size: tuple[int, int] = (480, 960)) -> np.ndarray:
    """Blue cells that the detector takes for people, in a picture that it sees at two thirds."""
    picture = np.zeros((*size, 3), np.uint8)
    for x, y in blue_at:
        picture[y * 48 : y * 48 + 48, x * 48 : x * 48 + 48, 2] = 255
    return picture


def test_people_are_found_in_colour_order_bgr(networks):
    dwpose = DwPose(networks / "yolox_l.onnx", networks / "dw.onnx")
    found = dwpose.detect(scene([(3, 2), (12, 5)]))
    assert len(found) == 2
    assert found[:, 4] == pytest.approx(0.9, abs=0.01)
    for box, (x, y) in zip(found[np.argsort(found[:, 0])], ((3, 2), (12, 5)), strict=True):
        middle = (x + 0.5) * 48, (y + 0.5) * 48
        np.testing.assert_allclose(box[:4], (middle[0] - 72, middle[1] - 144, middle[0] + 72, middle[1] + 144), atol=0.1)
    red = scene([(3, 2)])[..., ::-1].copy()
    assert dwpose.detect(red).shape == (0, 5)


def test_a_bright_spot_is_placed_to_the_pixel(networks):
    dwpose = DwPose(networks / "yolox_l.onnx", networks / "dw.onnx")
    for box, spot in (((100, 50, 316, 338), (151, 222)), ((0, 0, 500, 200), (333, 90)), ((-40, 20, 60, 400), (12, 111))):
        picture = np.zeros((480, 640, 3), np.uint8)
        picture[spot[1] - 3 : spot[1] + 4, spot[0] - 3 : spot[0] + 4] = 80
        picture[spot[1], spot[0]] = 255
        points = dwpose.points(picture, np.array([*box, 1.0]))
        _, size = pose_region(np.array(box), 0.75)
        # half a bin, and what bilinear sampling does at this scale
        assert np.abs(points[:, :2] - (spot[0] + 0.5, spot[1] + 0.5)).max() <= max(1.0, size[0] / 288)


def test_random_networks_agree_with_the_published_steps(tmp_path, networks):
    path, w = simcc(tmp_path / "random.onnx", seed=4)
    rng = np.random.default_rng(9)
    picture = cv2.resize(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    box = np.array([123.4, 45.6, 301.2, 466.0, 1.0])
    found = DwPose(networks / "yolox_l.onnx", path).points(picture, box)
    # The published demo: three points of the region, warpAffine, ImageNet's numbers, highest bin / 2, back by scale and middle.
    middle, size = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]), 1.25 * (box[2:4] - box[:2])
    size = np.array([size[0], size[0] / 0.75]) if size[0] > size[1] * 0.75 else np.array([size[1] * 0.75, size[1]])
    corners = np.float32([middle, middle - (0, size[0] / 2), middle - (size[0] / 2, size[0] / 2)])
    targets = np.float32([(144, 192), (144, 48), (0, 48)])
    cut = cv2.warpAffine(picture, cv2.getAffineTransform(corners, targets), (288, 384), flags=cv2.INTER_LINEAR)
    blob = (cut - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    curves = [np.outer(w[f"a{k}"], blob.mean((other, 2)) @ w[f"m{k}"]) + w[f"c{k}"] for k, other in (("x", 0), ("y", 1))]
    places = np.stack([curve.argmax(1) for curve in curves], 1) / 2
    wanted = places / (288, 384) * size + middle - size / 2
    same = np.abs(found[:, :2] - (wanted + 0.5)).max(1) < 0.01
    assert same.mean() > 0.98  # a tie between bins may fall the other way
    np.testing.assert_allclose(found[:, 2], np.minimum(*(curve.max(1) for curve in curves)), atol=2e-3)


def test_dwpose_follows_a_person(networks):
    operator = catalogue.producer("pose_133", {"body_pose": {"backend": "dwpose"}})
    assert operator.assets == ("yolox_l", "dwpose")
    operator.asset_paths = {"yolox_l": networks / "yolox_l.onnx", "dwpose": networks / "dw.onnx"}
    operator.setup()
    # Equal boxes, the left one named first by its score; then both move, then the left one leaves, then all do.
    frames = np.stack([scene(cells) for cells in ([(4, 4)], [(4, 4), (14, 5)], [(5, 4), (14, 5)], [(14, 5)], [])])
    pose = operator(make_sample(frames))[POSE_133]
    middles = [(pose[place, 0, 0] if pose[place].any() else None) for place in range(5)]
    assert middles[4] is None
    for found, cell in zip(middles[:4], (4, 4, 5, 14), strict=True):
        assert abs(found - (cell + 0.5) * 48) < 30
    assert np.array_equal(pose, operator(make_sample(frames))[POSE_133])


def test_other_networks_are_refused(tmp_path, networks):
    other = recogniser(tmp_path / "other.onnx", 5)[0]
    with pytest.raises(LikenessError, match="dwpose gives 1 outputs"):
        DwPose(networks / "yolox_l.onnx", other)
    wrong = DwPose(networks / "yolox_l.onnx", simcc(tmp_path / "17.onnx", points=17)[0])
    with pytest.raises(LikenessError, match="dwpose gives 17 points"):
        wrong.points(scene([]), np.array([0, 0, 100, 100, 1]))


def test_without_the_weights_the_error_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    with pytest.raises(LikenessError, match=r"yolox_l is not here.*place yolox_l.onnx from .*Apache"):
        catalogue.producer("pose_133", {"body_pose": {"backend": "dwpose"}}).setup()


@corpus
def test_coco_people():
    folder = Path(os.environ["LIKENESS_CORPUS"])
    labels = json.loads((folder / "labels" / "coco_keypoints.json").read_text())
    for entry in labels["images"]:
        found = run_in_memory(folder / entry["file_name"], [POSE_133])[POSE_133][0, BODY]
        people = [p for p in labels["annotations"] if p["image_id"] == entry["id"] and p["num_keypoints"] >= 8]
        truths = [(np.array(p["keypoints"], float).reshape(17, 3), p["area"]) for p in people]
        assert max(object_keypoint_similarity(found, truth, area) for truth, area in truths) > 0.6, entry["file_name"]


@corpus
def test_a_dancer_is_seen_throughout():
    path = Path(os.environ["LIKENESS_CORPUS"]) / "body" / "liveportrait_s13_dance.mp4"
    sample = run_in_memory(path, [POSE_133, BODY_MEASURES], most_frames=lambda fps: 12)
    assert sample[BODY_MEASURES]["full_body_share"] == 1
    pose = sample[POSE_133]
    assert (pose[:, RIGHT_HAND, 2] == 1).any()
    wrist = pose[:, BODY][:, place("right_wrist"), :2]
    there = pose[:, RIGHT_HAND.start, 2] == 1
    assert np.linalg.norm(pose[there, RIGHT_HAND.start, :2] - wrist[there], axis=1).max() < 0.05 * sample[VIDEO].info.shape[0]
