"""Colour of the skin and light from pixels: alternating regularised least squares, with the fitted shape held."""

from __future__ import annotations

import cv2
import numpy as np

from preprocessing.morphable.heads import CROP_PX, Head

ROUNDS = 6
TEXTURE_SD, LIGHT_SD, TINT_SD = 1.0, 0.7, 0.08  # of texture numbers, of light's harmonics, of what they differ by between colours
NOISE = 0.08  # of a pixel's colour, 0..1
STEP_PX = 2  # every second pixel of the crop
HOLES = ((36, 42), (42, 48), (60, 68))  # eyes and the open mouth among the 68, which no skin is in
SKIN = (*range(17), 26, 25, 24, 19, 18, 17)  # around what is mostly skin


def estimate(head: Head, frames: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(n_texture,) and (9, 3) light for `shading.shade` that explain the pixels best; light and texture are the clip's.

    Args:
        frames: of each its numbers in the head's layout, its (224, 224, 3) uint8 crop, and its (68, 2) landmarks there.
    """
    import torch

    from models.perception.morphable.raster import rasterise
    from models.perception.morphable.shading import harmonics

    parts = []
    for row, crop, landmarks in frames:
        points, normals = head.mesh(row)
        raster = rasterise(points, head.triangles, CROP_PX, CROP_PX)
        used = _skin(landmarks)[raster.mask]
        mean, basis = head.colours(raster)
        normal = raster.interpolate(normals[head.triangles])[raster.mask][used]
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        functions = harmonics(torch.from_numpy(normal), head.harmonics).numpy()
        parts.append((functions, mean[used], basis[used], crop[raster.mask][used] / 255))
    functions, mean, basis, colours = (np.concatenate(each) for each in zip(*parts, strict=True))
    white = np.zeros(9)
    white[0] = 1 / float(harmonics(torch.zeros(1, 3), head.harmonics)[0, 0])
    if len(colours) < 100:
        return np.zeros(head.n_texture), np.tile(white[:, None], 3)
    texture, light = np.zeros(head.n_texture), np.tile(white[:, None], 3)
    trust = np.ones(len(colours))
    for _ in range(ROUNDS):
        texture = _texture(functions @ light, mean, basis, colours, trust)
        light = _light(functions, mean + basis @ texture, colours, trust, white)
        error = np.abs((functions @ light) * (mean + basis @ texture) - colours).max(1)
        trust = 1 / np.maximum(1, error / max(2 * float(np.median(error)), 1e-3)) ** 2  # beards, glasses and hair count little
    return texture, light


def _light(functions: np.ndarray, albedo: np.ndarray, colours: np.ndarray, trust: np.ndarray, white: np.ndarray) -> np.ndarray:
    """(9, 3): a grey light plus small differences between its colours."""
    seen = functions[:, None] * albedo[..., None] * np.sqrt(trust)[:, None, None] / NOISE  # (n, 3, 9)
    wanted = colours * np.sqrt(trust)[:, None] / NOISE - seen @ white
    normal, right = np.zeros((36, 36)), np.zeros(36)
    for colour in range(3):
        rows, own = seen[:, colour], slice(9 + 9 * colour, 18 + 9 * colour)
        gram, pull = rows.T @ rows, rows.T @ wanted[:, colour]
        for a in (slice(0, 9), own):
            right[a] += pull
            for b in (slice(0, 9), own):
                normal[a, b] += gram
    normal[np.diag_indices(36)] += 1 / np.square(np.r_[np.full(9, LIGHT_SD), np.full(27, TINT_SD)])
    found = np.linalg.solve(normal, right)
    return (white + found[:9] + found[9:].reshape(3, 9)).T


def _texture(shading: np.ndarray, mean: np.ndarray, basis: np.ndarray, colours: np.ndarray, trust: np.ndarray) -> np.ndarray:
    weight = (np.sqrt(trust)[:, None] / NOISE).repeat(3, 1)
    rows = (basis * (shading * weight)[..., None]).reshape(-1, basis.shape[2])
    wanted = ((colours - shading * mean) * weight).ravel()
    return np.linalg.solve(rows.T @ rows + np.eye(rows.shape[1]) / TEXTURE_SD**2, rows.T @ wanted)


def _skin(landmarks: np.ndarray) -> np.ndarray:
    """(224, 224) bool: inside the jaw line and the brows, outside of eyes and mouth; every second pixel each way."""
    mask = np.zeros((CROP_PX, CROP_PX), np.uint8)
    cv2.fillPoly(mask, [np.rint(landmarks[list(SKIN)]).astype(np.int32)], (1,))
    for first, stop in HOLES:
        cv2.fillPoly(mask, [np.rint(landmarks[first:stop]).astype(np.int32)], (0,))
    thinned = np.zeros_like(mask, bool)
    thinned[::STEP_PX, ::STEP_PX] = mask[::STEP_PX, ::STEP_PX] > 0
    return thinned
