"""What methods make of parsed faces: ConsistentID's part masks, PuLID's grey face."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pydantic import Field as Setting

from preprocessing.fields import (
    FACE_PARTS,
    FACE_VALID,
    KEY_FRAME,
    UNKNOWN_LABEL,
    Field,
    aligned_face,
    face_features,
    face_parsing,
    image_parsing,
    part_masks,
)
from preprocessing.operator import FamilyOperator, OperatorParams, Sample

ALIGNED_PX = 512  # facexlib's crop, of which PuLID parses and shrinks the picture
WHITENED = (0, 7, 8, 9, 14, 15, 16, 18, UNKNOWN_LABEL)  # PuLID's, and what nobody has named
GREY = (0.299, 0.587, 0.114)  # of red, green, blue


class _OfSize(FamilyOperator):
    stem: str

    class Params(OperatorParams):
        """`size` in px, fixed by the field's name."""

        size: int = Setting(ge=10, le=9999)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"{cls.stem}_([1-9]\d{{1,3}})", field)
        return {"size": int(match[1])} if match else None


class PartMasks(_OfSize):
    """`part_masks_image_SIZE` from the parsing of the whole picture, as ConsistentID makes its part pictures.

    A part is the inside of the outer outlines of its class, so that the face holds eyes, nose and mouth. Of eyes, ears and lips one
    is used each, the first class in the published order that has a pixel.
    """

    name = "part_masks"
    version = 1
    stem = "part_masks_image"

    @property
    def reads(self) -> tuple[Field, ...]:
        return (image_parsing(self.params.size),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (part_masks(self.params.size),)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        labels = sample[self.reads[0]]
        bits = np.zeros(labels.shape, np.uint8)
        for number, classes in enumerate(FACE_PARTS.values()):
            bits |= part_mask(labels, classes) * np.uint8(1 << number)
        return {self.writes[0]: bits}


class FaceFeatures(_OfSize):
    """`face_features_SIZE`: what PuLID's picture encoder is given (336 px), from the face aligned to ffhq5 at 512 px and parsed.

    Shrunk by Pillow's antialiased bicubic. Hair stays in where the parser tells it (backend `bisenet`); the coarse parser does not,
    and what it calls unknown is white.
    """

    name = "face_features"
    version = 1
    stem = "face_features"

    @property
    def reads(self) -> tuple[Field, ...]:
        return (aligned_face("ffhq5", ALIGNED_PX), face_parsing("ffhq5", ALIGNED_PX), KEY_FRAME, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (face_features(self.params.size),)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        size, valid = self.params.size, np.flatnonzero(sample[FACE_VALID])
        if not len(valid):
            return {self.writes[0]: np.full((size, size, 3), 255, np.uint8)}
        place = int(valid[np.abs(valid - int(sample[KEY_FRAME])).argmin()])
        faces, labels = (sample[field][place] for field in self.reads[:2])
        picture = np.rint(255 * grey_features(faces.astype(np.float32) / 255, labels)).astype(np.uint8)
        return {self.writes[0]: np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))}


def part_mask(labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: the first of these classes that is in the label map, holes filled; nothing where none is."""
    for label in classes:
        seen = (labels == label).astype(np.uint8)
        if seen.any():
            outlines, _ = cv2.findContours(seen, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(seen, outlines, -1, (1,), cv2.FILLED)
            return seen.astype(bool)
    return np.zeros(labels.shape, bool)


def grey_features(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]: the face in grey, white where it shows something else (see WHITENED).

    Args:
        picture: (H, W, 3) float32 RGB in [0, 1].
        labels: (H, W).
    """
    grey = sum((picture[..., channel] * np.float32(weight) for channel, weight in enumerate(GREY)), np.float32(0))
    return np.repeat(np.where(np.isin(labels, WHITENED), np.float32(1), grey)[..., None], 3, 2)
