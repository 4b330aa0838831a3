"""Unsharp masking of the clean picture, as Real-ESRGAN trains on."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 51
SIGMA = 0.3 * ((SIDE - 1) / 2 - 1) + 0.8  # OpenCV's rule for a kernel of this side: 8
WEIGHT, THRESHOLD = 0.5, 10


def usm_kernel() -> np.ndarray:
    """(51, 51) float32."""
    line = cv2.getGaussianKernel(SIDE, SIGMA)
    return (line @ line.T).astype(np.float32)


def sharpened(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1], sharpened where it differs from its blurred self by more than 10 of 255 grey levels."""
    residual = image - _blurred(image)
    mask = (np.abs(residual) * 255 > THRESHOLD).astype(np.float32)
    soft = _blurred(mask)
    return soft * np.clip(image + WEIGHT * residual, 0, 1) + (1 - soft) * image


def _blurred(image: np.ndarray) -> np.ndarray:
    line = cv2.getGaussianKernel(SIDE, SIGMA)
    return cv2.sepFilter2D(image, cv2.CV_32F, line, line, borderType=cv2.BORDER_REFLECT_101)
