"""Maps that tell a generator where things are: edges, lines, colours, grey; of the key frame, and of a clip's frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import cv2
import numpy as np
from PIL import Image
from pydantic import Field as Setting
from pydantic import model_validator

from preprocessing.fields import VIDEO, Field, MapKind, colour_map, condition_frames, condition_map, grey_image, image
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import FamilyOperator, Frames, OperatorParams, Sample
from preprocessing.operators.of_picture import OfPicture, SizeParams

LINES_AT_PX = 512  # the shorter side for which the widths of lines are given
DOG_RATIO = 1.6  # of the two Gaussians: Marr and Hildreth's approximation of the Laplacian of a Gaussian


class MapParams(OperatorParams):
    """Settings of maps.

    Attributes:
        size: of the key frame's map the shorter side, of frames the side of a square or HEIGHTxWIDTH, in px; fixed by the field's
            name.
        frames: of the clip's frames; fixed by the field's name.
        every: of how many frames one is looked at; the others are left out. Not for the key frame.
    """

    size: str = Setting(pattern=r"^[1-9]\d{1,3}(x[1-9]\d{1,3})?$")
    frames: bool = False
    every: int = Setting(1, ge=1)

    @model_validator(mode="after")
    def _frames_only(self) -> MapParams:
        if self.every != 1 and not self.frames:
            raise ValueError("`every` is for fields of frames, such as lines_frames_512")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of maps of frames."""
        sides = [int(side) for side in self.size.split("x")]
        return sides[0], sides[-1]


class MapOperator(FamilyOperator):
    """KIND_SIZE from `image_SIZE`, and KIND_frames_SIZE from the clip's frames cut to their middle square.

    The two have settings of their own: `canny.low` and `canny_frames.low`.
    """

    Params: ClassVar[type[OperatorParams]] = MapParams
    kind: ClassVar[MapKind]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.kind}_frames" if self.params.frames else self.kind

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"{cls.kind}(_frames)?_([1-9]\d{{1,3}}(x[1-9]\d{{1,3}})?)", field)
        return {"frames": bool(match[1]), "size": match[2]} if match and (match[1] or not match[3]) else None

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return (f"{cls.kind}_512", f"{cls.kind}_frames_512")

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO,) if self.params.frames else (image(int(self.params.size)),)

    @property
    def writes(self) -> tuple[Field, ...]:
        if self.params.frames:
            return (condition_frames(self.kind, self.params.size),)
        return (condition_map(self.kind, int(self.params.size)),)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        if not self.params.frames:
            return {self.writes[0]: self.map(sample[self.reads[0]])}
        looked_at = views(sample[VIDEO], self.params.shape, self.params.every)
        maps = (None if view is None else np.repeat(self.map(view)[..., None], 3, 2) for view in looked_at)
        return {self.writes[0]: FrameSequence.of(maps, *self.params.shape)}

    def map(self, picture: np.ndarray) -> np.ndarray:
        """(H, W) uint8 of (H, W, 3) uint8 RGB."""
        raise NotImplementedError


class Canny(MapOperator):
    """Canny's edges (1986) by OpenCV on the RGB picture, thresholds as published with ControlNet and SCEdit.

    Of each pixel the channel with the steepest slope counts; gradients by Sobel 3 x 3, |dx| + |dy|. Nothing is smoothed before.
    """

    version = 1
    kind = "canny"

    class Params(MapParams):
        """`low`, `high`: thresholds of the gradient in grey levels of 255."""

        low: float = Setting(100, ge=0)
        high: float = Setting(200, ge=0)

    def map(self, picture: np.ndarray) -> np.ndarray:
        return cv2.Canny(np.ascontiguousarray(picture), self.params.low, self.params.high)


class Lines(MapOperator):
    """A line drawing without a network: where the picture is darker than its surroundings, seen at the width of a line.

    With luma L in [0, 1] and G(s) its Gaussian blur of s px: tanh(gain x max(0, G(1.6 s) - G(s) - threshold)), white on black: the
    soft threshold of XDoG (Winnemoeller et al., 2012) on one side of the difference of Gaussians, without their shading of dark
    areas. An edge gives one line on its dark side. This is no HED or PiDiNet: those leave texture out that this one draws.
    """

    version = 1
    kind = "lines"

    class Params(MapParams):
        """Attributes:
        width_px: s, at a shorter side of 512 px; other sizes in proportion.
        gain: how soon a line is white.
        threshold: contrast in shares of full scale that is not drawn.
        """

        width_px: float = Setting(1.4, gt=0)
        gain: float = Setting(40, gt=0)
        threshold: float = Setting(0.008, ge=0)

    def map(self, picture: np.ndarray) -> np.ndarray:
        light = luma(picture).astype(np.float32) / 255
        sigma = self.params.width_px * min(light.shape) / LINES_AT_PX
        fine, coarse = (cv2.GaussianBlur(light, (0, 0), s) for s in (sigma, DOG_RATIO * sigma))
        drawn = np.tanh(self.params.gain * np.maximum(0, coarse - fine - self.params.threshold))
        return np.rint(drawn * 255).astype(np.uint8)


class Grey(OfPicture):
    """`grey_SIZE`: `image_SIZE` without colour, by Pillow's integer formula.

    The condition of PASD's colourisation, and the first step of StyleDiffusion's removal of style.
    """

    name = "grey"
    version = 1
    prefix = "grey"

    @staticmethod
    def made(size: int) -> Field:
        return grey_image(size)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return {self.writes[0]: luma(sample[self.reads[0]])}


class Colours(OfPicture):
    """`colours_SIZE`: SCEdit's colour condition: the picture shrunk to a `shrink`th (bicubic) and enlarged again (nearest)."""

    name = "colours"
    version = 1
    prefix = "colours"

    class Params(SizeParams):
        """`shrink`: a square's side in px."""

        shrink: int = Setting(64, ge=2)

    @staticmethod
    def made(size: int) -> Field:
        return colour_map(size)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        picture = sample[self.reads[0]]
        height, width = picture.shape[:2]
        small = (max(1, width // self.params.shrink), max(1, height // self.params.shrink))
        squared = cv2.resize(picture, small, interpolation=cv2.INTER_CUBIC)
        return {self.writes[0]: cv2.resize(squared, (width, height), interpolation=cv2.INTER_NEAREST)}


def luma(picture: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of (H, W, 3) uint8 RGB: (19595 R + 38470 G + 7471 B + 2^15) / 2^16, Pillow's mode "L"."""
    return np.asarray(Image.fromarray(picture).convert("L"))


def views(video: Frames, shape: tuple[int, int], every: int) -> Iterator[np.ndarray | None]:
    """Of one frame in `every` the largest centred cut of that shape, resized to it, (height, width, 3) uint8 RGB; else None."""
    height, width = shape
    for place, frame in enumerate(video):
        if place % every:
            yield None
            continue
        tall, wide = frame.shape[:2]
        if wide * height > tall * width:
            wide = max(1, round(tall * width / height))
        else:
            tall = max(1, round(wide * height / width))
        top, left = (frame.shape[0] - tall) // 2, (frame.shape[1] - wide) // 2
        cut = np.ascontiguousarray(frame[top : top + tall, left : left + wide])
        if (tall, wide) != shape:
            shrinks = tall > height or wide > width
            cut = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
        yield cut


