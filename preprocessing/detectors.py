"""Face detectors behind one interface: a picture in, boxes with scores out, best first, in px of that picture.

| backend | network | asset | five points | its own least score |
|---|---|---|---|---|
| mediapipe | BlazeFace, full and short range | none, in mediapipe's wheel | no | 0.5, fixed |
| yunet | YuNet (Wu, Peng & Yu, MIR 2023), through OpenCV | yunet | yes | any |
| scrfd | SCRFD 10G with key points (Guo et al., ICLR 2022), decoded here | scrfd | yes | any |
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np

from infra.errors import LikenessError

Backend = Literal["mediapipe", "yunet", "scrfd"]
# What each is published with: mediapipe's networks filter themselves; libfacedetection; insightface.
MIN_SCORES: dict[Backend, float] = {"mediapipe": 0.5, "yunet": 0.6, "scrfd": 0.5}
LONGEST_SIDE_PX = 640  # insightface's, and about libfacedetection's
ASSETS: dict[Backend, tuple[str, ...]] = {"mediapipe": (), "yunet": ("yunet",), "scrfd": ("scrfd",)}


class Faces(NamedTuple):
    """Faces of one picture, best score first.

    Attributes:
        boxes: (n, 5) float32: x0, y0, x1, y1 in px, and the score.
        points: (n, 5, 2) float32 px: left eye, right eye, nose tip, left and right mouth corner as seen in the picture; None
            from a detector that gives none.
    """

    boxes: np.ndarray
    points: np.ndarray | None


class Detector(Protocol):
    """Keeps nothing from one picture to the next."""

    def __call__(self, picture: np.ndarray) -> Faces:
        """Faces of an (H, W, 3) uint8 RGB picture."""


def open_detector(
    backend: Backend, path: str | os.PathLike | None = None, min_score: float | None = None, longest_side_px: int = LONGEST_SIDE_PX
) -> Detector:
    """A detector, ready.

    Args:
        path: the network's file, for all but mediapipe.
        min_score: weaker detections are dropped; None for the backend's own of `MIN_SCORES`.
        longest_side_px: what the picture is brought to, for all but mediapipe, which has sizes of its own. More finds smaller
            faces, takes longer, and loses those that fill a large picture.
    """
    score = MIN_SCORES[backend] if min_score is None else min_score
    if backend == "mediapipe":
        return MediaPipe(score)
    if path is None:
        raise LikenessError(f"detector {backend} without its file", fix=f"give the path of asset {ASSETS[backend][0]}")
    return (YuNet if backend == "yunet" else Scrfd)(path, score, longest_side_px)


class MediaPipe:
    """See `mediapipe_graphs.FaceDetector`."""

    def __init__(self, min_score: float) -> None:
        from preprocessing.operators.mediapipe_graphs import FaceDetector

        self._find = FaceDetector(min_score)

    def __call__(self, picture: np.ndarray) -> Faces:
        return Faces(self._find(picture), None)


class YuNet:
    """YuNet on the picture, shrunk with antialiasing where its longer side exceeds `longest_side_px`.

    It has learnt faces from 10 to about 300 px: in a 4000 px photo it does not see the one that fills it.
    """

    NMS_IOU, TOP = 0.3, 5000  # OpenCV's defaults
    STEP_PX, LEAST_PX = 32, 64  # one cell along a side makes OpenCV 4.11 read memory that nobody wrote

    def __init__(self, path: str | os.PathLike, min_score: float, longest_side_px: int) -> None:
        self._path, self._min_score, self._longest_side_px = str(path), min_score, longest_side_px
        self._size = (0, 0)

    def __call__(self, picture: np.ndarray) -> Faces:
        height, width = picture.shape[:2]
        shrink = min(1.0, self._longest_side_px / max(height, width))
        new_width, new_height = max(1, round(width * shrink)), max(1, round(height * shrink))
        small = picture if shrink == 1 else cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_AREA)
        columns, rows = (max(self.LEAST_PX, -(-side // self.STEP_PX) * self.STEP_PX) for side in (new_width, new_height))
        self._prepare(columns, rows)
        edges = (0, rows - new_height, 0, columns - new_width)
        found = self._network.detect(cv2.copyMakeBorder(small[..., ::-1], *edges, cv2.BORDER_CONSTANT, value=(0, 0, 0)))[1]
        faces = np.zeros((0, 15), np.float32) if found is None else found
        back = np.array([width / new_width, height / new_height], np.float32)
        corners = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], 1) * np.tile(back, 2)
        order = np.argsort(-faces[:, 14], kind="stable")
        boxes = np.column_stack([corners, faces[:, 14]]).astype(np.float32)
        return Faces(boxes[order], (faces[:, 4:14].reshape(-1, 5, 2) * back).astype(np.float32)[order])

    def _prepare(self, width: int, height: int) -> None:
        """A network that has only seen this size: after another one its last digits are not the same. It takes 3 ms."""
        if self._size != (width, height):
            self._size = (width, height)
            self._network = cv2.FaceDetectorYN.create(self._path, "", self._size, self._min_score, self.NMS_IOU, self.TOP)


class Scrfd:
    """SCRFD as insightface runs it: the picture, shrunk or grown, in the top left corner of a square, NMS at 0.4.

    insightface's square has 640 px; others must be multiples of 32.
    """

    NMS_IOU = 0.4

    def __init__(self, path: str | os.PathLike, min_score: float, longest_side_px: int) -> None:
        from preprocessing.onnx_session import OnnxNetwork

        self._network, self._min_score, self._size_px = OnnxNetwork(path), min_score, longest_side_px
        if len(self._network.outputs) != 9:
            what = f"{os.path.basename(path)} has {len(self._network.outputs)} outputs"
            raise LikenessError(what, allowed="9: scores, boxes and key points at strides 8, 16 and 32", fix="see asset scrfd")

    def __call__(self, picture: np.ndarray) -> Faces:
        square, scale = letterbox(picture, self._size_px)
        blob = (square.astype(np.float32) - 127.5) / 128
        outputs = self._network(np.ascontiguousarray(blob.transpose(2, 0, 1)[None]))
        boxes, points = decode_scrfd(outputs, self._size_px, self._min_score)
        boxes[:, :4] /= scale
        kept = non_maximum(boxes, self.NMS_IOU)
        return Faces(boxes[kept], points[kept] / np.float32(scale))


def letterbox(picture: np.ndarray, size_px: int) -> tuple[np.ndarray, float]:
    """The picture, its longer side brought to `size_px`, in the top left corner of a black square; and the scale."""
    height, width = picture.shape[:2]
    if height > width:
        new_height, new_width = size_px, max(1, int(size_px / (height / width)))
    else:
        new_height, new_width = max(1, int(size_px * (height / width))), size_px
    square = np.zeros((size_px, size_px, 3), np.uint8)
    square[:new_height, :new_width] = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return square, new_height / height


def decode_scrfd(outputs: list[np.ndarray], size_px: int, min_score: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 5) with scores, best first, and key points (n, 5, 2), float32, in px of the square given to the network.

    Args:
        outputs: at strides 8, 16 and 32 the scores (a, 1), then so the distances from the anchor to the box's left, top, right
            and lower side (a, 4), then the shifts from the anchor to the key points (a, 10), in strides; a leading axis of 1 is
            dropped. Anchors lie at whole strides, two on each, row by row.
        size_px: side of the square.
    """
    boxes, points = [np.zeros((0, 5), np.float32)], [np.zeros((0, 5, 2), np.float32)]
    for level, stride in enumerate((8, 16, 32)):
        scores, distances, shifts = (outputs[level + 3 * kind].reshape(-1, width) for kind, width in enumerate((1, 4, 10)))
        cells = size_px // stride
        if not len(scores) == len(distances) == len(shifts) == 2 * cells**2:
            what = f"SCRFD gives {len(scores)} scores at stride {stride} for {size_px} px"
            raise LikenessError(what, allowed=f"{2 * cells**2}", fix="see asset scrfd")
        good = np.flatnonzero(scores[:, 0] >= min_score)
        anchor = (np.stack([good // 2 % cells, good // 2 // cells], 1) * stride).astype(np.float32)
        away = distances[good] * stride
        boxes.append(np.column_stack([anchor - away[:, :2], anchor + away[:, 2:], scores[good]]).astype(np.float32))
        points.append((anchor[:, None] + shifts[good].reshape(-1, 5, 2) * stride).astype(np.float32))
    order = np.argsort(-np.concatenate(boxes)[:, 4], kind="stable")
    return np.concatenate(boxes)[order], np.concatenate(points)[order]


def non_maximum(boxes: np.ndarray, most_iou: float) -> np.ndarray:
    """Places of the boxes that no better one covers; (n, 5), best first.

    Sides count both their pixels (x1 - x0 + 1), in px of the picture, as in insightface: it matters for boxes of a few pixels.
    """
    low, high = boxes[:, :2], boxes[:, 2:4]
    areas = (high - low + 1).prod(1)
    kept: list[int] = []
    for place in range(len(boxes)):
        shared = np.maximum(0, np.minimum(high[place], high[kept]) - np.maximum(low[place], low[kept]) + 1).prod(1)
        if not (shared / (areas[place] + areas[kept] - shared) > most_iou).any():
            kept.append(place)
    return np.array(kept, int)

