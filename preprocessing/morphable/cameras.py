"""Cameras that fitted faces are seen by: the two that published layouts store.

Both look at a 224 px crop with y pointing up and pixel centres at whole numbers, and take a face that was turned, but not moved.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

CENTRE_PX = 112.0
FOCAL_PX, DISTANCE = 1015.0, 10.0


class Camera(Protocol):
    """Three numbers a frame."""

    name: str

    def start(self, scale_px: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
        """(T,) px per unit and (T, 2) px of where the origin is seen -> (T, 3), near enough to begin with."""

    def project(self, points: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(T, L, 3) and (T, 3) -> (T, L, 2) px, and its derivatives (T, L, 2, 3) by the points and by the camera."""


class Perspective:
    """Deep3DFaceRecon's: translation (x, y, z); the camera stands at z = 10, focal length 1015 px."""

    name = "perspective, focal length 1015 px, 10 units away"

    def start(self, scale_px: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
        depth = FOCAL_PX / scale_px
        return np.column_stack([(shift_px - CENTRE_PX) / scale_px[:, None], DISTANCE - depth])

    def project(self, points: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        moved = points + camera[:, None]
        depth = np.maximum(DISTANCE - moved[..., 2], 1e-3)  # a step too far must not take the face behind the camera
        found = FOCAL_PX * moved[..., :2] / depth[..., None]
        slope = np.zeros((*found.shape, 3))
        slope[..., 0, 0] = slope[..., 1, 1] = FOCAL_PX / depth
        slope[..., 2] = found / depth[..., None]
        return found + CENTRE_PX, slope, slope


class Orthographic:
    """DECA's: scale and shift (s, tx, ty); s (x + tx) runs from -1 to 1 over the crop."""

    name = "orthographic (weak perspective), -1..1 over the crop"

    def start(self, scale_px: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
        return np.column_stack([scale_px / CENTRE_PX, (shift_px - CENTRE_PX) / scale_px[:, None]])

    def project(self, points: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale = camera[:, None, 0]
        shifted = points[..., :2] + camera[:, None, 1:]
        by_point, by_camera = (np.zeros((*shifted.shape, 3)) for _ in range(2))
        by_point[..., 0, 0] = by_point[..., 1, 1] = by_camera[..., 0, 1] = by_camera[..., 1, 2] = CENTRE_PX * scale
        by_camera[..., 0] = CENTRE_PX * shifted
        return CENTRE_PX * (scale[..., None] * shifted + 1), by_point, by_camera
