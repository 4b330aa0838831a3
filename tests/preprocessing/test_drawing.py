"""Drawn poses: colours where they belong, published order of layers, and thresholds."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest

from infra.errors import LikenessError
from preprocessing.body_layouts import FACE, LEFT_HAND, coco_to_openpose
from preprocessing.drawing import (
    COLOURS_18,
    HAND_BONES,
    LIMBS_17,
    draw_body,
    draw_dots,
    draw_face,
    draw_hand,
    draw_pose,
    limb_outline,
)

# A person with outstretched arms, 256 px: OpenPose-18 x, y.
STANDING = np.array([
    (128, 40), (128, 70), (100, 70), (70, 72), (40, 74), (156, 70), (186, 72), (216, 74), (112, 140), (110, 185), (108, 230),
    (144, 140), (146, 185), (148, 230), (121, 34), (135, 34), (112, 38), (144, 38),
], float)  # fmt: skip


def standing(score: float = 1.0) -> np.ndarray:
    return np.column_stack([STANDING, np.full(18, score)])


def test_openpose_lays_limbs_in_six_tenths_and_points_on_top():
    picture = draw_body(standing(), 256, 256)
    assert picture.shape == (256, 256, 3)
    assert picture.dtype == np.uint8
    for (x, y), colour in zip(STANDING.astype(int), COLOURS_18, strict=True):
        assert tuple(picture[y, x]) == colour
    for place in (3, 5, 7, 8, 10, 11):  # forearms and legs: nothing else lies over their middles
        x, y = STANDING[list(LIMBS_17[place])].mean(0).astype(int)
        assert tuple(picture[y, x]) == tuple(int(0.6 * part) for part in COLOURS_18[place])


def test_disco_blends_limbs_over_points():
    picture = draw_body(standing(), 256, 256, "disco")
    for place in (3, 7, 11):
        x, y = STANDING[list(LIMBS_17[place])].mean(0).astype(int)
        assert np.abs(picture[y, x].astype(float) - 0.6 * np.array(COLOURS_18[place])).max() <= 1
    x, y = STANDING[4].astype(int)  # the wrist's disc: bare beyond the limb, under it where the forearm lies
    assert tuple(picture[y, x - 4]) == COLOURS_18[4]
    under = 0.4 * np.array(COLOURS_18[4]) + 0.6 * np.array(COLOURS_18[3])
    assert np.abs(picture[y, x + 3].astype(float) - under).max() <= 1


def test_disco_equals_blending_whole_canvases():
    rng = np.random.default_rng(5)
    for _ in range(4):
        points = np.column_stack([rng.uniform(-40, 296, (18, 2)), rng.uniform(0, 1, 18)])
        canvas = np.zeros((256, 256, 3), np.uint8)
        for (x, y, score), colour in zip(points, COLOURS_18, strict=True):
            if score >= 0.3:
                cv2.circle(canvas, (int(x), int(y)), 4, colour, -1)
        for (a, b), colour in zip(LIMBS_17, COLOURS_18, strict=False):
            if min(points[[a, b], 2]) >= 0.3:
                over = canvas.copy()
                cv2.fillConvexPoly(over, limb_outline(points[a, :2], points[b, :2]), colour)
                canvas = cv2.addWeighted(canvas, 0.4, over, 0.6, 0)
        assert np.array_equal(draw_body(points, 256, 256, "disco"), canvas)


@pytest.mark.parametrize("style", ["openpose", "disco"])
def test_points_below_the_threshold_are_left_out_with_their_limbs(style):
    points = standing()
    points[4, 2] = 0.29
    picture = draw_body(points, 256, 256, style)
    assert not picture[60:90, 30:62].any()
    assert draw_body(points, 256, 256, style, min_score=0.2)[60:90, 30:62].any()
    assert not draw_body(standing(0.2), 256, 256, style).any()


def test_limbs_are_ellipses_eight_px_wide():
    points = standing(0)
    points[[9, 10]] = [(50, 100, 1), (150, 100, 1)]
    lower_leg = (draw_body(points, 200, 200) == tuple(int(0.6 * part) for part in COLOURS_18[8])).all(2)
    assert lower_leg[:, 100].sum() == 9  # from 4 above to 4 below the middle
    columns = np.flatnonzero(lower_leg.any(0))
    assert columns.min() > 50  # the discs lie over the ends
    assert not lower_leg[:96].any()
    assert not lower_leg[105:].any()


def test_hands_in_hues():
    turns = np.repeat(np.linspace(-1, 1, 5), 4)  # a fan of five fingers
    reach = np.tile([60, 90, 115, 140], 5)
    fingers = np.column_stack([130 + reach * np.sin(turns), 180 - reach * np.cos(turns)])
    hand = np.column_stack([np.concatenate([[(130, 180)], fingers]), np.ones(21)])
    canvas = np.zeros((260, 260, 3), np.uint8)
    draw_hand(canvas, hand)
    assert HAND_BONES[:5] == ((0, 1), (1, 2), (2, 3), (3, 4), (0, 5))
    assert len(HAND_BONES) == 20
    for x, y in hand[:, :2].astype(int):
        assert tuple(canvas[y, x]) == (0, 0, 255)
    x, y = hand[[11, 12], :2].mean(0).astype(int)
    hue = [round(255 * part) for part in colorsys.hsv_to_rgb(HAND_BONES.index((11, 12)) / 20, 1, 1)]
    assert np.abs(canvas[y, x].astype(int) - hue).max() <= 1
    hand[:, 2] = 0.1
    canvas[:] = 0
    draw_hand(canvas, hand)
    assert not canvas.any()


def test_a_whole_pose_puts_hands_and_face_on_top():
    whole = np.zeros((133, 3))
    whole[:17, :2] = np.random.default_rng(0).uniform(20, 236, (17, 2))
    whole[:17, 2] = 1
    whole[FACE] = (100, 100, 1)
    whole[LEFT_HAND] = (200, 60, 1)
    plain = draw_pose(whole, 256, 256)
    assert np.array_equal(plain, draw_body(coco_to_openpose(whole[:17]), 256, 256))
    rich = draw_pose(whole, 256, 256, hands=True, face=True)
    assert (rich[97:104, 100] == 255).all()
    assert tuple(rich[60, 200]) == (0, 0, 255)


def test_dots():
    picture = draw_dots(np.array([[10.7, 20.2], [30, 40.9]]), 64, 48)
    wanted = np.zeros((64, 48, 3), np.uint8)
    for centre in ((10, 20), (30, 40)):
        cv2.circle(wanted, centre, 1, (255, 255, 255), -1)
    assert np.array_equal(picture, wanted)


def test_points_outside_are_cut_off():
    points = standing()
    points[:, :2] += 4000
    assert not draw_body(points, 256, 256).any()
    canvas = np.zeros((20, 20, 3), np.uint8)
    draw_face(canvas, np.array([[-5, 3, 1], [3, -0.5, 1.0]]))
    assert not canvas.any()


def test_wrong_points_are_refused():
    with pytest.raises(LikenessError, match=r"shape \(17, 3\).*\(18, 3\)"):
        draw_body(np.zeros((17, 3)), 10, 10)
    with pytest.raises(LikenessError, match="finite"):
        draw_pose(np.full((133, 3), np.nan), 10, 10)
