"""The stage contract: what a training stage trains, and how one batch becomes losses. The loop owns everything else.

Imports nothing else of the project (fields are named for the type checker only).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

if TYPE_CHECKING:
    from preprocessing.fields import AnyOf, Field

# A loss term: its value, or its value and the weight it enters the sum with. The value is logged as it is.
Term = Tensor | tuple[Tensor, float]
Losses = Mapping[str, Term]
Turn = tuple[str, Losses]
Batch = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One stream of records that a stage draws its examples from.

    Attributes:
        fields: columns read; `a | b` takes the first that the dataset has. Checked before anything starts.
        take: records per example, all different; with `group_by` they are of one group (fewer if it has fewer).
        group_by: key of the `source` record that makes a group ("person"), or None.
        weight: share of this source where a stage mixes several in one stream (see `Stage.mixture`).
        bucket_by: key of the `source` record that all examples of a batch share (resolution, images or video).
        optional: the stage also runs when no dataset is given for this source.
        same_data: draws from the dataset of that other source (a second, fresh batch of the same pictures).
    """

    fields: tuple[Field | AnyOf, ...]
    take: int = 1
    group_by: str | None = None
    weight: float = 1.0
    bucket_by: str | None = None
    optional: bool = False
    same_data: str = ""


class Record(Protocol):
    """One dataset row as `example` sees it: fields are read and decoded when asked for."""

    key: str
    source: Mapping[str, Any]

    def __getitem__(self, field: Any) -> Any: ...

    def __contains__(self, field: Any) -> bool: ...


Records = Mapping[str, list[Record]]


class Skip(Exception):
    """Raised by `example` for records that can't give one; the loader draws others, a bounded number of times."""


@dataclass(frozen=True)
class Upstream:
    """An earlier artefact that a stage builds on: "init" starts from its weights, "frozen" uses it as it is.

    Named by the component it provides. One of an earlier stage is found in the registry when not named; one of the stage
    itself (fine-tuning) is used only when named, so that training again never silently goes on from the last result.
    """

    stage: str
    use: Literal["init", "frozen"]
    required: bool = True


class Artefact(Protocol):
    """A finished stage on disk: resolved stage configuration and weights by component."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    def load(self, component: str, into: nn.Module) -> nn.Module:
        """Strictly load one component's weights into a module and return it."""


class Config(BaseModel):
    """Settings of a stage or of the loop: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Group(Config):
    """Parameters of a role whose names start with `prefix` get their own learning-rate factor or decay."""

    prefix: str
    lr_factor: float = 1.0
    weight_decay: float | None = None


class Optim(Config):
    """One role's optimiser. `kind="adam"` is Adam with L2 decay inside the gradient; "adamw" decouples it."""

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    clip_norm: float = 0.0  # 0: no clipping
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Gate:
    """A switch that opens for good once a validation metric has been below a threshold."""

    metric: str
    below: float


class Context(Protocol):
    """What the loop tells a step."""

    step: int
    samples_seen: int
    device: torch.device
    generator: torch.Generator  # seeded by (run seed, step, rank): the only randomness a step may use besides torch's default

    def gate(self, name: str) -> bool:
        """Whether a declared gate is open."""

    def log(self, name: str, value: float | Tensor) -> None:
        """A number for the run's curves that is not a loss term."""


@dataclass
class Media:
    """Something to look at: frames (T, H, W, 3) uint8 RGB, with sound if any; one frame is a picture."""

    frames: np.ndarray
    fps: float = 25.0
    audio: np.ndarray | None = None
    rate_hz: int = 16000


@dataclass
class Evaluation:
    """What a validation found: numbers, and media to look at."""

    metrics: dict[str, float] = field(default_factory=dict)
    media: dict[str, Media] = field(default_factory=dict)


