"""Layouts of key points: every point keeps its name, made points are means, and OKS is COCO's."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing import body_layouts as layouts
from preprocessing.body_layouts import BLAZEPOSE_33, BODY_25, COCO_17, FACE, FEET, FEET_6, LEFT_HAND, OPENPOSE_18, RIGHT_HAND

RNG = np.random.default_rng(3)


def points(n: int, *leading: int) -> np.ndarray:
    return RNG.uniform(1, 100, (*leading, n, 3)).astype(np.float32)


def by_name(array: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return dict(zip(names, np.moveaxis(array, -2, 0), strict=True))


@pytest.mark.parametrize(
    ("convert", "source", "target", "missing"),
    [
        (layouts.blazepose_to_coco, BLAZEPOSE_33, COCO_17, set()),
        (layouts.coco_to_openpose, COCO_17, OPENPOSE_18, {"neck"}),
        (layouts.openpose_to_coco, OPENPOSE_18, COCO_17, set()),
        (layouts.body25_to_openpose, BODY_25, OPENPOSE_18, set()),
        (layouts.body25_to_coco, BODY_25, COCO_17, set()),
    ],
)
def test_points_keep_their_names(convert, source, target, missing):
    given = points(len(source), 4)
    found, wanted = by_name(convert(given), target), by_name(given, source)
    assert set(target) - set(source) == missing
    for name in set(target) - missing:
        assert np.array_equal(found[name], wanted[name]), name


def test_the_published_orders():
    # OpenPose's COCO model, DWPose's table from COCO-17 to it, and BODY_25's list.
    table = [0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    assert [None if name == "neck" else COCO_17.index(name) for name in OPENPOSE_18] == table
    assert [BODY_25.index(name) for name in ("neck", "mid_hip", "left_ear", "left_big_toe", "right_heel")] == [1, 8, 18, 19, 24]
    assert [BLAZEPOSE_33.index(name) for name in ("left_wrist", "left_pinky", "left_index", "left_hip")] == [15, 17, 19, 23]
    assert (FEET.start, FACE.start, LEFT_HAND.start, RIGHT_HAND.stop) == (17, 23, 91, 133)


def test_the_neck_is_between_the_shoulders_and_absent_without_one():
    body = points(17)
    neck = layouts.coco_to_openpose(body)[1]
    shoulders = body[[5, 6]]
    np.testing.assert_allclose(neck[:2], shoulders[:, :2].mean(0), rtol=1e-6)
    assert neck[2] == shoulders[:, 2].min()
    body[6] = 0
    assert not layouts.coco_to_openpose(body)[1].any()


def test_body25_of_a_whole_body():
    whole = points(133)
    found = by_name(layouts.whole_body_to_body25(whole), BODY_25)
    body, feet = by_name(whole[:17], COCO_17), by_name(whole[17:23], FEET_6)
    for name in (*COCO_17, *FEET_6):
        assert np.array_equal(found[name], (body | feet)[name])
    np.testing.assert_allclose(found["mid_hip"][:2], (body["left_hip"] + body["right_hip"])[:2] / 2, rtol=1e-6)


def test_blazepose_has_no_small_toes():
    given = points(33)
    feet = by_name(layouts.blazepose_to_feet(given), FEET_6)
    assert np.array_equal(feet["left_big_toe"], given[BLAZEPOSE_33.index("left_foot_index")])
    assert np.array_equal(feet["right_heel"], given[BLAZEPOSE_33.index("right_heel")])
    assert not feet["left_small_toe"].any()
    assert not feet["right_small_toe"].any()


def test_a_whole_body_of_parts():
    body, face, hand = points(17, 2), points(68, 2), points(21, 2)
    whole = layouts.whole_body(body, face=face, right_hand=hand)
    assert np.array_equal(whole[:, :17], body)
    assert np.array_equal(whole[:, FACE], face)
    assert np.array_equal(whole[:, RIGHT_HAND], hand)
    assert not whole[:, FEET].any()
    assert not whole[:, LEFT_HAND].any()


def test_the_mirror_image_changes_sides():
    whole = points(133)
    mirror = layouts.mirrored(whole, 100)
    np.testing.assert_allclose(layouts.mirrored(mirror, 100), whole, rtol=1e-5)
    assert mirror[COCO_17.index("left_eye"), 0] == pytest.approx(100 - whole[COCO_17.index("right_eye"), 0], rel=1e-5)
    assert np.array_equal(mirror[LEFT_HAND, 1], whole[RIGHT_HAND, 1])
    # iBUG: the jaw's ends, the outer eye corners, the corners of the mouth; the nose's bridge stays.
    for a, b in ((0, 16), (36, 45), (37, 44), (48, 54), (60, 64), (31, 35), (17, 26), (27, 27), (57, 57), (67, 65)):
        assert mirror[FACE.start + a, 1] == whole[FACE.start + b, 1]
    whole[3] = 0
    assert not layouts.mirrored(whole, 100)[4].any()


def test_object_keypoint_similarity():
    truth = points(17)
    truth[:, 2] = 2
    assert layouts.object_keypoint_similarity(truth, truth, 50.0) == 1
    moved = truth.copy()
    moved[0, 0] += 3
    truth[1:, 2] = 0  # only the nose counts
    area, sigma = 400.0, 0.026
    wanted = np.exp(-9 / (2 * area * (2 * sigma) ** 2))
    assert layouts.object_keypoint_similarity(moved, truth, area) == pytest.approx(wanted, rel=1e-5)


def test_the_box_around_what_is_seen():
    given = np.array([[10, 20, 0.9], [30, 5, 0.4], [500, 500, 0.2]], np.float32)
    assert layouts.box_of(given, 0.3).tolist() == [10, 5, 30, 20]
    assert layouts.box_of(given, 2).tolist() == [0, 0, 0, 0]
