"""Squares around a face, cut at random from a picture: what small models learn faces from."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from infra.errors import LikenessError


@dataclass(frozen=True)
class Square:
    """A square of a picture; may pass its edges.

    Attributes:
        left, top, side: px of the picture.
        size_px: side of what is cut.
    """

    left: float
    top: float
    side: float
    size_px: int

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (size, size, 3): area means or cubic; the edge goes on beyond the picture."""
        left, top = int(np.floor(self.left)), int(np.floor(self.top))
        side = max(1, round(self.side))
        rows = np.clip(np.arange(top, top + side), 0, picture.shape[0] - 1)
        columns = np.clip(np.arange(left, left + side), 0, picture.shape[1] - 1)
        shrinks = side > self.size_px
        square = np.ascontiguousarray(picture[rows[:, None], columns])
        return cv2.resize(square, (self.size_px, self.size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)

    def points(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) x, y in the picture -> in what is cut."""
        corner = np.floor([self.left, self.top])
        return (np.asarray(points, np.float64) - corner) * (self.size_px / max(1, round(self.side)))


def random_square(box: np.ndarray, size_px: int, rng: np.random.Generator, zoom: tuple[float, float] = (1.3, 2.2)) -> Square:
    """A square that holds a face's box, at a random place and scale.

    Args:
        box: (4,) x0, y0, x1, y1 in px.
        zoom: its side over the longer side of the box, drawn evenly between the two.

    Raises:
        LikenessError: a box without area.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    longer = max(x1 - x0, y1 - y0)
    if longer <= 0:
        raise LikenessError(f"a face box of {x1 - x0:g} x {y1 - y0:g} px", allowed="x1 > x0 and y1 > y0")
    side = longer * rng.uniform(*zoom)
    left = x1 - side + rng.random() * (x0 - x1 + side)
    top = y1 - side + rng.random() * (y0 - y1 + side)
    return Square(left, top, side, size_px)
