"""MediaPipe's face networks as plain functions of a picture. Its wheel carries the weights, so nothing is downloaded.

Neither function keeps anything from one call to the next: a result depends on its picture alone, whatever came before, so it is
the same in any worker and any order. (`solutions.face_mesh` is not used: following faces, it carries state from frame to frame,
and without following it runs its short-range detector again, which measured as twice the jitter on small faces.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

MESH_POINTS = 478
# One landmark pass on a given region, and the region that the found face asks for.
_MESH_GRAPH = """
input_stream: "IMAGE:image"
input_stream: "ROI:region"
input_side_packet: "WITH_ATTENTION:with_attention"
output_stream: "LANDMARKS:landmarks"
output_stream: "ROI:next_region"
node { calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size" }
node { calculator: "FaceLandmarkCpu" input_stream: "IMAGE:image" input_stream: "ROI:region"
       input_side_packet: "WITH_ATTENTION:with_attention" output_stream: "LANDMARKS:landmarks" }
node { calculator: "FaceLandmarkLandmarksToRoi" input_stream: "LANDMARKS:landmarks" input_stream: "IMAGE_SIZE:size"
       output_stream: "ROI:next_region" }
"""


class FaceDetector:
    """BlazeFace: the full-range network, and the short-range one where that finds nothing.

    On the clips measured the full-range boxes lie closer to the face (0.95 of the mesh's height, the short-range ones 0.87, and
    up to 2.5 times the face where it is small); the short-range network finds what fills the picture or is half covered.
    """

    def __init__(self, min_score: float) -> None:
        with quiet():
            from mediapipe.python.solutions.face_detection import FaceDetection

            # Its setting `min_detection_confidence` changes nothing in this release: the threshold is 0.5.
            self._networks = [FaceDetection(model_selection=kind) for kind in (1, 0)]
            self._min_score = min_score
            self(np.zeros((64, 64, 3), np.uint8))  # the graphs start, and talk, on first use

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(faces, 5) float32: x0, y0, x1, y1 in px and score, best first.

        Args:
            picture: (H, W, 3) uint8 RGB; when it is read-only it is not copied.
        """
        height, width = picture.shape[:2]
        for network in self._networks:
            found = [d for d in network.process(picture).detections or () if d.score[0] >= self._min_score]
            if found:
                boxes = [(d.location_data.relative_bounding_box, d.score[0]) for d in found]
                rows = [(b.xmin * width, b.ymin * height, (b.xmin + b.width) * width, (b.ymin + b.height) * height, score)
                        for b, score in boxes]  # fmt: skip
                return np.array(sorted(rows, key=lambda row: -row[4]), np.float32)
        return np.zeros((0, 5), np.float32)


class FaceMesh:
    """MediaPipe's face mesh with attention, on a region given by a box instead of by its own detector."""

    def __init__(self, passes: int) -> None:
        self._passes = passes
        with quiet():
            from google.protobuf import text_format
            from mediapipe.framework import calculator_pb2
            from mediapipe.framework.formats import rect_pb2
            from mediapipe.python.solution_base import SolutionBase

            config = calculator_pb2.CalculatorGraphConfig()
            text_format.Parse(_MESH_GRAPH, config)
            self._graph = SolutionBase(
                graph_config=config, side_inputs={"with_attention": True}, outputs=["landmarks", "next_region"]
            )
            self._region = rect_pb2.NormalizedRect
            self(np.zeros((64, 64, 3), np.uint8), np.array([16, 16, 48, 48]))

    def __call__(self, picture: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """(478, 3) float32 landmarks in px, or None where the network sees no face.

        Each pass reads the region that the pass before asks for, as in MediaPipe's own video mode (a square of 1.5 times the
        face, turned with the eyes), which takes out most of what the box's jitter does to the landmarks.

        Args:
            picture: (H, W, 3) uint8 RGB; when it is read-only it is not copied.
            box: x0, y0, x1, y1 around the face.
        """
        height, width = picture.shape[:2]
        x0, y0, x1, y1 = (float(v) for v in box[:4])
        side = 1.5 * max(x1 - x0, y1 - y0)
        region: Any = self._region(
            x_center=(x0 + x1) / 2 / width, y_center=(y0 + y1) / 2 / height, width=side / width, height=side / height
        )
        found: Any = None
        for _ in range(self._passes):
            out = self._graph.process({"image": picture, "region": region})
            found, region = out.landmarks, out.next_region
            if found is None:
                return None
        points = np.array([(p.x, p.y, p.z) for p in found.landmark], np.float64)
        return (points * (width, height, width)).astype(np.float32)


@contextmanager
def quiet() -> Iterator[None]:
    """Send what C++ libraries print while they start to nowhere; errors still arrive as exceptions."""
    sys.stderr.flush()
    nowhere, kept = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
