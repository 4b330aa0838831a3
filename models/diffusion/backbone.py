"""A published Stable Diffusion as methods build on it: its parts from a folder in diffusers' layout, each loaded when first used.

A stage that trains on latent and text columns never loads the autoencoder and the text encoders. Nothing is downloaded: a hub id
must be in the local Hugging Face cache, and what is absent is named with the command that fetches it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from infra.errors import LikenessError
from infra.model_files import find_model, locate_model

Family = Literal["sd15", "sd21", "sdxl"]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Backbone:
    """One model. Make it by `open_backbone`.

    Loaded networks are in eval mode, without gradients, on `device` in `dtype`. They are kept, and methods may change them
    (adapters, attention processors): open another for an untouched one.

    Attributes:
        family: which input the UNet wants: sd15 and sd21 text, sdxl also a pooled text and sizes.
        folder: in diffusers' layout.
        ref: what the user named it by.
        dtype, device: of the networks; SDXL's autoencoder stays in float32, where it would overflow otherwise.
    """

    family: Family
    folder: Path
    ref: str
    dtype: torch.dtype
    device: torch.device

    def on(self, device: torch.device) -> Backbone:
        """The same model, its loaded networks shared, for where somebody has moved them."""
        moved = replace(self, device=device)
        moved.__dict__.update({name: part for name, part in self.__dict__.items() if name not in moved.__dict__})
        return moved

    @property
    def tokenizer_names(self) -> tuple[str, ...]:
        return ("tokenizer", "tokenizer_2") if self.family == "sdxl" else ("tokenizer",)

    @property
    def text_encoder_names(self) -> tuple[str, ...]:
        return ("text_encoder", "text_encoder_2") if self.family == "sdxl" else ("text_encoder",)

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.tokenizer_names)

    @property
    def text_encoders(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.text_encoder_names)

    @cached_property
    def tokenizer(self) -> Any:
        return self._tokenizer("tokenizer")

    @cached_property
    def tokenizer_2(self) -> Any:
        return self._tokenizer("tokenizer_2")

    @cached_property
    def text_encoder(self) -> Any:
        from transformers import CLIPTextModel

        return self._network("text_encoder", CLIPTextModel)

    @cached_property
    def text_encoder_2(self) -> Any:
        from transformers import CLIPTextModelWithProjection

        return self._network("text_encoder_2", CLIPTextModelWithProjection)

    @cached_property
    def vae(self) -> Any:
        """AutoencoderKL."""
        from diffusers import AutoencoderKL

        # diffusers' rule: float16 overflows unless the settings say that it was mended
        overflows = self.family == "sdxl" and self.settings("vae").get("force_upcast", True)
        return self._network("vae", AutoencoderKL, torch.float32 if overflows else None)

    @cached_property
    def unet(self) -> Any:
        """UNet2DConditionModel."""
        from diffusers import UNet2DConditionModel

        return self._network("unet", UNet2DConditionModel)

    @cached_property
    def index(self) -> dict[str, Any]:
        """model_index.json, {} where there is none."""
        file = self.folder / "model_index.json"
        return json.loads(file.read_text()) if file.exists() else {}

    @cached_property
    def checksum(self) -> str:
        """Digest of all the folder's weights and settings, the same wherever it lies."""
        return find_model(str(self.folder))[1]

    def settings(self, part: str) -> dict[str, Any]:
        """A part's settings, without loading it.

        Raises:
            LikenessError: the folder lacks it.
        """
        folder = locate_model(f"{self.ref}:{part}")
        found = [file for file in (folder / "config.json", folder / "scheduler_config.json") if file.exists()]
        if not found:
            raise LikenessError(f"{part} of {self.ref} has no settings", allowed="config.json or scheduler_config.json")
        return json.loads(found[0].read_text())

    def scheduler(self, kind: Any = None, **changes: Any) -> Any:
        """A scheduler of diffusers with the model's noise schedule: a new one at each call.

        Args:
            kind: its class, DDPMScheduler when not given.
            changes: of its settings.
        """
        from diffusers import DDPMScheduler

        return (kind or DDPMScheduler).from_config(self.settings("scheduler"), **changes)

    @cached_property
    def alpha_bar(self) -> Tensor:
        """(T,) of the model's noise schedule, on the CPU."""
        return self.scheduler().alphas_cumprod

    @property
    def prediction(self) -> Any:
        """What the UNet predicts, see `schedules.Prediction`."""
        return self.settings("scheduler").get("prediction_type", "epsilon")

    @property
    def scaling(self) -> float:
        """What latents are multiplied by before the UNet sees them."""
        return float(self.settings("vae").get("scaling_factor", 0.18215))

    def latent_size(self, height_px: int, width_px: int) -> tuple[int, int, int]:
        """(channels, height, width) of a picture's latent.

        Raises:
            LikenessError: sides that are no multiples of the autoencoder's step (8 px).
        """
        settings = self.settings("vae")
        step = 2 ** (len(settings["block_out_channels"]) - 1)
        if height_px < step or width_px < step or height_px % step or width_px % step:
            raise LikenessError(f"a picture of {height_px} x {width_px} px", allowed=f"multiples of {step}")
        return settings["latent_channels"], height_px // step, width_px // step

    def encode(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) RGB in [-1, 1] -> (N, C, H/8, W/8) latents as the UNet takes them, in `dtype`, without gradient.

        Args:
            noise: of the latents' size and variance 1, to draw from the autoencoder's posterior as training does; None takes its
                mean.
        """
        self.latent_size(*pictures.shape[-2:])
        with torch.no_grad():
            return self.latents(self.vae.encode(pictures.to(self.device, self.vae.dtype)).latent_dist.parameters, noise)

    def latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, 2C, h, w) mean and log variance, as datasets keep them -> (N, C, h, w) latents; the autoencoder is not loaded."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        posterior = DiagonalGaussianDistribution(moments.to(self.device, torch.float32))
        drawn = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
        return (drawn * self.scaling).to(self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) latents -> (N, 3, 8h, 8w) RGB in [-1, 1], not clipped; float32; gradients pass where they are on."""
        return self.vae.decode(latents.to(self.device, self.vae.dtype) / self.scaling).sample.float()

    def _tokenizer(self, part: str) -> Any:
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(locate_model(f"{self.ref}:{part}"), local_files_only=True)

    def _network(self, part: str, kind: Any, dtype: torch.dtype | None = None) -> Any:
        folder = locate_model(f"{self.ref}:{part}")
        options = {"local_files_only": True, "output_loading_info": True, "dtype": dtype or self.dtype}
        try:
            with without_bars():
                network, info = kind.from_pretrained(folder, **options)
        except (OSError, ValueError, KeyError, TypeError) as error:
            said = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:300]
            raise LikenessError(f"{part} of {self.ref} does not load ({said})", allowed=f"{kind.__name__} of diffusers") from error
        if missing := sorted(info["missing_keys"]):
            what = f"{part} of {self.ref} lacks {len(missing)} weights, {missing[0]} for one"
            raise LikenessError(what, allowed=f"all of {kind.__name__}")
        return network.eval().requires_grad_(False).to(self.device)


