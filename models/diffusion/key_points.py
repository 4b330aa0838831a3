"""What InstantID sees of a pose: five key points drawn as a picture, and the box of the face as a mask.

Source: InstantID (Wang et al. 2024, arXiv 2401.07519) and its released drawing; sizes are in pixels of a picture of about 1024 to
1280 px, so draw after resizing.
"""

import math

import cv2
import numpy as np

from infra.errors import LikenessError

# One colour (RGB) a point: left eye, right eye, nose, left mouth corner, right mouth corner, as seen in the picture.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE = 2
LIMB_HALF_WIDTH_PX = 4
POINT_RADIUS_PX = 10
LIMB_BRIGHTNESS = 0.6


def draw_key_points(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The key-point image that IdentityNet is given.

    Args:
        points: (5, 2) x, y in pixels: left eye, right eye, nose, left and right mouth corner.
        height, width: of the picture, in pixels.

    Returns:
        (height, width, 3) uint8 RGB; divide by 255 before it goes into the network.
    """
    points = _five(points)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    nose = points[NOSE]
    for index in (0, 1, 3, 4):
        middle = (points[index] + nose) / 2
        dx, dy = points[index] - nose
        limb = cv2.ellipse2Poly(
            (int(middle[0]), int(middle[1])),
            (int(math.hypot(dx, dy) / 2), LIMB_HALF_WIDTH_PX),
            int(math.degrees(math.atan2(dy, dx))),
            0,
            360,
            1,
        )
        cv2.fillConvexPoly(canvas, np.array(limb), COLOURS[index])
    canvas = (canvas * LIMB_BRIGHTNESS).astype(np.uint8)
    for (x, y), colour in zip(points, COLOURS, strict=True):
        cv2.circle(canvas, (int(x), int(y)), POINT_RADIUS_PX, colour, -1)
    return canvas


def flip_key_points(points: np.ndarray, width: int) -> np.ndarray:
    """(5, 2) points of the picture mirrored left to right; the eyes and the mouth corners change names.

    Pixel centres lie at whole numbers, so column x comes to width - 1 - x.
    """
    points = _five(points)[[1, 0, 2, 4, 3]]
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


def _five(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise LikenessError(
            f"key points of shape {points.shape}{'' if np.isfinite(points).all() else ' that are not all finite'}",
            allowed="(5, 2) finite x, y in pixels: left eye, right eye, nose, left and right mouth corner",
        )
    return points
