"""InstantID's sampler: diffusers' ControlNet pipelines as they are, with IdentityNet first among the nets.

IdentityNet reads the face's tokens instead of the text; further nets keep the text. With a mask, IdentityNet and the adapter act
within the face's box only (Wang et al. 2024, the released pipeline for several ControlNets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from models.diffusion.backbone import Backbone
from models.diffusion.conditioning import Condition
from models.diffusion.controlnet import ContextControlNet
from models.diffusion.generation import to_pictures
from models.diffusion.ip_adapter import IPAdapter, install
from training.stage import Batch

if TYPE_CHECKING:
    from models.instantid.stages import IdentityStage


def sample(
    backbone: Backbone, adapter: IPAdapter, identitynet: ContextControlNet, *, face: Tensor, hint: Tensor, positive: Condition,
    negative: Condition, noise: Tensor, scheduler: Any, steps: int = 30, guidance: float = 5.0, adapter_scale: float = 0.8,
    identity_scale: float = 0.8, mask: Tensor | None = None, nets: Sequence[Any] = (), controls: Sequence[Tensor] = (),
    net_scales: Sequence[float] = (), start: float = 0.0, end: float = 1.0, progress: Any = None,
) -> Tensor:  # fmt: skip
    """Latents of N pictures.

    Args:
        face: (N, D) embeddings.
        hint: (N, 3, H, W) key-point pictures in [0, 1].
        noise: (N, 4, H/8, W/8) of variance 1.
        mask: (1, 1, H, W) of the face's box; IdentityNet's residuals and the adapter's attention are multiplied by it.
        nets, controls, net_scales: further ControlNets, (N, 3, H, W) in [0, 1] for each, and how strongly they act.
        start, end: part of the steps in which IdentityNet acts.
        progress: called as progress(step) after each.

    Returns:
        (N, 4, H/8, W/8).
    """
    from diffusers import MultiControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

    embeds = torch.cat([torch.zeros_like(face), face])[:, None, None]
    tokens = adapter.image_proj(embeds[:, 0])
    control: Any = MultiControlNetModel([identitynet, *nets]) if nets else identitynet
    absent = {"vae": None, "text_encoder": None, "tokenizer": None}
    if backbone.family == "sdxl":
        pipe: Any = StableDiffusionXLControlNetPipeline(
            **absent, text_encoder_2=None, tokenizer_2=None, unet=backbone.unet, controlnet=control, scheduler=scheduler,
            add_watermarker=False,
        )  # type: ignore[arg-type]  # fmt: skip
    else:
        pipe = StableDiffusionControlNetPipeline(
            **absent, unet=backbone.unet, controlnet=control, scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # type: ignore[arg-type]  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    text = {"prompt_embeds": positive.context, "negative_prompt_embeds": negative.context}
    if backbone.family == "sdxl":
        text |= {"pooled_prompt_embeds": positive.pooled, "negative_pooled_prompt_embeds": negative.pooled}  # type: ignore[dict-item]
    several = bool(nets)

    def told(_pipe: Any, step: int, _t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if progress:
            progress(step + 1)
        return kwargs

    with install(backbone.unet, adapter, scale=adapter_scale, nearest_masks=True), identitynet.given(context=tokens, mask=mask):
        return pipe(
            image=[hint, *controls] if several else hint,
            controlnet_conditioning_scale=[identity_scale, *net_scales] if several else identity_scale,
            control_guidance_start=[start, *[0.0] * len(nets)] if several else start,
            control_guidance_end=[end, *[1.0] * len(nets)] if several else end,
            cross_attention_kwargs=None if mask is None else {"ip_adapter_masks": [mask]},
            ip_adapter_image_embeds=[embeds],
            num_inference_steps=steps, guidance_scale=guidance, height=hint.shape[-2], width=hint.shape[-1], latents=noise.clone(),
            output_type="latent", callback_on_step_end=told, **text,
        ).images  # fmt: skip


def sheet(stage: IdentityStage, batches: Sequence[Batch], backbone: Backbone) -> np.ndarray:
    """A picture to look at: for each of the first validation examples the original, its key points, what the model makes.

    (rows x H, 3 W, 3) uint8; the noise is the example's own, so pictures of different steps compare.
    """
    from diffusers import DDIMScheduler

    rows: list[np.ndarray] = []
    wanted = stage.config.samples
    for batch in batches:
        count = min(wanted - len(rows), len(batch["identity"]))
        if count <= 0:
            break
        first = {key: value[:count] for key, value in batch.items()}
        latents, condition = stage.latents(first, backbone), stage.condition(first, backbone)
        negative = stage.empty_prompt.rows([0] * count)
        hint = first["hint"].permute(0, 3, 1, 2).to(latents) / 255
        made = sample(
            backbone, stage.adapter, stage.identitynet, face=first["identity"], hint=hint, positive=condition, negative=negative,
            noise=first["noise"].to(latents), scheduler=backbone.scheduler(DDIMScheduler), steps=stage.config.sample_steps,
        )  # fmt: skip
        vae_here = "vae" in backbone.__dict__
        originals = to_pictures(backbone.decode(latents)) if vae_here or "picture" not in first else first["picture"].cpu().numpy()
        pictures = to_pictures(backbone.decode(made))
        for place in range(count):
            rows.append(np.concatenate([originals[place], first["hint"][place].cpu().numpy(), pictures[place]], axis=1))
    return np.concatenate(rows, axis=0) if rows else np.zeros((8, 8, 3), np.uint8)
