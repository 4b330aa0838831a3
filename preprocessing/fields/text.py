"""Words about a picture, and what text encoders make of them."""

from __future__ import annotations

import re

from preprocessing.fields.contract import Family, Field

CAPTION_GIVEN = Field("caption_given", "txt", "str", (), "clip", "the caption that came with the source")
CAPTION_BLIP = Field("caption_blip", "txt", "str", (), "clip", "caption of the key frame by BLIP")
CAPTION_LLAVA = Field("caption_llava", "txt", "str", (), "clip", "caption of the key frame by LLaVA")
PROMPT = Field("prompt", "txt", "str", (), "clip", "what a picture is asked to show; given when generating", stored=False)
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


FIELDS: tuple[Field, ...] = (CAPTION_GIVEN, CAPTION_BLIP, CAPTION_LLAVA, PROMPT, TEXT_POOLED_SDXL)

FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(f"text_({_ENCODERS})"), lambda m: text_embedding(m[1]), f"text_({_ENCODERS})", "text_sd15",
    ),
)
