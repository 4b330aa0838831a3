"""StyleID in use: every content picture in every style, without training. The defaults are those of the published main code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field as Setting
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.conditioning import encode_prompts
from models.diffusion.generation import DiffusionGeneration, picture_of, to_pictures, to_tensor
from models.method import Inputs, Output
from models.styleid.cache import read_trace, trace_file, write_trace
from models.styleid.injection import MAIN_LAYERS, StyleInjection, Trace, layers_of, main_path, port_path
from preprocessing.fields import SOURCE, VIDEO

STEP_PX = 64  # the autoencoder's 8 times the three halvings of the UNet
STORES = {"half": torch.float16, "full": torch.float32, "recompute": None}


class Stylisation(DiffusionGeneration):
    """Contents and styles in, a picture for each pair out, content by content."""

    inputs = {"content": (SOURCE, VIDEO), "style": (SOURCE, VIDEO)}

    class Config(DiffusionGeneration.Config):
        """Settings.

        Attributes:
            gamma: share of the content's own queries: more keeps more of its structure. Published for strong style: 0.3.
            temperature: factor on the logits of injected layers, against the blur of flat attention.
            schedule: "main" is the main code's (its own inversion, the first sampling step left out), "diffusers" the port's.
            steps: of inversion and sampling; published 50 for main, 20 for diffusers.
            blocks: LDM's output blocks whose self-attention is injected; published 6 to 11 for main, 7 to 11 for diffusers.
            size_px: side of the square that is cut from the middle and resized (Lanczos); null takes pictures as they are.
            encode: a sample of the autoencoder's posterior (main) or its mean (diffusers).
            adain: give the content's noise the statistics of the style's; it carries the colours.
            adain_epsilon: added to the content's deviation; 0 in main, 1e-4 in diffusers.
            inject: change attention at all.
            features: what is kept of the inversions, in "half" or "full" precision (at 512 px, 50 steps, six layers in half 0.6 GB
                a content and 1.2 GB a style); "recompute" keeps latents only and asks the network three times as often.
            cache: keep the features of styles on disk, in the cache folder, for the next call. Not with "recompute".
            batch_size: pictures drawn at once, at most.
        """

        gamma: float = Setting(0.75, ge=0, le=1)
        temperature: float = Setting(1.5, gt=0)
        schedule: Literal["main", "diffusers"] = "main"
        steps: int = Setting(50, ge=2, le=1000)
        blocks: tuple[int, ...] = MAIN_LAYERS
        size_px: int | None = Setting(512, ge=STEP_PX, multiple_of=STEP_PX)
        encode: Literal["sample", "mean"] = "sample"
        adain: bool = True
        adain_epsilon: float = Setting(0.0, ge=0)
        inject: bool = True
        features: Literal["half", "full", "recompute"] = "half"
        cache: bool = False
        batch_size: int = Setting(4, ge=1)

    def __call__(self, inputs: Inputs, rng: np.random.Generator) -> Output:
        contents, styles = ([self._prepared(sample, port) for sample in inputs[port]] for port in ("content", "style"))
        self.injection  # noqa: B018  (refuses blocks without attention, and steps that do not fit, before anything is drawn)
        seed = int(rng.integers(2**63 - 1))
        names = [[Path(sample[SOURCE]["path"]).stem for sample in inputs[port]] for port in ("content", "style")]
        if any(len(set(each)) < len(each) for each in names):  # files of one name in two folders
            names = [[str(number) for number in range(1, len(each) + 1)] for each in names]
        pairs = tuple("-".join(pair) for pair in product(*names))
        return Output(self._drawn(contents, styles, seed), len(pairs), names=pairs if len(set(pairs)) == len(pairs) else ())

    @cached_property
    def injection(self) -> StyleInjection:
        """The base model with the schedule and layers of the settings."""
        config, backbone = self.config, self.backbone
        return StyleInjection(
            backbone.unet, encode_prompts(backbone, [""]),
            main_path(config.steps) if config.schedule == "main" else port_path(config.steps),
            backbone.alpha_bar, backbone.prediction, layers_of(backbone.unet, config.blocks), STORES[config.features],
        )  # fmt: skip

    def _prepared(self, sample: Any, port: str) -> np.ndarray:
        """(H, W, 3) uint8 of the size the network takes.

        Raises:
            LikenessError: a video, or a picture of another size where pictures are taken as they are.
        """
        picture = picture_of(sample, port)
        side = self.config.size_px
        if side is not None:
            return square(picture, side)
        if picture.shape[0] % STEP_PX or picture.shape[1] % STEP_PX:
            name = Path(sample[SOURCE]["path"]).name
            raise LikenessError(
                f"{port} {name} has {picture.shape[1]} x {picture.shape[0]} px", allowed=f"multiples of {STEP_PX}",
                fix="crop it, or give a size: size_px=512",
            )  # fmt: skip
        return picture

    @torch.inference_mode()
    def _drawn(self, contents: Sequence[np.ndarray], styles: Sequence[np.ndarray], seed: int) -> Iterator[np.ndarray]:
        """Content by content; each style is inverted once, and so is each content."""
        config = self.config
        inverted: dict[int, Trace] = {}
        for picture in contents:
            content = self.injection.invert(self._encoded(picture, seed), "content")
            for first in range(0, len(styles), config.batch_size):
                batch = range(first, min(first + config.batch_size, len(styles)))
                for number in batch:
                    if number not in inverted:
                        inverted[number] = self._style(styles[number], seed)
                yield from to_pictures(self.backbone.decode(self._latents(content, [inverted[number] for number in batch])))

    def _latents(self, content: Trace, styles: Sequence[Trace]) -> Tensor:
        config, injection = self.config, self.injection
        several = [content] * len(styles)
        start = None if config.adain else torch.cat([trace.end for trace in several])
        if config.inject:
            return injection.stylise(several, styles, config.gamma, config.temperature, start, config.adain_epsilon)
        return injection.reconstruct(injection.start(several, styles, config.adain_epsilon) if start is None else start)

    def _style(self, picture: np.ndarray, seed: int) -> Trace:
        """The way to noise of a style, from the cache where it is there."""
        latent = self._encoded(picture, seed)
        if not self.config.cache or self.config.features == "recompute":
            return self.injection.invert(latent, "style")
        file = trace_file(self.injection, latent, self.backbone.checksum)
        if not file.exists():
            write_trace(self.injection.invert(latent, "style"), file)
        return read_trace(file, self.device)  # a new one is read too, so that all come the same way

    def _encoded(self, picture: np.ndarray, seed: int) -> Tensor:
        """(1, C, h, w) float32. A posterior's noise comes from seed and picture, whatever else is asked for."""
        noise = None
        if self.config.encode == "sample":
            digest = hashlib.sha256(seed.to_bytes(8, "little") + repr(picture.shape).encode() + picture.tobytes()).digest()
            own = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            noise = torch.randn(1, *self.backbone.latent_size(*picture.shape[:2]), generator=own)
        return self.backbone.encode(to_tensor(picture), noise).float()


def square(picture: np.ndarray, side_px: int) -> np.ndarray:
    """(side, side, 3) uint8: the square in the middle of a (H, W, 3) picture, resized by Lanczos's filter, as published."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side]))
    return np.array(cut.resize((side_px, side_px), Image.Resampling.LANCZOS))
