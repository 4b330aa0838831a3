"""Large latents decoded by windows: bounded memory, no seams.

An autoencoder's decoder is not local: its group norms and its attention look at all it is given, so neighbouring tiles differ in
tone, and tiles put side by side, or joined over a narrow strip, show it. Here every pixel is the weighted mean of all windows
over it, and a window's weight falls to nearly nothing towards its border (`windows.gaussian`): tones pass into each other over
the whole overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.diffusion.backbone import Backbone
from models.diffusion.windows import fuse, gaussian, grid

STEP_PX = 8  # one latent cell stands for 8 x 8 px in all backbones
MARGIN = 8  # latent cells that a picture of 360 degrees is continued by, where it is decoded in one


def decode_windows(
    backbone: Backbone, latents: Tensor, window: int = 64, stride: int | None = None, batch: int = 1, circular: bool = False
) -> Tensor:
    """(N, C, h, w) latents -> (N, 3, 8h, 8w) RGB in [-1, 1], not clipped, float32, on the latents' device.

    A latent that fits into the window is decoded as a whole, by the very numbers of `Backbone.decode`.

    Args:
        window: cells on each side of what is decoded at once.
        stride: cells between windows, half a window when not given; never more, as every pixel has to lie well within one.
        batch: windows decoded at once, at most.
        circular: the right border joins the left one.
    """
    return torch.stack([_decoded(backbone, latent, window, stride or max(1, window // 2), batch, circular) for latent in latents])


def _decoded(backbone: Backbone, latent: Tensor, window: int, stride: int, batch: int, circular: bool) -> Tensor:
    height, width = latent.shape[-2:]
    if circular and width <= window:
        margin = min(MARGIN, width)
        wide = torch.cat([latent[..., -margin:], latent, latent[..., :margin]], -1)
        # Wider than the window by the margins alone, which is what the published code decodes.
        return _decoded(backbone, wide, window + 2 * margin, stride, batch, False)[..., margin * STEP_PX : -margin * STEP_PX]
    if height <= window and width <= window:
        return backbone.decode(latent[None])[0].to(latent.device)
    windows = grid((height, width), window, min(stride, max(1, window // 2)), ("flush", "circular" if circular else "flush"))
    # A cell's 8 x 8 px stand as 64 channels: then results have the size of what was cropped, and weights a value for each pixel.
    weights = F.pixel_unshuffle(gaussian([side * STEP_PX for side in windows[0].sizes])[None], STEP_PX).repeat(3, 1, 1)

    def step(crops: Tensor, numbers: Sequence[int]) -> Tensor:
        return F.pixel_unshuffle(backbone.decode(crops), STEP_PX)

    with torch.no_grad():
        # Decoded pictures are float32 whatever the latent is; the canvas's type is what they are joined into.
        return F.pixel_shuffle(fuse(step, latent.float(), windows, weights, batch), STEP_PX).to(latent.device)
