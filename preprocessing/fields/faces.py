"""Faces: found, followed, cut, aligned, recognised."""

from __future__ import annotations

import re
from typing import Literal, cast, get_args

from preprocessing.fields.contract import SOURCE_PX, Family, Field

CropKind = Literal["box", "tube"]
Template = Literal["arcface", "five", "ffhq", "ffhq5", "facenet", "deep3d", "latentsync"]

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
LANDMARKS_106 = Field(
    "landmarks_106", "npy", "float32", ("frames", 106, 2), "frame",
    "106 points of insightface's 2d106det, in its order; zeros where `face_valid` is 0", unit="px", coordinates=SOURCE_PX,
)
LANDMARKS_3D_68 = Field(
    "landmarks_3d_68", "npy", "float32", ("frames", 68, 3), "frame",
    "68 points in space of insightface's 1k3d68, in the iBUG 300-W order; z in the scale of x; zeros where `face_valid` is 0",
    unit="px", coordinates=SOURCE_PX,
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
IDENTITY_CLUSTER = Field(
    "identity_cluster", "json", "object", (), "clip",
    "who it is by the fitted identity clusters: cluster (-1 for nobody known), cosine to the nearest centre, rows when fitted",
)
IDENTITY_DIMS = {"antelopev2": 512, "buffalo_l": 512, "mobileface": 256, "coarse": 256}
_TEMPLATES, _VARIANTS = "|".join(get_args(Template)), "|".join(IDENTITY_DIMS)


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


def identity(variant: str) -> Field:
    """Who it is, as seen by one named face-recognition network; variants are not interchangeable."""
    return Field(
        f"identity_{variant}", "npy", "float32", (IDENTITY_DIMS[variant],), "clip",
        f"face-recognition embedding ({variant}), mean over a few frames spread over the clip; zeros where no face is valid",
    )


FIELDS: tuple[Field, ...] = (
    FACE_DETECTIONS, FACE_TRACK, LANDMARKS_478, LANDMARKS_68, LANDMARKS_5, LANDMARKS_106, LANDMARKS_3D_68, FACE_BOX, FACE_VALID,
    TUBE_BOX, HEAD_POSE, IDENTITY_CLUSTER,
)  # fmt: skip

FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(r"face_(box|tube)_([1-9][0-9]{1,3})"), lambda m: face_crop(int(m[2]), cast(CropKind, m[1])),
        "face_(box|tube)_SIZE", "face_box_96",
    ),
    Family(
        re.compile(f"face_({_TEMPLATES})_([1-9][0-9]{{1,3}})"), lambda m: aligned_face(cast(Template, m[1]), int(m[2])),
        f"face_({_TEMPLATES})_SIZE", "face_arcface_112",
    ),
    Family(
        re.compile(f"align_({_TEMPLATES})_([1-9][0-9]{{1,3}})"), lambda m: alignment(cast(Template, m[1]), int(m[2])),
        f"align_({_TEMPLATES})_SIZE", "align_arcface_112",
    ),
    Family(
        re.compile(f"identity_({_VARIANTS})"), lambda m: identity(m[1]), f"identity_({_VARIANTS})", "identity_antelopev2",
    ),
)  # fmt: skip