class Stage(ABC):
    """One training stage of a method.

    Class attributes:
        name: short name ("expert"); the artefact is registered as METHOD-NAME.
        sources: streams of records by name.
        roles: for each optimiser, the modules it trains. Modules of `build` in no role are frozen.
        upstream: earlier artefacts by name.
        mixture: each example comes from one source, drawn by weight: `records` then has that one key.
        per: "dataset" trains one model; "subject" one small artefact per `group_by` group, fanned out as tasks. Sources with
            `group_by` are then restricted to the subject, others stay whole, an upstream that is itself per subject is that
            subject's own, and every subject is built from the same seed. Frozen modules are shared: never write into them.

    Before `build`, `given` tells which of each source's fields the datasets have (of `a | b` the one that is read), `made_with`
    the model files that their columns were made with. After `build`, the loop sets each module as an attribute of the stage
    under its own name: declare them in the class body.
    """

    name: ClassVar[str]
    sources: ClassVar[dict[str, Source]]
    roles: ClassVar[dict[str, tuple[str, ...]]]
    upstream: ClassVar[dict[str, Upstream]] = {}
    mixture: ClassVar[bool] = False
    per: ClassVar[Literal["dataset", "subject"]] = "dataset"
    given: Mapping[str, tuple[str, ...]] = {}
    made_with: Mapping[tuple[str, str], Mapping[str, str]] = {}  # (source, field) -> checksum by asset

    class Config(Config):
        """Settings of the stage; subclasses add theirs."""

        optim: dict[str, Optim] = {}

    def __init__(self, config: Stage.Config | None = None) -> None:
        self.config: Any = config if config is not None else self.Config()

    @abstractmethod
    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        """All networks by name, on the CPU, freshly initialised from torch's default generator or loaded from upstream."""

    def reads(self) -> dict[str, Source]:
        """The sources as these settings want them: `sources`, unless a field depends on a setting (a size, a base model)."""
        return dict(type(self).sources)

    def start(self, batch: Batch) -> None:  # noqa: B027  (most stages start from what `build` gave)
        """Weights that begin at something computed from data: called once with the first batch of a new run, never on resume,
        after `build` and before the optimisers exist, gradients off."""

    @abstractmethod
    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        """One training example; runs in a loader worker. All randomness comes from `rng`."""

    def validation_example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        """One validation example; the same as a training example unless a stage measures something else."""
        return self.example(records, rng)

    def gate_rules(self) -> dict[str, Gate]:
        """Switches by name, with their thresholds taken from the stage's settings."""
        return {}

    def turns(self, step: int) -> Sequence[str]:
        """The roles that `step` will yield, in order. The loop must know them before it resumes the generator, because
        the other roles are frozen while a role's losses are computed; without that, two engines corrupt each other."""
        return tuple(self.roles)

    @abstractmethod
    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        """Yields (role, losses); at each yield the loop runs backward and that role's optimiser step, then resumes.

        A `with` (attention processors, hooks) may stay open over the last yield only: with accumulation the micro-batches'
        generators advance in lock step, and code after the last yield runs before the optimiser steps. Noise that must not
        depend on the number of workers is drawn in `example`: `ctx.generator` differs between ranks.
        """

    def validate(self, batches: Iterable[Batch], ctx: Context) -> Evaluation:
        """Numbers and media over the validation batches; networks are in eval mode, gradients off."""
        return Evaluation()

    def frozen_mode(self, module: str) -> Literal["eval", "train"]:
        """Mode of a frozen module: "train" only to reproduce a published recipe that forgot to switch."""
        return "eval"

    def lr_factor(self, role: str, step: int, total_steps: int) -> float:
        """Learning rate at a step, relative to `Optim.lr`; from `Optim.schedule` unless a stage has its own formula."""
        optim: Optim = self.config.optim.get(role, Optim())
        if step < optim.warmup_steps:
            return (step + 1) / optim.warmup_steps
        done = (step - optim.warmup_steps) / max(1, total_steps - optim.warmup_steps)
        if optim.schedule == "cosine":
            return 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, done))))
        if optim.schedule == "linear":
            return max(0.0, 1.0 - done)
        return 1.0

    def components(self) -> tuple[str, ...]:
        """Modules that make up the artefact: all trained ones by default."""
        return tuple(module for modules in self.roles.values() for module in modules)
