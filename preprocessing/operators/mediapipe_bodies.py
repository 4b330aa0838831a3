"""MediaPipe's networks for bodies, hands and silhouettes as plain functions of a picture and a region; see `mediapipe_graphs`.

Holistic's own graph follows people and smooths from call to call. Here its parts are run one by one and nothing is kept: a region
is handed in and the next one handed out, so that whoever calls decides what is followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preprocessing.operators.mediapipe_graphs import quiet

BODY_POINTS, HAND_POINTS = 33, 21
_DETECT = """
input_stream: "IMAGE:image"
output_stream: "DETECTIONS:detections"
node { calculator: "PoseDetectionCpu" input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections" }
"""
_REGION = """
input_stream: "IMAGE:image"
input_stream: "DETECTION:detection"
output_stream: "ROI:region"
node { calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size" }
node { calculator: "PoseDetectionToRoi" input_stream: "DETECTION:detection" input_stream: "IMAGE_SIZE:size"
       output_stream: "ROI:region" }
"""
_BODY = """
input_stream: "IMAGE:image"
input_stream: "ROI:region"
input_side_packet: "MODEL_COMPLEXITY:complexity"
input_side_packet: "ENABLE_SEGMENTATION:with_mask"
output_stream: "LANDMARKS:landmarks"
output_stream: "ROI:next_region"
output_stream: "MASK:mask"
node { calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size" }
node { calculator: "PoseLandmarkByRoiCpu" input_stream: "IMAGE:image" input_stream: "ROI:region"
       input_side_packet: "MODEL_COMPLEXITY:complexity" input_side_packet: "ENABLE_SEGMENTATION:with_mask"
       output_stream: "LANDMARKS:landmarks" output_stream: "AUXILIARY_LANDMARKS:auxiliary" output_stream: "SEGMENTATION_MASK:mask" }
node { calculator: "PoseLandmarksToRoi" input_stream: "LANDMARKS:auxiliary" input_stream: "IMAGE_SIZE:size"
       output_stream: "ROI:next_region" }
"""
# From the body's wrist, little finger and index finger to a first square, from that by a small network to the hand's own, turned
# upright, and in it the 21 points.
_HAND = """
input_stream: "IMAGE:image"
input_stream: "POINTS:points"
input_side_packet: "MODEL_COMPLEXITY:complexity"
output_stream: "LANDMARKS:landmarks"
node { calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size" }
node { calculator: "HandLandmarksFromPoseToRecropRoi" input_stream: "HAND_LANDMARKS_FROM_POSE:points"
       input_stream: "IMAGE_SIZE:size" output_stream: "ROI:first_region" }
node { calculator: "HandRecropByRoiCpu" input_stream: "IMAGE:image" input_stream: "ROI:first_region"
       output_stream: "HAND_ROI_FROM_RECROP:region" }
node { calculator: "HandLandmarkCpu" input_stream: "IMAGE:image" input_stream: "ROI:region"
       input_side_packet: "MODEL_COMPLEXITY:complexity" output_stream: "LANDMARKS:landmarks" }
"""
_SILHOUETTE = """
input_stream: "IMAGE:image"
input_side_packet: "MODEL_SELECTION:model"
output_stream: "MASK:mask"
node { calculator: "SelfieSegmentationCpu" input_stream: "IMAGE:image" input_side_packet: "MODEL_SELECTION:model"
       output_stream: "SEGMENTATION_MASK:mask" }
"""
_BLANK = np.zeros((64, 64, 3), np.uint8)


class BodyNetworks:
    """BlazePose: a detector of people, and the 33 points of one ("full", the network that the wheel carries)."""

    def __init__(self, with_mask: bool = False) -> None:
        self._with_mask = with_mask
        self._detector, self._rect = _graph(_DETECT, ["detections"]), _graph(_REGION, ["region"])
        outputs = ["landmarks", "next_region", *(["mask"] if with_mask else [])]
        self._body = _graph(_BODY, outputs, {"complexity": 1, "with_mask": with_mask})
        with quiet():  # the graphs start, and talk, on first use
            self._detector.process(_BLANK)
            self.points(_BLANK, _whole_picture())

    def detect(self, picture: np.ndarray) -> list[tuple[np.ndarray, Any]]:
        """People: x0, y0, x1, y1 around the head and a score, float32 (5,), and the region of the body; best first.

        Args:
            picture: (H, W, 3) uint8 RGB; when it is read-only it is not copied.
        """
        height, width = picture.shape[:2]
        found = sorted(self._detector.process(picture).detections or (), key=lambda d: -d.score[0])
        people = []
        for detection in found:
            b = detection.location_data.relative_bounding_box
            box = [b.xmin * width, b.ymin * height, (b.xmin + b.width) * width, (b.ymin + b.height) * height, detection.score[0]]
            people.append((np.array(box, np.float32), self._rect.process({"image": picture, "detection": detection}).region))
        return people

    def points(self, picture: np.ndarray, region: Any) -> tuple[np.ndarray, Any, np.ndarray | None] | None:
        """The person in a region, or None where the network sees none.

        Returns:
            (33, 3) float32 x, y in px and score, the region that these points ask for, and with `with_mask` (H, W) float32, the
            share of each pixel that is this person's. The score is the network's "visibility": in the picture and not hidden.
        """
        height, width = picture.shape[:2]
        out = self._body.process({"image": picture, "region": region})
        if out.landmarks is None:
            return None
        points = np.array([(p.x * width, p.y * height, p.visibility) for p in out.landmarks.landmark], np.float32)
        return points, out.next_region, out.mask if self._with_mask else None


    def follow(self, picture: np.ndarray, region: Any) -> tuple[np.ndarray, Any, np.ndarray | None] | None:
        """`points` of the person in a region; with None, or where nobody is in it any more, of the largest and clearest.

        Somebody found anew is looked at twice, the second time in the region that the first look asks for, as on later pictures.
        """
        found = self.points(picture, region) if region is not None else None
        if found is not None:
            return found
        people = self.detect(picture)
        if not people:
            return None
        _, region = max(people, key=lambda person: float((person[0][2:4] - person[0][:2]).prod() * person[0][4]))
        found = self.points(picture, region)
        return self.points(picture, found[1]) if found is not None else None


class HandNetwork:
    """The 21 points of a hand whose place the body's points tell."""

    def __init__(self) -> None:
        with quiet():
            from mediapipe.framework.formats import landmark_pb2

            self._list, self._point = landmark_pb2.NormalizedLandmarkList, landmark_pb2.NormalizedLandmark
        self._graph = _graph(_HAND, ["landmarks"], {"complexity": 1})
        with quiet():
            self(_BLANK, np.array([(32, 40), (28, 30), (36, 30)]))

    def __call__(self, picture: np.ndarray, points: np.ndarray) -> np.ndarray | None:
        """(21, 2) float32 in px, wrist first, then four of each finger from the thumb on; None where no hand is seen.

        Args:
            points: (3, 2) px: the body's wrist, little finger and index finger of that side.
        """
        height, width = picture.shape[:2]
        scaled = (points.astype(np.float64) / (width, height)).tolist()
        near = self._list(landmark=[self._point(x=x, y=y, visibility=1, presence=1) for x, y in scaled])
        found = self._graph.process({"image": picture, "points": near}).landmarks
        return None if found is None else np.array([(p.x * width, p.y * height) for p in found.landmark], np.float32)


class Silhouette:
    """Selfie segmentation: who stands in front, whoever and however many they are.

    Args:
        landscape: the network for wide pictures (144 x 256 px) instead of the general one (256 x 256 px).
    """

    def __init__(self, landscape: bool = False) -> None:
        self._graph = _graph(_SILHOUETTE, ["mask"], {"model": int(landscape)})
        with quiet():
            self(_BLANK)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(H, W) float32 from 0 to 1: the share of a pixel that is a person."""
        return np.asarray(self._graph.process(picture).mask)


def _whole_picture() -> Any:
    from mediapipe.framework.formats import rect_pb2

    return rect_pb2.NormalizedRect(x_center=0.5, y_center=0.5, width=1, height=1)


def _graph(text: str, outputs: Sequence[str], side: Mapping[str, Any] | None = None) -> Any:
    with quiet():
        from google.protobuf import text_format
        from mediapipe.framework import calculator_pb2
        from mediapipe.python.solution_base import SolutionBase

        config = calculator_pb2.CalculatorGraphConfig()
        text_format.Parse(text, config)
        return SolutionBase(graph_config=config, side_inputs=dict(side or {}), outputs=list(outputs))
