"""One DeepSpeed engine per role, with every DeepSpeed default that changes results set explicitly.

Two engines in one step corrupt each other unless the parameters of the other roles are frozen while a role's losses are
computed: a loss of the generator that passes through the critic would leave gradients in the critic, which ZeRO 0 and 1 then
mix into the critic's own step without a word, and ZeRO 2 refuses. `Engines.only(role)` is that freeze.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import LikenessError
from training import distributed
from training.config import LoopConfig
from training.stage import Optim, Stage


def deepspeed_config(optim: Optim, loop: LoopConfig, world: int) -> dict[str, Any]:
    """The engine's settings for one role."""
    config: dict[str, Any] = {
        "train_batch_size": loop.batch_size,
        "train_micro_batch_size_per_gpu": loop.micro_batch(world),
        "gradient_accumulation_steps": loop.accumulation,
        "gradient_clipping": optim.clip_norm,  # DeepSpeed's own default clips at 1.0
        "zero_optimization": {"stage": loop.zero_stage, "overlap_comm": False, "contiguous_gradients": True},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**62,
        "wall_clock_breakdown": False,
        "bf16": {"enabled": loop.precision == "bf16-weights"},
        "fp16": {"enabled": loop.precision == "fp16"},
    }
    if loop.offload == "cpu":
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        config["zero_force_ds_cpu_optimizer"] = False
    return config


def torch_optimizer(optim: Optim, named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """torch's own optimisers: DeepSpeed's "Adam" is AdamW with decay 0.01 unless told otherwise in three places."""
    rest = dict(named)
    groups: list[dict[str, Any]] = []
    for group in optim.groups:
        chosen = {name: p for name, p in rest.items() if name.startswith(group.prefix)}
        if not chosen:
            raise LikenessError(
                f"optim group prefix {group.prefix!r} matches no parameter", allowed=f"prefixes of names like {named[0][0]!r}"
            )
        rest = {name: p for name, p in rest.items() if name not in chosen}
        decay = optim.weight_decay if group.weight_decay is None else group.weight_decay
        groups.append({"params": list(chosen.values()), "weight_decay": decay, "lr_factor": group.lr_factor})
    if rest:
        groups.append({"params": list(rest.values()), "weight_decay": optim.weight_decay, "lr_factor": 1.0})
    if optim.kind == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum)
    kind = torch.optim.AdamW if optim.kind == "adamw" else torch.optim.Adam
    return kind(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)


class Engines:
    """The engines of a stage's roles over its modules, and the frozen modules beside them."""

    def __init__(self, stage: Stage, modules: Mapping[str, nn.Module], loop: LoopConfig) -> None:
        import deepspeed

        self.loop = loop
        self.modules = dict(modules)
        self.roles: dict[str, nn.ModuleDict] = {}
        self.engines: dict[str, Any] = {}
        trained = [name for names in stage.roles.values() for name in names]
        unknown = set(trained) - set(modules)
        if unknown or len(set(trained)) != len(trained):
            raise ValueError(f"stage {stage.name}: roles name {trained}, build() gave {sorted(modules)}; each at most once")
        device = distributed.device()
        self.frozen = {name: module for name, module in modules.items() if name not in trained}
        own = {id(p): name for name in trained for p in modules[name].parameters()}
        for name, module in self.frozen.items():
            if shared := [own[id(p)] for p in module.parameters() if id(p) in own]:
                raise ValueError(f"stage {stage.name}: frozen module {name!r} holds parameters of trained {shared[0]!r}")
            module.requires_grad_(False).train(stage.frozen_mode(name) == "train")
            module.to(device, dtype=torch.bfloat16 if loop.precision == "bf16-weights" else None)
        config = stage.config
        for role, names in stage.roles.items():
            optim = config.optim.get(role, Optim())
            module = nn.ModuleDict({name: modules[name] for name in names}).to(device)
            named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
            settings = deepspeed_config(optim, loop, distributed.world_size())
            engine, *_ = deepspeed.initialize(model=module, optimizer=torch_optimizer(optim, named), config=settings)
            self.roles[role], self.engines[role] = module, engine
        self._trainable = {
            role: [p for p in module.parameters() if p.requires_grad] for role, module in self.roles.items()
        }

    @contextmanager
    def only(self, role: str) -> Iterator[None]:
        """Within, the parameters of every other role need no gradient (gradients still flow through their layers)."""
        others = [p for other, parameters in self._trainable.items() if other != role for p in parameters]
        for p in others:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in others:
                p.requires_grad_(True)

    def backward(self, role: str, loss: Tensor) -> None:
        """Backward of one micro-batch; DeepSpeed divides by the number of micro-batches."""
        self.engines[role].backward(loss)

    def step(self, role: str, lr: float) -> None:
        """Counts one micro-batch; at the last one of the accumulation the optimiser steps with this learning rate."""
        engine = self.engines[role]
        for group in engine.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        engine.step()

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode of the trained modules; frozen ones keep theirs."""
        for module in self.roles.values():
            module.train(mode)

    @contextmanager
    def whole(self, role: str) -> Iterator[nn.ModuleDict]:
        """The role's modules with all their weights at hand (ZeRO 3 keeps them in parts)."""
        module = self.roles[role]
        if self.loop.zero_stage == 3:
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(module.parameters())):
                yield module
        else:
            yield module
