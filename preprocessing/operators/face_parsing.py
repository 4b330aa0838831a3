"""Parts of the face as label maps: of aligned faces, frame by frame, and of the key frame whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from pydantic import Field as Setting

from preprocessing import templates
from preprocessing.fields import (
    FACE_VALID,
    KEY_FRAME,
    LANDMARKS_478,
    SOURCE,
    Field,
    Template,
    aligned_face,
    alignment,
    face_parsing,
    image,
    image_parsing,
)
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import FamilyOperator, OperatorParams, Resources, Sample
from preprocessing.parsers import ASSETS, ParserBackend, fill, open_parser


class FaceParsing(FamilyOperator):
    """`parsing_TEMPLATE_SIZE` from `face_TEMPLATE_SIZE`, or `parsing_image_SIZE` from `image_SIZE`, by `preprocessing.parsers`.

    Both backends number the classes alike; `coarse` (the default) works offline and leaves hair, ears, neck and clothes together as
    UNKNOWN_LABEL. Parsed are the pictures as they are stored, so that labels and pixels belong together. Where no face is valid,
    labels are 0 all over; in the whole picture too, where the key frame has none. What lies outside the source's picture is 0.
    """

    name = "face_parsing"
    version = 1

    class Params(OperatorParams):
        """`backend`; `template` ("image" for the whole picture) and `size` in px, both fixed by the field's name; `gpus`: the
        fraction of a GPU that a worker of `bisenet` takes, where there are GPUs."""

        backend: ParserBackend = "coarse"
        gpus: float = Setting(0.25, ge=0, exclude=True)
        template: str
        size: int = Setting(ge=10, le=9999)

    def __init__(self, params: OperatorParams | None = None) -> None:
        super().__init__(params)
        if self.params.backend != "coarse":
            self.resources = Resources(gpus=self.params.gpus)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"parsing_(image|{'|'.join(get_args(Template))})_([1-9]\d{{1,3}})", field)
        return {"template": match[1], "size": int(match[2])} if match else None

    @property
    def assets(self) -> tuple[str, ...]:
        return ASSETS[self.params.backend]

    @property
    def reads(self) -> tuple[Field, ...]:
        if self.params.template == "image":
            return (image(self.params.size), KEY_FRAME, SOURCE, LANDMARKS_478, FACE_VALID)
        pictures = (kind(self.params.template, self.params.size) for kind in (aligned_face, alignment))
        return (*pictures, SOURCE, LANDMARKS_478, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        if self.params.template == "image":
            return (image_parsing(self.params.size),)
        return (face_parsing(self.params.template, self.params.size),)

    def setup(self) -> None:
        """Load the backend.

        Raises:
            LikenessError: its asset is not here (what to place where), or is another network.
        """
        self._parse = open_parser(self.params.backend, *(self.asset(name) for name in self.assets))

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        if self.params.template == "image":
            return {self.writes[0]: self._of_picture(sample)}
        size = self.params.size
        return {self.writes[0]: FrameSequence.of(self._of_faces(sample), size, size, "grey png")}

    def _of_faces(self, sample: Sample) -> Iterator[np.ndarray | None]:
        faces, matrices = (sample[field] for field in self.reads[:2])
        mesh, valid, source = sample[LANDMARKS_478], sample[FACE_VALID], sample[SOURCE]
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (source["width"], source["height"])
        for place in range(len(valid)):
            if not valid[place]:
                yield None
                continue
            labels = self._parse(faces[place], templates.transform(matrices[place], mesh[place, :, :2]))
            inside = np.zeros_like(labels)
            fill(inside, templates.transform(matrices[place], corners), 1)
            yield labels * inside

    def _of_picture(self, sample: Sample) -> np.ndarray:
        picture, place = sample[self.reads[0]], int(sample[KEY_FRAME])
        if not sample[FACE_VALID][place]:
            return np.zeros(picture.shape[:2], np.uint8)
        whole = np.array([sample[SOURCE]["width"], sample[SOURCE]["height"]], np.float64)
        scale = np.array(picture.shape[1::-1]) / whole
        return self._parse(picture, sample[LANDMARKS_478][place, :, :2] * scale)
