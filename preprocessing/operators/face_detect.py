"""All faces of all frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field as Setting
from pydantic import model_validator

from preprocessing.detectors import ASSETS, LONGEST_SIDE_PX, MIN_SCORES, Backend, open_detector
from preprocessing.fields import FACE_DETECTIONS, VIDEO, Field
from preprocessing.operator import Operator, OperatorParams, Sample


class FaceDetect(Operator):
    """A detector of `preprocessing.detectors` on every frame; damaged frames count as empty.

    mediapipe (BlazeFace) needs no asset. Its boxes run from the brows to the chin, and may reach over the picture's edge; faces
    below about a thirtieth of the picture's longer side are not found. YuNet and SCRFD find smaller ones; their boxes run from
    the hairline to the chin. Scores of different backends do not compare.
    """

    name = "face_detect"
    version = 1

    class Params(OperatorParams):
        """Settings.

        `backend`: mediapipe, yunet or scrfd.
        `min_score`: weaker detections are dropped; none for the backend's own: mediapipe 0.5 (it gives none below), yunet 0.6,
        scrfd 0.5.
        `longest_side_px`: the picture is brought to it for yunet and scrfd; more finds smaller faces. mediapipe has its own.
        """

        backend: Backend = "mediapipe"
        min_score: float | None = Setting(None, gt=0, le=1)
        longest_side_px: int = Setting(LONGEST_SIDE_PX, ge=64, le=4096, multiple_of=32)

        @model_validator(mode="after")
        def _within_reach(self) -> FaceDetect.Params:
            if self.backend == "mediapipe" and self.min_score is not None and self.min_score < MIN_SCORES["mediapipe"]:
                raise ValueError(f"min_score={self.min_score:g} with mediapipe, which gives nothing below 0.5")
            if self.backend == "mediapipe" and self.longest_side_px != LONGEST_SIDE_PX:
                raise ValueError(f"longest_side_px={self.longest_side_px} with mediapipe, which has sizes of its own")
            return self

    @property
    def assets(self) -> tuple[str, ...]:
        return ASSETS[self.params.backend]

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (FACE_DETECTIONS,)

    def setup(self) -> None:
        """Load the network.

        Raises:
            LikenessError: its asset is not here (what to place where), or is another network.
        """
        path = next((self.asset(name) for name in self.assets), None)
        self._detect = open_detector(self.params.backend, path, self.params.min_score, self.params.longest_side_px)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        damaged = getattr(video, "damaged", np.zeros(video.n_frames, bool))
        rows = [np.zeros((0, 6), np.float32)]
        for place, frame in enumerate(video):
            if not damaged[place]:
                faces = self._detect(frame).boxes
                rows.append(np.column_stack([np.full(len(faces), place, np.float32), faces]))
        return {FACE_DETECTIONS: np.concatenate(rows).astype(np.float32)}
