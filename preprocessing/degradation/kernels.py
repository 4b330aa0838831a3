"""Blur kernels of BasicSR and Real-ESRGAN (Wang et al., 2021, section 3), and the filter that applies them."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
from scipy.special import j1

Shape = Literal["gaussian", "generalised", "plateau"]


def gaussian_kernel(
    size: int, sigma: tuple[float, float], theta: float = 0.0, shape: Shape = "gaussian", beta: float = 1.0
) -> np.ndarray:
    """(size, size) float32 that sums to 1.

    With q = x' S^-1 x, x counted from the middle: exp(-q / 2), exp(-q^beta / 2) or the plateau 1 / (1 + q^beta).

    Args:
        size: odd.
        sigma: standard deviations in px along the kernel's own two axes; twice the same for an isotropic one.
        theta: angle in radians from the picture's x axis to the first of them.
        beta: used by all but "gaussian".
    """
    turn = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    inverse = np.linalg.inv(turn @ np.diag(np.square(sigma)) @ turn.T)
    axis = np.arange(size) - (size - 1) / 2
    points = np.stack(np.meshgrid(axis, axis), -1)
    q = ((points @ inverse) * points).sum(-1)
    if shape == "plateau":
        kernel = 1 / (1 + q**beta)
    else:
        kernel = np.exp(-(q**beta if shape == "generalised" else q) / 2)
    return (kernel / kernel.sum()).astype(np.float32)


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """(size, size) float32: the circular low-pass filter wc J1(wc r) / (2 pi r), scaled to the sum 1; it leaves ringing.

    Args:
        cutoff: wc, radians per px.
    """
    axis = np.arange(size) - (size - 1) / 2
    r = np.hypot(*np.meshgrid(axis, axis))
    with np.errstate(invalid="ignore", divide="ignore"):
        kernel = cutoff * j1(cutoff * r) / (2 * np.pi * r)
    kernel[r == 0] = cutoff**2 / (4 * np.pi)
    return (kernel / kernel.sum()).astype(np.float32)


def padded(kernel: np.ndarray, size: int) -> np.ndarray:
    """The kernel with zeros around it."""
    return np.pad(kernel, (size - len(kernel)) // 2)


def filter2d(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 correlated with a kernel, which is not turned; the picture is continued by reflection without its edge."""
    return cv2.filter2D(image, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)
