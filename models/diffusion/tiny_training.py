"""Trains a tiny Stable Diffusion on pictures of faces: first its autoencoder, then its UNet, within 20 minutes of one CPU core.

What comes out knows roughly what faces look like at 128 px, so that what is learnt over it frozen (adapters, ControlNets) means
something. Its text encoders stay random, and every picture has the same prompt: it has learnt nothing of language.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.face_square import random_square
from models.diffusion.backbone import Backbone, Family, open_backbone
from models.diffusion.conditioning import Condition, encode_prompts, joined, time_ids
from models.diffusion.generation import to_tensor
from models.diffusion.losses import diffusion_loss
from models.diffusion.schedules import add_noise
from models.diffusion.tiny import tiny_backbone

SIZE_PX = 128
PATCH_PX = 64  # the autoencoder is convolutional: it learns from parts, at a quarter of the cost
PROMPT = "photo of a person"
WIDTH = 48
AUTOENCODER = (16, 32, 64, 64)
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Face:
    """A picture (H, W, 3) uint8 RGB, and the box of a face in it: (4,) x0, y0, x1, y1 in px."""

    picture: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class TinyTraining:
    """How long and how. The UNet learns from a pool of squares that are encoded once: encoding costs as much as its own step."""

    autoencoder_steps: int = 350
    unet_steps: int = 750
    batch_size: int = 16
    pool: int = 1536
    judged: int = 64  # pictures that the numbers are taken over
    seed: int = 0


def train_tiny(
    family: Family, folder: Path, training: Sequence[Face], held_out: Sequence[Face], settings: TinyTraining | None = None,
    watch: Watch = lambda *_: None,
) -> dict[str, float]:  # fmt: skip
    """Makes the model in a folder; deterministic on one machine for a number of threads.

    Args:
        training: what it learns from, cut at random squares around the faces.
        held_out: of other people, for the numbers; may be empty.

    Returns:
        Held-out numbers: the autoencoder's PSNR in dB, the UNet's mean squared error of the predicted noise (or velocity) over
        that of a UNet that has learnt nothing.
    """
    settings = settings or TinyTraining()
    tiny_backbone(family, folder, WIDTH, settings.seed, AUTOENCODER)
    backbone = open_backbone(folder)
    found = _train_autoencoder(backbone, training, held_out, settings, watch)
    return found | _train_unet(backbone, training, held_out, settings, watch)


def _train_autoencoder(
    backbone: Backbone, training: Sequence[Face], held_out: Sequence[Face], settings: TinyTraining, watch: Watch
) -> dict[str, float]:
    vae = backbone.vae.train().requires_grad_(True)
    draw = torch.Generator().manual_seed(settings.seed)
    batches = _batches(training, settings, 1)
    for _, pictures in _optimised(vae, settings.autoencoder_steps, 2e-3, batches, watch, "autoencoder"):
        corner = [int(torch.randint(0, SIZE_PX - PATCH_PX + 1, (), generator=draw)) for _ in range(2)]
        patch = pictures[..., corner[0] : corner[0] + PATCH_PX, corner[1] : corner[1] + PATCH_PX]
        posterior = vae.encode(patch).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=draw)
        made = vae.decode(latents).sample
        edges = sum(F.l1_loss(made.diff(dim=axis), patch.diff(dim=axis)) for axis in (-1, -2))
        (F.l1_loss(made, patch) + edges + 1e-6 * posterior.kl().mean()).backward()
    vae.eval().requires_grad_(False)
    sample = next(_batches(training, settings, 2, size=settings.judged))
    with torch.no_grad():
        spread = vae.encode(sample).latent_dist.mean.std()
        vae.register_to_config(scaling_factor=float(f"{1 / float(spread):.4g}"))
        vae.save_pretrained(backbone.folder / "vae")
        if not held_out:
            return {}
        pictures = next(_batches(held_out, settings, 3, size=settings.judged))
        error = F.mse_loss(vae.decode(vae.encode(pictures).latent_dist.mean).sample.clamp(-1, 1), pictures)
    return {"autoencoder_psnr_db": 10 * math.log10(4 / float(error))}


def _train_unet(
    backbone: Backbone, training: Sequence[Face], held_out: Sequence[Face], settings: TinyTraining, watch: Watch
) -> dict[str, float]:
    unet = backbone.unet
    weights = [value.detach() for value in unet.parameters()]
    average = [value.clone() for value in weights]
    with torch.no_grad():
        texts = joined([encode_prompts(backbone, [PROMPT]), encode_prompts(backbone, [""])])

    def judged() -> float:
        if not held_out:
            return math.nan
        pictures = next(_batches(held_out, settings, 5, size=settings.judged))
        with torch.no_grad():
            draw = torch.Generator().manual_seed(settings.seed + 2)
            return float(_loss(backbone, backbone.encode(pictures), texts, draw).mean())

    before = judged()
    pool = _pool(backbone, training, settings)
    unet.train().requires_grad_(True)
    draw = torch.Generator().manual_seed(settings.seed + 1)
    for step, places in _optimised(unet, settings.unet_steps, 1e-3, _places(len(pool), settings), watch, "unet"):
        _loss(backbone, pool[places], texts, draw).mean().backward()
        decay = min(0.995, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, weights, 1 - decay)
    with torch.no_grad():
        torch._foreach_copy_(weights, average)
    unet.eval().requires_grad_(False)
    unet.save_pretrained(backbone.folder / "unet")
    return {"loss": judged(), "loss_untrained": before} if held_out else {}


def _pool(backbone: Backbone, faces: Sequence[Face], settings: TinyTraining) -> Tensor:
    """(pool, 4, 16, 16) latents of random squares."""
    batches = _batches(faces, settings, 4)
    count = -(-settings.pool // settings.batch_size)
    return torch.cat([backbone.encode(next(batches)) for _ in range(count)])[: settings.pool]


def _places(count: int, settings: TinyTraining) -> Iterator[Tensor]:
    """Numbers of a batch's rows of the pool, without end."""
    rng = np.random.default_rng((settings.seed, 6))
    while True:
        yield torch.from_numpy(rng.integers(count, size=settings.batch_size))


