"""ControlNets that a generation is given by name, one picture each: checked, opened, and at work beside a UNet.

Source: ControlNet (Zhang et al. 2023, arXiv 2302.05543); several nets are summed by diffusers' MultiControlNetModel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pydantic import field_validator
from torch import Tensor

from infra.errors import LikenessError
from infra.model_files import locate_model
from models.diffusion.controlnet import over_batch
from models.diffusion.generation import DiffusionGeneration, picture_of
from models.method import Inputs

# What a net has in common with the UNet whose encoder it copies; the last two tell SDXL's sizes and pooled text from none.
SHARED = (
    "in_channels", "block_out_channels", "cross_attention_dim", "addition_embed_type", "projection_class_embeddings_input_dim",
)  # fmt: skip


class ControlledGeneration(DiffusionGeneration):
    """A generation with a port `control`, a picture for each further ControlNet."""

    class Config(DiffusionGeneration.Config):
        """Settings of every such generation.

        Attributes:
            nets: folders or hub ids of ControlNets in diffusers' layout, one for each `control=` picture, in the same order.
            net_scales: how strongly each acts, 1 where not given; one at 0 does not run.
        """

        nets: tuple[str, ...] = ()
        net_scales: tuple[float, ...] = ()

        @field_validator("nets", "net_scales", mode="before")
        @classmethod
        def _listed(cls, value: Any) -> Any:
            """As typed on a command line: one alone, or several with commas between."""
            if isinstance(value, str):
                return tuple(part.strip() for part in value.split(","))
            return (value,) if isinstance(value, (int, float)) else value

    @cached_property
    def nets(self) -> list[Any]:
        """The ControlNets; they load when first used."""
        return [self._opened(ref) for ref in self.config.nets]

    @property
    def net_scales(self) -> list[float]:
        """As many as nets."""
        return list(self.config.net_scales) or [1.0] * len(self.config.nets)

    def control_pictures(self, inputs: Inputs) -> list[np.ndarray]:
        """(H, W, 3) uint8 RGB of each `control=`.

        Raises:
            LikenessError: not one picture for each net, or scales for some nets only.
        """
        controls, nets, scales = list(inputs.get("control", ())), self.config.nets, self.config.net_scales
        if len(controls) != len(nets):
            raise LikenessError(
                f"{len(controls)} control pictures for {len(nets)} ControlNets", allowed="one each",
                fix="give control=PICTURE for each of nets=FOLDER,...",
            )  # fmt: skip
        if len(scales) not in (0, len(nets)):
            raise LikenessError(f"{len(scales)} net_scales for {len(nets)} ControlNets", allowed="none, or one each")
        return [picture_of(control, "control") for control in controls]

    def _opened(self, ref: str) -> Any:
        from diffusers import ControlNetModel

        folder = locate_model(ref)
        file = folder / "config.json"
        settings = json.loads(file.read_text()) if file.is_file() else {}
        if settings.get("_class_name") != "ControlNetModel":
            found = f"holds a {settings['_class_name']}" if "_class_name" in settings else "has no config.json that names its class"
            raise LikenessError(f"nets: {ref} {found}", allowed="a folder of a ControlNetModel in diffusers' layout")
        net = ControlNetModel.from_pretrained(folder, torch_dtype=self.dtype, local_files_only=True)
        unet = self.backbone.settings("unet")
        for name in SHARED:
            here, there = (_plain(each.get(name)) for each in (net.config, unet))
            if here != there:
                raise LikenessError(
                    f"nets: {ref} was made for another base: its {name} is {here}", allowed=f"{there}, the base's",
                    fix=f"name a ControlNet of the family {self.backbone.family}",
                )  # fmt: skip
        return net.eval().requires_grad_(False).to(self.device)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def control_hint(picture: np.ndarray, height_px: int, width_px: int) -> Tensor:
    """(H, W, 3) uint8 RGB -> (1, 3, height_px, width_px) float32 in [0, 1], stretched to that size where it has another."""
    import cv2

    sized = cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(sized).permute(2, 0, 1).float()[None] / 255


def controlled(
    unet: Callable[..., Any], nets: Sequence[Any], scales: Sequence[float], hints: Sequence[Tensor]
) -> Callable[..., Any]:
    """A UNet with ControlNets beside it, called as the UNet is (`conditioning.predict` takes it): their residuals are summed.

    Args:
        scales: factors on the nets' residuals; a net at 0 does not run, so it changes no bit.
        hints: (n, 3, 8 h, 8 w) pictures in [0, 1], one tensor a net, n the latents or a divisor of their number: under guidance,
            n pictures serve the negative and the positive rows.
    """
    from diffusers import MultiControlNetModel

    acting = [n for n, scale in enumerate(scales) if scale]
    if not acting:
        return unet
    together: Any = MultiControlNetModel([nets[n] for n in acting])

    def run(latents: Tensor, time: Any, **arguments: Any) -> Any:
        pictures = [over_batch(hints[n], len(latents), "control picture").to(latents) for n in acting]
        down, middle = together(
            latents, time, controlnet_cond=pictures, conditioning_scale=[scales[n] for n in acting], return_dict=False, **arguments
        )
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return unet(latents, time, **arguments, **residuals)

    return run
