"""Whether something hides the face: a mask, a hand, the picture's edge."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import cv2
import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing import templates
from preprocessing.fields import FACE_CLASSES, FACE_COVER, FACE_VALID, LANDMARKS_5, LANDMARKS_478, VIDEO, Field
from preprocessing.operator import Operator, OperatorParams, Resources, Sample
from preprocessing.operators.identity import spread
from preprocessing.parsers import (
    FACE_OVAL,
    LEFT_BROW,
    LEFT_EYE,
    LOWER_LIP,
    NOSE,
    RIGHT_BROW,
    RIGHT_EYE,
    UPPER_LIP,
    fill,
    open_parser,
)

Backend = Literal["openseeface", "bisenet"]
DIGITS = 4
ALIGNED_PX = 512
PARTS = ("eyes", "nose", "mouth")
REGIONS = {"eyes": (*LEFT_BROW, *RIGHT_BROW, *LEFT_EYE, *RIGHT_EYE), "nose": NOSE, "mouth": (*UPPER_LIP, *LOWER_LIP)}
# Of OpenSeeFace's 66 points.
POINTS = {"eyes": slice(17, 48), "nose": slice(27, 36), "mouth": slice(48, 66)}
INPUT_PX, MAP_SIDE = 224, 28
MARGINS = np.array([0.1, 0.125])  # of the face's width and height, on either side
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


class FaceCover(Operator):
    """FACE_COVER over up to `samples` valid frames, spread evenly.

    - eyes (with the brows), nose, mouth: how well each is seen, medians; least: the lowest of the three in any frame.
      Backend `openseeface`: mean confidence of its landmarks there, about 0.75 to 1 where nothing is in front (a landmark network
      is unsure of what it does not see). Backend `bisenet`: share of the part's region that the parser takes for face; glasses are
      face.
    - outside: share of the mesh's oval that lies outside the picture, median.
    - frames: how many were looked at. Of none, all numbers are 0.

    Numbers of the two backends do not compare.
    """

    name = "face_cover"
    version = 1

    class Params(OperatorParams):
        """`gpus`: the fraction of a GPU that a worker of `bisenet` takes, where there are GPUs."""

        backend: Backend = "openseeface"
        gpus: float = Setting(0.25, ge=0, exclude=True)
        samples: int = Setting(8, ge=1)

    def __init__(self, params: OperatorParams | None = None) -> None:
        super().__init__(params)
        if self.params.backend == "bisenet":
            self.resources = Resources(gpus=self.params.gpus)

    @property
    def assets(self) -> tuple[str, ...]:
        return (self.params.backend,)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, LANDMARKS_478, LANDMARKS_5, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (FACE_COVER,)

    def setup(self) -> None:
        """Load the backend.

        Raises:
            LikenessError: its asset is not here (what to place where), or is another network.
        """
        path = self.asset(self.params.backend)
        self._look: Look = Confidence(path) if self.params.backend == "openseeface" else Parsed(path)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        chosen = set(spread(np.flatnonzero(sample[FACE_VALID]), self.params.samples).tolist())
        seen: list[list[float]] = []
        outside: list[float] = []
        for place, frame in enumerate(sample[VIDEO] if chosen else ()):
            if place not in chosen:
                continue
            mesh = sample[LANDMARKS_478][place, :, :2].astype(np.float64)
            m = templates.matrix("ffhq5", ALIGNED_PX, points5=sample[LANDMARKS_5][place])
            seen.append(self._look(frame, m, templates.transform(m, mesh)))
            outside.append(share_outside(mesh[list(FACE_OVAL)], frame.shape[:2]))
        table = np.array(seen) if seen else np.zeros((1, len(PARTS)))
        numbers = dict(zip(PARTS, np.median(table, 0), strict=True))
        numbers |= {"least": table.min(), "outside": np.median(outside or 0)}
        return {FACE_COVER: {"frames": len(seen)} | {name: round(float(number), DIGITS) for name, number in numbers.items()}}


class Look(Protocol):
    """How well eyes, nose and mouth are seen in a frame."""

    def __call__(self, frame: np.ndarray, m: np.ndarray, mesh: np.ndarray) -> list[float]:
        """Of an (H, W, 3) frame, its matrix to the aligned crop, and the (478, 2) mesh in that crop."""


class Confidence:
    """OpenSeeFace's lm_model0: 66 maps of 28 x 28, each with a peak where its point is, as high as the network is sure."""

    def __init__(self, path: Any) -> None:
        from preprocessing.onnx_session import OnnxNetwork

        self._network = OnnxNetwork(path)
        shapes = list(self._network.inputs.values())
        if len(shapes) != 1 or shapes[0][1:] != (3, INPUT_PX, INPUT_PX):
            raise LikenessError(f"asset openseeface takes {shapes}", allowed=f"one input of (n, 3, {INPUT_PX}, {INPUT_PX})")

    def __call__(self, frame: np.ndarray, m: np.ndarray, mesh: np.ndarray) -> list[float]:
        low, high = mesh[:468].min(0), mesh[:468].max(0)
        margin = MARGINS * (high - low)
        scale = INPUT_PX / (high - low + 2 * margin)
        whole = np.diag(scale) @ m + np.column_stack([np.zeros((2, 2)), -(low - margin) * scale])
        face = templates.warp(frame, whole, INPUT_PX)
        blob = ((face.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
        maps = self._network(np.ascontiguousarray(blob))[0]
        if maps.shape != (1, 3 * 66, MAP_SIDE, MAP_SIDE):
            raise LikenessError(f"asset openseeface gives {maps.shape}", allowed=f"(1, 198, {MAP_SIDE}, {MAP_SIDE})")
        peaks = maps[0, :66].reshape(66, -1).max(1)
        return [float(peaks[POINTS[part]].mean()) for part in PARTS]


class Parsed:
    """The share of each part's region that BiSeNet takes for face, in the crop aligned to ffhq5 at 512 px."""

    def __init__(self, path: Any) -> None:
        self._parse = open_parser("bisenet", path)

    def __call__(self, frame: np.ndarray, m: np.ndarray, mesh: np.ndarray) -> list[float]:
        face = np.isin(self._parse(templates.warp(frame, m, ALIGNED_PX), mesh), FACE_CLASSES)
        shares = []
        for part in PARTS:
            region = np.zeros(face.shape, np.uint8)
            fill(region, cv2.convexHull(mesh[list(REGIONS[part])].astype(np.float32))[:, 0], 1)
            shares.append(float(face[region > 0].mean()) if region.any() else 0.0)
        return shares


def share_outside(outline: np.ndarray, shape: tuple[int, int]) -> float:
    """Share of an outline's area, (n, 2) px, that lies outside a picture of this (height, width); at a resolution of 256 steps."""
    low, high = outline.min(0), outline.max(0)
    steps = 256 / max(float((high - low).max()), 1e-6)
    inside = np.zeros((258, 258), np.uint8)
    fill(inside, (outline - low) * steps + 1, 1)
    y, x = np.nonzero(inside)
    px = (np.stack([x, y], 1) - 0.5) / steps + low
    return float(((px < 0) | (px > shape[::-1])).any(1).mean()) if len(px) else 0.0