def _loss(backbone: Backbone, latents: Tensor, texts: Condition, draw: torch.Generator) -> Tensor:
    """(N,) of a batch; one prompt in ten is empty."""
    count = len(latents)
    noise = torch.randn(latents.shape, generator=draw)
    t = torch.randint(0, len(backbone.alpha_bar), (count,), generator=draw)
    rows = texts.rows([int(u < 0.1) for u in torch.rand(count, generator=draw)])
    if backbone.family == "sdxl":
        rows = Condition(rows.context, rows.pooled, time_ids((SIZE_PX, SIZE_PX), count))
    output = backbone.unet(add_noise(latents, noise, t, backbone.alpha_bar), t, **rows.arguments()).sample
    return diffusion_loss(output, latents, noise, t, backbone.alpha_bar, backbone.prediction)


def _batches(faces: Sequence[Face], settings: TinyTraining, stream: int, size: int = 0) -> Iterator[Tensor]:
    """(N, 3, 128, 128) in [-1, 1] without end: random squares around faces, half of them mirrored."""
    rng = np.random.default_rng((settings.seed, stream))
    while True:
        pictures = []
        for place in rng.integers(len(faces), size=size or settings.batch_size):
            square = random_square(faces[place].box, SIZE_PX, rng).cut(faces[place].picture)
            pictures.append(square[:, ::-1] if rng.random() < 0.5 else square)
        yield to_tensor(np.stack(pictures))


def _optimised(
    network: nn.Module, steps: int, lr: float, batches: Iterator[Any], watch: Watch, what: str
) -> Iterator[tuple[int, Any]]:
    """Batches, one a step; then AdamW takes what the caller left in the gradients, its rate rising for 50 steps, then falling."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad(set_to_none=True)
        yield step, next(batches)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        watch(what, step + 1, steps)
