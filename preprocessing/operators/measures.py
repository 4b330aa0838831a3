"""Plain numbers about the main face, to select clips and photos by."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from preprocessing.fields import (
    FACE_BOX,
    FACE_DETECTIONS,
    FACE_TRACK,
    FACE_VALID,
    HEAD_POSE,
    LANDMARKS_478,
    MEASURES,
    SOURCE,
    TUBE_BOX,
    Field,
    face_crop,
)
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import Operator, Sample

SHARP_PX = 96  # the scale at which blur is measured, so that it means the same for near and far faces
INNER_LIPS, OUTER_EYE_CORNERS = (13, 14), (33, 263)  # mesh vertices: middle of the upper and of the lower lip; left and right
DIGITS = 6


class Measures(Operator):
    """Numbers of a clip or photo; those about the face are medians over valid frames, and 0 where there are none.

    - duration_s, n_frames; valid_share: share of frames whose face is valid.
    - faces: median over all frames of the number of faces detected, the main one or not.
    - face_side_px: square root of the box's area. face_share: that area over the picture's. face_score: of the detector (real
      faces measured above 0.8, cartoons and textures below 0.7).
    - face_outside_share: share of the box that lies outside the picture.
    - blur: variance of the Laplacian of the grey 96 px crop. Low is blurred: an out-of-focus face measures under 50.
    - yaw, pitch, roll: medians of the absolute angles, degrees.
    - lip_motion: how much the mouth opens and shuts: 10th to 90th percentile of the gap between the inner lips, as a share of the
      distance between the outer eye corners. 0 for photos.
    - tube_outside_share: share of the tube square that lies outside the picture.
    """

    name = "measures"
    version = 2

    @property
    def reads(self) -> tuple[Field, ...]:
        return (
            SOURCE, FACE_DETECTIONS, FACE_TRACK, FACE_VALID, FACE_BOX, TUBE_BOX, LANDMARKS_478, HEAD_POSE,
            face_crop(SHARP_PX, "box"),
        )  # fmt: skip

    @property
    def writes(self) -> tuple[Field, ...]:
        return (MEASURES,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        source, valid = sample[SOURCE], sample[FACE_VALID]
        shape = (source["height"], source["width"])
        box = sample[FACE_BOX][valid].astype(np.float64)
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        pose = np.abs(sample[HEAD_POSE][valid])
        numbers = {
            "duration_s": source["n_frames"] / Fraction(source["fps"]),
            "n_frames": source["n_frames"],
            "valid_share": valid.mean(),
            "faces": np.median(np.bincount(sample[FACE_DETECTIONS][:, 0].astype(np.int64), minlength=len(valid))),
            "face_side_px": _median(np.sqrt(area)),
            "face_share": _median(area) / (shape[0] * shape[1]),
            "face_outside_share": _median(np.array([outside_share(b, shape) for b in box])),
            "face_score": _median(sample[FACE_TRACK][valid, 4]),
            "blur": _median(sharpness(sample[face_crop(SHARP_PX, "box")])),
            "yaw": _median(pose[:, 0]),
            "pitch": _median(pose[:, 1]),
            "roll": _median(pose[:, 2]),
            "lip_motion": lip_motion(sample[LANDMARKS_478][valid]),
            "tube_outside_share": outside_share(sample[TUBE_BOX], shape),
        }
        return {MEASURES: {name: round(float(number), DIGITS) for name, number in numbers.items()}}


def sharpness(crops: FrameSequence) -> np.ndarray:
    """Variance of the Laplacian (3 x 3) of each picture there is, in squared grey levels."""
    pictures = crops.take(np.flatnonzero(crops.present))
    return np.array([cv2.Laplacian(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var() for p in pictures])


def lip_motion(mesh: np.ndarray) -> float:
    """Spread over time of the mouth's opening, from (n, 478, 3) meshes; lengths in space, so that turning does not count."""
    if len(mesh) == 0:
        return 0.0
    points = mesh.astype(np.float64)
    gap, eyes = (np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in (INNER_LIPS, OUTER_EYE_CORNERS))
    low, high = np.percentile(gap / np.maximum(eyes, 1e-6), (10, 90))
    return float(high - low)


def outside_share(box: np.ndarray, shape: tuple[int, int]) -> float:
    """Share of a box that lies outside the picture of this (height, width); 0 for an empty box."""
    area = float((box[2] - box[0]) * (box[3] - box[1]))
    x0, x1 = np.clip(box[[0, 2]], 0, shape[1])
    y0, y1 = np.clip(box[[1, 3]], 0, shape[0])
    return 1 - float((x1 - x0) * (y1 - y0)) / area if area > 0 else 0.0


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else 0.0
