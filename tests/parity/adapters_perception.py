"""Parity adapters of networks that look at faces, and of picture metrics."""

from __future__ import annotations

import fixtures
import numpy as np
import pytest
import torch
from adapters import adapter

from infra import assets
from models.metrics.pictures import psnr, psnr_8bit, ssim
from models.perception.bisenet import BiSeNet
from preprocessing.niqe import Pristine, niqe


@adapter("21-consistentid", "bisenet_*")
def _parser(description: dict) -> dict[str, np.ndarray]:
    network = fixtures.fill(BiSeNet(description["constructor"]["n_classes"]), description)
    (given,) = description["inputs"].values()
    return {name: scores.numpy() for name, scores in zip(("out", "out16", "out32"), network(fixtures.tensor(given)), strict=True)}


@adapter("00-restoration-style-base", "psnr_ssim")
def _closeness(description: dict) -> dict[str, np.ndarray]:
    """Outputs are named METRIC_pt for floats or METRIC_np for 8 bits, then y, then crop4, as far as they apply."""
    a, noise = (fixtures.tensor(description["inputs"][name]) for name in ("a", "b_noise"))
    b = 0.8 * a + 0.2 * noise
    found = {}
    for name in description["outputs"]:
        metric, kind, *rest = name.split("_")
        channel = "y" if "y" in rest else "rgb"
        # The numbers of 8-bit luma were taken with a border of 4 too, though their names do not say so.
        border = next((int(word.removeprefix("crop")) for word in rest if word.startswith("crop")), 4 if "y" in rest else 0)
        if kind == "pt":
            found[name] = (psnr if metric == "psnr" else ssim)(a, b, channel, border)
            continue
        # BasicSR rounds to 8 bits, then takes luma in float32.
        pair = [torch.round(255 * x) for x in (a, b)]
        found[name] = psnr_8bit(*pair, channel, border) if metric == "psnr" else ssim(*(x / 255 for x in pair), channel, border)
    return {name: value.numpy() for name, value in found.items()}


@adapter("00-restoration-style-base", "niqe")
def _naturalness(description: dict) -> dict[str, np.ndarray]:
    if assets.locate(assets.get("niqe_pristine")) is None:
        pytest.skip("LIKENESS_ASSETS has no niqe_pristine")
    picture = torch.nn.functional.avg_pool2d(fixtures.tensor(description["inputs"]["image"]), 3, 1, 1)
    rgb = torch.round(255 * picture)[0].permute(1, 2, 0).numpy()
    return {"niqe": np.array([niqe(rgb, Pristine.read(assets.find("niqe_pristine")))])}
