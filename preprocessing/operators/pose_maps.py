"""Key points drawn as the pictures that methods are conditioned on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from pydantic import Field as Setting

from preprocessing import drawing
from preprocessing.drawing import draw_key_points, draw_pose
from preprocessing.fields import KEY_FRAME, LANDMARKS_5, POSE_133, SOURCE, Field, PoseStyle, key_points, pose_map, view_shape
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import FamilyOperator, OperatorParams, Sample
from preprocessing.views import View, match

# Shorter side of the canvas at which the released sets were drawn, in px: ControlNet's annotators shrink pictures to 512 first,
# DisCo draws on TikTok's frames of 604 x 1080. Sticks are 8 px wide there whatever becomes of the picture afterwards.
CANVAS_PX: dict[PoseStyle, int] = {"openpose": 512, "disco": 604}


class PoseMaps(FamilyOperator):
    """pose_map_STYLE_SIZE: POSE_133 drawn on the whole picture (see `preprocessing.drawing`), then cut and resized as frames are.

    Points below `min_score` are left out. Black where nobody is seen. Stored losslessly.
    """

    version = 1

    class Params(OperatorParams):
        """Settings.

        `style`, `size`: fixed by the field's name.
        `hands`, `face`: draw them too (style openpose).
        `min_score`: 0.3, as DWPose draws.
        `canvas_px`: shorter side of the canvas it is drawn on before it is resized; 0 for the style's own, 512 or 604.
        """

        style: PoseStyle
        size: str
        hands: bool = False
        face: bool = False
        min_score: float = Setting(drawing.MIN_SCORE, gt=0)
        canvas_px: int = Setting(0, ge=0, le=4096)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        sizes = {style: match(f"pose_map_{style}", field) for style in CANVAS_PX}
        return next(({"style": style, "size": size} for style, size in sizes.items() if size), None)

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return tuple(f"pose_map_{style}_256" for style in CANVAS_PX)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"pose_map_{self.params.style}"

    @property
    def reads(self) -> tuple[Field, ...]:
        return (POSE_133, SOURCE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (pose_map(self.params.style, self.params.size),)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        source = sample[SOURCE]
        return {self.writes[0]: FrameSequence.of(
            self._maps(sample[POSE_133], source["height"], source["width"]), *view_shape(self.params.size), kind="png"
        )}  # fmt: skip

    def _maps(self, poses: np.ndarray, height: int, width: int) -> Iterator[np.ndarray | None]:
        params = self.params
        scale = (params.canvas_px or CANVAS_PX[params.style]) / min(height, width)
        canvas = max(1, round(height * scale)), max(1, round(width * scale))
        view = View.of(canvas, *view_shape(params.size))
        for pose in poses:
            if not pose.any():
                yield None
                continue
            on_canvas = pose.astype(np.float64)
            on_canvas[:, :2] *= canvas[1] / width, canvas[0] / height
            yield view.picture(draw_pose(on_canvas, *canvas, params.style, params.hands, params.face, params.min_score))


class KeyPointPictures(FamilyOperator):
    """key_points_SIZE: the five points of the key frame's face as InstantID draws them, at the size of `image_SIZE`.

    Discs and limbs have a fixed size in px, learnt at about 1024: smaller sizes are drawn at 1024 and shrunk. Black where the key
    frame has no valid face.
    """

    name = "key_point_pictures"
    version = 1

    class Params(OperatorParams):
        """`size`: the shorter side in px; `canvas_px`: the shorter side of what it is drawn on, where `size` is smaller."""

        size: int = Setting(ge=10, le=9999)
        canvas_px: int = Setting(1024, ge=64, le=4096)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        found = re.fullmatch(r"key_points_([1-9]\d{1,3})", field)
        return {"size": int(found[1])} if found else None

    @property
    def reads(self) -> tuple[Field, ...]:
        return (LANDMARKS_5, KEY_FRAME, SOURCE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (key_points(self.params.size),)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        source, points = sample[SOURCE], sample[LANDMARKS_5][int(sample[KEY_FRAME])]
        short, size = min(source["height"], source["width"]), self.params.size
        height, width = (round(source[side] * size / short) for side in ("height", "width"))
        canvas_px = max(size, self.params.canvas_px)
        canvas = tuple(round(source[side] * canvas_px / short) for side in ("height", "width"))
        if points.any():
            picture = draw_key_points(points.astype(np.float64) * canvas_px / short, *canvas)
        else:
            picture = np.zeros((*canvas, 3), np.uint8)
        if canvas != (height, width):
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        return {self.writes[0]: picture}
