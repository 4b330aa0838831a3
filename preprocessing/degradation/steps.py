"""From a recipe to a list of steps with numbers, and from such a list to the degraded picture.

`draw` decides everything but the noise itself, of which it decides the seed, so the list says all there is to say: `apply` of
the same list gives the same picture again. Steps are plain dicts with a name under "step".
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from preprocessing.degradation import noise
from preprocessing.degradation.jpeg import jpeg_formula, jpeg_library
from preprocessing.degradation.kernels import filter2d, gaussian_kernel, padded, sinc_kernel
from preprocessing.degradation.recipes import FirstOrder, Pass, Range, Recipe, SecondOrder
from preprocessing.degradation.resizing import MODES, resized, scaled
from preprocessing.degradation.sharpening import sharpened

Step = dict[str, Any]
SHAPES = ("gaussian", "generalised", "plateau")
PADDED_PX = 21


def degrade(image: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> tuple[np.ndarray, list[Step]]:
    """A degraded picture and how it was made: `draw`, then `apply`.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].
    """
    steps = draw(recipe, rng, *image.shape[:2])
    return apply(image, steps), steps


def draw(recipe: Recipe, rng: np.random.Generator, height: int, width: int) -> list[Step]:
    """The steps for one picture of this size, as plain JSON values."""
    steps = [{"step": "sharpen"}] if recipe.sharpen else []
    if isinstance(recipe, FirstOrder):
        return steps + _first_order(recipe, rng, height, width)
    return steps + _second_order(recipe, rng, height, width)


def _first_order(recipe: FirstOrder, rng: np.random.Generator, height: int, width: int) -> list[Step]:
    turned = rng.random() >= 0.5
    blur = _gaussian("gaussian", turned, recipe.kernel_size_px, recipe.blur_sigma_px, rng)
    shrink = _between(recipe.downscale, rng)
    small = {"height": max(1, int(height // shrink)), "width": max(1, int(width // shrink))}
    return [
        blur,
        {"step": "resize_library", **small},
        {"step": "gaussian", "sigma": _between(recipe.noise_sigma, rng), "grey": False, "seed": _seed(rng)},
        {"step": "jpeg_library", "quality": int(_between(recipe.jpeg, rng))},
        {"step": "resize_library", "height": height, "width": width},
        {"step": "clip"},
    ]


def _second_order(recipe: SecondOrder, rng: np.random.Generator, height: int, width: int) -> list[Step]:
    first, second = recipe.first, recipe.second
    scale = _scale(first, rng)
    steps = [
        _kernel(recipe, first, rng), {"step": "scale", "scale": scale, "mode": _mode(rng)}, _noise(first, rng), _jpeg(first, rng),
    ]  # fmt: skip
    blur, blurred = _kernel(recipe, second, rng), rng.random() < second.blur_prob
    scale = _scale(second, rng)
    size = {name: max(1, int(side / recipe.downscale * scale)) for name, side in (("height", height), ("width", width))}
    steps += [blur] * blurred + [{"step": "resize", **size, "mode": _mode(rng)}, _noise(second, rng)]
    ringing = _final_sinc(recipe, rng)
    size = {"height": max(1, height // recipe.downscale), "width": max(1, width // recipe.downscale)}
    shrink = [{"step": "resize", **size, "mode": _mode(rng)}, *ringing]
    steps += [*shrink, _jpeg(second, rng)] if rng.random() < 0.5 else [_jpeg(second, rng), *shrink]
    if recipe.back:
        mode = _mode(rng) if recipe.back == "random" else recipe.back
        steps.append({"step": "resize", "height": height, "width": width, "mode": mode})
    return [*steps, {"step": "round"}]


def _between(ends: Range, rng: np.random.Generator) -> float:
    return float(rng.uniform(*ends))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**53))  # JSON's whole numbers


def _mode(rng: np.random.Generator) -> str:
    return MODES[int(rng.integers(len(MODES)))]


def _scale(one: Pass, rng: np.random.Generator) -> float:
    grow, shrink, _ = one.resize_prob
    kind = rng.random()
    if kind < grow:
        return _between((1, one.resize[1]), rng)
    return _between((one.resize[0], 1), rng) if kind < grow + shrink else 1.0


def _noise(one: Pass, rng: np.random.Generator) -> Step:
    if rng.random() < one.gaussian_prob:
        step: Step = {"step": "gaussian", "sigma": _between(one.noise_sigma, rng)}
    else:
        step = {"step": "poisson", "scale": _between(one.poisson_scale, rng)}
    return step | {"grey": bool(rng.random() < one.grey_prob), "seed": _seed(rng)}


def _jpeg(one: Pass, rng: np.random.Generator) -> Step:
    return {"step": "jpeg", "quality": _between(one.jpeg, rng)}


def _kernel(recipe: SecondOrder, one: Pass, rng: np.random.Generator) -> Step:
    size = int(rng.choice(recipe.kernel_sizes_px))
    if rng.random() < one.sinc_prob:
        return _sinc(size, math.pi / 3 if size < 13 else math.pi / 5, rng)
    kind = int(rng.choice(len(recipe.kernels), p=recipe.kernels))
    shape = SHAPES[kind // 2]
    step = _gaussian(shape, kind % 2 == 1, size, one.blur_sigma_px, rng)
    if shape != "gaussian":
        low, high = recipe.beta_generalised if shape == "generalised" else recipe.beta_plateau
        step["beta"] = _between((low, 1) if rng.random() < 0.5 else (1, high), rng)
    return step


def _gaussian(shape: str, turned: bool, size: int, sigma: Range, rng: np.random.Generator) -> Step:
    along = _between(sigma, rng)
    across, theta = (_between(sigma, rng), _between((-math.pi, math.pi), rng)) if turned else (along, 0.0)
    return {"step": "blur", "kernel": shape, "size": size, "sigma": [along, across], "theta": theta}


def _sinc(size: int, lowest: float, rng: np.random.Generator) -> Step:
    return {"step": "blur", "kernel": "sinc", "size": size, "cutoff": _between((lowest, math.pi), rng)}


def _final_sinc(recipe: SecondOrder, rng: np.random.Generator) -> list[Step]:
    if rng.random() >= recipe.final_sinc_prob:
        return []
    return [_sinc(int(rng.choice(recipe.kernel_sizes_px)), math.pi / 3, rng)]


def apply(image: np.ndarray, steps: list[Step]) -> np.ndarray:
    """The picture that the steps make.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].

    Returns:
        float32 RGB in [0, 1], of the size that the steps lead to; after "round" whole grey levels of 255.

    Raises:
        ValueError: a step of unknown name.
    """
    image = np.ascontiguousarray(image, np.float32)
    for step in steps:
        image = _apply(image, step)
    return image


def blur_kernel(step: Step) -> np.ndarray:
    """The kernel of a "blur" step, padded to 21 px where it is smaller."""
    if step["kernel"] == "sinc":
        kernel = sinc_kernel(step["size"], step["cutoff"])
    else:
        kernel = gaussian_kernel(step["size"], tuple(step["sigma"]), step["theta"], step["kernel"], step.get("beta", 1.0))
    return padded(kernel, max(PADDED_PX, len(kernel)))


def _apply(image: np.ndarray, step: Step) -> np.ndarray:
    match step["step"]:
        case "sharpen":
            return sharpened(image)
        case "blur":
            return filter2d(image, blur_kernel(step))
        case "scale":
            return scaled(image, step["scale"], step["mode"])
        case "resize":
            return resized(image, step["height"], step["width"], step["mode"])
        case "resize_library":
            return cv2.resize(image, (step["width"], step["height"]), interpolation=cv2.INTER_LINEAR)
        case "gaussian":
            return noise.gaussian(image, step["sigma"], step["grey"], np.random.default_rng(step["seed"]))
        case "poisson":
            return noise.poisson(image, step["scale"], step["grey"], np.random.default_rng(step["seed"]))
        case "jpeg":
            return jpeg_formula(np.clip(image, 0, 1), step["quality"])
        case "jpeg_library":
            return jpeg_library(image, step["quality"])
        case "clip":
            return np.clip(image, 0, 1)
        case "round":
            return np.rint(np.clip(image, 0, 1) * 255).astype(np.float32) / np.float32(255)
    raise ValueError(f"unknown step {step['step']!r}")
