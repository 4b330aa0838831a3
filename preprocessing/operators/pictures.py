"""One picture that stands for a clip."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import cv2
import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import FACE_TRACK, FACE_VALID, HEAD_POSE, KEY_FRAME, VIDEO, Field, image
from preprocessing.operator import FamilyOperator, Operator, OperatorParams, Sample


class KeyFrame(Operator):
    """KEY_FRAME: of the frames with a valid face the one with the largest score x cos(yaw) x cos(pitch).

    So the face is seen well and looks at the camera. The score is the detector's, from FACE_TRACK; a face turned by 90 degrees
    or more counts 0. Of equal frames the first is taken; without a valid face the middle one, (n - 1) // 2: of a photo the
    only one. Nothing is asked of the eyes, which may be shut.
    """

    name = "key_frame"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (FACE_TRACK, FACE_VALID, HEAD_POSE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (KEY_FRAME,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        valid = sample[FACE_VALID]
        place = (len(valid) - 1) // 2
        if valid.any():
            frontal = np.cos(np.radians(sample[HEAD_POSE][:, :2].astype(np.float64))).clip(0).prod(1)
            place = int(np.where(valid, sample[FACE_TRACK][:, 4] * frontal, -1).argmax())
        return {KEY_FRAME: np.array(place, np.int64)}


class Pictures(FamilyOperator):
    """The key frame whole, its shorter side `size` px: nothing is cut off, the aspect ratio of its pixels is kept.

    The longer side is rounded to whole pixels. Smaller pictures are enlarged (Lanczos), so that whoever reads the field can
    count on its size; larger ones are averaged over areas. Pixels that are not square (`pixel_aspect` in SOURCE) stay so, as
    in all fields that hold positions.
    """

    name = "pictures"
    version = 1

    class Params(OperatorParams):
        """`size`: the shorter side in px."""

        size: int = Setting(ge=10, le=9999)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(r"image_([1-9]\d{1,3})", field)
        return {"size": int(match[1])} if match else None

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, KEY_FRAME)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (image(self.params.size),)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        place = int(sample[KEY_FRAME])
        frame = next(islice(sample[VIDEO], place, None))  # what comes later need not be decoded
        return {self.writes[0]: shrunk(frame, self.params.size)}


def shrunk(picture: np.ndarray, size_px: int) -> np.ndarray:
    """(H, W, 3) uint8 resized so that its shorter side has `size_px`; see `Pictures`."""
    height, width = picture.shape[:2]
    short = min(height, width)
    if short == size_px:
        return picture
    new = tuple(round(side * size_px / short) for side in (width, height))
    return cv2.resize(picture, new, interpolation=cv2.INTER_AREA if short > size_px else cv2.INTER_LANCZOS4)
