"""Face pictures: one box per frame (Wav2Lip), or one square for the whole clip (FOMM, DreamTalk, PIRenderer)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import FACE_BOX, FACE_VALID, TUBE_BOX, VIDEO, CropKind, Field, face_crop
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import FamilyOperator, Operator, OperatorParams, Sample


class FaceTube(Operator):
    """TUBE_BOX: the union of all valid face boxes, enlarged to a square (the FOMM recipe for VoxCeleb).

    Width grows on both sides by max(e, ((1 + 2 e) h - w) / (2 w)) w with e = `enlarge`, height likewise: whatever the union's
    shape, a square of (1 + 2 e) max(w, h) around its centre. Its corner and side are rounded to whole pixels. Zeros where no
    frame is valid.

    The recipe begins a new tube when the head has moved away, and rejects squares that leave the picture. Rows stay rows here:
    a clip has one tube, what lies outside is black, and `measures` tells how much that is.
    """

    name = "face_tube"
    version = 1

    class Params(OperatorParams):
        """`enlarge`: the published 0.1."""

        enlarge: float = Setting(0.1, ge=0)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (FACE_BOX, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (TUBE_BOX,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        boxes = sample[FACE_BOX][sample[FACE_VALID]].astype(np.float64)
        if not len(boxes):
            return {TUBE_BOX: np.zeros(4, np.float32)}
        low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
        side = max(1, round((1 + 2 * self.params.enlarge) * float((high - low).max())))
        corner = np.rint((low + high - side) / 2)
        return {TUBE_BOX: np.concatenate([corner, corner + side]).astype(np.float32)}


class CropParams(OperatorParams):
    """`size`: side of the pictures in px."""

    size: int = Setting(ge=10, le=9999)


class _Crops(FamilyOperator):
    Params = CropParams
    kind: CropKind

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"face_{cls.kind}_(\d+)", field)
        return {"size": int(match[1])} if match else None

    @property
    def writes(self) -> tuple[Field, ...]:
        return (face_crop(self.params.size, self.kind),)

    def _write(self, frames: Iterator[np.ndarray | None]) -> dict[Field, Any]:
        return {self.writes[0]: FrameSequence.of(frames, self.params.size, self.params.size)}


class FaceBoxCrops(_Crops):
    """Each valid frame's FACE_BOX, no margin, no smoothing, clipped to the picture, cut to whole pixels, resized (Wav2Lip).

    Resized as published, bilinear without anti-aliasing; the aspect ratio is given up. No picture where the frame is not valid,
    or where less than two pixels of the box lie inside.
    """

    name = "face_box_crops"
    version = 1
    kind = "box"

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, FACE_BOX, FACE_VALID)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return self._write(self._cut(sample[VIDEO], sample[FACE_BOX], sample[FACE_VALID]))

    def _cut(self, video: Any, boxes: np.ndarray, valid: np.ndarray) -> Iterator[np.ndarray | None]:
        if not valid.any():
            yield from [None] * len(valid)
            return
        size = (self.params.size, self.params.size)
        for frame, box, ok in zip(video, boxes, valid, strict=True):
            x0, y0, x1, y1 = clipped(box, frame.shape)
            if ok and min(x1 - x0, y1 - y0) >= 2:
                yield cv2.resize(frame[y0:y1, x0:x1], size, interpolation=cv2.INTER_LINEAR)
            else:
                yield None


class FaceTubeCrops(_Crops):
    """TUBE_BOX cut from each valid frame, black outside the picture, resized with anti-aliasing."""

    name = "face_tube_crops"
    version = 1
    kind = "tube"

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, TUBE_BOX, FACE_VALID)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return self._write(self._cut(sample[VIDEO], sample[TUBE_BOX], sample[FACE_VALID]))

    def _cut(self, video: Any, box: np.ndarray, valid: np.ndarray) -> Iterator[np.ndarray | None]:
        if not valid.any():
            yield from [None] * len(valid)
            return
        for frame, ok in zip(video, valid, strict=True):
            yield tube_picture(frame, box, self.params.size) if ok else None


def tube_picture(frame: np.ndarray, box: np.ndarray, size_px: int) -> np.ndarray:
    """(size_px, size_px, 3) uint8: the square x0, y0, x1, y1 of a picture, black outside it, resized with anti-aliasing."""
    x0, y0, side = int(box[0]), int(box[1]), int(box[2] - box[0])
    left, top, right, bottom = clipped(box, frame.shape)
    square = np.zeros((side, side, 3), np.uint8)
    square[top - y0 : bottom - y0, left - x0 : right - x0] = frame[top:bottom, left:right]
    # Area averaging is OpenCV's anti-aliased way to shrink; it has none to enlarge.
    way = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
    return cv2.resize(square, (size_px, size_px), interpolation=way)


def clipped(box: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 cut to the picture of this (height, width, ...) and to whole pixels, rounding towards zero."""
    height, width = shape[:2]
    x0, x1 = (int(np.clip(v, 0, width)) for v in (box[0], box[2]))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (box[1], box[3]))
    return x0, y0, x1, y1
