"""Landmarks, validity and tight box of the followed face."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import FACE_BOX, FACE_TRACK, FACE_VALID, LANDMARKS_478, VIDEO, Field
from preprocessing.operator import Operator, OperatorParams, Sample
from preprocessing.operators.face_track import iou

SURFACE_POINTS = 468  # of the 478; the others are the irises, which lie inside


class FaceLandmarks(Operator):
    """MediaPipe's 478-point mesh on each frame of FACE_TRACK (see `mediapipe_graphs.FaceMesh`).

    A frame is valid where the face is tracked, the network sees a face, and that face still lies under the tracked box.
    FACE_BOX is the bounding box of the mesh's surface: hairline to chin, cheek to cheek, nose included in profile, which is the
    convention of WIDER FACE and of the detectors trained on it (S3FD). It may reach over the picture's edge.
    """

    name = "face_landmarks"
    version = 1

    class Params(OperatorParams):
        """`passes` of the network: 1 costs half, and jitters up to twice as much on small faces; `min_iou` to the track."""

        passes: int = Setting(2, ge=1, le=4)
        min_iou: float = Setting(0.3, ge=0, lt=1)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, FACE_TRACK)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (LANDMARKS_478, FACE_VALID, FACE_BOX)

    def setup(self) -> None:
        from preprocessing.operators.mediapipe_graphs import FaceMesh

        self._mesh = FaceMesh(self.params.passes)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video, track = sample[VIDEO], sample[FACE_TRACK]
        points = np.zeros((video.n_frames, 478, 3), np.float32)
        boxes = np.zeros((video.n_frames, 4), np.float32)
        valid = np.zeros(video.n_frames, bool)
        seen = track[:, 4] > 0
        for place, frame in enumerate(video if seen.any() else ()):
            if not seen[place]:
                continue
            mesh = self._mesh(frame, track[place])
            if mesh is None:
                continue
            box = surface_box(mesh)
            if iou(box, track[place]) >= self.params.min_iou:
                points[place], boxes[place], valid[place] = mesh, box, True
        return {LANDMARKS_478: points, FACE_VALID: valid, FACE_BOX: boxes}


def surface_box(mesh: np.ndarray) -> np.ndarray:
    """(478, 3) landmarks -> x0, y0, x1, y1 around the face's surface."""
    surface = mesh[:SURFACE_POINTS, :2]
    return np.concatenate([surface.min(0), surface.max(0)])
