"""Degradation: PyTorch's resizing to the digit, noise of the right size, draws within the published ranges, and all of it again."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from preprocessing.degradation import (
    RECIPES,
    FirstOrder,
    apply,
    degrade,
    draw,
    filter2d,
    gaussian_kernel,
    noise,
    sharpened,
    sinc_kernel,
)
from preprocessing.degradation.jpeg import jpeg_formula, jpeg_library
from preprocessing.degradation.resizing import MODES, resized, scaled
from preprocessing.degradation.steps import blur_kernel

DRAWS = 1500


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """(96, 128, 3) float32."""
    return skimage.data.astronaut()[20:212, 130:386][::2, ::2].astype(np.float32) / 255


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[list[dict[str, Any]]]]:
    rng = np.random.default_rng(5)
    return {name: [draw(recipe, rng, 96, 128) for _ in range(DRAWS)] for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [0.15, 0.313, 0.97, 1.0, 1.4637])
def test_resizing_is_pytorchs(photo: np.ndarray, mode: str, factor: float):
    tensor = torch.from_numpy(photo.transpose(2, 0, 1).copy())[None]

    def compare(found: np.ndarray, **how: Any) -> None:
        flat = {} if mode == "area" else {"align_corners": False}
        want = torch.nn.functional.interpolate(tensor, mode=mode, **how, **flat)[0].numpy().transpose(1, 2, 0)
        assert found.shape == want.shape
        assert np.abs(found - want).max() < 2e-5  # PyTorch counts positions in float32

    compare(scaled(photo, factor, mode), scale_factor=factor)  # type: ignore[arg-type]
    size = (int(96 * factor), int(128 * factor) - 1)
    compare(resized(photo, *size, mode), size=size)  # type: ignore[arg-type]


def test_kernels_sum_to_one_and_are_not_turned_by_the_filter():
    kernels = [gaussian_kernel(9, (3, 0.5), 0.6), gaussian_kernel(7, (2, 2), 0, "plateau", 1.3), sinc_kernel(13, 1.2)]
    assert all(k.dtype == np.float32 and k.sum() == pytest.approx(1, abs=1e-6) for k in kernels)
    steep = gaussian_kernel(9, (3, 0.5), math.pi / 4)
    assert steep[7, 7] > 5 * steep[7, 1]  # the long axis runs along x = y
    dot = np.zeros((9, 9, 3), np.float32)
    dot[4, 4] = 1
    lopsided = np.zeros((3, 3), np.float32)
    lopsided[0, 2] = 1  # correlation: each pixel takes from its upper right
    assert filter2d(dot, lopsided)[5, 3].tolist() == [1, 1, 1]


def test_noise_has_its_size():
    rng, grey = np.random.default_rng(0), np.full((200, 200, 3), 128 / 255, np.float32)
    for flag in (False, True):
        found = noise.gaussian(grey, 20, flag, rng) - grey
        assert found.std() * 255 == pytest.approx(20, rel=0.02)
        assert (np.ptp(found, axis=2).max() < 1e-6) == flag
        ramp = np.repeat(np.linspace(0.2, 0.8, 256, dtype=np.float32)[None, :, None], 300, 0).repeat(3, 2)
        shot = noise.poisson(ramp, 0.5, flag, rng) - ramp
        levels = 2 ** math.ceil(math.log2(len(np.unique(np.rint(ramp * 255)))))
        for column in (10, 128, 245):
            want = 0.5 * math.sqrt(float(ramp[0, column, 0]) * 0.9999 / levels if flag else float(ramp[0, column, 0]) / levels)
            assert shot[:, column].std() == pytest.approx(want, rel=0.12)
        assert (np.ptp(shot, axis=2).max() < 1e-6) == flag


def test_both_jpegs(photo: np.ndarray):
    errors = [np.abs(jpeg_formula(photo, q) - photo).mean() for q in (100, 95, 60, 30)]
    assert errors == sorted(errors)
    assert errors[3] > 2 * errors[1]
    odd = photo[:83, :70]
    assert jpeg_formula(odd, 50).shape == odd.shape
    data = cv2.imencode(".jpg", np.rint(photo[..., ::-1] * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    assert np.array_equal(jpeg_library(photo, 40), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255)


def test_sharpening_leaves_flat_places_alone(photo: np.ndarray):
    flat = np.full((120, 120, 3), 0.4, np.float32)
    assert np.abs(sharpened(flat) - flat).max() < 1e-6
    flat[:, 60:] = 0.6
    edge = sharpened(flat)
    assert edge[60, 58, 0] < 0.38
    assert edge[60, 61, 0] > 0.62
    assert sharpened(photo).min() >= 0


def numbers(steps: list[dict[str, Any]], kind: str, key: str, at: int = -1) -> list[float]:
    found = [s[key] for s in steps if s["step"] == kind and key in s]
    return found if at < 0 else found[at : at + 1]


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if not isinstance(r, FirstOrder)])
def test_second_order_draws_are_the_tables(name: str, drawn: dict):
    recipe: Any = RECIPES[name]
    sigma = [v for steps in drawn[name] for v in numbers(steps, "gaussian", "sigma")]
    ends = [recipe.first.noise_sigma, recipe.second.noise_sigma]
    assert min(sigma) >= min(low for low, _ in ends)
    assert 0.97 * max(high for _, high in ends) < max(sigma) <= max(high for _, high in ends)
    poisson = [v for steps in drawn[name] for v in numbers(steps, "poisson", "scale")]
    assert max(poisson) <= recipe.first.poisson_scale[1]
    for place, one in enumerate((recipe.first, recipe.second)):
        quality = [v for steps in drawn[name] for v in numbers(steps, "jpeg", "quality", place)]
        assert len(quality) == DRAWS
        assert one.jpeg[0] <= min(quality) < one.jpeg[0] + 1
        assert one.jpeg[1] - 1 < max(quality) <= one.jpeg[1]
    scale = [v for steps in drawn[name] for v in numbers(steps, "scale", "scale")]
    share = Counter("up" if s > 1 else "down" if s < 1 else "keep" for s in scale)
    assert [share[k] / DRAWS for k in ("up", "down", "keep")] == pytest.approx(list(recipe.first.resize_prob), abs=0.05)
    assert recipe.first.resize[0] <= min(scale) < recipe.first.resize[0] + 0.02
    firsts = [next(s for s in steps if s["step"] == "blur") for steps in drawn[name]]
    sinc = [s for s in firsts if s["kernel"] == "sinc"]
    assert len(sinc) / DRAWS == pytest.approx(recipe.first.sinc_prob, abs=0.03)
    assert all(s["cutoff"] >= (math.pi / 3 if s["size"] < 13 else math.pi / 5) for s in sinc)
    kinds = Counter((s["kernel"], s["sigma"][0] != s["sigma"][1]) for s in firsts if s["kernel"] != "sinc")
    order = [(shape, turned) for shape in ("gaussian", "generalised", "plateau") for turned in (False, True)]
    assert [kinds[k] / (DRAWS - len(sinc)) for k in order] == pytest.approx(list(recipe.kernels), abs=0.05)
    assert {s["size"] for s in firsts} == {7, 9, 11, 13, 15, 17, 19, 21}
    blurs = [sum(s["step"] == "blur" for s in steps) for steps in drawn[name]]
    assert np.mean(blurs) == pytest.approx(1 + recipe.second.blur_prob + recipe.final_sinc_prob, abs=0.05)
    assert (drawn[name][0][0]["step"] == "sharpen") == recipe.sharpen


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if isinstance(r, FirstOrder)])
def test_first_order_draws_are_the_tables(name: str, drawn: dict):
    recipe: Any = RECIPES[name]
    blur = [steps[0] for steps in drawn[name]]
    assert {b["size"] for b in blur} == {41}
    assert np.mean([b["sigma"][0] == b["sigma"][1] for b in blur]) == pytest.approx(0.5, abs=0.05)
    for values, (low, high) in (
        ([v for b in blur for v in b["sigma"]], recipe.blur_sigma_px),
        ([steps[2]["sigma"] for steps in drawn[name]], recipe.noise_sigma),
        ([steps[3]["quality"] for steps in drawn[name]], recipe.jpeg),
    ):
        span = high - low
        assert low <= min(values) < low + 0.03 * span
        assert high - 0.04 * span < max(values) <= high
    widths = [steps[1]["width"] for steps in drawn[name]]
    assert min(widths) == 128 // recipe.downscale[1]
    assert max(widths) > 128 / recipe.downscale[0] - 3
    assert not any(s.get("grey") for steps in drawn[name] for s in steps)


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_drawn_makes_the_same_picture_again(name: str, photo: np.ndarray):
    found, steps = degrade(photo, RECIPES[name], np.random.default_rng(3))
    kept = json.loads(json.dumps(steps))
    np.random.default_rng()  # other chance makes no difference
    assert np.array_equal(apply(photo, kept), found)
    shape = (24, 32, 3) if name == "realesrgan" else photo.shape
    assert found.shape == shape
    assert found.dtype == np.float32
    assert (found.min() >= 0) & (found.max() <= 1)
    assert all(len(blur_kernel(s)) in (21, 41) for s in steps if s["step"] == "blur")
    if name != "realesrgan":
        assert 0.005 < np.abs(found - photo).mean() < 0.3
    if not isinstance(RECIPES[name], FirstOrder):
        assert np.abs(found * 255 - np.rint(found * 255)).max() < 1e-4
    again, other = (degrade(photo, RECIPES[name], np.random.default_rng(seed))[0] for seed in (3, 4))
    assert np.array_equal(again, found)
    assert not np.array_equal(other, found)


def test_an_unknown_step_is_refused(photo: np.ndarray):
    with pytest.raises(ValueError, match="unknown step 'melt'"):
        apply(photo, [{"step": "melt"}])
    for recipe in RECIPES.values():  # and the smallest picture still goes through
        assert degrade(photo[:16, :16], recipe, np.random.default_rng(0))[0].size