def open_backbone(
    ref: str | Path, family: Family | None = None, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Backbone:
    """A backbone by folder or hub id; only settings are read.

    Args:
        ref: see `infra.model_files`.
        family: what it has to be; None takes what it is.

    Raises:
        LikenessError: absent (says how to get it), no Stable Diffusion, or of another family.
    """
    folder = locate_model(str(ref))
    opened = Backbone(family or "sd15", folder, str(ref), dtype, torch.device(device))
    found = family_of(opened.settings("unet"))
    if family not in (None, found):
        raise LikenessError(f"{ref} is of the family {found}", allowed=str(family), fix="name another model")
    return Backbone(found, folder, str(ref), dtype, torch.device(device))


def family_of(unet: dict[str, Any]) -> Family:
    """The family by the UNet's settings, whatever its widths: SDXL's takes sizes, SD 2's projects to its transformers linearly.

    Raises:
        LikenessError: neither, nor SD 1.
    """
    if unet.get("_class_name") != "UNet2DConditionModel" or unet.get("in_channels") != 4:
        raise LikenessError(
            f"{unet.get('_class_name')} with {unet.get('in_channels')} input channels", allowed="UNet2DConditionModel with 4"
        )
    if unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd21" if unet.get("use_linear_projection") else "sd15"


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the progress bars that transformers shows for every part."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
