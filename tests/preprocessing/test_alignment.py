"""Deep3D alignment beyond the parity fixture: identity, edges, refusals."""

import numpy as np
import pytest

from infra.errors import LikenessError
from preprocessing.alignment import STANDARD_POINTS, deep3d_alignment, five_points, points_without_face


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)


def test_a_face_already_in_place_is_left_alone():
    image = picture(224, 224)
    up = (
        STANDARD_POINTS[:, :2] * 101.99 + 112
    )  # a scale just below 1 would be truncated to 223 pixels, as it is in the original
    aligned = deep3d_alignment(image, np.stack([up[:, 0], 223 - up[:, 1]], axis=1))
    np.testing.assert_array_equal(aligned.crop, image)
    np.testing.assert_allclose(aligned.points, up, atol=0.02)
    np.testing.assert_allclose(aligned.transform_params, [224, 224, 102 / 101.99, 112, 112])


def test_a_smaller_face_is_enlarged_and_the_outside_is_black():
    image = picture(100, 120)
    up = STANDARD_POINTS[:, :2] * 50.99 + (10, 50)
    aligned = deep3d_alignment(image, np.stack([up[:, 0], 99 - up[:, 1]], axis=1))
    np.testing.assert_allclose(aligned.transform_params, [120, 100, 102 / 50.99, 10, 50])
    assert aligned.crop.shape == (224, 224, 3)
    assert not aligned.crop[:, :92].any()
    assert aligned.crop[12:212, 92:].any()


def test_five_points_of_68():
    landmarks = np.stack([np.arange(68.0), 100 + np.arange(68.0)], axis=1)
    np.testing.assert_allclose(five_points(landmarks)[:, 0], [37.5, 43.5, 30, 48, 54])
    with pytest.raises(LikenessError, match=r"\(68, 2\)"):
        five_points(landmarks[:5])


def test_a_frame_without_a_face_is_taken_whole():
    aligned = deep3d_alignment(picture(200, 200), points_without_face(200, 200))
    np.testing.assert_allclose(aligned.transform_params, [200, 200, 1.02, 100, 100])


def test_refusals():
    image = picture(50, 50)
    with pytest.raises(LikenessError, match="span too little"):
        deep3d_alignment(image, np.full((5, 2), 20.0))
    for points in (np.zeros((4, 2)), np.full((5, 2), np.nan)):
        with pytest.raises(LikenessError, match="finite pixel"):
            deep3d_alignment(image, points)
    with pytest.raises(LikenessError, match="uint8"):
        deep3d_alignment(image.astype(np.float32), points_without_face(50, 50))
