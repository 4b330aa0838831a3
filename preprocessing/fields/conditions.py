"""Pictures made from pictures: degraded ones to restore, and maps that condition a generator."""

from __future__ import annotations

import re
from typing import Literal, cast, get_args

from preprocessing.fields.contract import Family, Field

Degradation = Literal["realesrgan", "diffbir_v1", "diffbir_v21", "pasd", "codeformer", "codeformer_face"]
MapKind = Literal["canny", "lines", "depth"]
_RECIPES, _MAPS = "|".join(get_args(Degradation)), "|".join(get_args(MapKind))
_MEANING: dict[MapKind, str] = {
    "canny": "Canny edges: 255 on an edge, else 0",
    "lines": "line drawing, white on black: soft lines along the dark side of edges",
    "depth": "relative depth by a network: 0 farthest, 255 nearest",
}

PICTURE_CLASS = Field(
    "picture_class", "json", "object", (), "clip",
    "what the key frame shows as a whole, by a classifying network: label, score, and the likeliest labels with their scores",
)
OBJECTS = Field(
    "objects", "json", "object", (), "clip",
    "what a detecting network finds in the key frame: objects with label, score, box x0, y0, x1, y1 as shares of width and "
    "height, best first; counts by label",
)  # fmt: skip


def degraded(recipe: Degradation, size_px: int) -> Field:
    """The clean picture made bad by a published recipe."""
    clean = "the key frame's face_ffhq5" if recipe == "codeformer_face" else "image"
    return Field(
        f"degraded_{recipe}_{size_px}", "png", "uint8", ("height", "width", 3), "clip",
        f"{clean}_{size_px} degraded by the recipe {recipe} (docs/degradation.md)", colour="RGB",
    )


def degradation(recipe: Degradation, size_px: int) -> Field:
    """What was drawn for `degraded(recipe, size_px)`."""
    return Field(
        f"degradation_{recipe}_{size_px}", "json", "object", (), "clip",
        f"the steps that made degraded_{recipe}_{size_px}, with all numbers drawn; they make it again",
    )


def sharp_image(size_px: int) -> Field:
    """The target of recipes that sharpen first."""
    return Field(
        f"sharpened_{size_px}", "png", "uint8", ("height", "width", 3), "clip",
        f"image_{size_px} after Real-ESRGAN's unsharp masking", colour="RGB",
    )


def grey_image(size_px: int) -> Field:
    """A picture without its colour."""
    return Field(
        f"grey_{size_px}", "png", "uint8", ("height", "width"), "clip",
        f"luma of image_{size_px}: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)",
    )


def segmentation(size_px: int) -> Field:
    """What every pixel shows."""
    return Field(
        f"segmentation_{size_px}", "png", "uint8", ("height", "width"), "clip",
        f"number of the class that a segmenting network gives each pixel of image_{size_px}; names in segments_{size_px}",
        pixels="labels",
    )


def segments(size_px: int) -> Field:
    """The classes of `segmentation(size_px)`."""
    return Field(
        f"segments_{size_px}", "json", "object", (), "clip",
        f"of the classes that occur in segmentation_{size_px}: names by number (as text), shares of the picture by name",
    )


def colour_map(size_px: int) -> Field:
    """A picture's colours without its shapes."""
    return Field(
        f"colours_{size_px}", "png", "uint8", ("height", "width", 3), "clip",
        f"image_{size_px} in squares of one colour each, a 64th of its sides", colour="RGB",
    )


def condition_map(kind: MapKind, size_px: int) -> Field:
    """A map of the key frame as large as `image(size_px)`."""
    return Field(
        f"{kind}_{size_px}", "png", "uint8", ("height", "width"), "clip", f"{_MEANING[kind]}; of image_{size_px}",
    )


def condition_frames(kind: MapKind, size: int | str) -> Field:
    """Maps of a clip's frames, cut to their middle: a square of `size` px, or "HEIGHTxWIDTH"."""
    sides = [int(side) for side in str(size).split("x")]
    return Field(
        f"{kind}_frames_{size}", "mjpeg", "uint8", ("frames", sides[0], sides[-1], 3), "frame",
        f"{_MEANING[kind]}; of each frame, cut centrally to the shape and resized, the same in all channels; black where a frame "
        "was left out",
    )


_SIDE = "[1-9][0-9]{1,3}"
_SIZE = f"({_SIDE})"
FIELDS: tuple[Field, ...] = (PICTURE_CLASS, OBJECTS)

FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(f"degraded_({_RECIPES})_{_SIZE}"), lambda m: degraded(cast(Degradation, m[1]), int(m[2])),
        f"degraded_({_RECIPES})_SIZE", "degraded_pasd_512",
    ),
    Family(
        re.compile(f"degradation_({_RECIPES})_{_SIZE}"), lambda m: degradation(cast(Degradation, m[1]), int(m[2])),
        f"degradation_({_RECIPES})_SIZE", "degradation_pasd_512",
    ),
    Family(re.compile(f"sharpened_{_SIZE}"), lambda m: sharp_image(int(m[1])), "sharpened_SIZE", "sharpened_512"),
    Family(re.compile(f"grey_{_SIZE}"), lambda m: grey_image(int(m[1])), "grey_SIZE", "grey_512"),
    Family(re.compile(f"segmentation_{_SIZE}"), lambda m: segmentation(int(m[1])), "segmentation_SIZE", "segmentation_512"),
    Family(re.compile(f"segments_{_SIZE}"), lambda m: segments(int(m[1])), "segments_SIZE", "segments_512"),
    Family(re.compile(f"colours_{_SIZE}"), lambda m: colour_map(int(m[1])), "colours_SIZE", "colours_512"),
    Family(
        re.compile(f"({_MAPS})_{_SIZE}"), lambda m: condition_map(cast(MapKind, m[1]), int(m[2])), f"({_MAPS})_SIZE", "canny_512",
    ),
    Family(
        re.compile(f"({_MAPS})_frames_({_SIDE}(?:x{_SIDE})?)"), lambda m: condition_frames(cast(MapKind, m[1]), m[2]),
        f"({_MAPS})_frames_(SIZE|HEIGHTxWIDTH)", "lines_frames_512",
    ),
)  # fmt: skip
