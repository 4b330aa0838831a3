"""Tiny networks of diffusers' own classes, with random weights, for the tests of what is attached to them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel

CONTEXT = 64


def unet(seed: int = 0, **settings: Any) -> UNet2DConditionModel:
    """SD-like, two levels, the deeper one with attention: 8 attention layers, 16 x 16 latents of 4 channels."""
    torch.manual_seed(seed)
    given = {
        "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": CONTEXT, "attention_head_dim": (4, 8),
    }  # fmt: skip
    return UNet2DConditionModel(**{**given, **settings}).eval()


def sdxl_unet(seed: int = 0) -> UNet2DConditionModel:
    """Three levels (Down, CrossAttn, CrossAttn) with two layers each, as SDXL: its ControlNets have nine residuals."""
    return unet(
        seed, block_out_channels=(32, 64, 64), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(4, 8, 8),
        use_linear_projection=True, transformer_layers_per_block=(1, 1, 2), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
    )  # fmt: skip


def inputs(batch: int = 2, seed: int = 1, tokens: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents (B, 4, 16, 16), times (B,) and text states (B, 7, CONTEXT)."""
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 4, 16, 16, generator=draw),
        torch.randint(0, 1000, (batch,), generator=draw),
        torch.randn(batch, tokens, CONTEXT, generator=draw),
    )


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all gradients, by parameter."""
    return {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Of two sets of gradients, relative to the largest entry of each tensor."""
    assert left.keys() == right.keys()
    assert left
    return max(float((left[k] - right[k]).abs().max() / left[k].abs().max().clamp_min(1e-12)) for k in left)
