"""Panoramas of a model that knows structure: the best denoiser there is for random hills, known in closed form for one window.

Pictures are Gaussian fields whose values go together over a few cells (covariance K). The mean of x0 given
x = sqrt(a) x0 + sqrt(1 - a) e is then sqrt(a) K (a K + (1 - a) 1)^-1 x, which sees a whole window at once, as a UNet does.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from models.diffusion.windows import gaussian, grid, seam_ratio
from models.multidiffusion.sampler import panorama

SIDE, REACH, STEPS = 12, 4.0, 25
TILES = grid((SIDE, 10 * SIDE), SIDE, SIDE)


@pytest.fixture(scope="module")
def spectrum():
    """Eigenvalues (n,) and vectors (n, n) of K on a window."""
    places = torch.cartesian_prod(*[torch.arange(SIDE, dtype=torch.float64)] * 2)
    covariance = torch.exp(-torch.cdist(places, places).square() / (2 * REACH**2))
    values, vectors = torch.linalg.eigh(covariance)
    return values.clamp_min(0).float(), vectors.float()


def scheduler():
    made = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    made.set_timesteps(STEPS)
    return made


def drawn(spectrum, stride, weights=None, size=(SIDE, 10 * SIDE), rules="flush", roll=0):
    """(4, H, W) picture of the ideal model; the same noise each time, rolled by some columns."""
    values, vectors = spectrum
    ddim = scheduler()

    def network(crops, time, numbers):
        level = ddim.alphas_cumprod[time]
        parts = crops.flatten(2) @ vectors
        clean = (parts * (level.sqrt() * values / (level * values + 1 - level))) @ vectors.T
        return (crops - level.sqrt() * clean.view_as(crops)) / (1 - level).sqrt()

    noise = torch.randn(4, *size, generator=torch.Generator().manual_seed(0))
    *_, canvas = panorama(network, noise.roll(roll, -1), grid(size, SIDE, stride, rules), ddim, weights, batch=64)
    return canvas


def test_the_ideal_model_draws_its_hills(spectrum):
    """One window: values vary as much as they should, and neighbours go together as they should."""
    pictures = torch.stack([drawn(spectrum, SIDE)[:, :, i * SIDE : (i + 1) * SIDE] for i in range(10)])
    assert pictures.var().item() == pytest.approx(1, abs=0.5)
    neighbours = (pictures[..., 1:] * pictures[..., :-1]).mean() / pictures.square().mean()
    assert neighbours.item() == pytest.approx(np.exp(-1 / (2 * REACH**2)), abs=0.04)  # of finitely many steps


def test_overlap_leaves_no_seams(spectrum):
    """Side by side, steps at the borders are many times those elsewhere; the more overlap, the less is left of it."""
    ratios = {stride: seam_ratio(drawn(spectrum, stride), TILES) for stride in (SIDE, 6, 3, 1)}
    assert ratios[SIDE] > 4
    assert ratios[6] < 0.6 * ratios[SIDE]
    assert ratios[3] < 1.6
    assert ratios[1] == pytest.approx(1, abs=0.25)
    bells = seam_ratio(drawn(spectrum, 3, gaussian((SIDE, SIDE))), TILES)
    assert bells == pytest.approx(1, abs=0.25)


def test_sizes_that_do_not_fit_have_no_bare_strip(spectrum):
    canvas = drawn(spectrum, 5, size=(SIDE + 7, 3 * SIDE + 1))
    assert canvas.isfinite().all()
    assert canvas[:, -3:].std() > 0.2
    assert canvas[:, :, -3:].std() > 0.2


def test_a_circle_has_no_place_of_its_own(spectrum):
    """Noise rolled by whole strides gives the rolled picture, and its ends meet."""
    rules, size = ("flush", "circular"), (SIDE, 6 * SIDE)
    picture, rolled = (drawn(spectrum, 3, size=size, rules=rules, roll=roll) for roll in (0, 9))
    torch.testing.assert_close(rolled.roll(-9, -1), picture, rtol=1e-4, atol=1e-4)
    step = lambda canvas: (canvas[..., 0] - canvas[..., -1]).abs().mean()
    within = picture.diff(dim=-1).abs().mean()
    assert step(picture) < 1.5 * within
    assert step(drawn(spectrum, 3, size=size)) > 3 * within
