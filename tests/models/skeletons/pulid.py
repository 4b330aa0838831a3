"""PuLID's third stage: photos and a prompt pool, one role whose loss has terms of both batches, two paths with recorded
Q and K, attention processors that stay installed until backward has recomputed the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss

from models.method import Method, Port, Published
from training.stage import Artefact, Batch, Context, Optim, Records, Source, Stage, Turn, Upstream

from .parts import CAPTION, IDENTITY, LATENT, PHOTO, PROMPT, SIDE, WIDTH, Net, Processor, UNet, noisy, picture, processors, tokens

PIXELS = 3 * SIDE * SIDE
QK = list[tuple[Tensor, Tensor]]


class IdAttention(nn.Module):
    """Keys and values of the identity for every attention; one set, shared by both denoisers and registered outside them."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.to_k = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))
        self.to_v = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))

    def processor(self, layer: int, identity: Tensor | None, record: QK | None) -> Processor:
        def added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if record is not None:
                record.append((q, k))
            if identity is None:
                return torch.zeros_like(v)
            return torch.sigmoid((q * self.to_k[layer](identity)).sum(-1, keepdim=True)) * self.to_v[layer](identity)

        return added


class Contrastive(Stage):
    id_adapter: Net
    id_attention: IdAttention
    unet: UNet
    fast_unet: UNet
    vae: Net
    text: Net
    decoder: Net
    arcface: Net

    name = "stage3"
    sources = {"photos": Source((LATENT | PHOTO, CAPTION, IDENTITY)), "prompts": Source((PROMPT,))}
    roles = {"id": ("id_adapter", "id_attention")}
    upstream = {
        "id_adapter": Upstream("stage2", "init"), "id_attention": Upstream("stage2", "init"),
        "base": Upstream("base:sdxl", "frozen"), "fast": Upstream("base:sdxl-lightning", "frozen"),
    }

    class Config(Stage.Config):
        id_weight: float = 1.0
        semantic_weight: float = 0.6
        layout_weight: float = 0.1
        sampling_steps: int = 2
        optim: dict[str, Optim] = {"id": Optim(kind="adamw", lr=1e-5)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        base, fast = upstream["base"], upstream["fast"]
        return {
            "id_adapter": upstream["id_adapter"].load("id_adapter", Net(WIDTH)),
            "id_attention": upstream["id_attention"].load("id_attention", IdAttention(2)),
            "unet": base.load("unet", UNet()), "vae": base.load("vae", Net(PIXELS)), "text": base.load("text", Net(3)),
            "fast_unet": fast.load("unet", UNet()), "decoder": Net(WIDTH, PIXELS), "arcface": Net(PIXELS),
        }

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        photo, prompt = records["photos"][0], records["prompts"][0]
        seen = {"latent": torch.from_numpy(photo[LATENT])} if LATENT in photo else {"photo": picture(photo[PHOTO])}
        return seen | {
            "identity": torch.from_numpy(photo[IDENTITY]) * float(rng.random() >= 0.05),
            "caption": tokens(photo[CAPTION]), "prompt": tokens(prompt[PROMPT]),
            # drawn here, so that they do not depend on ranks
            "t": float(rng.random()), "noise": torch.from_numpy(rng.standard_normal(WIDTH, np.float32)),
            "start": torch.from_numpy(rng.standard_normal(WIDTH, np.float32)),
        }

    def sample(self, start: Tensor, text: Tensor) -> Tensor:
        x = start
        for i in range(self.config.sampling_steps, 0, -1):
            x = x - self.fast_unet(x, torch.full((len(x),), i / self.config.sampling_steps), text) / self.config.sampling_steps
        return x

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        config = self.config
        z = batch["latent"] if "latent" in batch else self.vae(batch["photo"])
        identity, prompt = self.id_adapter(batch["identity"]), self.text(batch["prompt"])
        plain: QK = []
        with torch.no_grad(), processors(self.fast_unet, lambda i: self.id_attention.processor(i, None, plain)):
            self.sample(batch["start"], prompt)
        steered: QK = []
        with (
            processors(self.unet, lambda i: self.id_attention.processor(i, identity, None)),
            processors(self.fast_unet, lambda i: self.id_attention.processor(i, identity, steered)),
        ):
            t = batch["t"].float()
            predicted = self.unet(noisy(z, batch["noise"], t), t, self.text(batch["caption"]))
            face = self.decoder(self.sample(batch["start"], prompt))
            # backward recomputes the layers and appends again: only the entries made so far belong to the loss
            pairs = list(zip(steered, plain, strict=True))
            yield "id", {
                "diffusion": mse_loss(predicted, batch["noise"]),
                "id": (1 - cosine_similarity(self.arcface(face), batch["identity"]).mean(), config.id_weight),
                "semantic": (sum_of(mse_loss(answer(*a), answer(*b)) for a, b in pairs), config.semantic_weight),
                "layout": (sum_of(mse_loss(a[0], b[0]) for a, b in pairs), config.layout_weight),
            }


def answer(q: Tensor, k: Tensor) -> Tensor:
    """What the picture answers to the text: softmax(K Q^T / sqrt d) Q (eq. 4)."""
    return torch.softmax(k * q / q.shape[-1] ** 0.5, dim=-1) * q


def sum_of(terms: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()


METHOD = Method(
    name="pulid", title="PuLID", paper="arXiv 2404.16022", task="identity-preserving text to image",
    inputs=(Port("face", "picture", "who"), Port("prompt", "text", "what")), outputs=(Port("out", "picture", "the picture"),),
    stages=(Contrastive,), bundle={"id_adapter": ("stage3",), "id_attention": ("stage3",)},
    published=(Published("pulid_v1.bin", "id_adapter", "stage3", "ToTheBeginning/PuLID", "Apache-2.0"),),
)
