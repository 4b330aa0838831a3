"""MultiDiffusion's two samplers (Bar-Tal et al. 2023, arXiv 2302.08113): any size from one prompt, and a prompt per region.

The published code denoises each window by a step of its own and averages what comes out. Here windows are joined *before* the step:
the network's outputs are averaged (and the latents they belong to, where those were changed), and the scheduler steps once, on the
canvas. For deterministic first-order solvers that is the same number, since the step is linear; for solvers with a memory it
needs one state instead of one a window, and those that add noise add one canvas of it, where averaging windows' noise would
shrink it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.conditioning import time_ids
from models.diffusion.decoding import STEP_PX
from models.diffusion.windows import Weights, Window, fuse

# (crops (n, C, h, w), time, numbers of the n windows) -> the network's output for each, guidance included
Network = Callable[[Tensor, Tensor, Sequence[int]], Tensor]


def panorama(
    network: Network,
    noise: Tensor,
    windows: Sequence[Window],
    scheduler: Any,
    weights: Weights = None,
    batch: int = 8,
    generator: torch.Generator | None = None,
    eta: float = 0.0,
    **options: Any,
) -> Iterator[Tensor]:
    """The canvas after each step; the last one is the result.

    Args:
        network: see `Network`. A prompt or a control picture of each window is looked up by the window's number.
        noise: (C, H, W) of variance 1.
        windows, weights, batch: see `windows.fuse`.
        scheduler: one of diffusers', its steps set.
        generator: of the noise that stochastic schedulers add.
        eta: share of fresh noise in DDIM's steps; other schedulers have none.
        options: further arguments of `fuse`.
    """
    canvas = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:

        def output(crops: Tensor, numbers: Sequence[int], time: Tensor = time) -> Tensor:
            return network(scheduler.scale_model_input(crops, time), time, numbers)

        canvas = _step(scheduler, fuse(output, canvas, windows, weights, batch, **options), time, canvas, generator, eta)
        yield canvas


def regions(
    network: Network,
    noise: Tensor,
    windows: Sequence[Window],
    masks: Tensor,
    scheduler: Any,
    backgrounds: Tensor | None = None,
    bootstrap_steps: int = 20,
    choose: Callable[[tuple[int, int]], np.ndarray] | None = None,
    batch: int = 8,
    generator: torch.Generator | None = None,
    eta: float = 0.0,
) -> Iterator[Tensor]:
    """The canvas after each step, every prompt at work within its mask; the last one is the result.

    While bootstrapping, each foreground prompt sees a plain background outside its mask, noised to the current level, so that what
    it draws comes to lie within (section 5.2 of the paper).

    Args:
        network: called with crops in the order window 0 with prompts 0, 1, ..., window 1 with prompts 0, 1, ...; the numbers are
            window x P + prompt.
        noise: (C, H, W) of variance 1; backgrounds are noised with it too, as published.
        masks: (P, 1, H, W) in latent cells from `prompt_masks`, prompt 0 the background.
        backgrounds: (B, C, h, w) encoded pictures of one colour, at least of the windows' size; None to bootstrap not at all.
        bootstrap_steps: first steps that are bootstrapped; the published code takes 20 of 50, the paper fewer.
        choose: (windows, P - 1) -> which background each foreground gets in each window; asked once a bootstrapped step.
            The default draws with numpy's generator of seed 0.
        batch: crops worked on at once, at most.
        eta: as for `panorama`.

    Raises:
        LikenessError: masks of another size than the canvas.
    """
    prompts = len(masks)
    if masks.shape[1:] != (1, *noise.shape[1:]):
        raise LikenessError(f"masks {tuple(masks.shape)} for a canvas {tuple(noise.shape)}", allowed="(P, 1, height, width)")
    items = [window for window in windows for _ in range(prompts)]
    inside = [windows[n // prompts].crop(masks[n % prompts]) for n in range(len(items))]
    rng = np.random.default_rng(0)
    canvas = noise * scheduler.init_noise_sigma
    for place, time in enumerate(scheduler.timesteps):
        plain: dict[int, Tensor] = {}  # noised backgrounds by number of the crop
        if backgrounds is not None and place < bootstrap_steps:
            shape = (len(windows), prompts - 1)
            chosen = choose(shape) if choose else rng.integers(len(backgrounds), size=shape)
            for n, which in zip((n for n in range(len(items)) if n % prompts), np.ravel(chosen), strict=True):
                height, width = inside[n].shape[-2:]
                clean = backgrounds[int(which), :, :height, :width].to(noise)
                plain[n] = scheduler.add_noise(clean[None], items[n].crop(noise)[None], time.reshape(1))[0]

        def output(crops: Tensor, numbers: Sequence[int], time: Tensor = time, plain: Mapping[int, Tensor] = plain) -> Tensor:
            seen = [
                crop * inside[n] + plain[n] * (1 - inside[n]) if n in plain else crop
                for crop, n in zip(crops, numbers, strict=True)
            ]
            crops = torch.stack(seen)
            return torch.cat([network(scheduler.scale_model_input(crops, time), time, numbers), crops], 1)

        fused = fuse(output, canvas, items, lambda n: inside[n], batch)
        prediction, canvas = fused.split([len(fused) - len(canvas), len(canvas)])
        canvas = _step(scheduler, prediction, time, canvas, generator, eta)
        yield canvas


def prompt_masks(foregrounds: Tensor) -> Tensor:
    """(P - 1, 1, H, W) masks of foregrounds -> (P, 1, H, W): first the background, what no foreground takes."""
    return torch.cat([(1 - foregrounds.sum(0, keepdim=True)).clamp(min=0), foregrounds])


def window_time_ids(windows: Sequence[Window], canvas: Tensor, target: Literal["canvas", "window"] = "window") -> Tensor:
    """(n, 6) sizes in px that SDXL is told for each window: the picture's, where the window begins in it, and what is wanted.

    Args:
        canvas: (C, H, W) latent.
        target: whether each window is wanted as a picture of its own size or as a part of one of the canvas's size.
    """
    whole_px = (STEP_PX * canvas.shape[-2], STEP_PX * canvas.shape[-1])
    rows = []
    for window in windows:
        window_px = window.times(STEP_PX)
        (top, left), (height, width) = window_px.starts[-2:], window_px.sizes[-2:]
        rows.append(time_ids(whole_px, 1, (top, left), whole_px if target == "canvas" else (height, width)))
    return torch.cat(rows)


def _step(
    scheduler: Any, output: Tensor, time: Tensor, canvas: Tensor, generator: torch.Generator | None, eta: float = 0.0
) -> Tensor:
    """One step of the whole canvas, of a batch of one as schedulers take it: what noise it adds is drawn once for all windows."""
    takes = signature(scheduler.step).parameters
    given = {name: value for name, value in (("generator", generator), ("eta", eta)) if name in takes}
    return scheduler.step(output[None], time, canvas[None], **given).prev_sample[0]
