"""Visual Concept Translator: rows of the embedding table learned per reference picture; inversion inside generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from models.method import Generation, Method, Output, Port, Values
from training.stage import Artefact, Batch, Context, Optim, Records, Source, Stage, Turn, Upstream

from .parts import PHOTO, SIDE, WIDTH, Net, UNet, denoised, noisy, picture


class Rows(nn.Module):
    """The new rows of the text encoder's table, kept outside it: all other rows stay as they are, bit for bit."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(start.clone())


class TextEncoder(nn.Module):
    """Words -> one vector; `rows` take the place of the placeholder's embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, WIDTH)
        self.body = Net(WIDTH)

    def forward(self, rows: Tensor) -> Tensor:
        return self.body(rows.mean(0, keepdim=True))


class Concept(Stage):
    """One reference picture -> three embeddings."""

    rows: Rows
    text: TextEncoder
    unet: UNet
    vae: Net

    name, per = "concept", "subject"
    sources = {"reference": Source((PHOTO,), group_by="file")}  # every picture is a subject of its own
    roles = {"concept": ("rows",)}
    upstream = {"base": Upstream("base:sd15", "frozen")}

    class Config(Stage.Config):
        initialiser: int = 3  # index of the word whose embedding the rows start from
        vectors: int = 3
        x0_weight: float = 1.0
        # 5e-4 times the batch of 4 (micro-batches of 1, accumulation 4): the official `scale_lr`. The loop's batch size is
        # that of a whole optimiser step on any number of workers, so the product is a plain number.
        optim: dict[str, Optim] = {"concept": Optim(kind="adamw", lr=2e-3, weight_decay=1e-2)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        base = upstream["base"]
        text = TextEncoder()
        base.load("text", text)
        start = text.table.weight[self.config.initialiser].detach().expand(self.config.vectors, WIDTH)
        return {
            "rows": Rows(start), "text": text, "unet": base.load("unet", UNet()), "vae": base.load("vae", Net(3 * SIDE * SIDE)),
        }

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        photo = picture(records["reference"][0][PHOTO])
        noise = torch.from_numpy(rng.standard_normal(WIDTH, np.float32))
        return {"photo": photo.flip(2) if rng.random() < 0.5 else photo, "t": float(rng.random()), "noise": noise}

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        t, z = batch["t"].float(), self.vae(batch["photo"])
        predicted = self.unet(noisy(z, batch["noise"], t), t, self.text(self.rows.rows).expand(len(z), -1))
        x0 = denoised(noisy(z, batch["noise"], t), predicted, t)
        yield "concept", {"diffusion": mse_loss(predicted, batch["noise"]), "x0": (l1_loss(x0, z), self.config.x0_weight)}


def invert(unet: nn.Module, z: Tensor, steps: int = 2, inner_steps: int = 3) -> list[Tensor]:
    """Pivot turning inversion: one embedding per sampling step that leads back to `z`. Needs gradients within generation."""
    found: list[Tensor] = []
    embedding = torch.zeros(len(z), WIDTH)
    with torch.enable_grad():
        for i in range(steps):
            t = torch.full((len(z),), i / steps)
            embedding = embedding.detach().clone().requires_grad_(True)
            optimiser = torch.optim.Adam([embedding], lr=1e-2 * (1 - i / 100))
            for _ in range(inner_steps):
                optimiser.zero_grad()
                mse_loss(unet(z, t, embedding), z).backward(inputs=[embedding])
                optimiser.step()
            found.append(embedding.detach())
    return found


class Translate(Generation):
    """The content picture with the concept of the reference."""

    inputs = {"content": (PHOTO,)}

    class Config(Generation.Config):
        guidance: float = 7.5

    def __init__(self, bundle: Mapping[str, Artefact], config: Generation.Config | None = None) -> None:
        super().__init__(bundle, config)
        self.rows = bundle["rows"].load("rows", Rows(torch.zeros(3, WIDTH)))
        base = bundle["base"]
        self.text = base.load("text", TextEncoder())
        self.unet, self.vae = base.load("unet", UNet()), base.load("vae", Net(3 * SIDE * SIDE))

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Values], rng: np.random.Generator) -> Output:
        content = inputs["content"][PHOTO]
        z = self.vae(picture(content)[None])
        source = invert(self.unet, z)  # kept by the content's digest in the real one
        concept = self.text(self.rows.rows)
        for i, embedding in enumerate(source):
            guided = embedding + self.config.guidance * (concept - embedding)
            z = z - self.unet(z, torch.full((len(z),), i / len(source)), guided)
        return Output(iter([np.full_like(content, int(z.sigmoid().mean() * 255))]), n_frames=1)


METHOD = Method(
    name="vct", title="Visual Concept Translator", paper="arXiv 2307.14352", task="style transfer",
    inputs=(Port("content", "picture", "what is shown"), Port("reference", "picture", "the style or object")),
    outputs=(Port("out", "picture", "the content with the reference's concept"),),
    stages=(Concept,), bundle={"rows": ("concept",), "base": ("base:sd15",)}, generator="skeletons.vct:Translate",
)
