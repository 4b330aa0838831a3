"""The field vocabulary: every named, typed column that an operator can write and a stage can read.

This module imports nothing else of the project, so that contracts can name fields without pulling in decoders.
`python -m preprocessing.fields` prints the vocabulary as the Markdown table kept in `docs/fields.md`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

Codec = Literal["json", "npy", "wav", "mjpeg", "jpg", "txt"]
Rate = Literal["clip", "frame", "mel column", "audio sample"]
CropKind = Literal["box", "tube"]
Template = Literal["arcface", "five", "ffhq", "ffhq5", "facenet", "deep3d"]
Encoder = Literal["sd15", "sd21", "sdxl", "taef2"]

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


SOURCE_PX = "picture as shown upright, px, x right, y down, pixel centres at .5"

SOURCE = Field(
    "source", "json", "object", (), "clip",
    "where the clip comes from: file, sha256, segment, stream facts, frame rate and number of frames; readers of a dataset find "
    "the person, split and tags that its manifest gives the file here too",
)
TIMELINE = Field(
    "timeline", "npy", "int64", ("frames",), "frame",
    "for each frame of the constant 25 fps clip, the source frame shown, counted in presentation order",
)
VIDEO = Field(
    "video", "npy", "uint8", ("frames", "height", "width", 3), "frame",
    "decoded frames of the clip, upright; streamed to operators, never stored", colour="RGB", stored=False,
)
AUDIO = Field(
    "audio", "wav", "int16", ("samples",), "audio sample",
    "mono sound at 16 kHz; sample 0 is heard when frame 0 is shown",
)
GIVEN = Field(
    "given", "json", "object", (), "clip",
    "what came with the source besides its bytes, from sidecar files or the source list: caption, tags; read by operators, never "
    "stored itself", stored=False,
)
KEY_FRAME = Field(
    "key_frame", "npy", "int64", (), "clip",
    "the frame that stands for the clip in pictures, captions and thumbnails: of a photo the only one",
)
FACE_DETECTIONS = Field(
    "face_detections", "npy", "float32", ("detections", 6), "clip",
    "all faces found: frame, x0, y0, x1, y1, score; sorted by frame, best score first", unit="px",
    coordinates=SOURCE_PX,
)
FACE_TRACK = Field(
    "face_track", "npy", "float32", ("frames", 5), "frame",
    "the main face followed through the clip: x0, y0, x1, y1, score; score 0 where it is not seen", unit="px",
    coordinates=SOURCE_PX,
)
LANDMARKS_478 = Field(
    "landmarks_478", "npy", "float32", ("frames", 478, 3), "frame",
    "MediaPipe face mesh with irises; z in the scale of x; zeros where `face_valid` is 0", unit="px",
    coordinates=SOURCE_PX,
)
LANDMARKS_68 = Field(
    "landmarks_68", "npy", "float32", ("frames", 68, 2), "frame",
    "68 points in the iBUG 300-W order, taken from the mesh", unit="px", coordinates=SOURCE_PX,
)
LANDMARKS_5 = Field(
    "landmarks_5", "npy", "float32", ("frames", 5, 2), "frame",
    "left eye, right eye, nose tip, left and right mouth corner, as seen in the picture", unit="px",
    coordinates=SOURCE_PX,
)
FACE_BOX = Field(
    "face_box", "npy", "float32", ("frames", 4), "frame",
    "tight face box x0, y0, x1, y1 from forehead to chin and cheek to cheek (the WIDER FACE convention); may pass the edge",
    unit="px", coordinates=SOURCE_PX,
)
FACE_VALID = Field(
    "face_valid", "npy", "bool", ("frames",), "frame", "the main face was followed and its landmarks were found",
)
TUBE_BOX = Field(
    "tube_box", "npy", "float32", (4,), "clip",
    "one square x0, y0, x1, y1 for the whole clip: the union of the face boxes, enlarged; zeros without a face",
    unit="px", coordinates=SOURCE_PX,
)
HEAD_POSE = Field(
    "head_pose", "npy", "float32", ("frames", 3), "frame",
    "yaw, pitch, roll of the head; positive: turned to the picture's right, up, clockwise; 0 where not valid",
    unit="degree",
)
MEL80 = Field(
    "mel80", "npy", "float32", (80, "columns"), "mel column",
    "80-bin Slaney mel spectrogram in [-4, 4], 80 columns per second (Wav2Lip's recipe)",
)
VOICED = Field(
    "voiced", "npy", "bool", ("frames",), "frame", "sound energy says somebody speaks while this frame is shown",
)
MEASURES = Field(
    "measures", "json", "object", (), "clip",
    "plain numbers about the face to select by: duration_s, n_frames, valid_share, faces, face_side_px, face_share, "
    "face_outside_share, face_score, blur, yaw, pitch, roll, lip_motion, tube_outside_share",
)
SYNC = Field(
    "sync", "json", "object", (), "clip",
    "SyncNet score: offset_frames (positive: sound early), confidence (LSE-C), min_distance (LSE-D), n_windows",
)

PICTURE_MEASURES = Field(
    "picture_measures", "json", "object", (), "clip",
    "plain numbers about the whole picture to select by: width_px, height_px, blur, brightness, contrast, dark_share, "
    "bright_share, colourfulness, motion",
)
SOUND_MEASURES = Field(
    "sound_measures", "json", "object", (), "clip", "plain numbers about the sound to select by: voiced_share, loudness_dbfs",
)
PERCEPTUAL_HASH = Field(
    "perceptual_hash", "npy", "uint8", (8,), "clip",
    "64 bits of the key frame's coarse brightness; pictures that look the same differ in few bits",
)
IDENTITY_CLUSTER = Field(
    "identity_cluster", "json", "object", (), "clip",
    "who it is by the fitted identity clusters: cluster (-1 for nobody known), cosine to the nearest centre, rows when fitted",
)
DUPLICATE = Field(
    "duplicate", "json", "object", (), "clip",
    "near duplicates by the fitted groups: group (-1 for a picture like none of them), distance in bits to its first picture, "
    "first (1 for one row of each group), rows when fitted",
)
CAPTION_GIVEN = Field("caption_given", "txt", "str", (), "clip", "the caption that came with the source")
CAPTION_BLIP = Field("caption_blip", "txt", "str", (), "clip", "caption of the key frame by BLIP")
CAPTION_LLAVA = Field("caption_llava", "txt", "str", (), "clip", "caption of the key frame by LLaVA")
TEXT_POOLED_SDXL = Field(
    "text_pooled_sdxl", "npy", "float16", ("dims",), "clip",
    "pooled embedding of the caption by SDXL's second text encoder, 1280 dims",
)


def face_crop(size_px: int, kind: CropKind) -> Field:
    """Face pictures of `size_px` squared: "box" cuts each frame's own face box, "tube" one square for the whole clip."""
    cut = "the face box of its own frame" if kind == "box" else "the clip's one tube square"
    return Field(
        f"face_{kind}_{size_px}", "mjpeg", "uint8", ("frames", size_px, size_px, 3), "frame",
        f"face cut by {cut}, resized to {size_px} px; black where not valid", colour="RGB",
    )


