"""Exponential moving average of a role's weights (Polyak averaging)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """ema <- decay * ema + (1 - decay) * weight after every optimiser step, in fp32; buffers are copied, not averaged."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights as they are now."""
        for name, p in module.named_parameters():
            self.values[name].lerp_(p.detach().float(), 1.0 - self.decay)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Continue from saved averages."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextmanager
    def swapped_into(self, module: nn.Module) -> Iterator[None]:
        """Within, the module computes with the averages."""
        kept = {name: p.detach().clone() for name, p in module.named_parameters()}
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(self.values[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in module.named_parameters():
                    p.copy_(kept[name])
