"""Stable Diffusions of a few hundred thousand weights, of the same classes and in the same layout as the published ones.

They are built from code in seconds, on any machine, to the same bytes each time, so that everything that takes a backbone can be
run everywhere. Their weights are random: they have learnt nothing until somebody trains them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infra import libraries
from infra.errors import LikenessError
from models.diffusion.backbone import FAMILIES, Family, without_bars

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 77
# each of these words is one token; others are spelled by parts of them
_WORDS = """
a an the and or of in on at with without by to from for as is this that his her their one two three
photo picture painting sketch portrait closeup face head person people man woman boy girl child baby someone human model
eyes eye nose mouth lips ear hair beard skin teeth smile smiling laughing serious sad happy angry surprised neutral
young old adult senior short long curly straight dark light black white brown blond red green blue yellow grey pink
wearing hat cap glasses sunglasses coat jacket shirt suit tie dress scarf earrings necklace
sitting standing walking running speaking talking looking holding playing dancing
street city park garden beach forest room kitchen office studio stage house car sky sea water night day sunset snow rain
left right front side background camera style art oil watercolor anime cartoon realistic detailed high low quality blurry bad
dog cat horse small large big beautiful
"""
WORDS = tuple(dict.fromkeys(_WORDS.split()))

SHAPES: dict[Family, dict[str, Any]] = {
    "sd15": {
        "levels": (1, 2, 2, 2), "attention": (True, True, True, False), "transformers": 1, "heads": 2, "linear": False,
        "text": ((48, "quick_gelu", 0),), "prediction": "epsilon", "scaling": 0.18215,
    },
    "sd21": {
        "levels": (1, 2, 2, 2), "attention": (True, True, True, False), "transformers": 1, "heads": (2, 4, 4, 4), "linear": True,
        "text": ((64, "gelu", 0),), "prediction": "v_prediction", "scaling": 0.18215,
    },
    "sdxl": {
        "levels": (1, 2, 2), "attention": (False, True, True), "transformers": (1, 1, 2), "heads": (2, 4, 4), "linear": True,
        "text": ((32, "quick_gelu", 0), (48, "gelu", 40)), "prediction": "epsilon", "scaling": 0.13025,
    },
}  # fmt: skip


def tiny_backbone(
    family: Family, folder: Path, width: int = 16, seed: int = 0, autoencoder: Sequence[int] = (8, 16, 16, 16)
) -> Path:
    """Builds a tiny model of a family and saves it in diffusers' layout; the same arguments give the same bytes.

    Where published families differ in kind, so do these: levels and depth of the UNet, linear or convolved projections, the second
    text encoder and the sizes SDXL takes, what is predicted (v for SD 2.1, of 768 px), the scaling of latents, the padding token.

    Args:
        folder: made; a model that is there is written over.
        width: channels of the UNet's first level, a multiple of 8; deeper ones have twice as many.
        autoencoder: channels of the autoencoder's four levels.

    Returns:
        `folder`.

    Raises:
        LikenessError: no such family, or another width.
    """
    libraries.quiet()
    from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    if family not in SHAPES:
        raise LikenessError(f"there is no family {family!r}", allowed=", ".join(FAMILIES))
    if width < 8 or width % 8:
        raise LikenessError(f"a width of {width}", allowed="multiples of 8")
    shape = SHAPES[family]
    parts: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place, (dims, activation, projected) in enumerate(shape["text"]):
            tail = f"_{place + 1}" if place else ""
            padding = "!" if family == "sd21" or place else END
            tokenizer = parts[f"tokenizer{tail}"] = tiny_tokenizer(padding)
            parts[f"text_encoder{tail}"] = _text_encoder(tokenizer, dims, activation, projected)
        parts["vae"] = _autoencoder(shape["scaling"], tuple(autoencoder))
        parts["unet"] = _unet(shape, width)
    parts["scheduler"] = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        prediction_type=shape["prediction"],
    )  # fmt: skip
    if family == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # type: ignore[arg-type]
    with without_bars():
        pipeline.save_pretrained(folder)
    return folder


def tiny_tokenizer(padding: str = END) -> Any:
    """CLIP's tokenizer over bytes and `WORDS`: merges are learnt from those words until each is one token.

    Byte-pair encoding as of Sennrich et al. 2016 (arXiv 1508.07909).
    """
    return clip_tokenizer(_merges(sorted(WORDS)), padding)


def clip_tokenizer(merges: Sequence[tuple[str, str]], padding: str = END) -> Any:
    """A CLIPTokenizer with a list of merges, tokens numbered as OpenAI numbers them: bytes, bytes that end a word, merges, marks.

    With OpenAI's own 48 894 merges it is the published tokenizer.
    """
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())  # the 256 bytes as characters that can be seen, in CLIP's order
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges), START, END]
    kind: Any = CLIPTokenizer  # takes pairs too, which its annotation leaves out
    return kind({token: number for number, token in enumerate(tokens)}, list(merges), model_max_length=TOKENS, pad_token=padding)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """The pairs to merge, the most frequent first; of equally frequent ones the first in the alphabet."""
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in pieces:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = ["".join(best)]
                place += 1
    return merges


def _text_encoder(tokenizer: Any, dims: int, activation: str, projected: int) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=dims, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * dims, hidden_act=activation,
        projection_dim=projected or dims, vocab_size=len(tokenizer), max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    network = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    for name, weights in network.named_parameters():
        if "embedding" in name:  # as drawn, all words are nearly the same
            nn.init.normal_(weights, std=0.3)
    return network


def _autoencoder(scaling: float, channels: tuple[int, ...]) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=channels,
        latent_channels=4, norm_num_groups=8, layers_per_block=1, sample_size=64, scaling_factor=scaling,
    )  # fmt: skip


def _unet(shape: dict[str, Any], width: int) -> Any:
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in shape["attention"])
    up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(shape["attention"]))
    projected = shape["text"][-1][2]
    sized: dict[str, Any] = {}
    if projected:  # SDXL's: the pooled text and six sizes
        sized = {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": projected + 6 * 8,
        }  # fmt: skip
    return UNet2DConditionModel(
        sample_size=8, down_block_types=down, up_block_types=up, block_out_channels=tuple(width * f for f in shape["levels"]),
        layers_per_block=2, norm_num_groups=8, attention_head_dim=shape["heads"], use_linear_projection=shape["linear"],
        transformer_layers_per_block=shape["transformers"], cross_attention_dim=sum(dims for dims, _, _ in shape["text"]), **sized,
    )  # fmt: skip
