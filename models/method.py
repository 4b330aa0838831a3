"""The method contract: one declaration per folder of `models/`, which the command line, the registry and the docs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module, resources
from typing import Any

import yaml

from infra.errors import LikenessError
from training.stage import Stage


@dataclass(frozen=True)
class Port:
    """One input or output of generation: its name on the command line, its kind, and a sentence."""

    name: str
    kind: str  # "video or picture", "audio", "text", "video", ...
    meaning: str
    required: bool = True


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
        generator: "module:function", imported when used, so that listing methods costs nothing.
        importer: "module:function": published file -> (component, weights, stage settings that rebuild the network).
        exporter: "module:function": (weights, file, step) writes the published layout.
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


def resolve(reference: str) -> Any:
    """The object that "module:name" stands for."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
