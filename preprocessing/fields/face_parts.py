"""Where the parts of a face are: label maps, and masks made from them."""

from __future__ import annotations

import re
from typing import cast, get_args

from preprocessing.fields.contract import Family, Field
from preprocessing.fields.faces import Template

# CelebAMask-HQ's classes in the order of the published parsers. Left and right are the picture's.
FACE_LABELS = (
    "background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses", "left ear", "right ear", "earring",
    "nose", "inner mouth", "upper lip", "lower lip", "neck", "necklace", "cloth", "hair", "hat",
)  # fmt: skip
UNKNOWN_LABEL = 255  # of the person, but nobody has said which part: hair, neck or clothes where only the coarse parser looked
# What counts as the face itself (StableIdentity): skin, brows, eyes, glasses, ears, nose, mouth.
FACE_CLASSES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)
HAIR_CLASSES = (17,)
# ConsistentID's parts in the order in which its captions name them, and the classes each may be made from; bit i of the masks.
FACE_PARTS: dict[str, tuple[int, ...]] = {"face": (1,), "ears": (7, 8), "eyes": (4, 5), "nose": (10,), "mouth": (12, 13)}
_TEMPLATES = "|".join(get_args(Template))
_PARSED = (
    "0 background, 1 skin, 2 and 3 brows, 4 and 5 eyes, 6 glasses, 7 and 8 ears, 9 earring, 10 nose, 11 inner mouth, 12 and 13 "
    "lips, 14 neck, 15 necklace, 16 cloth, 17 hair, 18 hat, 255 of the person but unknown"
)


def face_parsing(template: Template, size_px: int) -> Field:
    """What each pixel of `aligned_face(template, size_px)` shows; 0 all over where not valid."""
    return Field(
        f"parsing_{template}_{size_px}", "mpng", "uint8", ("frames", size_px, size_px), "frame",
        f"parts of the face in face_{template}_{size_px}, a label a pixel (FACE_LABELS): {_PARSED}",
        pixels="labels", classes=FACE_LABELS,
    )


def image_parsing(size_px: int) -> Field:
    """What each pixel of `image(size_px)` shows of the main face's person."""
    return Field(
        f"parsing_image_{size_px}", "png", "uint8", ("height", "width"), "clip",
        f"parts of the main face in image_{size_px}, a label a pixel, numbered as in the parsing of aligned faces",
        pixels="labels", classes=FACE_LABELS,
    )


def part_masks(size_px: int) -> Field:
    """Masks of the face's parts in `image(size_px)`, overlapping, a bit each."""
    return Field(
        f"part_masks_image_{size_px}", "png", "uint8", ("height", "width"), "clip",
        f"filled masks of the face's parts in image_{size_px}, a bit each: 1 face, 2 one ear, 4 one eye, 8 nose, 16 one lip; a "
        "part that is not seen has no pixel", pixels="bits", classes=tuple(FACE_PARTS),
    )


def face_features(size_px: int) -> Field:
    """The face as PuLID's picture encoder takes it."""
    return Field(
        f"face_features_{size_px}", "jpg", "uint8", (size_px, size_px, 3), "clip",
        f"the main face at the key frame (else at the valid frame nearest to it), aligned to ffhq5, in grey on white, {size_px} "
        "px: background, ears, neck, clothes and hat are white; white all over without a face", colour="RGB",
    )


FIELDS: tuple[Field, ...] = ()

FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(f"parsing_({_TEMPLATES})_([1-9][0-9]{{1,3}})"), lambda m: face_parsing(cast(Template, m[1]), int(m[2])),
        f"parsing_({_TEMPLATES})_SIZE", "parsing_ffhq_512",
    ),
    Family(re.compile(r"parsing_image_([1-9][0-9]{1,3})"), lambda m: image_parsing(int(m[1])), "parsing_image_SIZE",
           "parsing_image_512"),
    Family(re.compile(r"part_masks_image_([1-9][0-9]{1,3})"), lambda m: part_masks(int(m[1])), "part_masks_image_SIZE",
           "part_masks_image_512"),
    Family(re.compile(r"face_features_([1-9][0-9]{1,3})"), lambda m: face_features(int(m[1])), "face_features_SIZE",
           "face_features_336"),
)  # fmt: skip
