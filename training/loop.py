"""The training loop: everything around a stage's `step`, for any number of roles.

Reading order: `train` sets up and runs to the end, `Loop.optimise` is one optimiser step of every role.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from infra.errors import LikenessError
from training import checkpoint, distributed
from training.checkpoint import LoopState
from training.config import LoopConfig
from training.ema import MovingAverage
from training.engines import Engines
from training.stage import Artefact, Batch, Evaluation, Optim, Stage


class Batches(Protocol):
    """Where examples come from (see `training.loader`)."""

    def training(self, first_step: int) -> Iterator[list[Batch]]:
        """For each step from `first_step` on, this rank's micro-batches."""

    def validation(self) -> Iterable[Batch]:
        """The same validation batches every time."""


class Observer:
    """Told what happens, on rank 0 only. All methods may be left out."""

    def started(self, done: int, total: int) -> None: ...

    def logged(self, step: int, values: Mapping[str, float]) -> None: ...

    def validated(self, step: int, evaluation: Evaluation) -> None: ...

    def stepped(self, step: int) -> None: ...

    def saved(self, step: int) -> None: ...


@dataclass
class Outcome:
    """How a run ended: finished, or stopped on request with its state saved."""

    step: int
    finished: bool
    metrics: dict[str, float]


class StepContext:
    """The `Context` a stage's `step` and `validate` see."""

    def __init__(self, gates_open: list[str], device: torch.device, seed: int) -> None:
        self.step, self.samples_seen, self.device = 0, 0, device
        self.generator = torch.Generator(device)
        self._seed, self._open = seed, gates_open
        self.notes: dict[str, list[Tensor]] = {}

    def begin(self, step: int, samples_seen: int) -> None:
        """Seed everything a step may draw from, by (run seed, step, rank): no random state needs saving."""
        self.step, self.samples_seen, self.notes = step, samples_seen, {}
        words = np.random.SeedSequence((self._seed, step, distributed.rank())).generate_state(2, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)
        self.generator.manual_seed(int(words[1]) >> 1)

    def gate(self, name: str) -> bool:
        return name in self._open

    def log(self, name: str, value: float | Tensor) -> None:
        self.notes.setdefault(name, []).append(torch.as_tensor(value).detach().float().cpu())


class Loop:
    """One stage's engines, averages and state while it trains."""

    def __init__(
        self, stage: Stage, upstream: Mapping[str, Artefact], config: LoopConfig, run: Path, first_batch: Callable[[], Batch]
    ) -> None:
        config.check()
        self.stage, self.config, self.run = stage, config, run
        torch.manual_seed(config.seed)
        modules = stage.build(upstream)
        for name, module in modules.items():
            setattr(stage, name, module)
        if config.gradient_checkpointing:
            checkpoint_gradients(modules.values())
        if type(stage).start is not Stage.start and not checkpoint.saved_steps(run):
            with torch.no_grad():
                stage.start(first_batch())
        self.engines = Engines(stage, modules, config)
        self.averages: dict[str, MovingAverage] = {}
        if config.ema_decay > 0:
            for role in self.engines.roles:
                with self.engines.whole(role) as module:
                    self.averages[role] = MovingAverage(module, config.ema_decay)
        self.state = checkpoint.load_latest(run, self.engines, self.averages) or LoopState()
        self.context = StepContext(self.state.open_gates, distributed.device(), config.seed)
        self.rules = stage.gate_rules()

    def autocast(self) -> AbstractContextManager:
        """Mixed precision around the stage's own code; off in fp32."""
        kinds = {"bf16": torch.bfloat16, "bf16-weights": torch.bfloat16, "fp16": torch.float16}
        dtype = kinds.get(self.config.precision)
        return nullcontext() if dtype is None else torch.autocast(distributed.device().type, dtype=dtype)

    def optimise(self, micro_batches: list[Batch]) -> dict[str, list[Tensor]]:
        """One step of every turn: the micro-batches' generators advance in lock step. Returns the terms seen."""
        step = self.state.step
        self.context.begin(step, step * self.config.batch_size)
        device = distributed.device()
        batches = [to_device(batch, device) for batch in micro_batches]
        turns = list(self.stage.turns(step))
        terms: dict[str, list[Tensor]] = {}
        players = [self.stage.step(batch, self.context) for batch in batches]
        for turn, role in enumerate(turns):
            optim: Optim = self.stage.config.optim.get(role, Optim())
            lr = optim.lr * self.stage.lr_factor(role, step, self.config.steps)
            with self.engines.only(role):
                for player in players:
                    with self.autocast():
                        loss = self._resume(player, role, turns, terms)
                    self.engines.backward(role, loss)
                    # ended here, so that hooks it holds over the last yield are gone before the next micro-batch sets its own
                    if turn == len(turns) - 1 and next(player, None) is not None:
                        raise ValueError(f"stage {self.stage.name} yields more often than its turns {turns}")
                    self.engines.step(role, lr)
            if role in self.averages:
                with self.engines.whole(role) as module:
                    self.averages[role].update(module)
        self.state.step += 1
        for name, values in self.context.notes.items():
            terms.setdefault(name, []).extend(values)
        return terms

    def _resume(self, player: Iterator, role: str, turns: list[str], terms: dict[str, list[Tensor]]) -> Tensor:
        yielded, losses = next(player, (None, {}))
        if yielded != role:
            raise ValueError(f"stage {self.stage.name} yielded {yielded!r} where its turns {turns} say {role!r}")
        total: Tensor | None = None
        for name, term in losses.items():
            value, weight = term if isinstance(term, tuple) else (term, 1.0)
            terms.setdefault(f"{role}/{name}", []).append(value.detach().float())
            total = weight * value if total is None else total + weight * value
        if total is None or not total.requires_grad:
            raise ValueError(f"stage {self.stage.name}: the losses of {role!r} depend on none of its weights: {list(losses)}")
        terms.setdefault(f"{role}/total", []).append(total.detach().float())
        return total

    def validate(self, batches: Iterable[Batch]) -> Evaluation:
        """The stage's validation with averaged weights where there are any; opens gates."""
        distributed.broadcast_buffers(list(self.engines.roles.values()))
        self.context.begin(self.state.step, self.state.step * self.config.batch_size)
        device = distributed.device()
        self.engines.train(False)
        with ExitStack() as stack:
            for role in self.engines.roles:
                module = stack.enter_context(self.engines.whole(role))
                if role in self.averages:
                    stack.enter_context(self.averages[role].swapped_into(module))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self.autocast())
            evaluation = self.stage.validate((to_device(batch, device) for batch in batches), self.context)
        self.engines.train(True)
        for gate, rule in self.rules.items():
            if evaluation.metrics.get(rule.metric, float("inf")) < rule.below and gate not in self.state.open_gates:
                self.state.open_gates.append(gate)
        for gate in self.rules:
            evaluation.metrics[f"gate_{gate}"] = float(gate in self.state.open_gates)
        self.state.last_metrics = evaluation.metrics
        return evaluation

    def save(self) -> None:
        """Commit a checkpoint."""
        checkpoint.save(self.run, self.engines, self.averages, self.state, self.config.keep_checkpoints)


