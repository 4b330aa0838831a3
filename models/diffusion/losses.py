"""The losses diffusion models are trained and judged by: one number per example, so that means can be taken as wanted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from infra.errors import LikenessError
from models.diffusion.schedules import Prediction, min_snr_weight, target


def diffusion_loss(
    output: Tensor,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    alpha_bar: Tensor,
    prediction: Prediction,
    mask: Tensor | None = None,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """(N,) squared error of a network's output at times t against what it should have given; `.mean()` is the usual loss.

    Args:
        output, x0, noise: (N, C, H, W), or with a time axis (N, C, T, H, W); compared in float32.
        t: (N,) int64.
        mask: weights >= 0 that broadcast against `output`, as (N, 1, H, W) from `latent_mask`; see `masked_error`.
        min_snr_gamma: weights examples by their time, see `schedules.min_snr_weight`; None weights all alike.

    Raises:
        LikenessError: unknown prediction type, or a mask of another size.
    """
    losses = masked_error(output, target(x0, noise, t, alpha_bar, prediction), mask)
    return losses if min_snr_gamma is None else losses * min_snr_weight(alpha_bar, t, prediction, min_snr_gamma).to(losses)


def masked_error(output: Tensor, wanted: Tensor, mask: Tensor | None = None, over: Literal["mask", "all"] = "mask") -> Tensor:
    """(N,) mean squared error, within a mask where there is one. An example whose mask is empty has loss 0 and no gradient.

    Args:
        over: what a masked sum is divided by: "mask" the mask's own sum, so that small and large masks count alike; "all" the
            number of values, as some published trainers have it (StableIdentity).

    Raises:
        LikenessError: the mask does not broadcast to the output.
    """
    error = (output.float() - wanted.float()) ** 2
    if mask is None:
        return error.flatten(1).mean(1)
    if mask.ndim != error.ndim or any(m not in (1, e) for m, e in zip(mask.shape, error.shape, strict=True)):
        raise LikenessError(f"mask {tuple(mask.shape)} for a loss over {tuple(error.shape)}", allowed="equal axes, or of length 1")
    weight = mask.to(error).expand_as(error).flatten(1)
    if over == "all":
        return (weight * error.flatten(1)).mean(1)
    total = weight.sum(1)
    return (weight * error.flatten(1)).sum(1) / torch.where(total > 0, total, torch.ones_like(total))


def latent_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """(N, 1, H, W) in [0, 1] at the picture's size -> (N, 1, height, width): each cell has the share of its area in the mask."""
    return F.adaptive_avg_pool2d(mask.float(), (height, width))


class BucketMeans:
    """Means of losses by time, over any number of batches: a loss at t = 900 and one at t = 100 say different things.

    Args:
        buckets: equal parts of [0, steps), the last one takes the rest.
        steps: times of the schedule.
    """

    def __init__(self, buckets: int = 10, steps: int = 1000) -> None:
        if not 1 <= buckets <= steps:
            raise LikenessError(f"{buckets} buckets of {steps} times", allowed=f"1 to {steps}")
        self.width, self.steps = steps // buckets, steps
        self.sums, self.counts = torch.zeros(buckets, dtype=torch.float64), torch.zeros(buckets, dtype=torch.float64)

    def add(self, losses: Tensor, t: Tensor) -> None:
        """(N,) losses at (N,) times."""
        place = (t.detach().cpu() // self.width).clamp(max=len(self.sums) - 1)
        self.sums.index_add_(0, place, losses.detach().cpu().double())
        self.counts.index_add_(0, place, torch.ones(len(place), dtype=torch.float64))

    def means(self, name: str = "loss") -> dict[str, float]:
        """Mean of all losses as `name`, and of each bucket that has any as `name_t000_099` (its first and last time)."""
        found = {name: float(self.sums.sum() / self.counts.sum())} if self.counts.sum() else {}
        for place, (total, count) in enumerate(zip(self.sums, self.counts, strict=True)):
            last = self.steps if place == len(self.sums) - 1 else (place + 1) * self.width
            if count:
                found[f"{name}_t{place * self.width:03d}_{last - 1:03d}"] = float(total / count)
        return found
