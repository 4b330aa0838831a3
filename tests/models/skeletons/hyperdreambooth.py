"""HyperDreamBooth: fixed auxiliary matrices, a target vector per subject, a network that predicts them, and a few more
steps per subject from its prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from models.method import Method, Port
from preprocessing.fields import Field
from training.stage import Artefact, Batch, Context, Optim, Records, Source, Stage, Turn, Upstream

from .parts import PHOTO, SIDE, WIDTH, Net, Processor, UNet, noisy, picture, processors

LAYERS, NARROW = 2, 2  # attentions of the denoiser; a = b of the card
SIZE = 2 * NARROW  # numbers per layer and subject
# written by an operator whose asset is the registered version of stage "targets": the row's subject picks the vector
TARGET = Field("lidb_target", "npy", "float32", (LAYERS, SIZE), "clip", "personal weights found by stage `targets`")


class Aux(nn.Module):
    """Orthogonal matrices shared by all subjects: W down_aux -> a numbers, b numbers -> up_aux W."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("down", (LAYERS, WIDTH, NARROW)), ("up", (LAYERS, NARROW, WIDTH))):
            self.register_buffer(name, torch.stack([nn.init.orthogonal_(torch.empty(shape[1:])) for _ in range(LAYERS)]))

    def processor(self, layer: int, weights: Tensor) -> Processor:
        """The layer's change by personal weights (L, D) or, one set per sample, (B, L, D)."""
        down, up = weights[..., layer, :NARROW], weights[..., layer, NARROW:]
        return lambda q, k, v: ((v @ self.down[layer] * down).sum(-1, keepdim=True) * up) @ self.up[layer]  # type: ignore[index]


class Vector(nn.Module):
    """Personal weights of one subject: down ~ N(0, 1), up = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.cat([torch.randn(LAYERS, NARROW), torch.zeros(LAYERS, NARROW)], dim=1))


class Denoising(Stage):
    """What the stages have in common: the frozen base and its loss under a change of weights."""

    aux: Aux
    unet: UNet
    vae: Net

    upstream = {"aux": Upstream("aux", "frozen"), "base": Upstream("base:sd15", "frozen")}

    def frozen(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        base = upstream["base"]
        return {
            "aux": upstream["aux"].load("aux", Aux()), "unet": base.load("unet", UNet()),
            "vae": base.load("vae", Net(3 * SIDE * SIDE)),
        }

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        noise = torch.from_numpy(rng.standard_normal(WIDTH, np.float32))
        return {"photo": picture(records["faces"][0][PHOTO]), "t": float(rng.random()), "noise": noise}

    def denoising(self, batch: Batch) -> Tensor:
        t = batch["t"].float()
        text = torch.ones_like(batch["noise"])  # "a [V] face"
        return mse_loss(self.unet(noisy(self.vae(batch["photo"]), batch["noise"], t), t, text), batch["noise"])


class AuxStage(Stage):
    """Draws the shared matrices once: no sources, no roles, an artefact all the same."""

    name = "aux"
    sources: ClassVar[dict[str, Source]] = {}
    roles: ClassVar[dict[str, tuple[str, ...]]] = {}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        return {"aux": Aux()}

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        return {}

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        return iter(())

    def components(self) -> tuple[str, ...]:
        return ("aux",)


class Targets(Denoising):
    """Stage A: a vector per subject."""

    vector: Vector

    name, per = "targets", "subject"
    sources = {"faces": Source((PHOTO,), group_by="person")}
    roles = {"subject": ("vector",)}

    class Config(Stage.Config):
        optim: dict[str, Optim] = {"subject": Optim(kind="adamw", lr=1e-3)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        return self.frozen(upstream) | {"vector": Vector()}

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        with processors(self.unet, lambda i: self.aux.processor(i, self.vector.weights)):
            yield "subject", {"diffusion": self.denoising(batch)}


class HyperNetwork(Denoising):
    """Stage B: photo -> personal weights, from the noise of the base and the targets."""

    vit: Net
    hypernetwork: Net

    name = "hypernetwork"
    sources = {"faces": Source((PHOTO, TARGET))}
    roles = {"hypernetwork": ("hypernetwork",)}

    class Config(Stage.Config):
        target_weight: float = 0.02
        iterations: int = 4
        optim: dict[str, Optim] = {"hypernetwork": Optim(lr=1e-3, schedule="cosine", warmup_steps=100, clip_norm=1.0)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        network = Net(WIDTH + LAYERS * SIZE, LAYERS * SIZE)
        return self.frozen(upstream) | {"vit": Net(3 * SIDE * SIDE), "hypernetwork": network}

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        return super().example(records, rng) | {"target": torch.from_numpy(records["faces"][0][TARGET])}

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        weights = predict(self.vit, self.hypernetwork, batch["photo"], self.config.iterations)
        with processors(self.unet, lambda i: self.aux.processor(i, weights)):
            yield "hypernetwork", {
                "diffusion": self.denoising(batch), "targets": (mse_loss(weights, batch["target"]), self.config.target_weight),
            }


class Personal(Denoising):
    """Stage C, the paper's: the prediction stays as it is, a fresh LoRA of higher rank beside it is trained."""

    vit: Net
    hypernetwork: Net
    lora: Lora

    name, per = "personal", "subject"
    sources = {"faces": Source((PHOTO,), group_by="person")}
    roles = {"subject": ("lora",)}
    upstream = Denoising.upstream | {"hypernetwork": Upstream("hypernetwork", "frozen")}

    class Config(Stage.Config):
        iterations: int = 4
        optim: dict[str, Optim] = {"subject": Optim(kind="adamw", lr=1e-4)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        network = upstream["hypernetwork"].load("hypernetwork", Net(WIDTH + LAYERS * SIZE, LAYERS * SIZE))
        return self.frozen(upstream) | {"vit": Net(3 * SIDE * SIDE), "hypernetwork": network, "lora": Lora()}

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        with torch.no_grad():
            weights = predict(self.vit, self.hypernetwork, batch["photo"], self.config.iterations)

        def both(layer: int) -> Processor:
            predicted, fresh = self.aux.processor(layer, weights), self.lora.processor(layer)
            return lambda q, k, v: predicted(q, k, v) + fresh(q, k, v)

        with processors(self.unet, both):
            yield "subject", {"diffusion": self.denoising(batch)}


class Lora(nn.Module):
    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        self.down = nn.ParameterList(torch.randn(WIDTH, rank) for _ in range(LAYERS))
        self.up = nn.ParameterList(torch.zeros(rank, WIDTH) for _ in range(LAYERS))

    def processor(self, layer: int) -> Processor:
        return lambda q, k, v: v @ self.down[layer] @ self.up[layer]


def predict(vit: nn.Module, network: nn.Module, photo: Tensor, iterations: int) -> Tensor:
    """(B, 3, H, W) -> personal weights (B, L, D), refined `iterations` times from zero."""
    features = vit(photo)
    weights = features.new_zeros(len(photo), LAYERS, SIZE)
    for _ in range(iterations):
        weights = weights + network(features, weights).view_as(weights)
    return weights


METHOD = Method(
    name="hyperdreambooth", title="HyperDreamBooth", paper="arXiv 2307.06949", task="personalised text to image",
    inputs=(Port("face", "picture", "who"), Port("prompt", "text", "what")), outputs=(Port("out", "picture", "the picture"),),
    stages=(AuxStage, Targets, HyperNetwork, Personal),
    bundle={"aux": ("aux",), "hypernetwork": ("hypernetwork",), "lora": ("personal",)},
)
