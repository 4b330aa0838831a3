"""InstantID's key-point picture, its mirror image, and the mask of a face's box."""

from __future__ import annotations

import numpy as np
import pytest

from infra.errors import LikenessError
from models.diffusion.key_points import COLOURS, draw_key_points, face_box_mask, flip_key_points

POINTS = np.array([[70.3, 90.8], [131.6, 84.2], [99.7, 121.4], [78.9, 158.1], [128.2, 153.7]])


def test_points_and_limbs():
    picture = draw_key_points(POINTS, 256, 200)
    assert picture.shape == (256, 200, 3)
    assert picture.dtype == np.uint8
    for (x, y), colour in zip(POINTS.astype(int), COLOURS, strict=True):
        assert tuple(picture[y, x]) == colour
        assert tuple(picture[y + 9, x]) == colour
        assert tuple(picture[y, x - 10]) == colour
        assert tuple(picture[y + 11, x + 11]) != colour
    for index in (0, 1, 3, 4):  # halfway to the nose, beyond both circles
        x, y = ((POINTS[index] + POINTS[2]) / 2).astype(int)
        assert tuple(picture[y, x]) == tuple(int(0.6 * value) for value in COLOURS[index])
    assert not picture[:70].any()
    assert np.array_equal(picture, draw_key_points(POINTS.tolist(), 256, 200))


def test_points_outside_the_picture_are_cut_off():
    assert draw_key_points(POINTS - 60, 64, 64).any()
    assert not draw_key_points(POINTS + 5000, 64, 64).any()


def test_mirrored_points_lie_on_the_mirrored_picture():
    flipped = flip_key_points(POINTS, 200)
    assert np.allclose(flip_key_points(flipped, 200), POINTS)
    picture = draw_key_points(flipped, 256, 200)
    for (x, y), colour in zip(flipped.astype(int), COLOURS, strict=True):
        assert tuple(picture[y, x]) == colour
    assert flipped[0, 0] < flipped[1, 0]  # the left eye is still the left one in the picture
    assert flipped[3, 0] < flipped[4, 0]


def test_the_box():
    mask = face_box_mask(np.array([22.9, 30.2, 71.7, 90.99]), 128, 100)
    assert mask.shape == (128, 100)
    assert mask.dtype == np.float32
    assert mask.sum() == (71 - 22) * (90 - 30)
    assert mask[30:90, 22:71].all()
    assert face_box_mask(np.array([-5, -5, 500, 10]), 20, 30).sum() == 10 * 30
    assert not face_box_mask(np.array([-50, -50, -5, -3]), 20, 30).any()


def test_wrong_points_are_refused():
    with pytest.raises(LikenessError, match=r"shape \(68, 2\)"):
        draw_key_points(np.zeros((68, 2)), 10, 10)
    with pytest.raises(LikenessError, match="not all finite"):
        flip_key_points(POINTS * np.nan, 10)
