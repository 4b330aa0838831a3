"""Stand-ins of a few weights for the networks of the skeletons, and the fields that they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from preprocessing.fields import Field

SIDE = 4  # of a picture, px
WIDTH = 6  # of every hidden vector

PHOTO = Field("photo", "mjpeg", "uint8", (SIDE, SIDE, 3), "clip", "a picture", colour="RGB")
LATENT = Field("latent", "npy", "float32", (WIDTH,), "clip", "the picture through the autoencoder")
CAPTION = Field("caption", "txt", "str", (), "clip", "what the picture shows, in words")
PROMPT = Field("prompt", "txt", "str", (), "clip", "what a picture to be made should show")
IDENTITY = Field("arcface", "npy", "float32", (WIDTH,), "clip", "identity embedding")


def picture(value: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float in [-1, 1]."""
    return torch.from_numpy(value).permute(2, 0, 1).float() / 127.5 - 1.0


def tokens(text: str) -> Tensor:
    """A fixed-length stand-in for a tokeniser."""
    return torch.tensor([ord(c) % 7 for c in text.ljust(3)[:3]], dtype=torch.float32)


class Net(nn.Module):
    """Any network: all inputs, flattened and joined, through one layer."""

    def __init__(self, n_in: int, n_out: int = WIDTH) -> None:
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([x.flatten(1) for x in inputs], dim=1)))


Processor = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """A cross-attention layer whose working can be replaced from outside, as in diffusers."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.processor: Processor | None = None

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(text), self.to_v(text)
        out = torch.sigmoid((q * k).sum(-1, keepdim=True)) * v
        return out if self.processor is None else out + self.processor(q, k, v)


class UNet(nn.Module):
    """A denoiser of two attention layers, each recomputed in backward (gradient checkpointing)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Net(WIDTH + 1)
        self.attentions = nn.ModuleList(Attention() for _ in range(2))
        self.recompute = True

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        x = self.inner(x, t[:, None])
        for attention in self.attentions:
            x = x + (checkpoint(attention, x, text, use_reentrant=False) if self.recompute else attention(x, text))
        return x


@contextmanager
def processors(unet: nn.Module, make: Callable[[int], Processor]) -> Iterator[None]:
    """Every attention of `unet` works with a processor of its own, within."""
    layers = [m for m in unet.modules() if isinstance(m, Attention)]
    with ExitStack() as undo:
        for i, layer in enumerate(layers):
            undo.callback(setattr, layer, "processor", layer.processor)
            layer.processor = make(i)
        yield


def noisy(z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Forward diffusion on a cosine schedule, t in [0, 1)."""
    angle = t[:, None] * (torch.pi / 2)
    return torch.cos(angle) * z + torch.sin(angle) * noise


def denoised(z_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The inverse: the clean latent that a predicted noise implies."""
    angle = t[:, None] * (torch.pi / 2)
    return (z_t - torch.sin(angle) * noise) / torch.cos(angle).clamp_min(1e-3)
