"""InstantID's training: an image adapter for a face embedding and a ControlNet for its key points, over a frozen base.

The objective is the usual one, |e - eps(z_t, t, text, face)|^2. Who is in the picture goes in twice: by the adapter's tokens beside
the text in the UNet, and by the same tokens in the place of the text in IdentityNet (Wang et al. 2024, arXiv 2401.07519).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from models.blocks.face_square import Square, random_square
from models.blocks.resampler import Resampler
from models.diffusion.conditioning import ConditionDropout, time_ids
from models.diffusion.controlnet import ContextControlNet
from models.diffusion.ip_adapter import IPAdapter, install
from models.diffusion.key_points import draw_key_points, flip_key_points
from models.diffusion.losses import BucketMeans
from models.diffusion.stage import LATENT_PX, DiffusionStage, text_fields
from models.instantid.sampling import sheet
from preprocessing.fields import FACE_BOX, FACE_VALID, KEY_FRAME, LANDMARKS_5, Encoder, identity, image, latent
from preprocessing.fields import IDENTITY_DIMS as DIMS
from training.stage import Artefact, Batch, Context, Evaluation, Group, Media, Optim, Records, Skip, Source, Turn, Upstream

Part = Literal["image_proj", "keys_values", "identitynet"]
PREFIX: dict[Part, str] = {"image_proj": "adapter.image_proj", "keys_values": "adapter.ip_adapter", "identitynet": "identitynet"}
STRANGER = 0.5  # cosine of two embeddings below which two faces count as two people, for validation's swapped faces


class IdentityConfig(DiffusionStage.Config):
    """Settings of the stage.

    Attributes:
        identity: which face embedding; released weights want antelopev2, raw.
        picture_px: of the column `image_PX` (or `latent_FAMILY_PX`) that is read.
        crop: "picture" takes a random square of `size_px` from the picture (so `picture_px` = `size_px`: all of its shorter side);
            "face" one around the face, enlarged by `zoom`, from pixels only.
        dropout: shares of examples that lose the face, the text, both. The released model had none; 0.05 each lets guidance tell
            the two apart. A lost face is a zero embedding; the key points stay.
        train: the parts that learn; the others stay as they start.
        width, heads, queries: of the resampler; 64 channels a head.
    """

    identity: Literal["antelopev2", "buffalo_l", "mobileface", "coarse"] = "antelopev2"
    picture_px: int = 512
    crop: Literal["picture", "face"] = "picture"
    zoom: tuple[float, float] = (1.3, 2.2)
    dropout: tuple[float, float, float] = (0.0, 0.0, 0.0)
    train: tuple[Part, ...] = ("image_proj", "keys_values", "identitynet")
    width: int = Setting(1280, multiple_of=64)
    queries: int = Setting(16, ge=1)
    samples: int = Setting(4, ge=0)
    sample_steps: int = Setting(20, ge=1)
    optim: dict[str, Optim] = {
        "model": Optim(kind="adamw", lr=1e-4, weight_decay=0.01, groups=tuple(Group(prefix=prefix) for prefix in PREFIX.values()))
    }  # fmt: skip


class IdentityStage(DiffusionStage):
    """The image adapter and IdentityNet, together."""

    name = "identity"
    sources = {"people": Source(fields=())}  # depends on the settings, see `reads`
    roles = {"model": ("adapter", "identitynet")}
    upstream = {
        "adapter": Upstream("identity", "init", required=False), "identitynet": Upstream("identity", "init", required=False),
    }  # fmt: skip
    Config = IdentityConfig
    adapter: IPAdapter
    identitynet: ContextControlNet
    unet: nn.Module

    def reads(self) -> dict[str, Source]:
        config = self.config
        picture: Any = image(config.picture_px)
        if config.crop == "picture":
            encoder: Encoder = config.family
            picture = latent(encoder, config.picture_px) | picture
        fields = (picture, identity(config.identity), LANDMARKS_5, FACE_BOX, FACE_VALID, KEY_FRAME, *text_fields(config.family))
        return {"people": Source(fields=fields)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        parts = self.frozen_parts("people")
        adapter, identitynet = new_networks(parts["unet"], self.config)
        for name, network in (("adapter", adapter), ("identitynet", identitynet)):
            if name in upstream:
                upstream[name].load(name, network)
        for part, module in (
            ("image_proj", adapter.image_proj), ("keys_values", adapter.ip_adapter), ("identitynet", identitynet),
        ):  # fmt: skip
            module.requires_grad_(part in self.config.train)
        return parts | {"adapter": adapter, "identitynet": identitynet}

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        record, config = records["people"][0], self.config
        place = int(record[KEY_FRAME])
        if not record[FACE_VALID][place] or not np.any(record[identity(config.identity)]):
            raise Skip(f"{record.key} shows no face in its key frame")
        side = config.size_px
        source = (float(record.source["height"]), float(record.source["width"]))
        points, box = (np.asarray(record[field][place], np.float64) for field in (LANDMARKS_5, FACE_BOX))
        found: dict[str, Any] = {}
        if any(name.startswith("latent_") for name in self.given.get("people", ())):
            moments = np.asarray(record[latent(config.family, config.picture_px)], np.float32)
            height, width = (n * LATENT_PX for n in moments.shape[1:])
            square, scale = self._square(box, (height, width), source, rng)
            top, left = (int(at) // LATENT_PX for at in (square.top, square.left))
            cells = side // LATENT_PX
            found["moments"] = moments[:, top : top + cells, left : left + cells]
        else:
            picture = record[image(config.picture_px)]
            height, width = picture.shape[:2]
            square, scale = self._square(box, (height, width), source, rng)
            found["picture"] = square.cut(picture)
        seen = square.points(points * scale)
        crop = (max(0, int(square.top)), max(0, int(square.left)))
        image_lost, text_lost = ConditionDropout(*config.dropout).lost(rng.random())
        return found | self.text_example(record, "people") | self.noise_example(rng, side // LATENT_PX, side // LATENT_PX) | {
            "points": seen, "hint": draw_key_points(seen, side, side), "identity": np.float32(record[identity(config.identity)]),
            "face_lost": image_lost, "text_lost": text_lost,
            "sizes": time_ids((height, width), 1, crop, (side, side))[0].numpy(),
        }  # fmt: skip

    def validation_example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        """Nothing is lost; also the key points mirrored left to right."""
        found = self.example(records, rng) | {"face_lost": False, "text_lost": False}
        mirrored = flip_key_points(found["points"], self.config.size_px)
        return found | {"mirrored_hint": draw_key_points(mirrored, self.config.size_px, self.config.size_px)}

    def _square(
        self, box: np.ndarray, size: tuple[int, int], source: tuple[float, float], rng: np.random.Generator
    ) -> tuple[Square, np.ndarray]:
        """What is cut of a picture of this size, and the factor of x and of y from the source to the picture."""
        scale = np.array([size[1] / source[1], size[0] / source[0]])
        side = self.config.size_px
        if self.config.crop == "face":
            return random_square(np.concatenate([box[:2] * scale, box[2:] * scale]), side, rng, self.config.zoom), scale
        # whole cells of the latent, so that pictures and latents are cut alike; from the upper half, where heads are (as published)
        top = int(rng.integers(0, max(0, size[0] - side) // 2 // LATENT_PX + 1)) * LATENT_PX
        left = max(0, size[1] - side) // 2 // LATENT_PX * LATENT_PX
        if min(size) < side:
            raise Skip(f"a picture of {size[1]} x {size[0]} px is smaller than size_px={side}")
        return Square(left, top, side, side), scale

    def predict(self, batch: Batch, noisy: Tensor, condition: Any, face: Tensor, hint: Tensor) -> Tensor:
        """The UNet's output. Call it, and backward, within `install(self.unet, self.adapter)`.

        Args:
            face: (N, D) embeddings, zeros where there is none.
            hint: (N, S, S, 3) uint8 RGB key-point pictures.
        """
        tokens = self.adapter.image_proj(face[:, None])
        arguments = condition.arguments()
        picture = hint.permute(0, 3, 1, 2).to(noisy) / 255
        with self.identitynet.given(context=tokens):
            down, middle = self.identitynet(noisy, batch["t"], controlnet_cond=picture, return_dict=False, **arguments)
        added = {**arguments.pop("added_cond_kwargs", {}), "image_embeds": [face[:, None, None]]}
        return self.unet(
            noisy, batch["t"], **arguments, added_cond_kwargs=added,
            down_block_additional_residuals=down, mid_block_additional_residual=middle,
        ).sample  # fmt: skip

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        backbone = self.backbone_on(ctx.device)
        latents = self.latents(batch, backbone)
        condition = self.condition(batch, backbone, batch["text_lost"])
        face = torch.where(batch["face_lost"][:, None], 0.0, batch["identity"])
        with install(self.unet, self.adapter):
            output = self.predict(batch, self.noisy(batch, latents, backbone), condition, face, batch["hint"])
            yield "model", {"loss": self.loss(output, latents, batch, backbone).mean()}

    def validate(self, batches: Iterable[Batch], ctx: Context) -> Evaluation:
        """The loss by time; with another's embedding, with mirrored key points, and that of the base alone.

        `*_margin` is the mean over examples of how much worse the wrong condition is, `*_margin_se` its standard error; noise and
        times are the same. Mirrored counts where mirroring moves the points, see `off_centre`.
        """
        backbone = self.backbone_on(ctx.device)
        buckets = BucketMeans(5)
        right, base, swapped, mirrored = [], [], [], []
        shown: list[Batch] = []
        for batch in batches:
            latents = self.latents(batch, backbone)
            condition, noisy, face = self.condition(batch, backbone), self.noisy(batch, latents, backbone), batch["identity"]
            others = face.roll(1, 0)
            strange = torch.cosine_similarity(face, others, dim=1) < STRANGER

            def judged(face: Tensor, hint: Tensor, batch: Batch = batch, of: Any = (latents, condition, noisy)) -> Tensor:
                return self.loss(self.predict(batch, of[2], of[1], face, hint), of[0], batch, backbone)

            with install(self.unet, self.adapter):
                loss = judged(face, batch["hint"])
                swapped.append((judged(others, batch["hint"]) - loss)[strange])
                mirrored.append((judged(face, batch["mirrored_hint"]) - loss)[off_centre(batch["points"], self.config.size_px)])
            alone = self.unet(noisy, batch["t"], **condition.arguments()).sample
            base.append(self.loss(alone, latents, batch, backbone))
            right.append(loss)
            buckets.add(loss, batch["t"])
            shown.append(batch)
        if not right:
            return Evaluation()
        metrics = buckets.means("loss") | {"loss_base": float(torch.cat(base).mean())}
        for name, parts in (("swapped", swapped), ("mirrored", mirrored)):
            margins = torch.cat(parts)
            if len(margins) > 1:
                error = float(margins.std() / len(margins) ** 0.5)
                found = {"margin": float(margins.mean()), "margin_se": error, "examples": float(len(margins))}
                metrics |= {f"{name}_{key}": value for key, value in found.items()}
        media = {"samples": Media(sheet(self, shown, backbone)[None])} if self.config.samples else {}
        return Evaluation(metrics, media)


def off_centre(points: Tensor, size_px: int) -> Tensor:
    """(N,) whether mirroring (N, 5, 2) key points moves them by more than a tenth of the distance of the eyes, on average."""
    mirrored = points[:, [1, 0, 2, 4, 3]].clone()
    mirrored[..., 0] = size_px - 1 - mirrored[..., 0]
    eyes = (points[:, 0] - points[:, 1]).norm(dim=1).clamp_min(1)
    return (mirrored - points).norm(dim=2).mean(1) > 0.1 * eyes


def new_networks(unet: Any, config: Mapping[str, Any] | IdentityConfig) -> tuple[IPAdapter, ContextControlNet]:
    """A fresh adapter (keys and values begin as the text's) and IdentityNet (the UNet's encoder, changing nothing yet)."""
    settings = config if isinstance(config, IdentityConfig) else IdentityConfig.model_validate(
        {key: value for key, value in config.items() if key in IdentityConfig.model_fields}
    )
    dims = unet.config.cross_attention_dim
    projection = Resampler(
        dim=settings.width, depth=4, dim_head=64, heads=settings.width // 64, num_queries=settings.queries,
        embedding_dim=DIMS[settings.identity], output_dim=dims,
    )  # fmt: skip
    identitynet = ContextControlNet.from_unet(unet)
    return IPAdapter.for_unet(unet, projection), identitynet.train().requires_grad_(True)
