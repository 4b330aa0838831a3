"""Pictures of a person from one photo: the photo says who, its key points (or another picture's) say where the face is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field as Setting
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.conditioning import Condition, encode_pairs, time_ids
from models.diffusion.generation import picture_of, to_pictures, torch_generator
from models.diffusion.key_points import draw_key_points, face_box_mask
from models.diffusion.nets import ControlledGeneration, control_hint
from models.diffusion.schedulers import Name as SchedulerName
from models.diffusion.schedulers import make_scheduler
from models.instantid.sampling import sample
from models.instantid.stages import new_networks
from models.method import Inputs, Output, Values
from preprocessing.fields import FACE_BOX, FACE_VALID, LANDMARKS_5, PROMPT, VIDEO, Field, identity
from training.stage import Artefact

MULTIPLE_PX = 64


class Portrait(ControlledGeneration):
    """InstantID's sampler over a trained or published adapter and IdentityNet."""

    class Config(ControlledGeneration.Config):
        """Settings.

        Attributes:
            steps, guidance, scheduler: of the sampler.
            adapter_scale: how strongly the adapter acts. Lower it first when pictures look burnt.
            identity_scale: how strongly IdentityNet acts, from `start` to `end` of the steps.
            size_px: longer side of what is made; the shape is that of the picture with the key points, each side a multiple of 64.
                Of a square SDXL at 1024 px tends to draw watermarks: another size helps.
            mask: keep IdentityNet and the adapter within the face's box, so that other nets alone decide the rest.
            identity: the face embedding, where a published file does not tell (of 256 numbers); "" for what it was trained on.
            count: pictures to make.
        """

        steps: int = Setting(30, ge=1)
        guidance: float = Setting(5.0, ge=0)
        scheduler: SchedulerName = "euler"
        adapter_scale: float = Setting(0.8, ge=0)
        identity_scale: float = Setting(0.8, ge=0)
        start: float = Setting(0.0, ge=0, le=1)
        end: float = Setting(1.0, ge=0, le=1)
        size_px: int = Setting(1280, ge=64)
        mask: bool = False
        identity: Literal["", "antelopev2", "buffalo_l", "mobileface", "coarse"] = ""
        count: int = Setting(1, ge=1)

    inputs = {
        "face": (identity("antelopev2"), LANDMARKS_5, FACE_BOX, FACE_VALID, VIDEO), "prompt": (PROMPT,), "negative": (PROMPT,),
        "pose": (LANDMARKS_5, FACE_BOX, FACE_VALID, VIDEO), "control": (VIDEO,),
    }  # fmt: skip

    def __init__(self, bundle: Mapping[str, Artefact], config: Any = None) -> None:
        super().__init__(bundle, config)
        trained = dict(bundle["adapter"].config)
        if self.config.identity:
            trained["identity"] = self.config.identity
        self.identity: Field = identity(str(trained["identity"]))
        self.inputs = {**type(self).inputs, "face": (self.identity, *type(self).inputs["face"][1:])}  # type: ignore[misc]
        adapter, identitynet = new_networks(self.backbone.unet, trained)
        self.adapter: Any = bundle["adapter"].load("adapter", adapter).eval().requires_grad_(False)
        self.identitynet: Any = bundle["identitynet"].load("identitynet", identitynet).eval().requires_grad_(False)
        for network in (self.adapter, self.identitynet):
            network.to(self.device, self.dtype)

    def __call__(self, inputs: Inputs, rng: np.random.Generator) -> Output:
        config = self.config
        controls = self.control_pictures(inputs)
        _seen(inputs["face"], "face")
        posed: Values = inputs.get("pose", inputs["face"])
        _seen(posed, "pose")
        height, width, points, box = self._laid_out(posed)
        count = config.count
        hint = torch.from_numpy(draw_key_points(points, height, width)).permute(2, 0, 1).float()[None] / 255
        face = torch.from_numpy(np.float32(inputs["face"][self.identity]))[None]
        negative = inputs["negative"][PROMPT] if "negative" in inputs else ""
        positive, unwanted = self._text(inputs["prompt"][PROMPT], negative, height, width, count)
        shape = self.backbone.latent_size(height, width)
        mask = torch.from_numpy(face_box_mask(box, height, width))[None, None] if config.mask else None
        noise = torch.randn((count, *shape), generator=torch_generator(rng))
        latents = sample(
            self.backbone, self.adapter, self.identitynet, face=self._cast(face).expand(count, -1), positive=positive,
            negative=unwanted, hint=self._cast(hint).expand(count, -1, -1, -1), noise=self._cast(noise),
            scheduler=make_scheduler(self.backbone, config.scheduler, config.steps), steps=config.steps, guidance=config.guidance,
            adapter_scale=config.adapter_scale, identity_scale=config.identity_scale,
            mask=None if mask is None else self._cast(mask), nets=self.nets, start=config.start, end=config.end,
            controls=[self._cast(control_hint(control, height, width)).expand(count, -1, -1, -1) for control in controls],
            net_scales=self.net_scales,
        )  # fmt: skip
        return Output((to_pictures(self.backbone.decode(row[None]))[0] for row in latents), count)

    def _laid_out(self, posed: Values) -> tuple[int, int, np.ndarray, np.ndarray]:
        """Height and width of what is made; key points (5, 2) and box (4,) of the face in it, px."""
        picture = picture_of(posed, "face or pose")
        scale = self.config.size_px / max(picture.shape[:2])
        height, width = (max(MULTIPLE_PX, int(side * scale) // MULTIPLE_PX * MULTIPLE_PX) for side in picture.shape[:2])
        factor = np.array([width / picture.shape[1], height / picture.shape[0]])
        return height, width, np.float64(posed[LANDMARKS_5][0]) * factor, np.float64(posed[FACE_BOX][0]) * np.tile(factor, 2)

    def _text(self, prompt: str, negative: str, height: int, width: int, count: int) -> tuple[Condition, Condition]:
        with torch.no_grad():
            pair = encode_pairs(self.backbone, [prompt], [negative])
        sizes = time_ids((height, width), count).to(self.device) if self.backbone.family == "sdxl" else None
        rows = [side.rows([0] * count) for side in pair]
        return tuple(Condition(side.context, side.pooled, sizes) for side in rows)  # type: ignore[return-value]

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)


def _seen(sample: Values, port: str) -> None:
    if not sample[FACE_VALID][0]:
        raise LikenessError(
            f"no face was found in {port}=", fix="take a picture where the face is larger, with some room around it"
        )
