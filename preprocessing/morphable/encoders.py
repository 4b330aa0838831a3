"""Networks that say a face's coefficients at sight: Deep3DFaceRecon's for BFM, DECA's for FLAME."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.fields import STORED_LAYOUT, MorphableModel
from preprocessing.morphable.cameras import Orthographic, Perspective
from preprocessing.morphable.heads import FlameHead, LinearHead

ASSETS: dict[MorphableModel, str] = {"bfm": "deep3d", "flame": "deca"}
BATCH = 16  # crops that go through the network together


class Encoder:
    """The network of one model, in float32, on a GPU where torch sees one.

    Args:
        path: its asset's file.

    Raises:
        LikenessError: another file.
    """

    def __init__(self, model: MorphableModel, path: Path) -> None:
        from models.perception.deca import load_deca
        from models.perception.deep3d import load_deep3d
        from preprocessing.pretrained import device

        self._device = device()
        self._network: Any = (load_deca if model == "flame" else load_deep3d)(path).to(self._device)

    def __call__(self, crops: Iterable[np.ndarray]) -> np.ndarray:
        """(n, 236 or 257) float32 of n crops (224, 224, 3) uint8 RGB, which are asked for as they are needed."""
        import torch

        rest, found = iter(crops), []
        while batch := list(islice(rest, BATCH)):
            pictures = torch.from_numpy(np.stack(batch)).to(self._device).permute(0, 3, 1, 2).float() / 255
            with torch.inference_mode():
                found.append(self._network(pictures).cpu().numpy())
        return np.concatenate(found)


def facts(model: MorphableModel) -> dict[str, Any]:
    """What the numbers of a model's encoder are, in the words of fits."""
    parts = dict(STORED_LAYOUT[model].parts)
    camera, head = (Orthographic, FlameHead) if model == "flame" else (Perspective, LinearHead)
    return {
        "encoder": ASSETS[model], "camera": camera.name, "harmonics": head.harmonics,
        **{f"{part}_components": parts[part] for part in ("identity", "expression", "texture")},
    }  # fmt: skip
