"""StyTr2: content and style from two data sets, drawn independently; one role of three modules; its own learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from models.method import Method, Port
from training.stage import Artefact, Batch, Context, Optim, Records, Source, Stage, Turn

from .parts import PHOTO, SIDE, WIDTH, Net, picture

PIXELS = 3 * SIDE * SIDE


class Transfer(Stage):
    embedding: Net
    transformer: Net
    decoder: Net
    vgg: Net

    name = "transfer"
    sources = {"content": Source((PHOTO,)), "style": Source((PHOTO,))}
    roles = {"transfer": ("embedding", "transformer", "decoder")}

    class Config(Stage.Config):
        content_weight: float = 7.0  # paper: 10
        style_weight: float = 10.0  # paper: 7
        identity_weight: float = 70.0  # paper: 50
        optim: dict[str, Optim] = {"transfer": Optim(lr=2e-4)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        return {
            "embedding": Net(PIXELS), "transformer": Net(2 * WIDTH), "decoder": Net(WIDTH, PIXELS), "vgg": Net(PIXELS),
        }

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        return {name: picture(np.roll(kept[0][PHOTO], rng.integers(SIDE), axis=1)) for name, kept in records.items()}

    def stylised(self, content: Tensor, style: Tensor) -> Tensor:
        return self.decoder(self.transformer(self.embedding(content), self.embedding(style))).view_as(content)

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        config, content, style = self.config, batch["content"], batch["style"]
        made = self.stylised(content, style)
        same = mse_loss(self.stylised(content, content), content) + mse_loss(self.stylised(style, style), style)
        yield "transfer", {
            "content": (mse_loss(self.vgg(made), self.vgg(content)), config.content_weight),
            "style": (mse_loss(self.vgg(made).mean(1), self.vgg(style).mean(1)), config.style_weight),
            "identity": (same, config.identity_weight),
        }

    def lr_factor(self, role: str, step: int, total_steps: int) -> float:
        """5e-5 (1 + 3e-4 i) for 10 000 steps, then 2e-4 / (1 + 1e-5 (i - 1e4)); relative to 2e-4."""
        return 0.25 * (1 + 3e-4 * step) if step < 10_000 else 1 / (1 + 1e-5 * (step - 10_000))


METHOD = Method(
    name="stytr2", title="StyTr2", paper="arXiv 2105.14576", task="style transfer",
    inputs=(Port("content", "video or picture", "what is shown"), Port("style", "picture", "how")),
    outputs=(Port("out", "video or picture", "the content in the style"),),
    stages=(Transfer,), bundle=dict.fromkeys(("embedding", "transformer", "decoder"), ("transfer",)),
)
