"""NIQE (Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", SPL 2013): how far a picture's
local statistics lie from those of undistorted photos. Lower is better; about 3 to 4 for good photos.

As BasicSR computes it, which agrees with the authors' MATLAB code: luma of BT.601 rounded to whole grey levels, whole blocks of
96 px, two scales, the second by MATLAB's antialiased bicubic.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate as filtered
from scipy.ndimage import correlate1d
from scipy.special import gamma

from infra.errors import LikenessError

BLOCK_PX = 96
FEATURES = 36
LUMA_BGR, LUMA_BLACK = (24.966, 128.553, 65.481), 16.0  # summed in this order, as published: it decides a rounding now and then
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
# MATLAB's cubic (a = -0.5), stretched to half size, at the eight pixels around: 0.5, 1.5, 2.5 and 3.5 px away on either side.
HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pristine:
    """Statistics of undistorted photos.

    Attributes:
        mean, covariance: (36,) and (36, 36) of the features of their blocks.
        window: (7, 7), the Gaussian that local means and deviations are taken with; sums to 1.
    """

    mean: Floats
    covariance: Floats
    window: Floats

    @classmethod
    def read(cls, path: str | os.PathLike) -> Pristine:
        """The published `niqe_pris_params.npz`.

        Raises:
            LikenessError: the file holds something else.
        """
        try:
            with np.load(path) as stored:
                mean, covariance, window = (stored[name] for name in ("mu_pris_param", "cov_pris_param", "gaussian_window"))
                if (mean.size, covariance.shape, window.shape) != (FEATURES, (FEATURES, FEATURES), (7, 7)):
                    raise ValueError(f"shapes {mean.shape}, {covariance.shape}, {window.shape}")
        except (OSError, ValueError, KeyError) as error:
            allowed = "niqe_pris_params.npz as published"
            raise LikenessError(f"{Path(path).name} holds no parameters of NIQE: {error}", allowed=allowed) from error
        return cls(mean.reshape(-1), covariance, window)


def niqe(picture: np.ndarray, pristine: Pristine) -> float:
    """NIQE of an (H, W, 3) RGB picture in 0..255.

    Raises:
        LikenessError: smaller than two blocks, or flat all over: no statistics.
    """
    rows, columns = (side // BLOCK_PX for side in picture.shape[:2])
    if rows * columns < 2:
        what = f"NIQE of a picture of {picture.shape[1]} x {picture.shape[0]} px"
        raise LikenessError(what, allowed=f"two whole blocks of {BLOCK_PX} px")
    grey = luma(picture[: rows * BLOCK_PX, : columns * BLOCK_PX])
    found = [block_features(normalised(grey, pristine.window), BLOCK_PX)]
    found.append(block_features(normalised(halved(grey), pristine.window), BLOCK_PX // 2))
    features = np.concatenate(found, 1)
    whole = features[np.isfinite(features).all(1)]
    if len(whole) < 2:
        raise LikenessError("NIQE of a picture without any texture", allowed="a picture with two blocks that are not flat")
    with np.errstate(invalid="ignore"):
        away = pristine.mean - np.nanmean(features, 0)
    spread = np.linalg.pinv((pristine.covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(away @ spread @ away))


def luma(picture: np.ndarray) -> NDArray[np.float32]:
    """(H, W, 3) RGB in 0..255 -> (H, W) float32: Y of BT.601 studio range, 16..235, whole numbers."""
    bgr = picture[..., ::-1].astype(np.float32) / np.float32(255)
    return np.round(((bgr @ np.array(LUMA_BGR, np.float64) + LUMA_BLACK) / 255).astype(np.float32) * np.float32(255))


def normalised(grey: np.ndarray, window: Floats) -> Floats:
    """(H, W): each pixel less its local mean, over its local deviation + 1."""
    mean = filtered(grey, window, mode="nearest")
    spread = np.sqrt(np.abs(filtered(np.square(grey), window, mode="nearest") - np.square(mean)))
    return ((grey - mean) / (spread + 1)).astype(np.float64)


def halved(grey: np.ndarray) -> NDArray[np.float32]:
    """(H, W) of even sides -> half of it, as MATLAB's `imresize(x, 0.5)`."""
    small = grey.astype(np.float64) / 255
    for axis in (0, 1):
        small = np.take(correlate1d(small, HALVING, axis, mode="reflect", origin=-1), np.arange(0, small.shape[axis], 2), axis)
    return (small * 255).astype(np.float32)


def block_features(picture: Floats, side: int) -> Floats:
    """(blocks, 18): shape and width of the pixels' distribution; shape, mean and both widths of the four neighbours' products."""
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    blocks = picture.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    shape, left, right = asymmetric_gaussian(blocks)
    found = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = asymmetric_gaussian(blocks * np.roll(blocks, shift, (1, 2)))
        found += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.stack(found, 1)


def asymmetric_gaussian(blocks: Floats) -> tuple[Floats, Floats, Floats]:
    """Shape and left and right width of the generalised Gaussian that has each block's moments (Lasmar et al., ICIP 2009).

    Args:
        blocks: (n, side, side).

    Returns:
        Three (n,); NaN of blocks that have no values on one side of 0.
    """
    flat = blocks.reshape(len(blocks), -1)
    squares = np.square(flat)
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (np.sqrt((squares * side).sum(1) / side.sum(1)) for side in (flat < 0, flat > 0))
        skew = left / right
        ratio = np.abs(flat).mean(1) ** 2 / squares.mean(1) * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios = _table()
    after = np.clip(np.searchsorted(ratios, np.nan_to_num(ratio)), 1, len(ratios) - 1)
    nearest = after - (ratio - ratios[after - 1] <= ratios[after] - ratio)
    shape = np.where(np.isfinite(ratio), shapes[nearest], np.nan)
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * width, right * width


@cache
def _table() -> tuple[Floats, Floats]:
    """Shapes from 0.2 to 10 in steps of 0.001, and the ratio of moments that each has, which grows with it."""
    shapes = np.arange(0.2, 10.001, 0.001)
    inverse = 1 / shapes
    return shapes, gamma(2 * inverse) ** 2 / (gamma(inverse) * gamma(3 * inverse))
