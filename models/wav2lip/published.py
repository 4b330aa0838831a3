"""The released Wav2Lip checkpoints, read and written.

A file holds {state_dict, optimizer, global_step, global_epoch}. Our networks use its parameter names, so reading is checking:
every name and every shape must agree before a weight is used.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import LikenessError
from models.wav2lip.network import Expert, Generator, QualityCritic
from models.weight_files import difference, read_weights, state_dict_of

COMPONENTS: dict[str, type[nn.Module]] = {"expert": Expert, "generator": Generator, "critic": QualityCritic}
RELEASED = {
    "wav2lip.pth": "generator",
    "wav2lip_gan.pth": "generator",
    "lipsync_expert.pth": "expert",
    "visual_quality_disc.pth": "critic",
}


def load_published(path: str | Path, component: str) -> dict[str, Tensor]:
    """The state dict of a released file, fit for `COMPONENTS[component]().load_state_dict`.

    Args:
        path: a checkpoint in the published layout or a bare state dict; names may carry DataParallel's `module.`.
        component: "expert", "generator" or "critic".

    Raises:
        LikenessError: unreadable, or another network's weights; the message names the first keys that differ.
    """
    shapes = published_shapes(component)
    weights = state_dict_of(read_weights(path, _which_file(component)))
    if weights is None:
        raise LikenessError(
            f"{path} holds no state dict",
            allowed="a dict with 'state_dict', or a state dict of tensors",
            fix=f"pass {_which_file(component)}",
        )
    _check(weights, shapes, component, str(path))
    return weights


def import_file(path: Path) -> tuple[str, dict[str, Tensor], dict[str, float]]:
    """Whatever released file this is: its component, its weights, and the stage settings that rebuild the network.

    Raises:
        LikenessError: unreadable, or no Wav2Lip network.
    """
    weights = state_dict_of(read_weights(path, "a released Wav2Lip file: " + ", ".join(RELEASED)))
    component = _most_alike(weights) if weights else "generator"
    return component, load_published(path, component), {"width": 1.0}


def export_component(weights: Mapping[str, Mapping[str, Tensor]], path: Path, facts: Mapping[str, Any]) -> None:
    """One component of an artefact, as `export_published` writes it.

    Raises:
        LikenessError: several components: each has a file of its own.
    """
    if len(weights) > 1:
        raise LikenessError(f"{len(weights)} networks for one file", allowed=", ".join(weights), fix="pass --component")
    (state_dict,) = weights.values()
    export_published(state_dict, path, facts.get("steps", 0))


def export_published(state_dict: Mapping[str, Tensor], path: str | Path, global_step: int = 0, global_epoch: int = 0) -> None:
    """Writes weights as the released files are laid out, for tools made for those; the optimiser entry is None.

    Raises:
        LikenessError: the weights are not those of a full-width expert, generator or critic.
    """
    component = _most_alike(state_dict)
    _check(state_dict, published_shapes(component), component, "the exported state dict")
    plain = {
        key: value.detach().cpu().float().contiguous() if value.is_floating_point() else value.detach().cpu()
        for key, value in state_dict.items()
    }
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    content = {"state_dict": plain, "optimizer": None, "global_step": global_step, "global_epoch": global_epoch}
    torch.save(content, partial)
    os.replace(partial, target)


@lru_cache
def published_shapes(component: str) -> dict[str, tuple[int, ...]]:
    """Every published key of a component with its shape."""
    if component not in COMPONENTS:
        raise LikenessError(f"Wav2Lip has no component {component!r}", allowed=", ".join(COMPONENTS))
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in COMPONENTS[component]().state_dict().items()}


def _check(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], component: str, source: str) -> None:
    found = difference(weights, shapes)
    if not found:
        return
    alike = _most_alike(weights)
    hint = f"; it looks like the {alike}" if alike != component and _overlap(weights, alike) > 0.5 else ""
    raise LikenessError(
        f"{source} does not hold the weights of Wav2Lip's {component} ({found}){hint}", fix=f"pass {_which_file(component)}"
    )


def _overlap(weights: Mapping[str, Tensor], component: str) -> float:
    shapes = published_shapes(component)
    return sum(key in weights for key in shapes) / len(shapes)


def _most_alike(weights: Mapping[str, Tensor]) -> str:
    return max(COMPONENTS, key=lambda component: _overlap(weights, component))


def _which_file(component: str) -> str:
    return " or ".join(name for name, part in RELEASED.items() if part == component) + f" (Wav2Lip's {component})"
