"""A two-player toy for tests of the loop: a generator that must copy its input, and a critic whose loss passes through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from training.config import LoopConfig
from training.stage import Evaluation, Gate, Optim, Source, Stage


class ToyGan(Stage):
    """x -> generator(x) should be x; the critic tells x from generator(x). Batch norm and dropout are there to be got wrong."""

    name = "toy"
    sources = {"clips": Source(fields=())}
    roles = {"generator": ("generator",), "critic": ("critic",)}

    class Config(Stage.Config):
        gate_below: float = 10.0
        optim: dict[str, Optim] = {"generator": Optim(lr=1e-2, clip_norm=0.5), "critic": Optim(lr=1e-2, betas=(0.5, 0.999))}

    def build(self, upstream: Any) -> dict[str, nn.Module]:
        return {
            "generator": nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 8)),
            "critic": nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
            "frozen": nn.Linear(8, 8),
        }

    def gate_rules(self) -> dict[str, Gate]:
        return {"late": Gate("l1", self.config.gate_below)}

    def example(self, records: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": rng.standard_normal(8, dtype=np.float32)}

    def step(self, batch: Any, ctx: Any) -> Iterator[Any]:
        drawn = self.generator(batch["x"])
        losses = {"l1": (drawn - self.frozen(batch["x"])).abs().mean(), "quality": (-self.critic(drawn).mean(), 0.1)}
        if ctx.gate("late"):
            losses["late"] = (drawn.square().mean(), 0.5)
        ctx.log("drawn_mean", drawn.mean())
        yield "generator", losses
        yield "critic", {
            "real": torch.relu(1 - self.critic(batch["x"])).mean(), "fake": torch.relu(1 + self.critic(drawn.detach())).mean()
        }

    def validate(self, batches: Iterable[Any], ctx: Any) -> Evaluation:
        errors = [(self.generator(b["x"]) - self.frozen(b["x"])).abs().mean() for b in batches]
        return Evaluation({"l1": float(torch.stack(errors).mean())})


class ToyBatches:
    """Examples by global index, cut for a rank as the real loader cuts them."""

    def __init__(self, config: LoopConfig, rank: int, world: int) -> None:
        self.config, self.rank, self.world = config, rank, world

    def _batch(self, indices: range) -> dict[str, torch.Tensor]:
        rows = [np.random.default_rng((self.config.seed, i)).standard_normal(8, dtype=np.float32) for i in indices]
        return {"x": torch.from_numpy(np.stack(rows))}

    def training(self, first_step: int) -> Iterator[list[dict[str, torch.Tensor]]]:
        size = self.config.micro_batch(self.world)
        for step in range(first_step, self.config.steps):
            starts = [
                step * self.config.batch_size + (part * self.world + self.rank) * size for part in range(self.config.accumulation)
            ]
            yield [self._batch(range(start, start + size)) for start in starts]

    def validation(self) -> list[dict[str, torch.Tensor]]:
        return [self._batch(range(10**6, 10**6 + 8))]
