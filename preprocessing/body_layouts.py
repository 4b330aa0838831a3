"""Layouts of key points of people, and the ways between them, as plain functions of (..., points, 3) arrays: x, y, score.

| layout | points | order |
|---|---|---|
| BlazePose | 33 | MediaPipe's: nose, eyes, ears, mouth, arms with three points of each hand, legs with heel and toe |
| COCO-17 | 17 | nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right |
| whole body | 133 | COCO-WholeBody: COCO-17, six of the feet, 68 of the face (iBUG), 21 of the left and 21 of the right hand |
| OpenPose-18 | 18 | nose, neck, right arm, left arm, right leg, left leg, eyes, ears; right before left |
| BODY_25 | 25 | OpenPose's newer one, with the middle of the hips and the feet |

Left and right are the person's own. A score of 0 says that a point is not there; its x, y are then 0. Points that a layout has and
its source lacks (the neck, the middle of the hips) are the mean of two, with the lower of their scores, and absent where either is.
"""

from __future__ import annotations

import numpy as np

# Places in the whole-body layout.
BODY, FEET, FACE, LEFT_HAND, RIGHT_HAND = slice(0, 17), slice(17, 23), slice(23, 91), slice(91, 112), slice(112, 133)
WHOLE_BODY = 133
COCO_17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
FEET_6 = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")
OPENPOSE_18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
    "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
BODY_25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "mid_hip",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear",
    "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip
BLAZEPOSE_33 = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer", "left_ear",
    "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
# COCO's spread of each point's annotations as a share of the person's size (the evaluation of its key-point challenge).
COCO_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
_MEANS = {"neck": ("left_shoulder", "right_shoulder"), "mid_hip": ("left_hip", "right_hip")}
_ALIASES = {"left_big_toe": "left_foot_index", "right_big_toe": "right_foot_index"}  # BlazePose has one point at the toes


def named(points: np.ndarray, names: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    """(..., wanted, 3): points chosen and made by name; what is not there, or scores 0 or less, is zeros.

    Args:
        points: (..., names, 3) x, y, score.
    """
    places = {name: place for place, name in enumerate(names)}
    out = np.zeros((*points.shape[:-2], len(wanted), 3), points.dtype)
    for target, name in enumerate(wanted):
        source = places.get(name, places.get(_ALIASES.get(name, ""), -1))
        if source >= 0:
            out[..., target, :] = points[..., source, :]
        elif name in _MEANS:
            a, b = (points[..., places[part], :] for part in _MEANS[name])
            out[..., target, :2] = (a[..., :2] + b[..., :2]) / 2
            out[..., target, 2] = np.minimum(a[..., 2], b[..., 2])
    out[out[..., 2] <= 0] = 0
    return out


def blazepose_to_coco(points: np.ndarray) -> np.ndarray:
    """(..., 33, 3) -> (..., 17, 3)."""
    return named(points, BLAZEPOSE_33, COCO_17)


def blazepose_to_feet(points: np.ndarray) -> np.ndarray:
    """(..., 33, 3) -> (..., 6, 3); its one point at the toes counts as the big toe's, small toes are absent."""
    return named(points, BLAZEPOSE_33, FEET_6)


def coco_to_openpose(points: np.ndarray) -> np.ndarray:
    """(..., 17, 3) -> (..., 18, 3), the neck between the shoulders. Takes the whole body too and looks at its first 17."""
    return named(points[..., BODY, :], COCO_17, OPENPOSE_18)


def openpose_to_coco(points: np.ndarray) -> np.ndarray:
    """(..., 18, 3) -> (..., 17, 3); the neck is lost."""
    return named(points, OPENPOSE_18, COCO_17)


def whole_body_to_body25(points: np.ndarray) -> np.ndarray:
    """(..., 133, 3) -> (..., 25, 3)."""
    return named(points[..., : FEET.stop, :], COCO_17 + FEET_6, BODY_25)


def body25_to_openpose(points: np.ndarray) -> np.ndarray:
    """(..., 25, 3) -> (..., 18, 3), with its own neck."""
    return named(points, BODY_25, OPENPOSE_18)


def body25_to_coco(points: np.ndarray) -> np.ndarray:
    """(..., 25, 3) -> (..., 17, 3)."""
    return named(points, BODY_25, COCO_17)


def whole_body(
    body: np.ndarray,
    feet: np.ndarray | None = None,
    face: np.ndarray | None = None,
    left_hand: np.ndarray | None = None,
    right_hand: np.ndarray | None = None,
) -> np.ndarray:
    """(..., 133, 3) from (..., 17, 3), (..., 6, 3), (..., 68, 3) and (..., 21, 3) twice; parts that are None are absent."""
    out = np.zeros((*body.shape[:-2], WHOLE_BODY, 3), body.dtype)
    for place, part in ((BODY, body), (FEET, feet), (FACE, face), (LEFT_HAND, left_hand), (RIGHT_HAND, right_hand)):
        if part is not None:
            out[..., place, :] = part
    return out


def mirrored(points: np.ndarray, width: float) -> np.ndarray:
    """(..., 133, 3) of the picture mirrored left to right: sides change names, x becomes width - x (pixel centres at .5)."""
    out = points[..., _MIRROR, :].copy()
    out[..., 0] = np.where(out[..., 2] > 0, width - out[..., 0], 0)
    return out


def box_of(points: np.ndarray, min_score: float) -> np.ndarray:
    """x0, y0, x1, y1 around the points of (n, 3) that score at least so much; zeros of none."""
    seen = points[points[:, 2] >= min_score, :2]
    return np.concatenate([seen.min(0), seen.max(0)]) if len(seen) else np.zeros(4, points.dtype)


def object_keypoint_similarity(found: np.ndarray, truth: np.ndarray, area: float) -> float:
    """OKS of one person, as COCO evaluates it: the mean over labelled points of exp(-d² / (2 s² k²)).

    Args:
        found: (17, 2 or 3) x, y in px.
        truth: (17, 3) x, y, visibility; points of visibility 0 do not count.
        area: of the person's outline in px², s².
    """
    labelled = truth[:, 2] > 0
    squared = ((found[labelled, :2] - truth[labelled, :2]) ** 2).sum(1)
    return float(np.exp(-squared / (2 * area * (2 * COCO_SIGMAS[labelled]) ** 2)).mean())


def _mirror_table() -> np.ndarray:
    names = COCO_17 + FEET_6
    swapped = [n.replace("left_", "#").replace("right_", "left_").replace("#", "right_") for n in names]
    table = [names.index(name) for name in swapped]
    # iBUG's 68: jaw, brows, nose, eyes and lips, each from one side to the other.
    pairs = {}
    runs = [(range(17), range(16, -1, -1)), (range(17, 22), range(26, 21, -1)), (range(27, 31), range(27, 31)),
            (range(31, 36), range(35, 30, -1)), (range(36, 42), (45, 44, 43, 42, 47, 46)),
            (range(48, 60), (54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55)),
            (range(60, 68), (64, 63, 62, 61, 60, 67, 66, 65))]  # fmt: skip
    for one, other in runs:
        for a, b in zip(one, other, strict=True):
            pairs[a], pairs[b] = b, a
    table += [FACE.start + pairs[place] for place in range(68)]
    table += list(range(RIGHT_HAND.start, RIGHT_HAND.stop)) + list(range(LEFT_HAND.start, LEFT_HAND.stop))
    return np.array(table)


_MIRROR = _mirror_table()
