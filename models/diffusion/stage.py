"""What stages on a diffusion base share: the frozen base, latents and prompts from whichever columns there are, noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import LikenessError
from infra.model_files import find_model
from models.diffusion.backbone import Backbone
from models.diffusion.bases import PUBLISHED, open_base
from models.diffusion.conditioning import Condition, encode_prompts
from models.diffusion.losses import diffusion_loss
from models.diffusion.schedules import add_noise
from preprocessing.fields import CAPTION_BLIP, CAPTION_GIVEN, CAPTION_LLAVA, TEXT_POOLED_SDXL, AnyOf, Field, text_embedding
from training.stage import Batch, Record, Stage

LATENT_PX = 8  # of the picture, to a cell of the latent
CAPTIONS = CAPTION_GIVEN | CAPTION_LLAVA | CAPTION_BLIP


class DiffusionStage(Stage):
    """A stage that trains something over a frozen Stable Diffusion."""

    class Config(Stage.Config):
        """Settings of every such stage.

        Attributes:
            base: folder, hub id or `tiny-FAMILY` (`--base`).
            family: of the base; it decides which latent and text columns are read.
            size_px: side of the square pictures it learns from.
            foreign_columns: also take latents and text embeddings that were made with other files than the base's own.
            min_snr_gamma: weights times by `schedules.min_snr_weight`; None weights all alike, as most published trainers do.
        """

        base: str = PUBLISHED["sdxl"]
        family: Literal["sd15", "sd21", "sdxl"] = "sdxl"
        size_px: int = 512
        foreign_columns: bool = False
        min_snr_gamma: float | None = None

    def open(self) -> Backbone:
        """The base model, on the CPU in float32; its parts load when first used."""
        self._backbone = open_base(self.config.base, (self.config.family,))
        return self._backbone

    def frozen_parts(self, source: str) -> dict[str, nn.Module]:
        """The base's UNet, and its autoencoder and text encoders where a source's columns do not take their place.

        Raises:
            LikenessError: the columns were made with other encoders than the base's (`foreign_columns` lets them pass).
        """
        backbone = self.open()
        if not self.config.foreign_columns:
            self._check_made_with(source, backbone)
        parts: dict[str, nn.Module] = {"unet": backbone.unet}
        if not any(name.startswith("latent_") for name in self.given.get(source, ())):
            parts["vae"] = backbone.vae
        if not self.has_text(source):
            parts |= {name: getattr(backbone, name) for name in backbone.text_encoder_names}
        with torch.no_grad():
            self.empty_prompt = encode_prompts(backbone, [""])
        return parts

    def _check_made_with(self, source: str, backbone: Backbone) -> None:
        """A UNet that is shown another autoencoder's latents learns nothing, and no number tells."""
        for field in self.given.get(source, ()):
            parts = ("vae",) if field.startswith("latent_") else backbone.text_encoder_names if field.startswith("text_") else ()
            made_with = self.made_with.get((source, field), {})
            for part in parts:
                if made_with and find_model(f"{backbone.ref}:{part}")[1] not in made_with.values():
                    operator = f"{'latents' if part == 'vae' else 'text'}_{self.config.family}"
                    raise LikenessError(
                        f"{field} was not made with {part} of {self.config.base}, but with {', '.join(made_with)}",
                        allowed="the base's own encoders, or foreign_columns=true where they are the same networks",
                        fix=f"likeness data add DATASET --field {field} --set {operator}.model={backbone.ref}",
                    )

    def backbone_on(self, device: torch.device) -> Backbone:
        """The base where the loop has put its networks."""
        if self._backbone.device != device:
            self._backbone = self._backbone.on(device)
            self.empty_prompt = self.empty_prompt.to(torch.empty(0, device=device))
        return self._backbone

    def noise_example(self, rng: np.random.Generator, height: int, width: int, times: int = 1000) -> dict[str, Any]:
        """Noise and time of one example, from its own generator: what it is does not depend on the number of workers."""
        return {
            "noise": rng.standard_normal((4, height, width), np.float32), "t": int(rng.integers(times)),
            "posterior_noise": rng.standard_normal((4, height, width), np.float32),
        }  # fmt: skip

    def has_text(self, source: str) -> bool:
        """Whether the source has the text columns of the base's family."""
        wanted = {text_embedding(self.config.family).name} | ({TEXT_POOLED_SDXL.name} if self.config.family == "sdxl" else set())
        return wanted <= set(self.given.get(source, ()))

    def text_example(self, record: Record, source: str) -> dict[str, Any]:
        """The prompt of one example: its text columns where the dataset has them, else its caption ("" where it has none)."""
        if self.has_text(source):
            column = text_embedding(self.config.family)
            pooled = {"pooled": np.float32(record[TEXT_POOLED_SDXL])} if self.config.family == "sdxl" else {}
            return {"context": np.float32(record[column])} | pooled
        return {"prompt": str(record[CAPTIONS]) if CAPTIONS in record else ""}

    def condition(self, batch: Batch, backbone: Backbone, lost: Tensor | None = None) -> Condition:
        """Text (and sizes) of a batch; rows that lost their text have the empty prompt's.

        Args:
            batch: from `text_example`, with "sizes" (N, 6) for SDXL.
            lost: (N,) bool.
        """
        if "context" in batch:
            text = Condition(batch["context"], batch.get("pooled"))
        else:
            with torch.no_grad():
                text = encode_prompts(backbone, batch["prompt"])
        if lost is not None:
            empty = self.empty_prompt.rows([0] * len(text)).to(text.context)
            context = torch.where(lost[:, None, None], empty.context, text.context)
            both = text.pooled is not None and empty.pooled is not None
            text = Condition(context, torch.where(lost[:, None], empty.pooled, text.pooled) if both else None)  # type: ignore[arg-type]
        return replace(text, time_ids=batch["sizes"]) if backbone.family == "sdxl" else text

    def latents(self, batch: Batch, backbone: Backbone) -> Tensor:
        """(N, 4, h, w) of a batch with "moments" from a latent column, or "picture" (N, S, S, 3) uint8 to encode now."""
        if "moments" in batch:
            return backbone.latents(batch["moments"], batch["posterior_noise"])
        pictures = batch["picture"].permute(0, 3, 1, 2).float() / 127.5 - 1
        return backbone.encode(pictures, batch["posterior_noise"])

    def noisy(self, batch: Batch, latents: Tensor, backbone: Backbone) -> Tensor:
        """The latents at the batch's times."""
        return add_noise(latents, batch["noise"].to(latents), batch["t"], backbone.alpha_bar)

    def loss(self, output: Tensor, latents: Tensor, batch: Batch, backbone: Backbone) -> Tensor:
        """(N,) of what the UNet gave for `noisy`."""
        gamma = self.config.min_snr_gamma
        noise = batch["noise"].to(latents)
        return diffusion_loss(output, latents, noise, batch["t"], backbone.alpha_bar, backbone.prediction, min_snr_gamma=gamma)


def text_fields(family: str) -> tuple[Field | AnyOf, ...]:
    """What `DiffusionStage.text_example` reads: text columns of the family, or any caption."""
    return (text_embedding(family) | CAPTIONS, *((TEXT_POOLED_SDXL | CAPTIONS,) if family == "sdxl" else ()))

