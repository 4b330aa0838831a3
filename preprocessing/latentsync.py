"""LatentSync's alignment: three points to a template on an upright canvas, which is then stretched to the square; and the way back.

As in bytedance/LatentSync (`affine_transform.py`, after StyleSync). Everything counts as the fields do, pixel centres at .5; the
published arithmetic, which counts them at whole numbers, is kept inside.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import LikenessError

Matrix = NDArray[np.float64]
CENTRE = 0.5
# Left brow, right brow and nose, and the canvas, all at 256 px: times 2.8 x size / 256.
TEMPLATE: Matrix = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])
CANVAS, RATIO, BASE_PX = (75, 100), 2.8, 256
GREY = 127  # outside the picture
KEEP = 0.2  # of the nose's former offset
LEAST_SPREAD_PX = 1e-3
EDGE_SHARE = 20  # the soft edge is a 20th of the square root of the pasted area


def three_points(landmarks68: ArrayLike) -> Matrix:
    """(3, 2) whole px: centres of the left brow, the right brow and the nose of (68, 2) iBUG points, as published rounded."""
    points = np.asarray(landmarks68, np.float64) - CENTRE
    return np.rint([points[17:22].mean(0), points[22:27].mean(0), points[27:36].mean(0)]) + CENTRE


def canvas_px(size_px: int) -> tuple[int, int]:
    """Width and height of the canvas that becomes a crop of this size: 210 x 280 for 256."""
    return int(CANVAS[0] * RATIO * size_px / BASE_PX), int(CANVAS[1] * RATIO * size_px / BASE_PX)


def align(points: ArrayLike, size_px: int, offset: Matrix | None = None) -> tuple[Matrix, Matrix]:
    """The matrix from the picture to the crop, and what the next frame is smoothed by.

    The turn is least squares, the scale the ratio of the spreads. Then the shift gains what the nose still misses, measured in
    spreads and taken as px (below 1 px: it is published so), of which a fifth is the frame's before.

    Args:
        points: (3, 2) px of `three_points`.
        offset: (2,) as the frame before gave it; None for the first.

    Raises:
        LikenessError: the points lie on one spot.
    """
    source = np.asarray(points, np.float64) - CENTRE
    target = TEMPLATE * (RATIO * size_px / BASE_PX)
    middle, goal = source.mean(0), target.mean(0)
    source, target = source - middle, target - goal
    spread = float(source.std())
    if not spread >= LEAST_SPREAD_PX:
        raise LikenessError(
            f"brows and nose that spread {spread:.3g} px", allowed="the points of a face",
            fix="check the landmarks, or mark the frame as having no face",
        )  # fmt: skip
    scale = float(target.std()) / spread
    u, _, vt = np.linalg.svd(source.T @ target)
    turn = scale * (u @ vt).T
    missed = target[2] / target.std() - source[2] / spread
    if offset is not None:
        missed = KEEP * offset + (1 - KEEP) * missed
    shift = goal - turn @ middle + missed
    # To centres at .5 on both sides, then from the canvas to the square.
    m = np.column_stack([turn, shift + CENTRE - turn @ (CENTRE, CENTRE)])
    width, height = canvas_px(size_px)
    return m * np.array([[size_px / width], [size_px / height]]), missed


def crop(picture: NDArray[np.uint8], m: ArrayLike, size_px: int) -> NDArray[np.uint8]:
    """(size_px, size_px, 3) uint8: bilinear onto the canvas, grey where the picture ends, stretched (Lanczos) to the square."""
    width, height = canvas_px(size_px)
    to_canvas = np.asarray(m, np.float64) * np.array([[width / size_px], [height / size_px]])
    canvas = cv2.warpAffine(picture, _whole(to_canvas), (width, height), borderValue=(GREY,) * 3)
    return np.asarray(cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_LANCZOS4), np.uint8)


def paste_mask(m: ArrayLike, size_px: int, height_width: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) in [0, 1]: how much of each pixel of the picture comes from the crop.

    The crop's place, its edge eroded and blurred by about a 20th of the square root of its area.
    """
    height, width = height_width
    whole = np.ones((size_px, size_px), np.float32)
    back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(whole, _whole(np.asarray(m, np.float64)), (width, height), flags=back)
    inside = cv2.erode(inside, np.ones((2, 2), np.uint8))
    edge = int(np.sqrt(float(inside.sum()))) // EDGE_SHARE
    if edge == 0:
        return np.asarray(inside)
    core = cv2.erode(inside, np.ones((2 * edge, 2 * edge), np.uint8))
    blur = 2 * edge + 1
    return np.asarray(cv2.GaussianBlur(core, (blur, blur), 0.3 * ((blur - 1) * 0.5 - 1) + 0.8))


def paste_back(picture: NDArray[np.uint8], crop: NDArray[np.uint8], m: ArrayLike) -> NDArray[np.uint8]:
    """The picture with a changed crop where `align` took it from.

    Args:
        picture: (H, W, 3) uint8.
        crop: (size, size, 3) uint8.
        m: (2, 3), of the unchanged crop.
    """
    height, width = picture.shape[:2]
    back = cv2.warpAffine(
        crop, _whole(np.asarray(m, np.float64)), (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    soft = paste_mask(m, len(crop), (height, width))[..., None]
    return np.rint(soft * back + (1 - soft) * picture).astype(np.uint8)


def _whole(m: Matrix) -> Matrix:
    """The same transform with pixel centres at whole numbers."""
    return np.column_stack([m[:, :2], m[:, 2] + m[:, :2] @ (CENTRE, CENTRE) - CENTRE])
