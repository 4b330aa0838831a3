"""Finds one person after another picture of a clip and gives the whole body's key points: MediaPipe's networks, or DWPose's.

Both begin with the person of the largest area x score and stay with them from picture to picture; one that is lost is looked for
anew. What is followed is in the value handed from call to call, never in the network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from infra.errors import LikenessError
from preprocessing.body_layouts import WHOLE_BODY, blazepose_to_coco, blazepose_to_feet, whole_body
from preprocessing.operators.face_track import iou
from preprocessing.operators.landmark_subsets import IBUG_68

Backend = Literal["mediapipe", "dwpose"]
ASSETS: dict[Backend, tuple[str, ...]] = {"mediapipe": (), "dwpose": ("yolox_l", "dwpose")}

# MediaPipe: places in BlazePose's 33.
LEFT_HAND_33, RIGHT_HAND_33 = (15, 17, 19), (16, 18, 20)  # wrist, little finger, index finger
HEAD_33 = slice(0, 11)
HEAD_TO_FACE = 1.4  # side of the face's box to the spread of BlazePose's points of the head (ear to ear, eyes to mouth)

# DWPose and the detector in front of it, as its ONNX demo runs them.
DETECTOR_PX, GREY = 640, 114
DETECTOR_SCORE, NMS_IOU = 0.3, 0.45
POSE_MARGIN = 1.25
POSE_MEAN, POSE_STD = np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)
FOLLOW_IOU = 0.3


@dataclass(frozen=True)
class Person:
    """Key points (133, 3) float32 of the person, and what finds them in the next picture."""

    points: np.ndarray
    trail: Any


class MediapipeBodies:
    """BlazePose ("full") for body and feet, and from its points MediaPipe's hand network and face mesh, each on its own region.

    Body scores are BlazePose's "visibility". Hands and face have one answer each, seen or not: their points score 1 or 0.
    """

    def __init__(self, hands: bool = True, face: bool = True) -> None:
        from preprocessing.operators.mediapipe_bodies import BodyNetworks, HandNetwork
        from preprocessing.operators.mediapipe_graphs import FaceMesh

        self._bodies = BodyNetworks()
        self._hand = HandNetwork() if hands else None
        self._mesh = FaceMesh(passes=2) if face else None

    def __call__(self, picture: np.ndarray, last: Person | None) -> Person | None:
        """The person in a picture (H, W, 3) uint8 RGB, the `last` one where still there; None where nobody is seen."""
        found = self._bodies.follow(picture, last.trail if last is not None else None)
        if found is None:
            return None
        points33, trail, _ = found
        return Person(self._whole(picture, points33), trail)

    def _whole(self, picture: np.ndarray, points: np.ndarray) -> np.ndarray:
        sides = (points[list(side), :2] for side in (LEFT_HAND_33, RIGHT_HAND_33))
        hands = [None if self._hand is None else self._hand(picture, side) for side in sides]
        face = None
        if self._mesh is not None:
            head = points[HEAD_33, :2]
            half = HEAD_TO_FACE * float((head.max(0) - head.min(0)).max()) / 2
            middle = (head.max(0) + head.min(0)) / 2
            mesh = self._mesh(picture, np.concatenate([middle - half, middle + half]))
            face = None if mesh is None else mesh[list(IBUG_68), :2]
        parts = [None if part is None else np.column_stack([part, np.ones(len(part), np.float32)]) for part in (face, *hands)]
        return whole_body(blazepose_to_coco(points), blazepose_to_feet(points), *parts)


class DwPose:
    """RTMPose-l distilled on the whole body (DWPose, Yang et al. 2023, arXiv 2307.15880) on people found by YOLOX-l, both ONNX.

    Scores are the lower of the two heights of a point's SimCC curves, as the network gives them: heights, not shares of one. DWPose
    draws from 0.3 on. Where nobody is found the demo takes the whole picture for a person; here nobody is.

    Args:
        detector, network: files of the two networks.

    Raises:
        LikenessError: they are other networks.
    """

    def __init__(self, detector: str | os.PathLike, network: str | os.PathLike) -> None:
        from preprocessing.onnx_session import OnnxNetwork

        self._detector, self._network = OnnxNetwork(detector), OnnxNetwork(network)
        for name, found in (("yolox_l", self._detector), ("dwpose", self._network)):
            shapes = list(found.inputs.values())
            if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3 or not all(isinstance(n, int) for n in shapes[0][2:]):
                raise LikenessError(f"asset {name} takes {shapes}", allowed="one input of (n, 3, height, width)")
        if len(self._network.outputs) != 2:
            raise LikenessError(f"asset dwpose gives {len(self._network.outputs)} outputs", allowed="two: SimCC curves of x and y")
        self._height, self._width = (int(side) for side in next(iter(self._network.inputs.values()))[2:])  # type: ignore[arg-type]

    def __call__(self, picture: np.ndarray, last: Person | None) -> Person | None:
        """See `MediapipeBodies`."""
        people = self.detect(picture)
        if not len(people):
            return None
        box = max(people, key=_weight)
        if last is not None:
            nearest = max(people, key=lambda b: iou(last.trail, b))
            box = nearest if iou(last.trail, nearest) >= FOLLOW_IOU else box
        return Person(self.points(picture, box), box)

    def detect(self, picture: np.ndarray) -> np.ndarray:
        """(people, 5) float32 x0, y0, x1, y1 in px and score, best first.

        The picture goes in as YOLOX was trained: BGR, 0 to 255, shrunk into the upper left of a grey square.
        """
        height, width = picture.shape[:2]
        scale = min(DETECTOR_PX / height, DETECTOR_PX / width)
        small = cv2.resize(picture, (int(width * scale), int(height * scale)), interpolation=cv2.INTER_LINEAR)
        square = np.full((DETECTOR_PX, DETECTOR_PX, 3), GREY, np.uint8)
        square[: small.shape[0], : small.shape[1]] = small[..., ::-1]
        (out,) = self._detector(np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32))
        boxes, scores = decode_yolox(out[0])
        keep = scores > DETECTOR_SCORE
        boxes, scores = boxes[keep] / scale, scores[keep]
        return np.column_stack([boxes, scores])[nms(boxes, scores, NMS_IOU)].astype(np.float32)

    def points(self, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(133, 3) float32 x, y in px and score of the person in a box.

        The picture goes in as RTMPose was trained: RGB (the demo hands over whatever order it got), ImageNet's mean and spread.
        """
        middle, size = pose_region(box, self._width / self._height)
        scale = self._width / size[0]
        shift = np.array([self._width, self._height]) / 2 - scale * middle
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        cut = cv2.warpAffine(picture, matrix, (self._width, self._height), flags=cv2.INTER_LINEAR)
        blob = (cut.astype(np.float32) - POSE_MEAN) / POSE_STD
        x, y = self._network(np.ascontiguousarray(blob.transpose(2, 0, 1)[None]))
        points = decode_simcc(x, y, self._width, self._height)
        if points.shape != (WHOLE_BODY, 3):
            raise LikenessError(f"asset dwpose gives {len(points)} points", allowed=f"{WHOLE_BODY}")
        # Its pixel centres lie at whole numbers, ours at .5.
        points[:, :2] = np.where(points[:, 2:] > 0, (points[:, :2] - shift) / scale + 0.5, 0)
        return points.astype(np.float32)


