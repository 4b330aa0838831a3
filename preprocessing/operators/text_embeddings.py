"""Captions as the cross-attention of a diffusion model reads them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field as Setting
from pydantic import field_validator

from infra.errors import LikenessError
from preprocessing.fields import TEXT_DIMS, TEXT_POOLED_SDXL, Field, by_name, text_embedding
from preprocessing.operator import FamilyOperator, Sample
from preprocessing.operators.latents import MODELS, named
from preprocessing.pretrained import PretrainedOperator, PretrainedParams, device, load_network, loading


class TextEmbeddings(PretrainedOperator, FamilyOperator):
    """text_ENCODER, and TEXT_POOLED_SDXL: what diffusers' own pipelines make of a prompt (their `encode_prompt` is called).

    - sd15, sd21: the last hidden states of the CLIP text encoder, after its final norm.
    - sdxl: the hidden states before the last layer of both text encoders, one after the other along the last axis; pooled: the
      projected embedding of the second one.

    Captions are padded to the tokenizer's 77 tokens, longer ones cut off there. No dropout of captions: training does that.
    """

    version = 1

    class Params(PretrainedParams):
        """Besides those of `PretrainedParams`.

        Attributes:
            encoder: as in the field's name.
            model: the root of a folder in the layout of diffusers, with tokenizer and text_encoder, for sdxl tokenizer_2 and
                text_encoder_2 too; "" for the published one of this name.
            caption: the field with the text.
        """

        encoder: Literal["sd15", "sd21", "sdxl"]
        model: str = Setting("", exclude=True)
        caption: str = "caption_given"
        gpus: float = Setting(0.25, ge=0, exclude=True)

        @field_validator("caption")
        @classmethod
        def _a_text(cls, caption: str) -> str:
            field = by_name(caption)
            if field is None or field.codec != "txt":
                raise ValueError("a field of text, such as caption_given or caption_blip")
            return caption

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        if field == TEXT_POOLED_SDXL.name:
            return {"encoder": "sdxl"}
        encoder = field.removeprefix("text_")
        return {"encoder": encoder} if encoder in MODELS and field != encoder else None

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return tuple(f"text_{encoder}" for encoder in MODELS)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"text_{self.params.encoder}"

    @property
    def assets(self) -> tuple[str, ...]:
        return tuple(named(self.params, MODELS).asset(part) for part in self._parts())

    @property
    def reads(self) -> tuple[Field, ...]:
        field = by_name(self.params.caption)
        assert field is not None, "the settings were checked"
        return (field,)

    @property
    def writes(self) -> tuple[Field, ...]:
        words = text_embedding(self.params.encoder)
        return (words, TEXT_POOLED_SDXL) if self._double() else (words,)

    def _double(self) -> bool:
        return self.params.encoder == "sdxl"

    def _parts(self) -> tuple[str, ...]:
        parts = ("tokenizer", "text_encoder")
        return (*parts, "tokenizer_2", "text_encoder_2") if self._double() else parts

    def setup(self) -> None:
        """Load tokenizers and text encoders.

        Raises:
            LikenessError: they are not here, are no CLIP text encoders, or have the width of another diffusion model's.
        """
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        model = named(self.params, MODELS).model
        parts: dict[str, Any] = {}
        for name, asset in zip(self._parts(), self.assets, strict=True):
            folder = self.asset(asset)
            if name.startswith("tokenizer"):
                with loading(model, CLIPTokenizer.__name__):
                    parts[name] = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            else:
                kind = CLIPTextModelWithProjection if name.endswith("_2") else CLIPTextModel
                parts[name] = load_network(kind, folder, model, dtype=self.torch_dtype())
        _check_width(self.params.encoder, model, sum(p.config.hidden_size for n, p in parts.items() if n.startswith("text")))
        absent: dict[str, Any] = {"vae": None, "unet": None, "scheduler": None, "feature_extractor": None}
        if self._double():
            self._pipeline: Any = StableDiffusionXLPipeline(**parts, **absent)
        else:
            self._pipeline = StableDiffusionPipeline(**parts, **absent, safety_checker=None, requires_safety_checker=False)
        # it would warn of every caption that is cut off
        logging.getLogger(type(self._pipeline).__module__).setLevel(logging.ERROR)

    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        captions = [sample[self.reads[0]] for sample in samples]
        rows = self.together(captions, lambda caption: None, self._encode)
        return [dict(zip(self.writes, row, strict=True)) for row in rows]

    def _encode(self, captions: list[str]) -> list[tuple[Any, ...]]:
        import torch

        with torch.inference_mode():
            found = self._pipeline.encode_prompt(
                captions, device=device(), num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        # the pipeline for SDXL also gives the pooled embedding, as the third of four
        kept = (found[0], found[2]) if self._double() else (found[0],)
        return list(zip(*(value.half().cpu().numpy() for value in kept), strict=True))


def _check_width(encoder: str, model: str, dims: int) -> None:
    """Mistaking one published model for another costs a training; other widths are somebody's own."""
    for other, width in TEXT_DIMS.items():
        if dims == width and other != encoder:
            allowed, fix = f"{TEXT_DIMS[encoder]} for {encoder}", f"ask for text_{other}, or set text_{encoder}.model to another"
            raise LikenessError(f"{model} gives {dims} dims, as {other} does", allowed=allowed, fix=fix)