def train(
    stage: Stage, upstream: Mapping[str, Artefact], batches: Batches, config: LoopConfig, run: Path,
    observer: Observer, stop: Callable[[], bool] = lambda: False,
) -> tuple[Outcome, Loop]:
    """Train a stage to its end, or until `stop()`; going on from the newest checkpoint in `run`.

    Collective: every rank calls it with the same arguments (`observer` is used on rank 0 only).
    """
    distributed.setup(config.threads)
    loop = Loop(stage, upstream, config, run, lambda: next(batches.training(0))[0])
    state, first = loop.state, distributed.rank() == 0
    if first:
        observer.started(state.step, config.steps)
    stream = batches.training(state.step)
    clock = {"wait": 0.0, "compute": 0.0, "save": 0.0}
    loop.engines.train(True)
    since, saved_at = time.perf_counter(), state.step
    while state.step < config.steps:
        if distributed.any_rank(stop()):
            if saved_at != state.step:
                loop.save()
            if first:
                observer.saved(state.step)
            return Outcome(state.step, False, state.last_metrics), loop
        micro_batches = next(stream)
        clock["wait"] += time.perf_counter() - since
        since = time.perf_counter()
        terms = loop.optimise(micro_batches)
        clock["compute"] += time.perf_counter() - since
        last = state.step == config.steps
        if state.step % config.log_every == 0 or last:
            values = distributed.mean({name: float(torch.stack(seen).mean()) for name, seen in terms.items()})
            _check_finite(values, state.step)
            values |= {f"time/{name}_s": seconds for name, seconds in clock.items()}
            clock = dict.fromkeys(clock, 0.0)
            if first:
                observer.logged(state.step, values)
        if (config.validate_every and state.step % config.validate_every == 0) or last:
            evaluation = loop.validate(batches.validation())
            if first:
                observer.validated(state.step, evaluation)
        if state.step % config.save_every == 0 or last:
            since = time.perf_counter()
            loop.save()
            saved_at = state.step
            clock["save"] += time.perf_counter() - since
            if first:
                observer.saved(state.step)
        if first:
            observer.stepped(state.step)
        since = time.perf_counter()
    return Outcome(state.step, True, state.last_metrics), loop


def checkpoint_gradients(modules: Iterable[nn.Module]) -> None:
    """Switch gradient checkpointing on in every network that has it (those of diffusers and transformers do).

    Raises:
        LikenessError: none has.
    """
    able = [module for module in modules if hasattr(module, "enable_gradient_checkpointing")]
    if not able:
        raise LikenessError("no network of this stage can checkpoint gradients", fix="leave loop.gradient_checkpointing at false")
    for module in able:
        module.enable_gradient_checkpointing()  # type: ignore[operator]


def _check_finite(values: Mapping[str, float], step: int) -> None:
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise LikenessError(
            f"{', '.join(bad)} is not a finite number at step {step}",
            fix="lower optim.ROLE.lr, set optim.ROLE.clip_norm=1.0, or use precision=fp32; the last checkpoint is kept",
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """All tensors of a batch, however nested, on a device."""
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, batch)
