"""Key points drawn as pictures, in the styles that published methods were trained with: plain formulas, no network.

Operators draw fields with them, training examples and generation draw what they change (a dropped hand, another pose): so both see
the same pixels. Points are px of the canvas counted from its corner, cut towards zero to the pixel they lie in.
"""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np

from infra.errors import LikenessError
from preprocessing import body_layouts
from preprocessing.fields import PoseStyle

MIN_SCORE = 0.3  # below, a point is not drawn: DWPose's threshold

# OpenPose's 18 colours (RGB) run round the hue circle; point i and limb i share one.
COLOURS_18 = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85), (0, 255, 170),
    (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170),
    (255, 0, 85),
)  # fmt: skip
# Places in OpenPose-18; the order matters, later limbs lie over earlier ones.
LIMBS_17 = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0), (0, 14),
    (14, 16), (0, 15), (15, 17),
)  # fmt: skip
HAND_BONES = tuple((0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1) for finger in range(5) for joint in range(4))
HAND_COLOURS = tuple(
    tuple(255 * part for part in colorsys.hsv_to_rgb(bone / len(HAND_BONES), 1, 1)) for bone in range(len(HAND_BONES))
)
HALF_WIDTH_PX, POINT_RADIUS_PX, HAND_LINE_PX, FACE_RADIUS_PX = 4, 4, 2, 3
LIMB_SHARE = 0.6  # of a limb's colour: OpenPose lays it over black, DisCo blends it with what lies below
# InstantID's, RGB: left eye, right eye, nose, left and right mouth corner, as seen in the picture; sizes suit pictures of about
# 1024 to 1280 px, so draw after resizing.
COLOURS_5 = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE_5, KEY_POINT_RADIUS_PX = 2, 10


def draw_pose(
    points: np.ndarray,
    height: int,
    width: int,
    style: PoseStyle = "openpose",
    hands: bool = False,
    face: bool = False,
    min_score: float = MIN_SCORE,
) -> np.ndarray:
    """A person's sticks, and if wanted hands and the points of the face over them, in this order.

    Args:
        points: (133, 3) whole body, x, y in px of the canvas, score.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    points = _checked(points, body_layouts.WHOLE_BODY)
    canvas = draw_body(body_layouts.coco_to_openpose(points), height, width, style, min_score)
    if hands:
        draw_hand(canvas, points[body_layouts.LEFT_HAND], min_score)
        draw_hand(canvas, points[body_layouts.RIGHT_HAND], min_score)
    if face:
        draw_face(canvas, points[body_layouts.FACE], min_score)
    return canvas


def draw_body(
    points: np.ndarray, height: int, width: int, style: PoseStyle = "openpose", min_score: float = MIN_SCORE
) -> np.ndarray:
    """Sticks of one person on black.

    - openpose: limbs as filled ellipses in 0.6 of their colours, one over the other, then points as discs in full colour
      (lllyasviel's ControlNet annotator, controlnet_aux, DWPose).
    - disco: points first, then each limb blended over what is there, 0.4 of that and 0.6 of the limb's colour (DisCo's loader,
      after pytorch-openpose).

    Args:
        points: (18, 3) OpenPose-18 with scores; below `min_score` a point and its limbs are left out.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    points = _checked(points, 18)
    canvas = np.zeros((height, width, 3), np.uint8)
    if style == "disco":
        _discs(canvas, points, min_score)
        for limb, colour in zip(LIMBS_17, COLOURS_18, strict=False):
            if (points[list(limb), 2] >= min_score).all():
                _blend(canvas, limb_outline(*points[list(limb), :2]), colour)
        return canvas
    for limb, colour in zip(LIMBS_17, COLOURS_18, strict=False):
        if (points[list(limb), 2] >= min_score).all():
            cv2.fillConvexPoly(canvas, limb_outline(*points[list(limb), :2]), [int(part * LIMB_SHARE) for part in colour])
    _discs(canvas, points, min_score)
    return canvas


def draw_hand(canvas: np.ndarray, points: np.ndarray, min_score: float = MIN_SCORE) -> None:
    """The 20 bones of one hand, hues round the circle, and its 21 points in blue, onto a canvas (H, W, 3).

    Args:
        points: (21, 3): wrist, then four of each finger from the thumb on. What lies outside above or left is left out.
    """
    points = _checked(points, 21)
    seen = (points[:, 2] >= min_score) & (points[:, :2].astype(int) > 0).all(1)
    for (a, b), colour in zip(HAND_BONES, HAND_COLOURS, strict=True):
        if seen[a] and seen[b]:
            cv2.line(canvas, _pixel(points[a]), _pixel(points[b]), colour, HAND_LINE_PX)
    for point in points[seen]:
        cv2.circle(canvas, _pixel(point), POINT_RADIUS_PX, (0, 0, 255), -1)


