"""Large latents decoded by windows: bounded memory, no seams.

An autoencoder's decoder is not local: its group norms and its attention look at all it is given, so neighbouring tiles differ in
tone, and tiles put side by side, or joined over a narrow strip, show it. Here every pixel is the weighted mean of all windows
over it, and a window's weight falls to nearly nothing towards its border (`windows.gaussian`): tones pass into each other over
the whole overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.diffusion.windows import fuse, gaussian, grid

STEP_PX = 8  # one latent cell stands for 8 x 8 px in all backbones
MARGIN = 8  # latent cells that a picture of 360 degrees is continued by, where it is decoded in one, as published
Decode = Callable[[Tensor], Tensor]  # (N, C, h, w) latents -> (N, 3, 8h, 8w) RGB: `Backbone.decode`


def decode_windows(
    decode: Decode, latents: Tensor, window: int = 64, stride: int | None = None, batch: int = 1, circular: bool = False
) -> Tensor:
    """(N, C, h, w) latents -> (N, 3, 8h, 8w) RGB in [-1, 1], not clipped, float32, without gradient.

    Latents that fit into the window are decoded as a whole, to the very numbers of `decode`.

    Args:
        window: cells on each side of what is decoded at once.
        stride: cells between windows; half a window when not given, and at most: each pixel has to lie well within one.
        batch: windows decoded at once, at most.
        circular: the right border joins the left one.
    """
    stride = max(1, min(stride or window, window // 2))
    with torch.no_grad():
        return torch.stack([_decoded(decode, latent, window, stride, batch, circular) for latent in latents])


def _decoded(decode: Decode, latent: Tensor, window: int, stride: int, batch: int, circular: bool) -> Tensor:
    height, width = latent.shape[-2:]
    if circular and width <= window:
        margin = min(MARGIN, width)
        wide = torch.cat([latent[..., -margin:], latent, latent[..., :margin]], -1)
        return _decoded(decode, wide, window + 2 * margin, stride, batch, False)[..., margin * STEP_PX : -margin * STEP_PX]
    if height <= window and width <= window:
        return decode(latent[None])[0].float()
    windows = grid((height, width), window, stride, ("flush", "circular" if circular else "flush"))
    # A cell's 8 x 8 px stand as 64 channels: then results have the size of what was cropped, and weights a value for each pixel.
    weights = F.pixel_unshuffle(gaussian([side * STEP_PX for side in windows[0].sizes])[None], STEP_PX).repeat(3, 1, 1)

    def step(crops: Tensor, numbers: Sequence[int]) -> Tensor:
        return F.pixel_unshuffle(decode(crops), STEP_PX)

    return F.pixel_shuffle(fuse(step, latent.float(), windows, weights, batch), STEP_PX)