def aligned_face(template: Template, size_px: int) -> Field:
    """Face pictures of `size_px` squared, turned and scaled so that the face lies as in `template`."""
    return Field(
        f"face_{template}_{size_px}", "mjpeg", "uint8", ("frames", size_px, size_px, 3), "frame",
        f"face aligned to the template {template}, {size_px} px; black where not valid", colour="RGB",
    )


def alignment(template: Template, size_px: int) -> Field:
    """The transforms that cut `aligned_face(template, size_px)`."""
    return Field(
        f"align_{template}_{size_px}", "npy", "float64", ("frames", 2, 3), "frame",
        f"matrix M from the picture to face_{template}_{size_px}: (x', y') = M (x, y, 1), counted from either's corner; zeros "
        "where not valid", unit="px", coordinates=SOURCE_PX,
    )


def image(size_px: int) -> Field:
    """The key frame, whole, its shorter side `size_px`."""
    return Field(
        f"image_{size_px}", "jpg", "uint8", ("height", "width", 3), "clip",
        f"the key frame, uncropped, resized so that its shorter side has {size_px} px", colour="RGB",
    )


IDENTITY_DIMS = {"antelopev2": 512, "buffalo_l": 512, "mobileface": 256}
TEXT_DIMS: dict[str, int] = {"sd15": 768, "sd21": 1024, "sdxl": 2048}


def identity(variant: str) -> Field:
    """Who it is, as seen by one named face-recognition network; variants are not interchangeable."""
    return Field(
        f"identity_{variant}", "npy", "float32", (IDENTITY_DIMS[variant],), "clip",
        f"face-recognition embedding ({variant}), mean over a few frames spread over the clip; zeros where no face is valid",
    )


