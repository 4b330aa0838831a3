"""A finished stage on disk: what the registry versions, what later stages start from, what generation loads.

Layout: DIR/{artefact.json, COMPONENT.safetensors, COMPONENT.ema.safetensors}. `artefact.json` says which method, stage and
settings made it, from which dataset digest, base and upstream artefacts.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infra.digest import of_file
from infra.errors import LikenessError

FILE = "artefact.json"


@dataclass(frozen=True)
class StageArtefact:
    """An artefact directory; implements `training.stage.Artefact`."""

    path: Path
    facts: dict[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The stage's resolved settings."""
        return self.facts["stage_config"]

    @property
    def components(self) -> list[str]:
        """Names of the networks inside."""
        return sorted(self.facts["components"])

    def weights(self, component: str, averaged: bool = True) -> dict[str, Tensor]:
        """One component's weights; the moving average where there is one and `averaged`."""
        if component not in self.facts["components"]:
            raise LikenessError(f"{self.path} has no component {component!r}", allowed=", ".join(self.components))
        weights = load_file(self.path / f"{component}.safetensors")
        average = self.path / f"{component}.ema.safetensors"
        return weights | (load_file(average) if averaged and average.is_file() else {})

    def load(self, component: str, into: nn.Module) -> nn.Module:
        """Strictly load one component into a module and return it."""
        try:
            into.load_state_dict(self.weights(component), strict=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise LikenessError(
                f"{self.path}: component {component!r} does not fit {type(into).__name__}: {reason}",
                fix="use settings (such as width) equal to those in its artefact.json",
            ) from error
        return into

    def verify(self) -> None:
        """Read every component again and compare with the checksums written at export.

        Raises:
            LikenessError: when a file is missing, unreadable or changed.
        """
        for name, expected in self.facts["sha256"].items():
            file = self.path / name
            if not file.is_file():
                raise LikenessError(f"artefact {self.path} lacks {name}")
            if of_file(file) != expected:
                raise LikenessError(f"artefact {self.path}: {name} is not the file that was exported (checksum differs)")
        for component in self.facts["components"]:
            for key, value in self.weights(component).items():
                if value.is_floating_point() and not torch.isfinite(value).all():
                    raise LikenessError(f"artefact {self.path}: {component} has values that are not finite in {key}")



def export(
    folder: Path, facts: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]],
    averages: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> StageArtefact:
    """Write an artefact directory, whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for component, state in weights.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, part / f"{component}.safetensors")
    for component, state in (averages or {}).items():
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, part / f"{component}.ema.safetensors")
    record = dict(facts) | {
        "components": sorted(weights), "sha256": {p.name: of_file(p) for p in sorted(part.glob("*.safetensors"))}
    }
    (part / FILE).write_text(json.dumps(record, indent=1, sort_keys=True, default=str))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(part, folder)
    return open_artefact(folder)


def open_artefact(folder: Path) -> StageArtefact:
    """The artefact in a directory.

    Raises:
        LikenessError: when there is none.
    """
    file = folder / FILE
    if not file.is_file():
        raise LikenessError(f"{folder} is not a model artefact (no {FILE})", fix="see: likeness model list")
    return StageArtefact(folder, json.loads(file.read_text()))
