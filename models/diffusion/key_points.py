"""What InstantID sees of a pose: five key points drawn as a picture, and the box of the face as a mask.

Source: InstantID (Wang et al. 2024, arXiv 2401.07519). The drawing itself lies in `preprocessing.drawing`, which operators use too.
"""

import numpy as np

from preprocessing.drawing import COLOURS_5 as COLOURS
from preprocessing.drawing import draw_key_points, five_points

__all__ = ["COLOURS", "draw_key_points", "face_box_mask", "flip_key_points"]


def flip_key_points(points: np.ndarray, width: int) -> np.ndarray:
    """(5, 2) points of the picture mirrored left to right; the eyes and the mouth corners change names.

    Pixel centres lie at whole numbers, so column x comes to width - 1 - x.
    """
    points = five_points(points)[[1, 0, 2, 4, 3]]
    return np.stack([width - 1 - points[:, 0], points[:, 1]], axis=1)


def face_box_mask(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) float32: 1 inside the face's box, 0 elsewhere.

    Args:
        box: (4,) left, top, right, bottom in pixels, cut to whole pixels towards zero as InstantID does, right and bottom not
            included. What lies outside the picture is left out.
    """
    left, top, right, bottom = (int(side) for side in np.asarray(box, dtype=np.float64))
    mask = np.zeros((height, width), dtype=np.float32)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 1
    return mask
