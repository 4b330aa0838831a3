"""The field vocabulary: every named, typed column that an operator can write and a stage can read.

Imports nothing else of the project, so that contracts can name fields without pulling in decoders.
"""

from preprocessing.fields.contract import NAME, SOURCE_PX, AnyOf, Codec, Family, Field, Rate
from preprocessing.fields.faces import (
    FACE_BOX,
    FACE_DETECTIONS,
    FACE_TRACK,
    FACE_VALID,
    HEAD_POSE,
    IDENTITY_CLUSTER,
    IDENTITY_DIMS,
    LANDMARKS_5,
    LANDMARKS_68,
    LANDMARKS_478,
    TUBE_BOX,
    CropKind,
    Template,
    aligned_face,
    alignment,
    face_crop,
    identity,
)
from preprocessing.fields.latents import Encoder, latent
from preprocessing.fields.pictures import DUPLICATE, MEASURES, PERCEPTUAL_HASH, PICTURE_MEASURES, image
from preprocessing.fields.sound import MEL80, SOUND_MEASURES, SYNC, VOICED
from preprocessing.fields.source import AUDIO, GIVEN, KEY_FRAME, SOURCE, TIMELINE, VIDEO
from preprocessing.fields.text import CAPTION_BLIP, CAPTION_GIVEN, CAPTION_LLAVA, TEXT_DIMS, TEXT_POOLED_SDXL, text_embedding
from preprocessing.fields.vocabulary import FAMILIES, FIELDS, THEMES, by_name, known_names, markdown

__all__ = [
    "AUDIO",
    "CAPTION_BLIP",
    "CAPTION_GIVEN",
    "CAPTION_LLAVA",
    "DUPLICATE",
    "FACE_BOX",
    "FACE_DETECTIONS",
    "FACE_TRACK",
    "FACE_VALID",
    "FAMILIES",
    "FIELDS",
    "GIVEN",
    "HEAD_POSE",
    "IDENTITY_CLUSTER",
    "IDENTITY_DIMS",
    "KEY_FRAME",
    "LANDMARKS_5",
    "LANDMARKS_68",
    "LANDMARKS_478",
    "MEASURES",
    "MEL80",
    "NAME",
    "PERCEPTUAL_HASH",
    "PICTURE_MEASURES",
    "SOUND_MEASURES",
    "SOURCE",
    "SOURCE_PX",
    "SYNC",
    "TEXT_DIMS",
    "TEXT_POOLED_SDXL",
    "THEMES",
    "TIMELINE",
    "TUBE_BOX",
    "VIDEO",
    "VOICED",
    "AnyOf",
    "Codec",
    "CropKind",
    "Encoder",
    "Family",
    "Field",
    "Rate",
    "Template",
    "aligned_face",
    "alignment",
    "by_name",
    "face_crop",
    "identity",
    "image",
    "known_names",
    "latent",
    "markdown",
    "text_embedding",
]
