"""InstantID's released files: `ip-adapter.bin`, and the folder `ControlNetModel` in diffusers' layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from infra.errors import LikenessError
from models.blocks.resampler import Resampler
from models.diffusion.bases import PUBLISHED, open_base
from models.diffusion.controlnet import ContextControlNet
from models.diffusion.ip_adapter import IPAdapter
from models.diffusion.ip_adapter_files import read_ip_adapter, write_ip_adapter

ADAPTER, NET = "ip-adapter.bin", "ControlNetModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"
VARIANT = {512: "antelopev2", 256: "mobileface"}  # which embedding has that many numbers; released weights know the first only


def import_path(path: Path) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """A released part -> (component, weights, stage settings that rebuild it).

    Args:
        path: `ip-adapter.bin` (or .safetensors), or the folder `ControlNetModel`.

    Raises:
        LikenessError: neither.
    """
    if path.is_dir():
        return "identitynet", _net_weights(path), {}
    adapter = read_ip_adapter(path)
    projection = adapter.image_proj
    if not isinstance(projection, Resampler):
        raise LikenessError(f"{path} is an IP-Adapter with a {type(projection).__name__}", allowed=f"InstantID's {ADAPTER}")
    embedding = projection.proj_in.in_features
    if embedding not in VARIANT:
        raise LikenessError(f"{path} takes embeddings of {embedding} numbers", allowed=" or ".join(map(str, VARIANT)))
    settings = {"identity": VARIANT[embedding], "width": projection.proj_in.out_features, "queries": projection.num_tokens}
    return "adapter", dict(adapter.state_dict()), settings


def _net_weights(folder: Path) -> dict[str, Tensor]:
    file, config = folder / WEIGHTS, folder / "config.json"
    if not file.is_file() or not config.is_file():
        raise LikenessError(f"{folder} is no ControlNet in diffusers' layout", allowed=f"a folder with config.json and {WEIGHTS}")
    kind = json.loads(config.read_text()).get("_class_name")
    if kind != "ControlNetModel":
        raise LikenessError(f"{folder} holds a {kind}", allowed=f"InstantID's folder {NET}")
    return load_file(file)


def export_published(weights: Mapping[str, Mapping[str, Tensor]], out: Path, facts: Mapping[str, Any]) -> None:
    """Writes `OUT/ip-adapter.bin` and `OUT/ControlNetModel`, which diffusers and the tools made for the released files read.

    Args:
        weights: both components.
        out: a folder, made.
        facts: of the artefact; the ControlNet's settings follow from the base that it names.

    Raises:
        LikenessError: a part is missing, or the base.
    """
    from diffusers import UNet2DConditionModel

    lacking = [name for name in ("adapter", "identitynet") if name not in weights]
    if lacking:
        raise LikenessError(f"there are no weights of {', '.join(lacking)}", fix="export models:/instantid-identity@candidate")
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in weights["adapter"].items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    backbone = open_base(facts.get("base", {}).get("reference") or PUBLISHED["sdxl"])
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(backbone.settings("unet"))
        net = ContextControlNet.from_unet(unet, load_weights_from_unet=False)
    net.load_state_dict(dict(weights["identitynet"]), assign=True)
    out.mkdir(parents=True, exist_ok=True)
    write_ip_adapter(IPAdapter.from_published(parts), out / ADAPTER)
    net.save_as_controlnet(out / NET)
