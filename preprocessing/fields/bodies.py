"""People: key points of body, feet, hands and face, and pictures drawn of them."""

from __future__ import annotations

import re
from typing import Literal, cast, get_args

from preprocessing.fields.contract import SOURCE_PX, Family, Field
from preprocessing.fields.video import VIEW, view_shape

PoseStyle = Literal["openpose", "disco"]
_STYLES = "|".join(get_args(PoseStyle))

POSE_133 = Field(
    "pose_133", "npy", "float32", ("frames", 133, 3), "frame",
    "key points of the followed person in COCO-WholeBody's order (17 body, 6 feet, 68 face, 21 left hand, 21 right hand): x, y, "
    "score; zeros where a point, or the person, is not seen", unit="px", coordinates=SOURCE_PX,
)
BODY_MEASURES = Field(
    "body_measures", "json", "object", (), "clip",
    "plain numbers about the followed person to select by: body_seen_share, body_score, body_height_share, full_body_share, "
    "upper_body_share, hands_share, face_points_share, pose_motion",
)


def pose_map(style: str, size: str) -> Field:
    """Drawn key points of every frame in the style a method was trained with; `size` as in `frames`."""
    return Field(
        f"pose_map_{style}_{size}", "mpng", "uint8", ("frames", *view_shape(size), 3), "frame",
        f"the followed person's key points drawn on black in the style {style}, cut and resized as frames_{size}", colour="RGB",
    )


def key_points(size_px: int) -> Field:
    """InstantID's five key points of the key frame's face, drawn; lies over `image(size_px)`."""
    return Field(
        f"key_points_{size_px}", "png", "uint8", ("height", "width", 3), "clip",
        f"eyes, nose and mouth corners of the key frame's face drawn for InstantID at the size of image_{size_px}; black without a "
        "face", colour="RGB",
    )


FIELDS: tuple[Field, ...] = (POSE_133, BODY_MEASURES)

FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(f"pose_map_({_STYLES})_({VIEW})"), lambda m: pose_map(cast(PoseStyle, m[1]), m[2]),
        f"pose_map_({_STYLES})_(SIZE|HEIGHTxWIDTH)", "pose_map_openpose_256",
    ),
    Family(re.compile(r"key_points_([1-9][0-9]{1,3})"), lambda m: key_points(int(m[1])), "key_points_SIZE", "key_points_1024"),
)  # fmt: skip