def latent(encoder: Encoder, size_px: int) -> Field:
    """The key frame as an autoencoder's latent; the operator's digest carries the encoder's checksum."""
    what = "mean" if encoder == "taef2" else "mean and log variance, stacked, before the scaling factor"
    return Field(
        f"latent_{encoder}_{size_px}", "npy", "float16", ("channels", "height", "width"), "clip",
        f"latent of image_{size_px} by the autoencoder {encoder}: {what}",
    )


def text_embedding(encoder: str) -> Field:
    """The caption as cross-attention reads it."""
    return Field(
        f"text_{encoder}", "npy", "float16", (77, "dims"), "clip",
        f"hidden states of the caption by the text encoder(s) of {encoder}, padded to 77 tokens, {TEXT_DIMS[encoder]} dims",
    )


FIELDS: tuple[Field, ...] = (
    SOURCE, TIMELINE, VIDEO, AUDIO, GIVEN, KEY_FRAME, FACE_DETECTIONS, FACE_TRACK, LANDMARKS_478, LANDMARKS_68, LANDMARKS_5,
    FACE_BOX, FACE_VALID, TUBE_BOX, HEAD_POSE, MEL80, VOICED, MEASURES, SYNC, PICTURE_MEASURES, SOUND_MEASURES, PERCEPTUAL_HASH,
    IDENTITY_CLUSTER, DUPLICATE, CAPTION_GIVEN, CAPTION_BLIP, CAPTION_LLAVA, TEXT_POOLED_SDXL,
)

# Families of fields with parameters in their names: pattern -> (constructor, pattern as shown to people).
FAMILIES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Field], str], ...] = (
    (
        re.compile(r"face_(box|tube)_([1-9][0-9]{1,3})"),
        lambda m: face_crop(int(m[2]), "box" if m[1] == "box" else "tube"),
        "face_(box|tube)_SIZE",
    ),
    (
        re.compile(r"face_(arcface|five|ffhq|ffhq5|facenet|deep3d)_([1-9][0-9]{1,3})"),
        lambda m: aligned_face(cast(Template, m[1]), int(m[2])),
        "face_(arcface|five|ffhq|ffhq5|facenet|deep3d)_SIZE",
    ),
    (
        re.compile(r"align_(arcface|five|ffhq|ffhq5|facenet|deep3d)_([1-9][0-9]{1,3})"),
        lambda m: alignment(cast(Template, m[1]), int(m[2])),
        "align_(arcface|five|ffhq|ffhq5|facenet|deep3d)_SIZE",
    ),
    (re.compile(r"image_([1-9][0-9]{1,3})"), lambda m: image(int(m[1])), "image_SIZE"),
    (re.compile("identity_(" + "|".join(IDENTITY_DIMS) + ")"), lambda m: identity(m[1]), f"identity_({'|'.join(IDENTITY_DIMS)})"),
    (
        re.compile(r"latent_(sd15|sd21|sdxl|taef2)_([1-9][0-9]{1,3})"),
        lambda m: latent(cast(Encoder, m[1]), int(m[2])),
        "latent_(sd15|sd21|sdxl|taef2)_SIZE",
    ),
    (re.compile("text_(" + "|".join(TEXT_DIMS) + ")"), lambda m: text_embedding(m[1]), f"text_({'|'.join(TEXT_DIMS)})"),
)


def by_name(name: str) -> Field | None:
    """The field called `name`, or None."""
    for known in FIELDS:
        if known.name == name:
            return known
    for pattern, make, _ in FAMILIES:
        if match := pattern.fullmatch(name):
            return make(match)
    return None


def known_names() -> list[str]:
    """Names to offer when one is not known; families by their pattern."""
    return [f.name for f in FIELDS] + [shown for _, _, shown in FAMILIES]


def markdown() -> str:
    """The vocabulary as a Markdown table."""
    rows = ["| field | type | per | stored as | meaning |", "|---|---|---|---|---|"]
    families = (
        face_crop(96, "box"), face_crop(256, "tube"), aligned_face("arcface", 112), alignment("arcface", 112), image(512),
        identity("antelopev2"), latent("sd15", 512), text_embedding("sd15"),
    )  # fmt: skip
    for f in (*FIELDS, *families):
        shape = " × ".join(str(axis) for axis in f.shape)
        kind = f"{f.dtype} {shape}".strip() + (f", {f.unit}" if f.unit else "") + (f", {f.colour}" if f.colour else "")
        where = f" ({f.coordinates})" if f.coordinates else ""
        rows.append(f"| `{f.name}` | {kind} | {f.rate} | {f.codec if f.stored else 'not stored'} | {f.meaning}{where} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
