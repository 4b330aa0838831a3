"""What a Stable Diffusion UNet is told besides the latent: prompts as its cross-attention reads them, sizes, and guidance."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.backbone import Backbone

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """Text and sizes for N latents.

    Attributes:
        context: (N, tokens, D) that cross-attention reads.
        pooled: (N, D') embedding of the whole prompt; SDXL only.
        time_ids: (N, 6) from `time_ids`; SDXL only.
    """

    context: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def rows(self, places: Any) -> Condition:
        """Some rows, by slice or by list of numbers (a number may come twice)."""
        return self._each(lambda column: column[places])

    def to(self, like: Tensor) -> Condition:
        """On the device and of the type of a tensor."""
        return self._each(lambda column: column.to(like))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        pooled, sizes = (None if column is None else change(column) for column in (self.pooled, self.time_ids))
        return Condition(change(self.context), pooled, sizes)

    def arguments(self) -> dict[str, Any]:
        """As a UNet of diffusers takes them.

        Raises:
            LikenessError: an SDXL condition without sizes.
        """
        if self.pooled is None:
            return {"encoder_hidden_states": self.context}
        if self.time_ids is None:
            raise LikenessError("an SDXL condition without sizes", fix="give it time_ids(...)")
        added = {"text_embeds": self.pooled, "time_ids": self.time_ids}
        return {"encoder_hidden_states": self.context, "added_cond_kwargs": added}


def joined(conditions: Sequence[Condition]) -> Condition:
    """Conditions below each other, as rows of one."""
    columns = zip(*((c.context, c.pooled, c.time_ids) for c in conditions), strict=True)
    return Condition(*(None if any(v is None for v in column) else torch.cat(column) for column in columns))  # type: ignore[arg-type]


def encode_prompts(backbone: Backbone, prompts: Sequence[str]) -> Condition:
    """The condition of prompts, by diffusers' own `encode_prompt`; gradients pass where they are on.

    Tokens of `placeholders.Placeholders` are expanded to all their vectors. Prompts longer than the tokenizer's 77 tokens lose
    their end; a warning says what.
    """
    found = _encoded(backbone, prompts, False, None)
    return Condition(found[0], found[2]) if backbone.family == "sdxl" else Condition(found[0])


def encode_pairs(backbone: Backbone, prompts: Sequence[str], negatives: Sequence[str] | None = None) -> tuple[Condition, Condition]:
    """Conditions of prompts and of their negatives, as `encode_prompts`, for guidance.

    Args:
        negatives: one each; None for the unconditional input of the family: the empty prompt, for SDXL zeros where the folder
            asks for that (`force_zeros_for_empty_prompt`), as published.
    """
    found = _encoded(backbone, prompts, True, negatives)
    if backbone.family == "sdxl":
        context, negative, pooled, negative_pooled = found
        return Condition(context, pooled), Condition(negative, negative_pooled)
    return Condition(found[0]), Condition(found[1])


def _encoded(backbone: Backbone, prompts: Sequence[str], pairs: bool, negatives: Sequence[str] | None) -> tuple[Any, ...]:
    pipeline = _text_pipeline(backbone)
    for tokenizer in backbone.tokenizers:
        texts = [pipeline.maybe_convert_prompt(text, tokenizer) for text in (*prompts, *(negatives or ()))]
        warn_of_cuts(tokenizer, texts)
    with _quiet(type(pipeline).__module__, "transformers.tokenization_utils_base"):
        return pipeline.encode_prompt(
            list(prompts), device=backbone.device, num_images_per_prompt=1, do_classifier_free_guidance=pairs,
            negative_prompt=None if negatives is None else list(negatives),
        )  # fmt: skip


def warn_of_cuts(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """What the tokenizer's length cuts off of each text, "" where nothing; warns of each that loses something."""
    lost = []
    for text in texts:
        ids = tokenizer(text, truncation=False, verbose=False).input_ids
        cut = tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1]) if len(ids) > tokenizer.model_max_length else ""
        lost.append(cut)
        if cut:
            LOG.warning("a prompt of %d tokens is cut to %d: %r is lost", len(ids), tokenizer.model_max_length, cut)
    return lost


def time_ids(
    original_px: tuple[int, int], count: int = 1, crop_px: tuple[int, int] = (0, 0), target_px: tuple[int, int] | None = None
) -> Tensor:
    """(count, 6) SDXL's sizes: height and width of the source picture, top and left of the crop, height and width wanted."""
    return torch.tensor([[*original_px, *crop_px, *(target_px or original_px)]], dtype=torch.float32).repeat(count, 1)


def guided(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance e_u + scale (e_c - e_u) (Ho and Salimans 2022, arXiv 2207.12598); scale 1 is e_c."""
    return unconditional + scale * (conditional - unconditional)


def predict(
    unet: Callable[..., Any], latents: Tensor, t: Tensor | int, positive: Condition, negative: Condition | None, scale: float,
    **more: Any,
) -> Tensor:  # fmt: skip
    """(N, C, H, W) output of a UNet with guidance: one call with rows [negatives; positives], as diffusers has them.

    Args:
        unet: of diffusers, or what is called as one is (`nets.controlled`).
        negative: None, or a scale of 1, for one call without guidance.
        more: further arguments of the UNet, for all 2N rows.
    """
    if negative is None or scale == 1:
        return unet(latents, t, **positive.arguments(), **more).sample
    both = joined([negative, positive])
    unconditional, conditional = unet(torch.cat([latents, latents]), t, **both.arguments(), **more).sample.chunk(2)
    return guided(unconditional, conditional, scale)


@dataclass(frozen=True)
class ConditionDropout:
    """Shares of examples that lose a condition in training, so that guidance has something to go against.

    The branches exclude each other and come from one uniform number, as in IP-Adapter's trainer: [0, image) loses the image,
    [image, image + text) the text, and the next `both` both. A text that is lost is the empty prompt; an image that is lost is a
    zero *input* of whatever makes its tokens, not zero tokens.
    """

    image: float = 0.05
    text: float = 0.05
    both: float = 0.05

    def __post_init__(self) -> None:
        shares = (self.image, self.text, self.both)
        if min(shares) < 0 or sum(shares) > 1:
            raise LikenessError(f"condition dropout {shares}", allowed="shares of at least 0 that add up to at most 1")

    def lost(self, uniform: float) -> tuple[bool, bool]:
        """(image lost, text lost) for a number in [0, 1) from the example's own generator."""
        both = self.image + self.text <= uniform < self.image + self.text + self.both
        image = uniform < self.image
        return image or both, (not image and uniform < self.image + self.text) or both


def _text_pipeline(backbone: Backbone) -> Any:
    """A pipeline of diffusers with nothing but the text side."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    names = [name for pair in zip(backbone.tokenizer_names, backbone.text_encoder_names, strict=True) for name in pair]
    parts: dict[str, Any] = {name: getattr(backbone, name) for name in names}
    absent: dict[str, Any] = {"vae": None, "unet": None, "scheduler": None}
    if backbone.family == "sdxl":
        zeros = backbone.index.get("force_zeros_for_empty_prompt", True)
        return StableDiffusionXLPipeline(**parts, **absent, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    return StableDiffusionPipeline(**parts, **absent, safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # type: ignore[arg-type]


@contextmanager
def _quiet(*modules: str) -> Iterator[None]:
    """Without the libraries' own warnings of cut prompts, which come on top of ours."""
    levels = {logger: logger.level for logger in map(logging.getLogger, modules)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
