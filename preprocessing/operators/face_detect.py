"""All faces of all frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import FACE_DETECTIONS, VIDEO, Field
from preprocessing.operator import Operator, OperatorParams, Sample


class FaceDetect(Operator):
    """MediaPipe's BlazeFace on every frame (see `mediapipe_graphs.FaceDetector`); damaged frames count as empty.

    Boxes run from the brows to the chin, and may reach over the picture's edge. Faces below about a thirtieth of the picture's
    longer side are not found.
    """

    name = "face_detect"
    version = 1

    class Params(OperatorParams):
        """`min_score`: weaker detections are dropped; the networks themselves give none below 0.5."""

        min_score: float = Setting(0.5, ge=0.5, le=1)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (FACE_DETECTIONS,)

    def setup(self) -> None:
        from preprocessing.operators.mediapipe_graphs import FaceDetector

        self._detect = FaceDetector(self.params.min_score)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        damaged = getattr(video, "damaged", np.zeros(video.n_frames, bool))
        rows = [np.zeros((0, 6), np.float32)]
        for place, frame in enumerate(video):
            if not damaged[place]:
                faces = self._detect(frame)
                rows.append(np.column_stack([np.full(len(faces), place, np.float32), faces]))
        return {FACE_DETECTIONS: np.concatenate(rows).astype(np.float32)}
