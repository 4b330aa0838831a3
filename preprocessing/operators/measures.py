"""Plain numbers to select clips by."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from preprocessing.fields import (
    AUDIO,
    FACE_BOX,
    FACE_TRACK,
    FACE_VALID,
    HEAD_POSE,
    MEASURES,
    SOURCE,
    TUBE_BOX,
    VOICED,
    Field,
    face_crop,
)
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import Operator, Sample
from preprocessing.operators.sound import SILENCE_DBFS

SHARP_PX = 96  # the scale at which blur is measured, so that it means the same for near and far faces
DIGITS = 6


class Measures(Operator):
    """Numbers of a clip; those about the face are medians over valid frames, and 0 where there are none.

    - duration_s, n_frames; valid_share: share of frames whose face is valid.
    - face_side_px: square root of the box's area. face_share: that area over the picture's. face_score: of the detector (real
      faces measured above 0.8, cartoons and textures below 0.7).
    - face_outside_share: share of the box that lies outside the picture.
    - blur: variance of the Laplacian of the grey 96 px crop. Low is blurred: an out-of-focus face measures under 50.
    - yaw, pitch: medians of the absolute angles, degrees.
    - voiced_share: share of frames; loudness_dbfs: RMS of the sound, -120 for digital silence.
    - tube_outside_share: likewise of the tube square.
    """

    name = "measures"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (
            SOURCE, AUDIO, FACE_TRACK, FACE_VALID, FACE_BOX, TUBE_BOX, HEAD_POSE, VOICED, face_crop(SHARP_PX, "box"),
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
            "face_side_px": _median(np.sqrt(area)),
            "face_share": _median(area) / (shape[0] * shape[1]),
            "face_outside_share": _median(np.array([outside_share(b, shape) for b in box])),
            "face_score": _median(sample[FACE_TRACK][valid, 4]),
            "blur": _median(sharpness(sample[face_crop(SHARP_PX, "box")])),
            "yaw": _median(pose[:, 0]),
            "pitch": _median(pose[:, 1]),
            "voiced_share": sample[VOICED].mean(),
            "loudness_dbfs": loudness(sample[AUDIO]),
            "tube_outside_share": outside_share(sample[TUBE_BOX], shape),
        }
        return {MEASURES: {name: round(float(number), DIGITS) for name, number in numbers.items()}}


def sharpness(crops: FrameSequence) -> np.ndarray:
    """Variance of the Laplacian (3 x 3) of each picture there is, in squared grey levels."""
    pictures = crops.take(np.flatnonzero(crops.present))
    return np.array([cv2.Laplacian(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var() for p in pictures])


def loudness(audio: np.ndarray) -> float:
    """RMS in dBFS of int16 samples, at least -120."""
    power = float((audio.astype(np.float64) ** 2).mean()) / 32768**2
    return 10 * np.log10(max(power, 10 ** (SILENCE_DBFS / 10)))


def outside_share(box: np.ndarray, shape: tuple[int, int]) -> float:
    """Share of a box that lies outside the picture of this (height, width); 0 for an empty box."""
    area = float((box[2] - box[0]) * (box[3] - box[1]))
    x0, x1 = np.clip(box[[0, 2]], 0, shape[1])
    y0, y1 = np.clip(box[[1, 3]], 0, shape[0])
    return 1 - float((x1 - x0) * (y1 - y0)) / area if area > 0 else 0.0


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else 0.0
