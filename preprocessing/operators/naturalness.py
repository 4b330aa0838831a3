"""How natural a picture's texture is, without a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing.fields import FACE_BOX, FACE_VALID, NATURALNESS, VIDEO, Field
from preprocessing.niqe import BLOCK_PX, Pristine, niqe
from preprocessing.operator import Operator, OperatorParams, Resources, Sample
from preprocessing.operators.face_crops import clipped
from preprocessing.operators.picture_measures import sampled

DIGITS = 4
MOST_PX = 10 * BLOCK_PX  # more pixels cost time and change little


class Naturalness(Operator):
    """NATURALNESS: NIQE (see `preprocessing.niqe`), medians over up to `samples` frames spread evenly.

    - niqe: of the frame at its own size, of large ones the middle (up to 960 px a side): noise, JPEG blocks and blur raise it,
      enlargement too.
    - niqe_face: likewise of the face's box, where that holds 2 x 2 blocks of 96 px or more.
    - frames, face_frames: how many were looked at. Of none (too small, or flat), the number is 0: select with `frames > 0` too.
    """

    name = "naturalness"
    version = 1
    resources = Resources(assets=("niqe_pristine",))

    class Params(OperatorParams):
        samples: int = Setting(3, ge=1)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, FACE_BOX, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (NATURALNESS,)

    def setup(self) -> None:
        """Read the statistics.

        Raises:
            LikenessError: the asset is not here (what to place where), or holds something else.
        """
        self._pristine = Pristine.read(self.asset("niqe_pristine"))

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        places = sampled(video.n_frames, self.params.samples)
        whole: list[float] = []
        faces: list[float] = []
        for place, frame in enumerate(video):
            if place not in places:
                continue
            self._add(whole, frame)
            x0, y0, x1, y1 = clipped(sample[FACE_BOX][place], frame.shape)
            if sample[FACE_VALID][place] and min(x1 - x0, y1 - y0) >= 2 * BLOCK_PX:
                self._add(faces, frame[y0:y1, x0:x1])
        numbers: dict[str, Any] = {
            "niqe": round(float(np.median(whole or 0)), DIGITS), "niqe_face": round(float(np.median(faces or 0)), DIGITS),
            "frames": len(whole), "face_frames": len(faces),
        }  # fmt: skip
        return {NATURALNESS: numbers}

    def _add(self, found: list[float], picture: np.ndarray) -> None:
        try:
            found.append(niqe(middle(picture), self._pristine))
        except LikenessError:  # too small, or flat
            return


def middle(picture: np.ndarray) -> np.ndarray:
    """The central part of a picture, up to MOST_PX a side."""
    top, left = (max(0, side - MOST_PX) // 2 for side in picture.shape[:2])
    return picture[top : top + MOST_PX, left : left + MOST_PX]
