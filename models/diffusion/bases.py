"""Which base model a method runs on: a folder or hub id in diffusers' layout, or the tiny ones that are made here."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch

from infra.cache import cache_folder
from infra.errors import LikenessError
from models.diffusion.backbone import FAMILIES, Backbone, Family, open_backbone
from models.diffusion.tiny import tiny_backbone

PUBLISHED: dict[Family, str] = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "stabilityai/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
TINY: dict[str, Family] = {f"tiny-{family}": family for family in FAMILIES}
TRAINED = "trained-tiny-"  # then the family: made by `likeness assets make`, see docs/diffusion.md


def own_bases() -> Path:
    """Where bases that were made here are kept."""
    return cache_folder() / "bases"


def base_folder(ref: str) -> str:
    """What `open_backbone` takes for a base's name: `tiny-FAMILY` is built when first asked for (seconds), others are as given.

    Raises:
        LikenessError: a trained tiny base that nobody has made yet.
    """
    if ref in TINY:
        return str(_built(ref, TINY[ref]))
    if ref.startswith(TRAINED):
        folder = own_bases() / ref
        if not folder.is_dir():
            raise LikenessError(
                f"base {ref} has not been made on this machine", fix=f"run: likeness assets make {ref} --data DATASET"
            )
        return str(folder)
    return ref


def open_base(
    ref: str, families: Sequence[str] = FAMILIES, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Backbone:
    """The base model of that name, of one of the families.

    Raises:
        LikenessError: absent (says how to get it), or of another family.
    """
    backbone = open_backbone(base_folder(ref), dtype=dtype, device=device)
    if backbone.family not in families:
        raise LikenessError(
            f"base {ref} is of the family {backbone.family}", allowed=", ".join(families),
            fix=f"name another: {' or '.join(PUBLISHED[f] for f in FAMILIES if f in families)}",
        )  # fmt: skip
    return backbone


def _built(ref: str, family: Family) -> Path:
    folder = own_bases() / ref
    if not folder.is_dir():
        part = folder.with_name(f".{ref}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
        part.parent.mkdir(parents=True, exist_ok=True)
        tiny_backbone(family, part)
        try:
            os.rename(part, folder)
        except OSError:  # another process was faster: its bytes are the same
            shutil.rmtree(part, ignore_errors=True)
    return folder
