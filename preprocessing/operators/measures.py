"""Plain numbers to select clips by."""

from __future__ import annotations

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
from preprocessing.operators.face_crops import clipped
from preprocessing.operators.sound import SILENCE_DBFS

SHARP_PX = 96  # the scale at which blur is measured, so that it means the same for near and far faces
DIGITS = 6


class Measures(Operator):
    """Numbers of a clip; those about the face are medians over valid frames, and 0 where there are none.

    - duration_s, n_frames; valid_share: share of frames whose face is valid.
    - face_side_px: square root of the box's area. face_share: that area over the picture's. face_score: of the detector (real
      faces measured above 0.8, cartoons and textures below 0.7).
    - blur: variance of the Laplacian of the grey 96 px crop. Low is blurred: an out-of-focus face measures under 50.
    - yaw, pitch: medians of the absolute angles, degrees.
    - voiced_share: share of frames; loudness_dbfs: RMS of the sound, -120 for digital silence.
    - tube_outside_share: share of the tube square that lies outside the picture.
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
            "duration_s": source["n_frames"] / 25,
            "n_frames": source["n_frames"],
            "valid_share": valid.mean(),
            "face_side_px": _median(np.sqrt(area)),
            "face_share": _median(area) / (shape[0] * shape[1]),
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


def outside_share(tube: np.ndarray, shape: tuple[int, int]) -> float:
    """Share of a square that lies outside the picture of this (height, width); 0 for no square."""
    side = float(tube[2] - tube[0])
    x0, y0, x1, y1 = clipped(tube, shape)
    return 1 - (x1 - x0) * (y1 - y0) / side**2 if side > 0 else 0.0


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else 0.0
