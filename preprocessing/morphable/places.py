"""The 224 px crops that coefficients are about: where they are cut, and landmarks taken there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from preprocessing import templates
from preprocessing.alignment import deep3d_matrix, deep3d_transform, five_points
from preprocessing.morphable.heads import CROP_PX

DECA_MARGIN = 1.1 * 1.25  # of the landmarks' box, on its mean side


class Place(NamedTuple):
    """One crop.

    Attributes:
        matrix: (2, 3) from the picture to the crop, counted from either's corner.
        transform: (3,) scale, tx, ty as PIRenderer stores them; nothing of DECA's.
    """

    matrix: np.ndarray
    transform: np.ndarray


def deep3d(landmarks: np.ndarray, frame: np.ndarray, height_px: int, width_px: int) -> Place:
    """Deep3DFaceRecon's crop by (68, 2) landmarks of the picture.

    Args:
        frame: (2, 3) from the picture to the frame that the crop is cut from, of this height and width.
    """
    points = five_points(templates.transform(frame, landmarks)) - templates.CENTRE
    inner = deep3d_matrix(points, height_px, width_px)
    return Place(joined(inner, frame), deep3d_transform(points, height_px, width_px)[2:])


def deca(landmarks: np.ndarray) -> Place:
    """DECA's crop: a square around the landmarks' box, upright."""
    low, high = landmarks.min(0), landmarks.max(0)
    side = max(int(DECA_MARGIN * (high - low).mean()), 1)
    scale = CROP_PX / side
    corner = (low + high) / 2 - side / 2
    return Place(np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]]), np.zeros(0))


def square_frame(box: np.ndarray, size_px: int) -> np.ndarray:
    """(2, 3): the square x0, y0, x1, y1 of a picture resized to `size_px`."""
    scale = size_px / (box[2] - box[0])
    return np.array([[scale, 0, -box[0] * scale], [0, scale, -box[1] * scale]], np.float64)


def joined(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """(2, 3): first `inner`, then `outer`."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], templates.transform(outer, inner[:, 2])])


def up(points: np.ndarray) -> np.ndarray:
    """Points of a crop as its cameras count: y up, centres at whole numbers."""
    return np.stack([points[..., 0] - 0.5, CROP_PX - 0.5 - points[..., 1]], -1)


def down(points: np.ndarray) -> np.ndarray:
    """Back from `up`."""
    return np.stack([points[..., 0] + 0.5, CROP_PX - 0.5 - points[..., 1]], -1)
