"""Whole frames at a training size: the largest centred cut of the wanted shape, resized. Points, masks and drawings likewise.

`SIZE` in a field's name is a square of that side, `HEIGHTxWIDTH` any other shape: `frames_256`, `frames_320x512`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.fields.video import VIEW


@dataclass(frozen=True)
class View:
    """How a picture of one size becomes one of another.

    Attributes:
        x0, y0, x1, y1: the cut in px of the source, whole numbers; as tall or as wide as the picture, centred.
        height, width: of the view.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    height: int
    width: int

    @classmethod
    def of(cls, picture: np.ndarray | tuple[int, int], height: int, width: int) -> View:
        """The view of (height, width) of a picture: equal to resizing until it covers the view, then a centred cut.

        Args:
            picture: (H, W) or (H, W, 3), or its (H, W) alone.
        """
        source_height, source_width = picture if isinstance(picture, tuple) else picture.shape[:2]
        if source_width * height > source_height * width:
            cut_height, cut_width = source_height, max(1, round(source_height * width / height))
        else:
            cut_height, cut_width = max(1, round(source_width * height / width)), source_width
        x0, y0 = (source_width - cut_width) // 2, (source_height - cut_height) // 2
        return cls(x0, y0, x0 + cut_width, y0 + cut_height, height, width)

    @property
    def scale(self) -> np.ndarray:
        """(2,): px of the view to a px of the source, x and y; the two differ by the rounding of the cut."""
        return np.array([self.width / (self.x1 - self.x0), self.height / (self.y1 - self.y0)])

    def picture(self, picture: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, 3) of the source -> the view; shrunk by averaging areas, enlarged by Lanczos's filter (grey: linear)."""
        part = picture[self.y0 : self.y1, self.x0 : self.x1]
        if part.shape[:2] == (self.height, self.width):
            return np.ascontiguousarray(part)
        shrinks = (self.scale < 1).any()
        enlarge = cv2.INTER_LANCZOS4 if picture.ndim == 3 else cv2.INTER_LINEAR
        return cv2.resize(part, (self.width, self.height), interpolation=cv2.INTER_AREA if shrinks else enlarge)

    def points(self, points: np.ndarray) -> np.ndarray:
        """(..., 2 or more) x, y of the source -> of the view, what comes behind as it was; counted from the corners."""
        out = np.array(points, np.float64)
        out[..., :2] = (out[..., :2] - (self.x0, self.y0)) * self.scale
        return out


def match(prefix: str, field: str) -> str | None:
    """The size in a field's name `PREFIX_SIZE`, as it stands there, None where the field is none of these."""
    found = re.fullmatch(rf"{prefix}_({VIEW})", field)
    return found[1] if found else None
