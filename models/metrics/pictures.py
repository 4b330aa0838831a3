"""How close two pictures are: PSNR and SSIM, in the two conventions that tables are printed in.

Super-resolution papers print both on the luma of BT.601 and leave out a border as wide as the scale (BasicSR). State which
variant a number is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from infra.errors import LikenessError

Channel = Literal["rgb", "y"]
LUMA, LUMA_BLACK = (65.481, 128.553, 24.966), 16.0  # BT.601 studio range, from RGB in [0, 1] to 16..235
WINDOW, SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004)
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LEAST_ERROR = 1e-8  # keeps the PSNR of equal pictures finite: 80 dB


def luma(pictures: Tensor) -> Tensor:
    """(..., 3, H, W) RGB in [0, 1] -> (..., 1, H, W): Y of BT.601, studio range, / 255."""
    weights = pictures.new_tensor(LUMA)[:, None, None]
    return ((pictures * weights).sum(-3, keepdim=True) + LUMA_BLACK) / 255


def psnr(a: Tensor, b: Tensor, channel: Channel = "rgb", border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio, (B,) float64 dB: 10 log10(1 / (MSE + 1e-8)).

    Args:
        a, b: (B, 3, H, W) RGB in [0, 1].
        channel: "rgb", or "y" for the luma alone.
        border: px on each side that do not count.
    """
    a, b = _compared(a, b, channel, border, 1)
    return 10 * torch.log10(1 / ((a - b).square().mean((1, 2, 3)) + LEAST_ERROR))


def psnr_8bit(a: Tensor, b: Tensor, channel: Channel = "rgb", border: int = 0) -> Tensor:
    """The same of pictures in 8 bits, (B, 3, H, W) RGB in 0..255: 10 log10(255^2 / MSE); infinity for equal ones."""
    a, b = _compared(a / 255, b / 255, channel, border, 1)
    return 10 * torch.log10(1 / (a - b).square().mean((1, 2, 3)))


def ssim(a: Tensor, b: Tensor, channel: Channel = "rgb", border: int = 0) -> Tensor:
    """Structural similarity (Wang et al. 2004), (B,) float64 in [-1, 1]: mean over the map and the channels.

    An 11 x 11 Gaussian window of sigma 1.5 where it lies wholly inside the picture.

    Args:
        a, b: (B, 3, H, W) RGB in [0, 1].
        channel, border: as in `psnr`.
    """
    a, b = (255 * x for x in _compared(a, b, channel, border, WINDOW))
    offsets = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    bell = torch.exp(-offsets.square() / (2 * SIGMA**2))
    bell = bell / bell.sum()
    window = (bell[:, None] * bell).expand(a.shape[1], 1, WINDOW, WINDOW)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=x.shape[1])

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, shared = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + C1) * (2 * shared + C2)
    return (likeness / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))).mean((1, 2, 3))


def _compared(a: Tensor, b: Tensor, channel: Channel, border: int, least_px: int) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape or a.dim() != 4 or a.shape[1] != 3:
        what = f"pictures of {tuple(a.shape)} and {tuple(b.shape)} to compare"
        raise LikenessError(what, allowed="two (B, 3, H, W) of one shape")
    inner = min(a.shape[2:]) - 2 * border
    if border < 0 or inner < least_px:
        what = f"a border of {border} px leaves {inner} px of {tuple(a.shape[2:])}"
        raise LikenessError(what, allowed=f"{least_px} px or more, border 0 or more")
    if border:
        a, b = (x[..., border:-border, border:-border] for x in (a, b))
    if channel == "y":
        a, b = luma(a), luma(b)
    return a.double(), b.double()

