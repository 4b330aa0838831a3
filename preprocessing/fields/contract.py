"""What a field is: a named, typed column, and how families of fields carry parameters in their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Codec = Literal["json", "npy", "wav", "mjpeg", "mpng", "jpg", "png", "txt"]
Rate = Literal["clip", "frame", "mel column", "mfcc step", "speech feature", "audio sample"]

SOURCE_PX = "picture as shown upright, px, x right, y down, pixel centres at .5"
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Field:
    """One column.

    Attributes:
        name: lower-case identifier without dots; the middle part of a member's name, `KEY.NAME.EXT`.
        codec: how one value becomes bytes (see `preprocessing.codecs`).
        dtype: element type after decoding.
        shape: axes after decoding; a number is fixed, a word names a length that varies.
        rate: what one step along the first axis is; "clip" for one value per sample.
        meaning: one sentence.
        unit: physical unit of the numbers, "" where they have none.
        colour: channel order of pictures.
        coordinates: what positions refer to.
        stored: False for values that exist only while a sample is processed (decoded frames).
        pixels: what a pixel's number is: "" an amount, "labels" the number of a class, "bits" masks that overlap, a bit each.
        classes: names of those classes in the order of their numbers, or of the masks from the lowest bit on, where they are fixed.
    """

    name: str
    codec: Codec
    dtype: str
    shape: tuple[int | str, ...]
    rate: Rate
    meaning: str
    unit: str = ""
    colour: Literal["", "RGB"] = ""
    coordinates: str = ""
    stored: bool = True
    pixels: Literal["", "labels", "bits"] = ""
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"field name {self.name!r}: want lower-case letters, digits and _, starting with a letter")

    def __or__(self, other: Field | AnyOf) -> AnyOf:
        """`a | b`: a reader content with either, preferring the left one."""
        return AnyOf((self,)) | other

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class AnyOf:
    """Alternatives in order of preference: the first that the dataset has is read."""

    options: tuple[Field, ...]

    def __or__(self, other: Field | AnyOf) -> AnyOf:
        return AnyOf(self.options + (other.options if isinstance(other, AnyOf) else (other,)))

    def __str__(self) -> str:
        return " | ".join(f.name for f in self.options)


@dataclass(frozen=True)
class Family:
    """Fields that carry parameters in their names.

    Attributes:
        pattern: what the whole name matches.
        make: the field of a match.
        shown: the pattern as people read it.
        example: one of them, for the documentation.
    """

    pattern: re.Pattern[str]
    make: Callable[[re.Match[str]], Field]
    shown: str
    example: str
