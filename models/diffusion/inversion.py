"""DDIM without noise, forwards and backwards (Song et al. 2021, arXiv 2010.02502), in the three conventions published code uses.

One move takes a latent from noise level s to level t, with the network asked at some time:

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) e,    x0 and e read off the network's output at x_s

Sampling goes from high to low, inversion from low to high; the formula is the same. Conventions differ in the time the network
is asked at and in the levels at both ends. They are lists of moves here, made by `convention_a`, `_b` and `_c`, and they can't be
mixed: a latent inverted by one and sampled by another comes back changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.schedules import Prediction, split

CLEAN = -1  # the level without any noise, a = 1
Network = Callable[[Tensor, int], Tensor]  # (latent, time) -> output of the latent's shape


@dataclass(frozen=True)
class Move:
    """From noise level `start` to level `end` (indices of alpha_bar, or `CLEAN`), the network asked at `time`."""

    time: int
    start: int
    end: int


@dataclass(frozen=True)
class Path:
    """The moves of one convention.

    Attributes:
        invert: from the picture to noise.
        sample: from noise to the picture.
    """

    invert: tuple[Move, ...]
    sample: tuple[Move, ...]


def convention_a(steps: int, offset: int = 1, train_steps: int = 1000) -> Path:
    """Of prompt-to-prompt, Visual Concept Translator and diffusers' DDIMInverseScheduler ("leading" spacing).

    Times are offset + i d with d = train_steps // steps. Inversion goes from level t - d to t and asks the **high** time t at the
    less noisy latent; sampling is its mirror. Levels below 0 are level 0 (diffusers: set_alpha_to_one=False).
    """
    stride = _stride(steps, train_steps)
    times = [offset + i * stride for i in range(steps)]
    _within(times, train_steps)
    invert = tuple(Move(t, max(t - stride, 0), t) for t in times)
    return Path(invert, tuple(Move(m.time, m.end, m.start) for m in reversed(invert)))


def convention_b(steps: int, train_steps: int = 1000) -> Path:
    """Of the CompVis latent diffusion code, and StyleID's main code with it.

    Times are 1 + i d. Inversion asks time t at the latent of level t and goes to the next time listed, at last to
    train_steps - 1. Sampling goes to the time listed before, at last to level 0. So inversion ends above where sampling begins:
    StyleID leaves out the first sampling move and takes the last latent as one of the second time (`sample[1:]`). The published
    code lists more times than asked for where `steps` is no divisor of `train_steps`; here there are always `steps`.
    """
    stride = _stride(steps, train_steps)
    times = [1 + i * stride for i in range(steps)]
    _within(times, train_steps)
    invert = tuple(Move(t, t, end) for t, end in zip(times, [*times[1:], train_steps - 1], strict=True))
    return Path(invert, tuple(Move(t, t, end) for t, end in zip(reversed(times), [*reversed(times[:-1]), 0], strict=True)))


def convention_c(steps: int, last_time: int, train_steps: int = 1000) -> Path:
    """Of DiffusionCLIP and StyleDiffusion: `steps` times from 0 to `last_time`, whole parts of an even spacing.

    Inversion goes from one time to the next and asks the **lower** of them; sampling goes back, asking the higher, and at last
    from 0 to `CLEAN`.
    """
    if steps < 2:
        raise LikenessError(f"{steps} steps", allowed="2 or more")
    times = [int(time) for time in np.linspace(0, 1, steps) * last_time]  # numpy's rounding decides which whole number it is
    _within(times, train_steps)
    invert = tuple(Move(low, low, high) for low, high in pairwise(times))
    return Path(invert, tuple(Move(t, t, end) for t, end in zip(reversed(times), [*reversed(times[:-1]), CLEAN], strict=True)))


def walk(
    network: Network, latent: Tensor, moves: Sequence[Move], alpha_bar: Tensor, prediction: Prediction = "epsilon"
) -> Iterator[Tensor]:
    """The latents after each move.

    Args:
        network: what it gives for a latent at a time, guidance included where there is any.
        latent: of level moves[0].start; what its level means is the caller's affair.
        alpha_bar: (T,).
        prediction: what the network gives.
    """
    for move in moves:
        start, end = _level(alpha_bar, move.start), _level(alpha_bar, move.end)
        latent = ddim_step(network(latent, move.time), latent, start, end, prediction)
        yield latent


def travel(
    network: Network, latent: Tensor, moves: Sequence[Move], alpha_bar: Tensor, prediction: Prediction = "epsilon"
) -> Tensor:
    """The latent after all moves."""
    for latent in walk(network, latent, moves, alpha_bar, prediction):  # noqa: B007, B020  (the last one is wanted)
        pass
    return latent


def ddim_step(output: Tensor, x: Tensor, start: Tensor, end: Tensor, prediction: Prediction = "epsilon") -> Tensor:
    """One move between levels with alpha_bar `start` and `end` (0-dimensional), of eta 0.

    Raises:
        LikenessError: unknown prediction type.
    """
    kept, added = (root.to(x) for root in (start.sqrt(), (1 - start).sqrt()))
    x0, noise = split(output, x, kept, added, prediction)
    return end.sqrt().to(x) * x0 + (1 - end).sqrt().to(x) * noise


def _level(alpha_bar: Tensor, level: int) -> Tensor:
    return alpha_bar[level] if level != CLEAN else torch.ones((), dtype=alpha_bar.dtype, device=alpha_bar.device)


def _stride(steps: int, train_steps: int) -> int:
    if not 1 <= steps <= train_steps:
        raise LikenessError(f"{steps} steps of {train_steps}", allowed=f"1 to {train_steps}")
    return train_steps // steps


def _within(times: Sequence[int], train_steps: int) -> None:
    if not (times[0] >= 0 and times[-1] < train_steps):
        raise LikenessError(f"times {times[0]} to {times[-1]}", allowed=f"0 to {train_steps - 1}", fix="take fewer steps")
