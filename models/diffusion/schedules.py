"""Noise schedules of diffusion models as plain functions on alpha_bar, the share of the picture's variance left at each time.

Notation: alpha_bar is (T,) float32, falling; times t are whole numbers in [0, T), (N,) integers for a batch; x0 is the clean
latent, e the noise, both (N, ...).

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) e                 (Ho et al. 2020, arXiv 2006.11239, equation 4)
    v_t = sqrt(a_t) e - sqrt(1 - a_t) x0                 (Salimans and Ho 2022, arXiv 2202.00512, appendix D)

A network predicts e ("epsilon"), v ("v_prediction") or x0 ("sample"): the names of diffusers. Coefficients are computed in
float32 and rounded to the latents' type last.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from infra.errors import LikenessError

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


def scaled_linear(steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Tensor:
    """(steps,) alpha_bar of Stable Diffusion: betas whose roots are evenly spaced, a_t = prod (1 - beta)."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, 0)


def zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """alpha_bar shifted and stretched so that nothing of the picture is left at the last time (Lin et al. 2023, arXiv 2305.08891).

    sqrt(a_t)' = (sqrt(a_t) - sqrt(a_T)) sqrt(a_0) / (sqrt(a_0) - sqrt(a_T)). Needs a network that predicts v or x0: at the last
    time x0 can't be had from e.
    """
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def coefficients(alpha_bar: Tensor, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a_t) and sqrt(1 - a_t), each (N, 1, ...) with the type, device and number of axes of `like`."""
    level = alpha_bar.to(t.device)[t].reshape(-1, *(1,) * (like.ndim - 1))
    return level.sqrt().to(like), (1 - level).sqrt().to(like)


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x0 + sqrt(1 - a_t) e."""
    kept, added = coefficients(alpha_bar, t, x0)
    return kept * x0 + added * noise


def velocity(x0: Tensor, noise: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    """v_t = sqrt(a_t) e - sqrt(1 - a_t) x0."""
    kept, added = coefficients(alpha_bar, t, x0)
    return kept * noise - added * x0


def target(x0: Tensor, noise: Tensor, t: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """What the network is trained to give.

    Raises:
        LikenessError: `prediction` is none of the three.
    """
    known(prediction)
    if prediction == "v_prediction":
        return velocity(x0, noise, t, alpha_bar)
    return noise if prediction == "epsilon" else x0


def x0_from(output: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """The clean latent that a network's output stands for.

    From e: (x_t - sqrt(1 - a_t) e) / sqrt(a_t), infinite where a_t = 0. From v: sqrt(a_t) x_t - sqrt(1 - a_t) v.

    Raises:
        LikenessError: `prediction` is none of the three.
    """
    return split(output, x_t, *coefficients(alpha_bar, t, x_t), prediction)[0]


def noise_from(output: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """The noise that a network's output stands for.

    From x0: (x_t - sqrt(a_t) x0) / sqrt(1 - a_t). From v: sqrt(a_t) v + sqrt(1 - a_t) x_t.

    Raises:
        LikenessError: `prediction` is none of the three.
    """
    return split(output, x_t, *coefficients(alpha_bar, t, x_t), prediction)[1]


def split(output: Tensor, x_t: Tensor, kept: Tensor, added: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """(x0, e) of a network's output at kept = sqrt(a_t), added = sqrt(1 - a_t).

    Raises:
        LikenessError: `prediction` is none of the three.
    """
    known(prediction)
    if prediction == "epsilon":
        return (x_t - added * output) / kept, output
    if prediction == "sample":
        return output, (x_t - kept * output) / added
    return kept * x_t - added * output, kept * output + added * x_t


def snr(alpha_bar: Tensor, t: Tensor) -> Tensor:
    """(N,) signal to noise, a_t / (1 - a_t)."""
    level = alpha_bar.to(t.device)[t]
    return level / (1 - level)


def min_snr_weight(alpha_bar: Tensor, t: Tensor, prediction: Prediction, gamma: float = 5.0) -> Tensor:
    """(N,) weights of the squared error at each time, min-SNR-gamma (Hang et al. 2023, arXiv 2303.09556).

    min(snr, gamma) is the weight of an error in x0. An error in e counts 1/snr of it, one in v 1/(snr + 1): so the same loss
    comes out whichever of them is predicted.

    Raises:
        LikenessError: `prediction` is none of the three.
    """
    known(prediction)
    ratio = snr(alpha_bar, t)
    if prediction == "epsilon":
        return (gamma / ratio).clamp(max=1)  # min(snr, gamma) / snr, and its limit 1 where snr is 0
    capped = ratio.clamp(max=gamma)
    return capped if prediction == "sample" else capped / (ratio + 1)


def offset_noise(noise: Tensor, strength: float, generator: torch.Generator | None = None) -> Tensor:
    """Noise (N, C, ...) with a random shift of each channel, e + strength N(0, 1), the same at all places of a channel.

    Lets a network learn to change a picture's mean brightness (Guttenberg 2023, "Diffusion with offset noise"). 0 changes nothing
    and draws nothing.
    """
    if not strength:
        return noise
    shape = (*noise.shape[:2], *(1,) * (noise.ndim - 2))
    shift = torch.randn(shape, generator=generator, device=generator.device if generator else noise.device)
    return noise + strength * shift.to(noise)


def draw_times(
    count: int, generator: torch.Generator | None = None, low: int = 0, high: int = 1000, device: torch.device | str | None = None
) -> Tensor:
    """(count,) times drawn evenly from [low, high), int64: a part of the range for losses of a phase.

    Raises:
        LikenessError: the range is empty.
    """
    if not 0 <= low < high:
        raise LikenessError(f"times from {low} to {high}", allowed="0 <= first < end")
    drawn = torch.randint(low, high, (count,), generator=generator, device=generator.device if generator else device)
    return drawn.to(device) if device is not None else drawn


def known(prediction: str) -> None:
    """Refuses a prediction type that is none of diffusers' three."""
    if prediction not in PREDICTIONS:
        raise LikenessError(f"prediction_type is {prediction!r}", allowed=", ".join(PREDICTIONS))
