"""Latents decoded by windows: what a local decoder gives, and no seams where the decoder is not local."""

import pytest
import torch
from torch.nn import functional as F

from models.diffusion.backbone import open_backbone
from models.diffusion.decoding import decode_windows
from models.diffusion.tiny import tiny_backbone
from models.diffusion.windows import Window, grid, seam_ratio


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.set_num_threads(1)
    return open_backbone(tiny_backbone("sd15", tmp_path_factory.mktemp("tiny") / "sd15", width=8))


def hills(channels, height, width):
    """Smooth latents of variance about 1."""
    draw = torch.Generator().manual_seed(3)
    coarse = torch.randn(1, channels, height // 4 + 2, width // 4 + 2, generator=draw)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")


def local(latents):
    """A decoder that sees nothing but the pixel's own cell."""
    grown = F.interpolate(latents[:, :3], scale_factor=8, mode="nearest")
    return grown + torch.sin(3 * grown) + torch.arange(8).repeat(latents.shape[-1]) / 10


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 40), (17, 9), (16, 24), (3, 3)])
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("stride", [None, 3, 100])
def test_a_local_decoder_by_windows_is_the_decoder(height, width, circular, stride):
    latents = torch.randn(2, 4, height, width)
    for batch in (1, 5):
        found = decode_windows(local, latents, 8, stride, batch, circular)
        torch.testing.assert_close(found, local(latents), rtol=1e-5, atol=1e-5)


def test_what_fits_is_decoded_as_a_whole(backbone):
    latents = hills(4, 16, 12)
    torch.testing.assert_close(decode_windows(backbone.decode, latents, 16), backbone.decode(latents), rtol=0, atol=0)


def test_windows_are_bounded(backbone):
    seen = []

    def decode(latents):
        seen.append(tuple(latents.shape))
        return backbone.decode(latents)

    assert decode_windows(decode, hills(4, 8, 50), 16, batch=2).shape == (1, 3, 64, 400)
    assert max(n * h * w for n, _, h, w in seen) == 2 * 8 * 16


def test_no_seams(backbone):
    """Tiles side by side leave steps at their borders, besides those a random decoder makes at every cell; windows fused do not."""
    latents = hills(4, 16, 64)
    tiles = grid((16, 64), 16, 16)
    whole = backbone.decode(latents)
    side_by_side = torch.cat([backbone.decode(window.crop(latents)) for window in tiles], -1)
    fused = decode_windows(backbone.decode, latents, 16)
    pixels = [Window(w.axes, tuple(8 * s for s in w.starts), tuple(8 * s for s in w.sizes)) for w in tiles]
    base, apart, ours = (seam_ratio(picture[0], pixels) for picture in (whole, side_by_side, fused))
    assert apart > 1.3 * base
    assert abs(ours - base) < 0.25 * (apart - base)
    assert (fused - whole).norm() < (side_by_side - whole).norm()


def test_the_ends_of_a_circle_meet(backbone):
    """Rolled latents give the rolled picture: the place where the ends meet is like any other."""
    latents = hills(4, 16, 48)
    picture = decode_windows(backbone.decode, latents, 16, circular=True)
    rolled = decode_windows(backbone.decode, latents.roll(8, -1), 16, circular=True)
    torch.testing.assert_close(rolled.roll(-64, -1), picture, rtol=1e-4, atol=1e-4)


def test_the_ends_of_a_narrow_circle_meet(backbone):
    """Decoded in one, with a margin at both sides that is cut off: the step between the ends is that of the cells within."""
    latents = hills(4, 16, 20)[..., :16]
    latents = torch.cat([latents, latents.flip(-1)], -1)  # its ends are equal, so nothing but decoding can part them
    step = lambda picture: float((picture[..., 0] - picture[..., -1]).abs().mean())
    circular, flat = (decode_windows(backbone.decode, latents, 32, circular=each) for each in (True, False))
    assert circular.shape == flat.shape == (1, 3, 128, 256)
    assert step(circular) < 0.5 * step(flat)
