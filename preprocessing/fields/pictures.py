"""Whole pictures, and numbers about them and about faces to select by."""

from __future__ import annotations

import re

from preprocessing.fields.contract import Family, Field

MEASURES = Field(
    "measures", "json", "object", (), "clip",
    "plain numbers about the face to select by: duration_s, n_frames, valid_share, faces, face_side_px, face_share, "
    "face_outside_share, face_score, blur, yaw, pitch, roll, lip_motion, tube_outside_share",
)
PICTURE_MEASURES = Field(
    "picture_measures", "json", "object", (), "clip",
    "plain numbers about the whole picture to select by: width_px, height_px, blur, brightness, contrast, dark_share, "
    "bright_share, colourfulness, motion",
)
PERCEPTUAL_HASH = Field(
    "perceptual_hash", "npy", "uint8", (8,), "clip",
    "64 bits of the key frame's coarse brightness; pictures that look the same differ in few bits",
)
DUPLICATE = Field(
    "duplicate", "json", "object", (), "clip",
    "near duplicates by the fitted groups: group (-1 for a picture like none of them), distance in bits to its first picture, "
    "first (1 for one row of each group), rows when fitted",
)


def image(size_px: int) -> Field:
    """The key frame, whole, its shorter side `size_px`."""
    return Field(
        f"image_{size_px}", "jpg", "uint8", ("height", "width", 3), "clip",
        f"the key frame, uncropped, resized so that its shorter side has {size_px} px", colour="RGB",
    )


FIELDS: tuple[Field, ...] = (MEASURES, PICTURE_MEASURES, PERCEPTUAL_HASH, DUPLICATE)

FAMILIES: tuple[Family, ...] = (
    Family(re.compile(r"image_([1-9][0-9]{1,3})"), lambda m: image(int(m[1])), "image_SIZE", "image_512"),
)
