"""Face pictures in the places that published methods want them in, and the matrices that put them there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from pydantic import Field as Setting

from preprocessing import latentsync, templates
from preprocessing.alignment import CROP_SIZE, FACE_SCALE, deep3d_alignment
from preprocessing.fields import FACE_VALID, VIDEO, Field, Template, aligned_face, alignment
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import FamilyOperator, OperatorParams, Sample

# Cut by plain bilinear sampling, as recognition networks had them cut.
PLAIN: tuple[Template, ...] = ("arcface",)


class AlignedFaces(FamilyOperator):
    """Each valid frame aligned by `preprocessing.templates`: `face_TEMPLATE_SIZE` and its matrices `align_TEMPLATE_SIZE`.

    Black outside the picture; no picture and zeros where the frame is not valid. Frames are aligned each by itself: nothing is
    smoothed. `latentsync` alone is grey outside and smoothed a little over the valid frames (see `preprocessing.latentsync`), both
    as published. The points come from the face mesh. `arcface` is cut as insightface cuts it (`cv2.warpAffine`, bilinear); `deep3d`
    by Deep3DFaceRecon's own steps (see `preprocessing.alignment`); the others are antialiased where they shrink to half or less.
    """

    name = "aligned_faces"
    version = 1

    class Params(OperatorParams):
        """`template` and `size` (side in px), both fixed by the field's name."""

        template: Template
        size: int = Setting(ge=10, le=9999)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"(?:face|align)_({'|'.join(get_args(Template))})_(\d+)", field)
        return {"template": match[1], "size": int(match[2])} if match else None

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, templates.POINTS[self.params.template], FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        template, size = self.params.template, self.params.size
        return (aligned_face(template, size), alignment(template, size))

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        matrices = np.zeros((len(sample[FACE_VALID]), 2, 3))
        faces = FrameSequence.of(self._cut(sample, matrices), self.params.size, self.params.size)
        pictures, transforms = self.writes
        return {pictures: faces, transforms: matrices}

    def _cut(self, sample: Sample, matrices: np.ndarray) -> Iterator[np.ndarray | None]:
        """The crops; the matrices are filled in on the way."""
        points, valid = sample[templates.POINTS[self.params.template]], sample[FACE_VALID]
        if not valid.any():
            yield from [None] * len(valid)
            return
        offset: np.ndarray | None = None
        for place, frame in enumerate(sample[VIDEO]):
            if valid[place]:
                if self.params.template == "latentsync":
                    three = latentsync.three_points(points[place])
                    matrices[place], offset = latentsync.align(three, self.params.size, offset)
                else:
                    matrices[place] = align(self.params.template, self.params.size, points[place], frame.shape)
                yield cut(self.params.template, self.params.size, frame, points[place], matrices[place])
            else:
                yield None


def align(template: Template, size_px: int, points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`templates.matrix` from the one field that the template needs, for a picture of this (height, width, ...)."""
    names = {"landmarks_5": "points5", "landmarks_68": "landmarks68", "face_box": "box"}
    given: dict[str, Any] = {names[templates.POINTS[template].name]: points}
    return templates.matrix(template, size_px, **given, height_width=(shape[0], shape[1]))


def cut(template: Template, size_px: int, frame: np.ndarray, points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(size_px, size_px, 3) uint8: one aligned face."""
    if template == "deep3d":
        scale = FACE_SCALE * size_px / CROP_SIZE
        return deep3d_alignment(frame, np.asarray(points, np.float64) - templates.CENTRE, size_px, scale).crop
    if template == "latentsync":
        return latentsync.crop(frame, matrix, size_px)
    return templates.warp(frame, matrix, size_px, antialias=template not in PLAIN)