def open_estimator(backend: Backend, paths: Mapping[str, os.PathLike], hands: bool, face: bool) -> MediapipeBodies | DwPose:
    """A backend, its assets given by name."""
    return MediapipeBodies(hands, face) if backend == "mediapipe" else DwPose(paths["yolox_l"], paths["dwpose"])


def decode_yolox(out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """YOLOX's raw output at 640 px -> boxes (8400, 4) x0, y0, x1, y1 in px of the square, and scores (8400,) of the class person.

    Args:
        out: (8400, 85): centre, log size, "an object", 80 classes of which person is the first; cells of stride 8, 16, 32, rows
            first.
    """
    cells, strides = [], []
    for stride in (8, 16, 32):
        side = DETECTOR_PX // stride
        y, x = np.mgrid[:side, :side]
        cells.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((side * side, 1), stride))
    cell, stride = np.concatenate(cells), np.concatenate(strides)
    if out.ndim != 2 or len(out) != len(cell) or out.shape[1] < 6:
        raise LikenessError(f"asset yolox_l gives {out.shape}", allowed=f"({len(cell)}, 85)")
    middle, size = (out[:, :2] + cell) * stride, np.exp(out[:, 2:4]) * stride
    return np.concatenate([middle - size / 2, middle + size / 2], 1), out[:, 4] * out[:, 5]


def nms(boxes: np.ndarray, scores: np.ndarray, max_iou: float) -> list[int]:
    """Places of the boxes that stay, best first; sides count whole pixels (+ 1), as in YOLOX's demo."""
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low, high = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.clip(high - low + 1, 0, None).prod(1)
        order = rest[shared / (area[best] + area[rest] - shared) <= max_iou]
    return kept


def pose_region(box: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Middle and size (2,), (2,) of what the pose network sees: the box with a margin, widened to width / height = `aspect`."""
    x0, y0, x1, y1 = (float(v) for v in box[:4])
    width, height = POSE_MARGIN * (x1 - x0), POSE_MARGIN * (y1 - y0)
    width, height = (width, width / aspect) if width > height * aspect else (height * aspect, height)
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([width, height])


def decode_simcc(x: np.ndarray, y: np.ndarray, width: int, height: int) -> np.ndarray:
    """SimCC curves (1, points, bins) of both axes -> (points, 3) float64 x, y in px of the network's input, score.

    A place is the highest bin, two bins to a pixel in the published network; the score the lower of the two heights. What scores 0
    or less is zeros.
    """
    split = np.array([x.shape[-1] / width, y.shape[-1] / height])
    places = np.stack([x[0].argmax(-1), y[0].argmax(-1)], -1) / split
    scores = np.minimum(x[0].max(-1), y[0].max(-1))
    return np.column_stack([places, scores]).astype(np.float64) * (scores > 0)[:, None]


def _weight(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]) * box[4])


