"""The method contract: one declaration per folder of `models/`, which the command line, the registry and the docs read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module, resources
from typing import Any, ClassVar, Protocol

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict

from infra.errors import LikenessError
from preprocessing.fields import Field
from training.stage import Artefact, Stage


@dataclass(frozen=True)
class Port:
    """One input or output of generation: its name on the command line, its kind, and a sentence.

    Attributes:
        kind: of inputs "video or picture", "picture", "audio", "text"...; of outputs "video", or "picture" (one or several).
        many: may be given several times; the generation then gets a list, in the order given.
    """

    name: str
    kind: str
    meaning: str
    required: bool = True
    many: bool = False


@dataclass(frozen=True)
class Published:
    """A released checkpoint: file name, the component and stage it fills, where it is had, its licence."""

    file: str
    component: str
    stage: str
    source: str
    licence: str


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        stages: training stages in their order; empty for training-free methods.
        recipe: name of the dataset recipe that makes the fields its stages need.
        bundle: component -> stages that can provide it, best first; what generation loads.
        families: of base models it runs on ("sd15", "sd21", "sdxl"), the usual one first; none for methods without a base. Their
            stages and generations have a setting `base` (`--base` on the command line).
        generator: "module:class" of its `Generation`, imported when used, so that listing methods costs nothing.
        importer: "module:function": published file or folder -> (component, weights, stage settings that rebuild the network).
        exporter: "module:function": (component -> weights, path, the artefact's facts) writes the published layout.
    """

    name: str
    title: str
    paper: str
    task: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    stages: tuple[type[Stage], ...]
    recipe: str = ""
    bundle: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    generator: str = ""
    importer: str | None = None
    exporter: str | None = None
    published: tuple[Published, ...] = ()
    licence: str = ""

    def stage(self, name: str) -> type[Stage]:
        """The stage called `name`."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = ", ".join(s.name for s in self.stages)
        raise LikenessError(f"{self.name} has no stage {name!r}", allowed=names or "none: it needs no training")

    def presets(self) -> dict[str, dict[str, Any]]:
        """Named settings per stage, from the folder's `presets.yaml`: {preset: {stage: {...}}}."""
        file = resources.files(f"models.{self.name.replace('-', '_')}") / "presets.yaml"
        return yaml.safe_load(file.read_text()) if file.is_file() else {}


class Values(Protocol):
    """What came in through one port, by field (`preprocessing.operator.Sample` is one)."""

    def __getitem__(self, field: Field, /) -> Any: ...

    def __contains__(self, field: Field, /) -> bool: ...


Inputs = Mapping[str, Any]  # port -> `Values`, or a list of them where the port may be given several times


@dataclass
class Output:
    """What a method made: a video, or pictures (one after the other, without sound; each may have its own size).

    Attributes:
        frames: (H, W, 3) uint8 RGB one after the other, made while they are taken; one pass.
        n_frames: how many there will be.
        audio: int16 (samples,) mono at `rate_hz`, or None; sample 0 is heard when frame 0 is shown.
        sound_of: the port whose sound `audio` is, unchanged; whoever has its file may keep the recording's own rate.
        names: of pictures, one each, where there are several: the middle of their files' names. Numbers where not given.
    """

    frames: Iterator[np.ndarray]
    n_frames: int
    fps: Fraction = Fraction(25)
    audio: np.ndarray | None = None
    rate_hz: int = 16_000
    sound_of: str = ""
    names: tuple[str, ...] = ()


class Generation(ABC):
    """How a method makes media with trained weights. One instance serves any number of calls.

    Class attributes:
        inputs: port -> the fields it needs; the operators of the dataset build make them of the file given. A text port names
            one text field.
    """

    inputs: ClassVar[dict[str, tuple[Field, ...]]]

    class Config(BaseModel):
        """Settings of a generation; subclasses add theirs. Unknown names are refused."""

        model_config = ConfigDict(extra="forbid", validate_assignment=True)

    def __init__(self, bundle: Mapping[str, Artefact], config: Generation.Config | None = None) -> None:
        """Load the networks.

        Args:
            bundle: component -> artefact, for each component of `Method.bundle`.
        """
        self.config: Any = config if config is not None else self.Config()

    def frames_needed(self, port: str, fps: Fraction, inputs: Inputs) -> int | None:
        """How many frames of a port's video are used at most, so that no more are looked at; None for all.

        Args:
            fps: the video's rate.
            inputs: the ports read before: sound and text come first.
        """
        return None

    @abstractmethod
    def __call__(self, inputs: Inputs, rng: np.random.Generator) -> Output:
        """Check the inputs, then make media. All randomness comes from `rng`.

        Raises:
            LikenessError: inputs that can't be used, before the first frame is made.
        """


def resolve(reference: str) -> Any:
    """The object that "module:name" stands for."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
