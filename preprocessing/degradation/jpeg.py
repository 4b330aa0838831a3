"""JPEG twice: by the formula that Real-ESRGAN trains with, and by the library.

The formula (DiffJPEG of BasicSR) is not the file format: it pads with black, takes fractional qualities, transposes the luma
table, and its chroma table is flat outside a corner. Models have learnt these artefacts, so they are kept.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.fft import dctn, idctn

# ITU-T T.81, table K.1 (luminance) as it is printed; and the corner of K.2 (chrominance), 99 elsewhere.
LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ], np.float32,
).T  # fmt: skip
CHROMA = np.full((8, 8), 99, np.float32)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)
CENTRE = np.array([0, 128, 128], np.float32)
TILE = 16


def jpeg_formula(image: np.ndarray, quality: float) -> np.ndarray:
    """(H, W, 3) float32 RGB in [0, 1] as it comes back from a JPEG of this quality, by the formula.

    Args:
        quality: above 0, up to 100, not rounded.
    """
    height, width = image.shape[:2]
    whole = np.pad(image, ((0, -height % TILE), (0, -width % TILE), (0, 0))) * np.float32(255)
    ycc = whole @ TO_YCC.T + CENTRE
    factor = np.float32((5000 / quality if quality < 50 else 200 - 2 * quality) / 100)
    planes = [_quantised(ycc[..., 0], LUMA * factor)]
    for channel in (1, 2):
        half = ycc[..., channel].reshape(ycc.shape[0] // 2, 2, -1, 2).mean((1, 3))
        planes.append(_quantised(half, CHROMA * factor).repeat(2, 0).repeat(2, 1))
    rgb = (np.stack(planes, -1) - CENTRE) @ TO_RGB.T
    return (np.clip(rgb, 0, 255) / np.float32(255))[:height, :width]


def _quantised(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The plane after its 8 x 8 blocks' cosine coefficients were rounded to multiples of the table's entries."""
    blocks = plane.reshape(plane.shape[0] // 8, 8, -1, 8).swapaxes(1, 2)
    waves = dctn(blocks - np.float32(128), axes=(2, 3), norm="ortho")
    # Quality 100 leaves a table of zeros: nothing is rounded away then (the reference divides by zero).
    kept = np.rint(waves / table) * table if table.any() else waves
    return (idctn(kept, axes=(2, 3), norm="ortho") + np.float32(128)).swapaxes(1, 2).reshape(plane.shape)


def jpeg_library(image: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, 3) float32 RGB in [0, 1] as it comes back from OpenCV's JPEG (colour at half resolution)."""
    picture = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / np.float32(255)
