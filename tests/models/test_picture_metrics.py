"""PSNR and SSIM against scikit-image's, and what they must give; the published numbers are a parity fixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from infra.errors import LikenessError
from models.metrics.pictures import luma, psnr, psnr_8bit, ssim


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    a = rng.random((2, 3, 40, 50), np.float32)
    return torch.from_numpy(a), torch.from_numpy(np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1).astype(np.float32))


def test_against_scikit_image():
    a, b = pair()
    for place in range(2):
        x, y = (t[place].permute(1, 2, 0).double().numpy() for t in (a, b))
        assert float(psnr(a, b)[place]) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), abs=1e-4)
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        want = structural_similarity(x, y, data_range=1, channel_axis=2, **settings)
        assert float(ssim(a, b)[place]) == pytest.approx(want, abs=1e-6)


def test_equal_pictures_and_the_border():
    a, b = pair(1)
    assert psnr(a, a).tolist() == pytest.approx([80, 80])
    assert torch.isinf(psnr_8bit(255 * a, 255 * a)).all()
    assert ssim(a, a).tolist() == pytest.approx([1, 1])
    assert ssim(a, b).tolist() == pytest.approx(ssim(b, a).tolist())
    framed = a.clone()
    framed[..., :4, :] = 0
    assert psnr(a, framed, border=4).tolist() == pytest.approx([80, 80])
    assert (psnr(a, framed) < 30).all()
    white = torch.ones(1, 3, 20, 20)
    assert luma(white).unique().tolist() == pytest.approx([235 / 255])
    assert float(psnr(white, white - 0.1)[0]) == pytest.approx(20, abs=1e-4)
    # A grey error of 0.1 is one of 0.1 x 219 / 255 in luma.
    assert float(psnr(white, white - 0.1, "y")[0]) == pytest.approx(20 - 20 * np.log10(219 / 255), abs=1e-4)


def test_what_does_not_compare():
    a, _ = pair()
    for x, y in ((a, a[:1]), (a[0], a[0]), (a[:, :1], a[:, :1])):
        with pytest.raises(LikenessError, match="of one shape"):
            psnr(x, y)
    with pytest.raises(LikenessError, match="leaves 8 px"):
        ssim(a, a, border=16)
