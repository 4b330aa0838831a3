"""Noise of Real-ESRGAN on (H, W, 3) float32 RGB in [0, 1]; results stay in [0, 1]."""

from __future__ import annotations

import numpy as np

LUMINANCE = np.array([0.2989, 0.587, 0.114], np.float32)


def gaussian(image: np.ndarray, sigma: float, grey: bool, rng: np.random.Generator) -> np.ndarray:
    """Sigma in grey levels of 255; a grey one has the same noise in all three channels."""
    shape = (*image.shape[:2], 1 if grey else 3)
    return np.clip(image + rng.standard_normal(shape, np.float32) * np.float32(sigma / 255), 0, 1)


def poisson(image: np.ndarray, scale: float, grey: bool, rng: np.random.Generator) -> np.ndarray:
    """Shot noise of as many photons at white as the 8-bit picture has distinct values (rounded up to a power of two), times
    `scale`; a grey one is that of the luminance."""
    light = (image @ LUMINANCE)[..., None] if grey else image
    levels = np.clip(np.rint(light * 255), 0, 255)
    photons = 2 ** np.ceil(np.log2(len(np.unique(levels))))
    light = levels / 255
    noise = rng.poisson(light * photons) / photons - light
    return np.clip(image + (noise * scale).astype(np.float32), 0, 1)
