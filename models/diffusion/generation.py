"""What generations on a diffusion base share: the base model, precision, and pictures in and out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.backbone import Backbone
from models.diffusion.bases import open_base
from models.method import Generation
from preprocessing.fields import SOURCE, VIDEO
from training.stage import Artefact

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DiffusionGeneration(Generation):
    """A generation over a base model of `Method.families`, on a GPU where there is one."""

    class Config(Generation.Config):
        """Settings of every such generation.

        Attributes:
            base: folder, hub id, `tiny-FAMILY`; "" for what the model was trained on, or the method's usual one (`--base`).
            precision: "auto" is bf16 on a GPU and fp32 without.
        """

        base: str = ""
        precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    def __init__(self, bundle: Mapping[str, Artefact], config: Generation.Config | None = None) -> None:
        super().__init__(bundle, config)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks."""
        if self.config.precision == "auto":
            return torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return DTYPES[self.config.precision]

    @cached_property
    def backbone(self) -> Backbone:
        """The base model; its parts load when first used."""
        return open_base(self.config.base, dtype=self.dtype, device=self.device)


def picture_of(sample: Any, port: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as it was in the file, of what came in through a port for pictures (its fields: SOURCE, VIDEO).

    Raises:
        LikenessError: a video.
    """
    if sample[VIDEO].n_frames != 1:
        name = Path(sample[SOURCE]["path"]).name
        raise LikenessError(f"{port} {name} is a video of {sample[VIDEO].n_frames} frames", allowed="a picture")
    return next(iter(sample[VIDEO]))


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """A generator of torch on the CPU, seeded from one of numpy's: noise drawn there is the same whatever the device."""
    return torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))


def to_tensor(pictures: np.ndarray) -> Tensor:
    """(H, W, 3) or (N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32 in [-1, 1]."""
    batch = pictures if pictures.ndim == 4 else pictures[None]
    return torch.from_numpy(np.array(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pictures: Tensor) -> np.ndarray:
    """(N, 3, H, W) RGB in [-1, 1] -> (N, H, W, 3) uint8, rounded and clipped."""
    scaled = ((pictures.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
