"""Degraded pictures to learn restoration from, and the clean ones as recipes sharpen them."""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
from pydantic import Field as Setting

from preprocessing.degradation import RECIPES, degrade, sharpened
from preprocessing.fields import FACE_VALID, KEY_FRAME, Degradation, Field, aligned_face, degradation, degraded, image, sharp_image
from preprocessing.operator import FamilyOperator, OperatorParams, Refused, Sample
from preprocessing.operators.of_picture import OfPicture
from preprocessing.seeds import generator


class Degraded(FamilyOperator):
    """`degraded_RECIPE_SIZE` and `degradation_RECIPE_SIZE`: a degraded picture and all that was drawn for it.

    The clean one is `image_SIZE`; of the recipe codeformer_face, which is for aligned faces, the key frame's `face_ffhq5_SIZE`.
    Chance comes from `seed`, the recipe and the row's key alone. Results are rounded to 8 bits, which CodeFormer's code does
    not do. Methods that want a fresh degradation each time a picture is seen call the same functions while they train.
    """

    version = 1

    class Params(OperatorParams):
        """`recipe` and `size` are fixed by the field's name.

        Attributes:
            seed: other numbers give other degradations of the same pictures.
            of: which picture is degraded; "" for the recipe's own.
        """

        recipe: Degradation
        size: int = Setting(ge=10, le=9999)
        seed: int = Setting(0, ge=0)
        of: Literal["", "image", "face"] = ""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"degraded_{self.params.recipe}"

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"(?:degraded|degradation)_({'|'.join(RECIPES)})_([1-9]\d{{1,3}})", field)
        return {"recipe": match[1], "size": int(match[2])} if match else None

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return tuple(f"degraded_{recipe}_512" for recipe in RECIPES)

    @property
    def reads(self) -> tuple[Field, ...]:
        if self._of_face():
            return (aligned_face("ffhq5", self.params.size), KEY_FRAME, FACE_VALID)
        return (image(self.params.size),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (degraded(self.params.recipe, self.params.size), degradation(self.params.recipe, self.params.size))

    def _of_face(self) -> bool:
        return (self.params.of or ("face" if self.params.recipe == "codeformer_face" else "image")) == "face"

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        picture = sample[self.reads[0]]
        if self._of_face():
            place = int(sample[KEY_FRAME])
            if not sample[FACE_VALID][place]:
                raise Refused("no valid face in the key frame")
            picture = picture[place]
        rng = generator(self.params.seed, self.params.recipe, sample.key)
        result, steps = degrade(_light(picture), RECIPES[self.params.recipe], rng)
        return dict(zip(self.writes, (_levels(result), {"recipe": self.params.recipe, "steps": steps}), strict=True))


class Sharpened(OfPicture):
    """`sharpened_SIZE`: `image_SIZE` after the unsharp masking of Real-ESRGAN and DiffBIR v2.1, whose target it is."""

    name = "sharpened"
    version = 1
    prefix = "sharpened"

    @staticmethod
    def made(size: int) -> Field:
        return sharp_image(size)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return {self.writes[0]: _levels(sharpened(_light(sample[self.reads[0]])))}


def _light(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32) / np.float32(255)


def _levels(image_: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image_, 0, 1) * 255).astype(np.uint8)
