"""Parity adapters of picture degradation: kernels, filter, unsharp masking, JPEG by formula (BasicSR, Real-ESRGAN)."""

from __future__ import annotations

import math
import re

import fixtures
import numpy as np
import torch
from adapters import adapter

from preprocessing.degradation.jpeg import jpeg_formula
from preprocessing.degradation.kernels import filter2d, gaussian_kernel, padded, sinc_kernel
from preprocessing.degradation.sharpening import sharpened, usm_kernel

BASE = "00-restoration-style-base"


def _number(text: str) -> float:
    return math.pi / float(text[3:]) if text.startswith("pi/") else math.pi if text == "pi" else float(text)


def _kernel(name: str, words: str) -> np.ndarray:
    """A kernel by its name and its description, such as "size 15 sigma 2.3,0.6 theta 0.7"."""
    said = dict(re.findall(r"(size|sigma|theta|beta|cutoff|to) (\S+)", words))
    size = int(said["size"])
    if "cutoff" in said:
        kernel = sinc_kernel(size, _number(said["cutoff"]))
        return padded(kernel, int(said["to"])) if "to" in said else kernel
    sigma = [float(part) for part in said["sigma"].split(",")]
    shape = next((s for s in ("generalised", "plateau") if name.startswith(s.replace("ised", "ized"))), "gaussian")
    both = (sigma[0], sigma[-1])
    return gaussian_kernel(size, both, float(said.get("theta", 0)), shape, float(said.get("beta", 1)))  # type: ignore[arg-type]


@adapter(BASE, "blur_kernels*")
def _kernels(description: dict) -> dict[str, np.ndarray]:
    return {name: _kernel(name, words) for name, words in description["constructor"].items()}


def _pictures(spec: dict, smoothed: bool) -> np.ndarray:
    """(N, H, W, 3) of an input."""
    values = fixtures.tensor(spec)
    if smoothed:
        values = torch.nn.functional.avg_pool2d(values, 5, 1, 2)
    return np.ascontiguousarray(values.numpy().transpose(0, 2, 3, 1))


def _planes(pictures: list[np.ndarray]) -> np.ndarray:
    return np.stack(pictures).transpose(0, 3, 1, 2)


@adapter(BASE, "filter2d_usm*")
def _filters(description: dict) -> dict[str, np.ndarray]:
    kernels = [gaussian_kernel(21, (1.7, 1.7)), sinc_kernel(21, math.pi / 3)]
    smooth = _pictures(description["inputs"]["image"], smoothed=True)
    wide = _pictures(description["inputs"]["wide"], smoothed=False)
    return {
        "filtered": _planes([filter2d(picture, kernel) for picture, kernel in zip(smooth, kernels, strict=True)]),
        "usm": _planes([sharpened(picture) for picture in wide]),
        "usm_kernel": usm_kernel()[None],
    }


@adapter(BASE, "diffjpeg*")
def _jpeg(description: dict) -> dict[str, np.ndarray]:
    pictures = _pictures(description["inputs"]["image"], smoothed=True)
    outputs = {}
    for name in description["outputs"]:  # such as q30_q95: a quality each, or one for all
        qualities = [float(part) for part in re.findall(r"q([\d.]+)", name)]
        each = qualities if len(qualities) == len(pictures) else qualities * len(pictures)
        outputs[name] = _planes([jpeg_formula(p, q) for p, q in zip(pictures, each, strict=True)])
    return outputs
