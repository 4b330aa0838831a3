"""PyTorch's `interpolate` without antialiasing and with align_corners off, for pictures in NumPy."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

Mode = Literal["area", "bilinear", "bicubic"]
MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
CUBIC = -0.75


def scaled(image: np.ndarray, scale: float, mode: Mode) -> np.ndarray:
    """As `interpolate(scale_factor=scale)`: floor(side * scale) px, sampled at steps of exactly 1 / scale."""
    height, width = (max(1, math.floor(side * scale)) for side in image.shape[:2])
    return _sampled(image, height, width, mode, 1 / scale)


def resized(image: np.ndarray, height: int, width: int, mode: Mode) -> np.ndarray:
    """As `interpolate(size=(height, width))`: sampled at steps of old over new side."""
    return _sampled(image, height, width, mode, None)


def _sampled(image: np.ndarray, height: int, width: int, mode: Mode, step: float | None) -> np.ndarray:
    old_height, old_width, channels = image.shape
    rows = _weights(old_height, height, mode, step) @ image.reshape(old_height, -1)
    turned = rows.reshape(height, old_width, channels).swapaxes(0, 1).reshape(old_width, -1)
    both = _weights(old_width, width, mode, step) @ turned
    return np.ascontiguousarray(both.reshape(width, height, channels).swapaxes(0, 1))


@lru_cache(maxsize=64)
def _weights(old: int, new: int, mode: Mode, step: float | None) -> csr_matrix:
    """(new, old): how much of which old line goes into each new one."""
    place = np.arange(new)
    if mode == "area":  # whole lines only, as adaptive average pooling takes them
        first, last = place * old // new, -(-(place + 1) * old // new)
        counts = last - first
        rows = np.repeat(place, counts)
        columns = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        return csr_matrix((np.repeat(1 / counts, counts).astype(np.float32), (rows, columns)), (new, old))
    at = (place + 0.5) * (old / new if step is None else step) - 0.5
    if mode == "bilinear":
        at = np.maximum(at, 0)
    left = np.floor(at)
    t = at - left
    taps: tuple[int, ...]
    if mode == "bilinear":
        taps, weights = (0, 1), [1 - t, t]
    else:
        taps, weights = (-1, 0, 1, 2), [_far(t + 1), _near(t), _near(1 - t), _far(2 - t)]
    columns = np.concatenate([np.clip(left + tap, 0, old - 1) for tap in taps]).astype(int)
    values = np.concatenate(weights).astype(np.float32)
    return csr_matrix((values, (np.tile(place, len(taps)), columns)), (new, old))  # equal places add up


def _near(x: np.ndarray) -> np.ndarray:
    return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1


def _far(x: np.ndarray) -> np.ndarray:
    return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
