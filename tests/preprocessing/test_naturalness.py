"""NIQE's parts against what they must give, and the operator on statistics made here; the published number is a parity fixture."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from astronaut_clips import fill, make_sample, swaying

from infra import assets
from infra.errors import LikenessError
from preprocessing import catalogue, niqe
from preprocessing.fields import FACE_BOX, NATURALNESS
from preprocessing.media.photo import read_photo

ready = assets.locate(assets.get("niqe_pristine")) and "LIKENESS_CORPUS" in os.environ
published = pytest.mark.skipif(not ready, reason="LIKENESS_ASSETS has no niqe_pristine, or LIKENESS_CORPUS not set")


def window() -> np.ndarray:
    bell = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    return np.outer(bell, bell) / bell.sum() ** 2


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """Statistics of scikit-image's photos, in the published file's layout."""
    features = []
    for name in ("astronaut", "chelsea", "coffee"):
        grey = niqe.luma(getattr(skimage.data, name)())
        grey = grey[: len(grey) // 96 * 96, : grey.shape[1] // 96 * 96]
        both = (niqe.block_features(niqe.normalised(g, window()), side) for g, side in ((grey, 96), (niqe.halved(grey), 48)))
        features.append(np.concatenate(list(both), 1))
    rows = np.concatenate(features)
    path = tmp_path_factory.mktemp("niqe") / "niqe_pris_params.npz"
    np.savez(path, mu_pris_param=np.nanmean(rows, 0)[None], gaussian_window=window(),
             cov_pris_param=np.cov(rows[np.isfinite(rows).all(1)], rowvar=False))  # fmt: skip
    return path


@pytest.mark.parametrize(("shape", "left", "right"), [(2.0, 1.0, 1.0), (1.0, 0.5, 2.0), (0.7, 2.0, 1.0)])
def test_shape_and_widths_are_found_again(shape: float, left: float, right: float):
    """Draws of an asymmetric generalised Gaussian: |x| = width x Gamma(1/shape)^(1/shape); a side's share goes by its width."""
    rng = np.random.default_rng(0)
    size = rng.gamma(1 / shape, size=400_000) ** (1 / shape)
    below = rng.random(400_000) < left / (left + right)
    draws = np.where(below, -left * size, right * size).reshape(1, 800, 500)
    found = [float(v[0]) for v in niqe.asymmetric_gaussian(draws)]
    np.testing.assert_allclose(found, [shape, left, right], rtol=0.02)
    assert np.isnan(niqe.asymmetric_gaussian(np.zeros((1, 4, 4)))[0][0])


def test_halving_is_matlabs():
    """Weights of MATLAB's antialiased bicubic at half size: cubic(d / 2) / 2, edges mirrored."""
    row = np.random.default_rng(1).uniform(0, 255, (1, 12)).astype(np.float32)
    grey = np.repeat(row, 8, 0)

    def cubic(d: float) -> float:
        d = abs(d)
        return 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d <= 2 else 0.0

    padded = np.pad(row[0], 4, mode="symmetric")
    want = []
    for place in range(6):
        centre = 2 * place + 0.5
        taps = range(2 * place - 3, 2 * place + 5)
        weights = np.array([cubic((t - centre) / 2) / 2 for t in taps])
        assert weights.sum() == pytest.approx(1)
        want.append(sum(w * padded[t + 4] for w, t in zip(weights, taps, strict=True)))
    np.testing.assert_allclose(niqe.halved(grey), np.repeat([want], 4, 0), rtol=1e-5)


def test_luma_is_whole_and_in_studio_range():
    ramp = np.stack([np.arange(256, dtype=np.uint8)] * 3, -1)[None]
    grey = niqe.luma(ramp)[0]
    assert (grey[0], grey[255]) == (16, 235)
    assert np.array_equal(grey, np.round(grey))


def test_blur_and_noise_are_worse(pristine):
    statistics = niqe.Pristine.read(pristine)
    photo = skimage.data.rocket()
    rng = np.random.default_rng(0)
    numbers = [niqe.niqe(p, statistics) for p in (
        photo, cv2.GaussianBlur(photo, (0, 0), 1.5), cv2.GaussianBlur(photo, (0, 0), 4),
        np.clip(photo + rng.normal(0, 40, photo.shape), 0, 255).astype(np.uint8),
    )]  # fmt: skip
    assert numbers[0] < numbers[1] < numbers[2]
    assert numbers[0] < numbers[3]
    for useless in (np.zeros((100, 200, 3), np.uint8), np.full((300, 300, 3), 90, np.uint8)):
        with pytest.raises(LikenessError, match="two whole blocks|any texture"):
            niqe.niqe(useless, statistics)


def test_the_operator(pristine, tmp_path):
    operator = catalogue.producer(NATURALNESS.name)
    operator.asset_paths = {"niqe_pristine": pristine}
    operator.setup()
    sample = fill(make_sample(swaying(6)), FACE_BOX)
    numbers = operator(sample)[NATURALNESS]
    assert (numbers["frames"], numbers["face_frames"]) == (3, 0)  # her face is 100 px high
    frames = [f for i, f in enumerate(swaying(6)) if i in (1, 3, 5)]
    want = np.median([niqe.niqe(f, niqe.Pristine.read(pristine)) for f in frames])
    assert numbers["niqe"] == pytest.approx(want, abs=1e-4)
    large = np.stack([cv2.resize(swaying(1)[0], (900, 900), interpolation=cv2.INTER_CUBIC)])
    numbers = operator(fill(make_sample(large), FACE_BOX))[NATURALNESS]
    assert numbers["face_frames"] == 1
    assert numbers["niqe_face"] > 0
    tiny = operator(fill(make_sample(np.zeros((2, 64, 64, 3), np.uint8)), FACE_BOX))[NATURALNESS]
    assert tiny == {"niqe": 0.0, "niqe_face": 0.0, "frames": 0, "face_frames": 0}
    np.savez(tmp_path / "other.npz", mu_pris_param=np.zeros(3))
    operator.asset_paths = {"niqe_pristine": tmp_path / "other.npz"}
    with pytest.raises(LikenessError, match="holds no parameters of NIQE"):
        operator.setup()


@published
def test_sharp_photos_are_better_than_blurred_ones():
    statistics = niqe.Pristine.read(assets.find("niqe_pristine"))
    folder = Path(os.environ["LIKENESS_CORPUS"]) / "natural"
    for name in ("adain_cornell.jpg", "skimage_chelsea.png", "sklearn_flower.jpg"):
        photo = np.asarray(read_photo(folder / name)[0])
        sharp, soft = (niqe.niqe(p, statistics) for p in (photo, cv2.GaussianBlur(photo, (0, 0), 2)))
        assert sharp < 5
        assert soft > 7
