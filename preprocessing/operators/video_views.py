"""Whole frames at a training size, where people are in them, and the two halves of that split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from preprocessing.fields import VIDEO, Field, background, foreground, frames, person_mask, view_shape
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import FamilyOperator, OperatorParams, Sample
from preprocessing.views import View, match

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's pictures, RGB in [0, 1]: 0 once CLIP has normalised
FOREGROUND_HOLE = np.array([round(255 * part) for part in CLIP_MEAN], np.float32)
BACKGROUND_HOLE = np.full(3, 127.5, np.float32)  # 0 in [-1, 1]


class ViewParams(OperatorParams):
    """`size`: SIZE or HEIGHTxWIDTH in px, fixed by the field's name."""

    size: str


class WholeFrames(FamilyOperator):
    """frames_SIZE: every frame, its largest centred cut of that shape, resized (averaging areas; enlarged by Lanczos's filter).

    That is "resize the shorter side, cut the centre" (AnimateDiff and its kin), and what RandomResizedCrop falls back to at ratio 1
    on tall dance videos (DisCo). Damaged frames are there as they were decoded.
    """

    name = "whole_frames"
    version = 1
    Params = ViewParams

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        size = match("frames", field)
        return {"size": size} if size else None

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (frames(self.params.size),)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        shape = view_shape(self.params.size)
        views = (View.of(frame, *shape).picture(frame) for frame in sample[VIDEO])
        return {self.writes[0]: FrameSequence.of(views, *shape)}


class PersonMask(FamilyOperator):
    """person_mask_SIZE by networks of MediaPipe's wheel, frame by frame, on the whole picture; the view is cut from the mask.

    `model`: "general" (256 x 256 px) or "landscape" (144 x 256 px) are selfie segmentation: everybody who stands in front, learnt
    on people near the camera. "body" is the mask that comes with BlazePose: one person, also small and far away, followed as in
    `body_pose`; black where nobody is found.
    """

    name = "person_mask"
    version = 1

    class Params(ViewParams):
        """As `ViewParams`, and `model`."""

        model: Literal["general", "landscape", "body"] = "general"

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        size = match("person_mask", field)
        return {"size": size} if size else None

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (person_mask(self.params.size),)

    def setup(self) -> None:
        from preprocessing.operators.mediapipe_bodies import BodyNetworks, Silhouette

        body = self.params.model == "body"
        self._network: Any = BodyNetworks(with_mask=True) if body else Silhouette(self.params.model == "landscape")

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        shape = view_shape(self.params.size)
        masks = self._followed(sample) if self.params.model == "body" else (self._network(frame) for frame in sample[VIDEO])
        views = (self._view(mask, shape) for mask in masks)
        return {self.writes[0]: FrameSequence.of(views, *shape, kind="grey png")}

    def _followed(self, sample: Sample) -> Iterator[np.ndarray]:
        region = None
        for frame in sample[VIDEO]:
            found = self._network.follow(frame, region)
            region = found[1] if found is not None else None
            yield np.asarray(found[2]) if found is not None else np.zeros(frame.shape[:2], np.float32)

    @staticmethod
    def _view(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        view = View.of(mask, *shape).picture(mask)
        return np.rint(np.clip(view, 0, 1) * 255).astype(np.uint8)


class PersonSplit(FamilyOperator):
    """foreground_SIZE and background_SIZE by `person_mask_SIZE` (DisCo): normalise first, mask after, put in pixels.

    Where the mask is 0 the foreground has CLIP's mean colour, to the nearest grey level, and where it is 1 the background has
    middle grey: so both are 0 once the networks behind them have normalised. Exact to rounding and JPEG; a stage that wants more
    takes frames and mask and multiplies itself.
    """

    name = "person_split"
    version = 1
    Params = ViewParams

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        size = match("foreground", field) or match("background", field)
        return {"size": size} if size else None

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, person_mask(self.params.size))

    @property
    def writes(self) -> tuple[Field, ...]:
        return foreground(self.params.size), background(self.params.size)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        shape = view_shape(self.params.size)
        masks = sample[self.reads[1]]
        people, scenes = [], []
        for place, frame in enumerate(sample[VIDEO]):
            one, other = split(View.of(frame, *shape).picture(frame), masks[place])
            people.append(one)
            scenes.append(other)
        return {field: FrameSequence.of(views, *shape) for field, views in zip(self.writes, (people, scenes), strict=True)}


def split(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB and (H, W) uint8 from 0 to 255 -> foreground and background, (H, W, 3) uint8; see `PersonSplit`."""
    share, pixels = mask[..., None].astype(np.float32) / 255, picture.astype(np.float32)
    one, other = FOREGROUND_HOLE + (pixels - FOREGROUND_HOLE) * share, BACKGROUND_HOLE + (pixels - BACKGROUND_HOLE) * (1 - share)
    return np.rint(one).astype(np.uint8), np.rint(other).astype(np.uint8)