def draw_face(canvas: np.ndarray, points: np.ndarray, min_score: float = MIN_SCORE) -> None:
    """Points of a face as white discs of radius 3 onto a canvas (H, W, 3); (n, 3)."""
    for point in points:
        if point[2] >= min_score and int(point[0]) > 0 and int(point[1]) > 0:
            cv2.circle(canvas, _pixel(point), FACE_RADIUS_PX, (255, 255, 255), -1)


def draw_dots(points: np.ndarray, height: int, width: int, radius_px: int = 1) -> np.ndarray:
    """(n, 2 or more) landmarks as filled white discs on black, (height, width, 3) uint8: InstructAvatar's landmark picture."""
    canvas = np.zeros((height, width, 3), np.uint8)
    for point in np.asarray(points, np.float64):
        cv2.circle(canvas, _pixel(point), radius_px, (255, 255, 255), -1)
    return canvas


def draw_key_points(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """InstantID's picture of a face's five key points, the key-point image that IdentityNet is given.

    Source: InstantID (Wang et al. 2024, arXiv 2401.07519) and its released drawing: four limbs to the nose in 0.6 of the colours
    of their other ends, then the points as discs of radius 10.

    Args:
        points: (5, 2) x, y in pixels: left eye, right eye, nose, left and right mouth corner.
        height, width: of the picture, in pixels.

    Returns:
        (height, width, 3) uint8 RGB; divide by 255 before it goes into the network.
    """
    points = five_points(points)
    canvas = np.zeros((height, width, 3), np.uint8)
    for place in (0, 1, 3, 4):
        cv2.fillConvexPoly(canvas, limb_outline(points[place], points[NOSE_5]), COLOURS_5[place])
    canvas = (canvas * LIMB_SHARE).astype(np.uint8)
    for point, colour in zip(points, COLOURS_5, strict=True):
        cv2.circle(canvas, _pixel(point), KEY_POINT_RADIUS_PX, colour, -1)
    return canvas


def five_points(points: np.ndarray) -> np.ndarray:
    """(5, 2) float64 key points, checked.

    Raises:
        LikenessError: another shape, or not all finite.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise LikenessError(
            f"key points of shape {points.shape}{'' if np.isfinite(points).all() else ' that are not all finite'}",
            allowed="(5, 2) finite x, y in pixels: left eye, right eye, nose, left and right mouth corner",
        )
    return points


def limb_outline(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(k, 2) int32 outline of the ellipse of half-width 4 px from point a to point b, each (x, y)."""
    (dx, dy), middle = a - b, _pixel((a + b) / 2)
    axes = int(math.hypot(dx, dy) / 2), HALF_WIDTH_PX
    return np.asarray(cv2.ellipse2Poly(middle, axes, int(math.degrees(math.atan2(dy, dx))), 0, 360, 1))


def _blend(canvas: np.ndarray, outline: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Fill an outline with `LIMB_SHARE` of a colour and the rest of what is there; only the rectangle around it is worked on."""
    height, width = canvas.shape[:2]
    x0, y0 = np.clip(outline.min(0) - 1, 0, (width, height))
    x1, y1 = np.clip(outline.max(0) + 2, 0, (width, height))
    if x0 >= x1 or y0 >= y1:
        return
    below = canvas[y0:y1, x0:x1]
    over = below.copy()
    cv2.fillConvexPoly(over, outline - (x0, y0), colour)
    below[:] = cv2.addWeighted(below, 1 - LIMB_SHARE, over, LIMB_SHARE, 0)


def _discs(canvas: np.ndarray, points: np.ndarray, min_score: float) -> None:
    for point, colour in zip(points, COLOURS_18, strict=True):
        if point[2] >= min_score:
            cv2.circle(canvas, _pixel(point), POINT_RADIUS_PX, colour, -1)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _checked(points: np.ndarray, count: int) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.shape != (count, 3) or not np.isfinite(points).all():
        raise LikenessError(f"key points of shape {points.shape} to draw", allowed=f"({count}, 3) finite x, y, score")
    return points
