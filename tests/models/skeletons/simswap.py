"""SimSwap's public recipe: two pictures of one person, two players with a fresh batch each, steps of the same and of
another identity in turn, gradients through a frozen recogniser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, l1_loss, normalize, relu

from models.method import Method, Port, Published
from training.stage import Artefact, Batch, Context, Optim, Records, Source, Stage, Turn

from .parts import PHOTO, SIDE, WIDTH, Net, picture

PIXELS = 3 * SIDE * SIDE


class Swap(Stage):
    """Generator against projected discriminator; only the discriminator's heads train."""

    generator: Net
    arcface: Net
    features: Net
    heads: Net

    name = "swap"
    sources = {
        "faces": Source((PHOTO,), take=2, group_by="person"),
        "fresh": Source((PHOTO,), take=2, group_by="person"),  # the discriminator's own batch of the same step
    }
    roles = {"generator": ("generator",), "discriminator": ("heads",)}

    class Config(Stage.Config):
        identity_weight: float = 30.0
        feature_weight: float = 10.0
        reconstruction_weight: float = 10.0
        optim: dict[str, Optim] = {
            "generator": Optim(lr=4e-4, betas=(0.0, 0.99)), "discriminator": Optim(lr=4e-4, betas=(0.0, 0.99)),
        }

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        return {
            "generator": Net(PIXELS + WIDTH, PIXELS), "arcface": Net(PIXELS), "features": Net(PIXELS), "heads": Net(WIDTH, 1),
        }

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        # a person with one picture gives the same picture twice, as in the official loader
        uses = (("target", 0), ("same", -1))
        return {f"{name}_{use}": picture(records[name][i][PHOTO]) for name in self.sources for use, i in uses}

    def identity(self, face: Tensor) -> Tensor:
        return normalize(self.arcface(face))

    def swapped(self, target: Tensor, identity: Tensor) -> Tensor:
        return self.generator(target, identity).view_as(target)

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        config, alone = self.config, ctx.step % 2 == 0  # even steps: the same identity
        order = torch.arange(len(batch["faces_same"]), device=ctx.device)
        if not alone:
            order = torch.randperm(len(order), generator=ctx.generator, device=ctx.device)
        target, identity = batch["faces_target"], self.identity(batch["faces_same"][order]).detach()
        fake = self.swapped(target, identity)
        losses = {
            "adversarial": -self.heads(self.features(fake)).mean(),
            "identity": (1 - cosine_similarity(self.identity(fake), identity).mean(), config.identity_weight),
            "features": (l1_loss(self.features(fake), self.features(target).detach()), config.feature_weight),
        }
        if alone:
            losses["reconstruction"] = (l1_loss(fake, target), config.reconstruction_weight)
        yield "generator", losses

        real = batch["fresh_same"]
        with torch.no_grad():
            fake = self.swapped(batch["fresh_target"], self.identity(real[order]))
        yield "discriminator", {
            "fake": relu(1 + self.heads(self.features(fake))).mean(), "real": relu(1 - self.heads(self.features(real))).mean(),
        }


METHOD = Method(
    name="simswap", title="SimSwap", paper="arXiv 2106.06340", task="face swap",
    inputs=(Port("source", "picture", "whose face"), Port("target", "video or picture", "where it goes")),
    outputs=(Port("out", "video or picture", "the target with the source's face"),),
    stages=(Swap,), bundle={"generator": ("swap",)},
    published=(Published("550000_net_G.pth", "generator", "swap", "neuralchen/SimSwap", "CC BY-NC 4.0"),),
)
