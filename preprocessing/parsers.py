"""Face parsers behind one interface: a picture and the face mesh in it, a label for every pixel out (see `fields.FACE_LABELS`).

| backend | by | asset | tells apart |
|---|---|---|---|
| coarse | the mesh's outlines over MediaPipe's selfie segmentation | none | background, skin, brows, eyes, nose, lips, mouth |
| bisenet | BiSeNet (see `models.perception.bisenet`) | bisenet | all 19 classes |
"""

from __future__ import annotations

import os
from typing import Any, Literal, Protocol

import cv2
import numpy as np

from infra.errors import LikenessError
from preprocessing.fields import UNKNOWN_LABEL

ParserBackend = Literal["coarse", "bisenet"]
ASSETS: dict[ParserBackend, tuple[str, ...]] = {"coarse": (), "bisenet": ("bisenet",)}
NETWORK_PX = 512  # what BiSeNet was trained on
PERSON = 0.5  # least share of a pixel that belongs to somebody
SUBPIXEL_BITS = 4  # outlines are drawn to a 16th of a pixel

# Mesh vertices around the parts. Left and right are the picture's.
# fmt: off
FACE_OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136,
             172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
NOSE = (168, 193, 188, 174, 217, 209, 49, 129, 64, 98, 97, 2, 326, 327, 294, 358, 279, 429, 437, 399, 412, 417)
LEFT_BROW = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
RIGHT_BROW = (336, 296, 334, 293, 300, 276, 283, 282, 295, 285)
LEFT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
RIGHT_EYE = (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382)
UPPER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191, 78)
LOWER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95, 78)
INNER_MOUTH = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
# fmt: on
# Drawn over the skin in this order, later ones over earlier ones.
OUTLINES: tuple[tuple[int, tuple[int, ...]], ...] = (
    (10, NOSE), (2, LEFT_BROW), (3, RIGHT_BROW), (4, LEFT_EYE), (5, RIGHT_EYE), (11, INNER_MOUTH), (12, UPPER_LIP),
    (13, LOWER_LIP),
)  # fmt: skip


class Parser(Protocol):
    """Keeps nothing from one picture to the next."""

    def __call__(self, picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        """(H, W) uint8 labels of an (H, W, 3) uint8 RGB picture, for the face with this (478, 2) mesh, px of the picture."""


def open_parser(backend: ParserBackend, path: str | os.PathLike | None = None) -> Parser:
    """A parser, ready.

    Args:
        path: the network's file, for all but coarse.
    """
    if backend == "coarse":
        return Coarse()
    if path is None:
        raise LikenessError(f"parser {backend} without its file", fix=f"give the path of asset {ASSETS[backend][0]}")
    return Network(path)


class Coarse:
    """Outlines of the mesh over the selfie segmentation.

    What covers the face (hands, masks, hair over the brow) is labelled as the face behind it, and nothing tells hair, ears, neck
    and clothes apart.
    """

    def __init__(self) -> None:
        from preprocessing.operators.mediapipe_bodies import Silhouette
        from preprocessing.operators.mediapipe_parts import mesh_triangles

        self._person = Silhouette()
        self._triangles = mesh_triangles()

    def __call__(self, picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        labels = np.where(self._person(picture) >= PERSON, np.uint8(UNKNOWN_LABEL), np.uint8(0))
        skin = np.zeros_like(labels)
        fill(skin, mesh[list(FACE_OVAL), :2], 1)
        # A turned head shows nose and lips outside the oval: the mesh's triangles that reach out of it close what is between.
        at = np.floor(mesh[:, :2]).astype(int)
        inside = ((at >= 0) & (at < skin.shape[::-1])).all(1)
        inside[inside] = skin[at[inside, 1], at[inside, 0]] > 0
        for corners in mesh[self._triangles[~inside[self._triangles].all(1)], :2]:
            fill(skin, corners, 1)
        labels[skin > 0] = 1
        for label, vertices in OUTLINES:
            fill(labels, mesh[list(vertices), :2], label)
        return labels


class Network:
    """BiSeNet on the picture stretched to 512 px squared, its labels stretched back. It needs no mesh."""

    def __init__(self, path: str | os.PathLike) -> None:
        from models.perception.bisenet import load_bisenet
        from preprocessing.pretrained import device

        self._network: Any = load_bisenet(os.fspath(path)).to(device())

    def __call__(self, picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        import torch

        height, width = picture.shape[:2]
        square = stretched(picture, NETWORK_PX)
        labels = self._network.labels(torch.from_numpy(np.ascontiguousarray(square))[None])[0].cpu().numpy()
        return np.asarray(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def stretched(picture: np.ndarray, side_px: int) -> np.ndarray:
    """The picture as a square, its aspect ratio given up; areas are averaged where it shrinks."""
    if picture.shape[:2] == (side_px, side_px):
        return picture
    way = cv2.INTER_AREA if min(picture.shape[:2]) > side_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (side_px, side_px), interpolation=way))


def fill(labels: np.ndarray, outline: np.ndarray, label: int) -> None:
    """Give a label to the pixels inside an outline and under it: (n, 2) px counted from the corner, which may leave the picture."""
    # OpenCV counts pixel centres at whole numbers, and overflows far outside the picture.
    points = np.clip(np.asarray(outline, np.float64) - 0.5, -1e5, 1e5)
    fixed = np.rint(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(labels, [fixed], (label,), lineType=cv2.LINE_8, shift=SUBPIXEL_BITS)
