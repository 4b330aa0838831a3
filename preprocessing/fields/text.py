"""Words about a picture or a clip, and what text encoders make of them."""

from __future__ import annotations

import re

from preprocessing.fields.contract import Family, Field

LABELS_GIVEN = Field(
    "labels_given", "json", "object", (), "clip",
    "tags that came with the source, from a sidecar file or the list: emotion, intensity, subject, style or whatever they are",
)
CAPTION_GIVEN = Field("caption_given", "txt", "str", (), "clip", "the caption that came with the source")
CAPTION_BLIP = Field("caption_blip", "txt", "str", (), "clip", "caption of the key frame by BLIP")
CAPTION_LLAVA = Field("caption_llava", "txt", "str", (), "clip", "caption of the key frame by LLaVA")
PROMPT = Field("prompt", "txt", "str", (), "clip", "what a picture is asked to show; given when generating", stored=False)
CAPTION_MEASURED = Field(
    "caption_measured", "txt", "str", (), "clip",
    "caption made of what was measured: how many people, how near, where they look, mouth, light, colours",
)
CAPTION_ACTION = Field(
    "caption_action", "txt", "str", (), "clip",
    "what the person does through the clip, from measured movements: speaks, turns, nods",
)
CAPTION_TAGGED = Field(
    "caption_tagged", "txt", "str", (), "clip",
    "PASD's text: the picture's class, the objects counted, a caption, in which blurry and noisy become clear and clean",
)
CAPTION_UNIFIED = Field(
    "caption_unified", "txt", "str", (), "clip", "one text of who is seen and what they do: two captions joined, cut to a length",
)
DESCRIPTION_LLAVA = Field(
    "description_llava", "txt", "str", (), "clip", "the face in the key frame part by part by LLaVA: face, ears, eyes, nose, mouth",
)
DESCRIPTION_MEASURED = Field(
    "description_measured", "txt", "str", (), "clip",
    "the face in the key frame part by part, from proportions of its mesh: face, ears, eyes, nose, mouth",
)
INSTRUCTIONS = Field(
    "instructions", "json", "object", (), "clip",
    "how to be told to do what the clip shows: task (emotion, motion, neutral), emotion, level (1 to 3, 0 without), action_units, "
    "head (movements), texts (several, drawn from templates)",
)
TEXT_POOLED_SDXL = Field(
    "text_pooled_sdxl", "npy", "float16", ("dims",), "clip",
    "pooled embedding of the caption by SDXL's second text encoder, 1280 dims",
)
TEXT_DIMS: dict[str, int] = {"sd15": 768, "sd21": 1024, "sdxl": 2048}
_ENCODERS = "|".join(TEXT_DIMS)


def text_embedding(encoder: str) -> Field:
    """The caption as cross-attention reads it."""
    return Field(
        f"text_{encoder}", "npy", "float16", (77, "dims"), "clip",
        f"hidden states of the caption by the text encoder(s) of {encoder}, padded to 77 tokens, {TEXT_DIMS[encoder]} dims",
    )


FIELDS: tuple[Field, ...] = (
    CAPTION_GIVEN, CAPTION_BLIP, CAPTION_LLAVA, PROMPT, TEXT_POOLED_SDXL, LABELS_GIVEN, CAPTION_MEASURED, CAPTION_ACTION,
    CAPTION_UNIFIED, CAPTION_TAGGED, DESCRIPTION_LLAVA, DESCRIPTION_MEASURED, INSTRUCTIONS,
)  # fmt: skip

FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(f"text_({_ENCODERS})"), lambda m: text_embedding(m[1]), f"text_({_ENCODERS})", "text_sd15",
    ),
)
