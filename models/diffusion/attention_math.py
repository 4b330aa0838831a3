"""The arithmetic of `models.diffusion.attention`: attention with or without its map, injected tensors, image branches."""

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from torch import Tensor
from torch.nn import functional as F

from infra.errors import LikenessError


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    with_probabilities: bool = False,
    reweight: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """softmax(temperature * q k' / sqrt(d) + mask) v.

    Args:
        query, key, value: (B, heads, tokens, d).
        mask: added to the logits, broadcast over (B, heads, queries, keys), or None.
        temperature: factor on the logits.
        with_probabilities: compute the softmax rows too, without fused attention.
        reweight: makes the rows that are used from the softmax's, (B, heads, queries, keys) both.

    Returns:
        (B, queries, heads * d), and the rows used, (B, heads, queries, keys), or None.
    """
    if not with_probabilities and reweight is None:
        # No scale where none is wanted: the kernel's own is what diffusers' processors use, to the last bit.
        scale = None if temperature == 1 else temperature / math.sqrt(query.shape[-1])
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        return out.transpose(1, 2).flatten(2).to(query.dtype), None
    logits = query @ key.transpose(-2, -1) * (temperature / math.sqrt(query.shape[-1]))
    logits = logits if mask is None else logits + mask
    probabilities = logits.float().softmax(dim=-1).to(value.dtype)
    if reweight is not None:
        shape = probabilities.shape
        probabilities = reweight(probabilities)
        if probabilities.shape != shape:
            raise LikenessError(
                f"an edit made attention rows of shape {tuple(probabilities.shape)}", allowed=f"{tuple(shape)}, as it was given"
            )
    return (probabilities @ value).transpose(1, 2).flatten(2), probabilities


def mixed(own: Tensor, injected: Tensor | None, share: float, layer: str) -> Tensor:
    """share * injected + (1 - share) * own (StyleID's query preservation, Chung et al. 2024, eq. 5)."""
    if injected is None:
        return own
    injected = repeated(injected, own, layer, tokens=own.shape[2])
    return injected if share == 1 else share * injected + (1 - share) * own


def repeated(tensor: Tensor, like: Tensor, layer: str, tokens: int | None) -> Tensor:
    """`tensor` in the type of `like` and over all its rows: rows (a, b) of a batch of four become (a, b, a, b).

    Args:
        tensor: (b, heads, tokens, d) as `like` is, or (b, tokens, channels).
        tokens: how many tokens it must have, None for any.

    Raises:
        LikenessError: the shapes do not fit.
    """
    fits = len(tensor) > 0 and len(like) % len(tensor) == 0
    if tensor.ndim == 4:
        fits &= tensor.shape[1] == like.shape[1] and tensor.shape[3] == like.shape[3] and tokens in (None, tensor.shape[2])
    if not fits or tensor.ndim not in (3, 4):
        batch, heads, _, channels = like.shape
        raise LikenessError(
            f"a tensor of shape {tuple(tensor.shape)} does not fit attention layer {layer}",
            allowed=f"(b, {heads}, {tokens or 'tokens'}, {channels}) with b a divisor of {batch}",
        )
    tensor = tensor.to(device=like.device, dtype=like.dtype)
    return tensor if len(tensor) == len(like) else tensor.repeat(len(like) // len(tensor), *[1] * (tensor.ndim - 1))


def grid_of(queries: int, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns of a layer's queries in a UNet that halves its (height, width) latents, rounding up; None if none fits."""
    if size is None:
        return None
    height, width = size
    while height * width > queries:
        height, width = (height + 1) // 2, (width + 1) // 2
    return (height, width) if height * width == queries else None


def image_branches(out: Tensor, query: Tensor, processor: Any, images: list[Tensor], masks: Any) -> Tensor:
    """Adds what an IP-Adapter's processor adds to (B, queries, heads * d), for every adapter it holds.

    Args:
        out: attention to the text.
        query: (B, heads, queries, d).
        processor: the layer's own; one without `to_k_ip` adds nothing.
        images: per adapter (B, images, tokens, channels).
        masks: per adapter (1, images, height, width) or None; None for all without.
    """
    if not hasattr(processor, "to_k_ip"):
        return out
    batch, heads, queries, _ = query.shape
    masks = [None] * len(images) if masks is None else list(masks) if isinstance(masks, list) else list(masks.unsqueeze(1))

    def branch(tokens: Tensor, to_k: Any, to_v: Any) -> Tensor:
        key, value = (states.unflatten(-1, (heads, -1)).transpose(1, 2) for states in (to_k(tokens), to_v(tokens)))
        return attend(query, key, value)[0]

    for tokens, scale, to_k, to_v, mask in zip(images, processor.scale, processor.to_k_ip, processor.to_v_ip, masks, strict=True):
        scales = scale if isinstance(scale, list) else [scale]
        if all(each == 0 for each in scales):
            continue
        if mask is None:
            out = out + scale * branch(tokens.flatten(1, 2), to_k, to_v)
            continue
        mask = processor.fitted(mask, queries) if hasattr(processor, "fitted") else mask
        for index in range(mask.shape[1]):
            weights = IPAdapterMaskProcessor.downsample(mask[:, index], batch, queries, out.shape[-1]).to(out)
            out = out + scales[index % len(scales)] * (branch(tokens[:, index], to_k, to_v) * weights)
    return out


def nearest_mask(mask: Tensor, queries: int) -> Tensor:
    """(1, images, height, width) masks at the grid of a layer's queries, each the nearest pixel's value, as InstantID has it.

    The grid is the mask's size divided by sqrt(height * width / queries), as for a mask of the picture's proportions.
    """
    height, width = mask.shape[-2:]
    rows = max(1, round(math.sqrt(queries * height / width)))
    columns = queries // rows
    if rows * columns != queries:
        raise LikenessError(
            f"a mask of {height} x {width} does not have the proportions of a picture with {queries} queries",
            allowed="a mask as large as the picture, both sides multiples of 64",
        )
    return F.interpolate(mask.to(torch.float32), size=(rows, columns), mode="nearest")
