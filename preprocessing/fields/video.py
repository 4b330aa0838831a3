"""Whole frames at a training size, the people in them cut out, and how much moves.

`SIZE` is a square of that side, `HEIGHTxWIDTH` any other shape; all fields of one size are cut alike (see `preprocessing.views`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from preprocessing.fields.contract import Family, Field

VIEW = r"[1-9][0-9]{1,3}(?:x[1-9][0-9]{1,3})?"  # SIZE or HEIGHTxWIDTH

FLOW_SPEED = Field(
    "flow_speed", "npy", "float32", ("frames",), "frame",
    "how fast the picture's content moves from the frame before to this one: mean length of the optical flow in shorter sides per "
    "second; 0 for the first frame",
)
MOTION_MEASURES = Field(
    "motion_measures", "json", "object", (), "clip",
    "plain numbers about the whole clip's motion to select by: speed_mean, speed_median, speed_p90, speed_max, still_share, "
    "jump_max, jump_frame",
)


def view_shape(size: str) -> tuple[int, int]:
    """(height, width) of a size as it stands in a field's name: "256" or "320x512"."""
    sides = [int(side) for side in size.split("x")]
    return sides[0], sides[-1]


def frames(size: str) -> Field:
    """Every frame, the largest centred cut of that shape."""
    return Field(
        f"frames_{size}", "mjpeg", "uint8", ("frames", *view_shape(size), 3), "frame",
        "whole frames, cut centrally to their shape and resized", colour="RGB",
    )


def person_mask(size: str) -> Field:
    """Where people are."""
    return Field(
        f"person_mask_{size}", "mpng", "uint8", ("frames", *view_shape(size)), "frame",
        f"where people are, 0 to 255 for 0 to 1, soft at the edges, cut and resized as frames_{size}",
    )


def foreground(size: str) -> Field:
    """People alone."""
    return Field(
        f"foreground_{size}", "mjpeg", "uint8", ("frames", *view_shape(size), 3), "frame",
        f"frames_{size} x person_mask_{size}, elsewhere the mean colour that CLIP subtracts", colour="RGB",
    )


def background(size: str) -> Field:
    """Everything but people."""
    return Field(
        f"background_{size}", "mjpeg", "uint8", ("frames", *view_shape(size), 3), "frame",
        f"frames_{size} x (1 - person_mask_{size}), elsewhere the middle grey that is 0 to an autoencoder", colour="RGB",
    )


FIELDS: tuple[Field, ...] = (FLOW_SPEED, MOTION_MEASURES)

def _family(name: str, make: Callable[[str], Field]) -> Family:
    return Family(re.compile(f"{name}_({VIEW})"), lambda found: make(found[1]), f"{name}_(SIZE|HEIGHTxWIDTH)", f"{name}_256")


FAMILIES: tuple[Family, ...] = (
    _family("frames", frames), _family("person_mask", person_mask), _family("foreground", foreground),
    _family("background", background),
)  # fmt: skip
