"""Windows: they cover every canvas, join without a trace, and cost no more memory than a batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import LikenessError
from models.diffusion.windows import Window, fuse, gaussian, grid, seam_ratio

# MultiDiffusion's get_views (window 64, stride 8) of pictures of these sizes in px: how many, the last one's first cells
VIEWS = {
    (512, 512): (1, (0, 0)),
    (512, 2048): (25, (0, 192)),
    (512, 4096): (57, (0, 448)),
    (768, 512): (5, (32, 0)),
    (1024, 1024): (81, (64, 64)),
}


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@st.composite
def axis(draw, longest):
    """Length, window, stride and rule of one axis."""
    length = draw(st.integers(1, longest))
    size = draw(st.integers(1, longest))
    stride = draw(st.integers(1, min(size, length)))
    return length, size, stride, draw(st.sampled_from(["flush", "circular"]))


AXES = st.one_of(*(st.lists(axis(longest), min_size=count, max_size=count) for count, longest in ((1, 60), (2, 11), (3, 5))))


@settings(max_examples=100, deadline=None)
@given(AXES)
def test_every_cell_of_every_canvas_is_covered(along):
    lengths, sizes, strides, rules = zip(*along, strict=True)
    windows = grid(lengths, sizes, strides, rules)
    count = torch.zeros(lengths)
    for window in windows:
        crop = window.crop(count)
        assert crop.shape == tuple(min(s, n) for s, n in zip(sizes, lengths, strict=True))
        window.add(count, torch.ones_like(crop))
    assert count.min() >= 1
    assert count.sum() == sum(math.prod(w.sizes) for w in windows)  # no window counts a cell twice
    assert len(set(windows)) == len(windows)


@settings(max_examples=30, deadline=None)
@given(AXES, st.sampled_from(["uniform", "bell", "published"]), st.integers(1, 5))
def test_a_function_of_each_cell_is_that_function_of_the_canvas(along, kind, batch):
    lengths, sizes, strides, rules = zip(*along, strict=True)
    windows = grid(lengths, sizes, strides, rules)
    weights = None if kind == "uniform" else gaussian(windows[0].sizes, published=kind == "published")
    canvas = torch.randn(2, *lengths, dtype=torch.float64)
    found = fuse(lambda crops, _: torch.sin(3 * crops), canvas, windows, weights, batch)
    torch.testing.assert_close(found, torch.sin(3 * canvas), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size_px", "known"), VIEWS.items(), ids=str)
def test_official_grid(size_px, known):
    windows = grid([side // 8 for side in size_px], 64, 8, "official")
    assert (len(windows), windows[0].starts, windows[-1].starts) == (known[0], (0, 0), known[1])
    assert grid([side // 8 for side in size_px], 64, 8) == windows  # the strides fit: nothing to add


def test_what_the_official_grid_leaves_out():
    """Why it is not the default: a strip at the end, and nothing at all on a small canvas."""
    assert [w.starts[0] for w in grid([21], 8, 4, "official")] == [0, 4, 8, 12]
    assert [w.starts[0] for w in grid([21], 8, 4)] == [0, 4, 8, 12, 13]
    assert grid([6, 16], 8, 4, "official") == []
    assert {w.sizes for w in grid([6, 16], 8, 4)} == {(6, 8)}
    canvas = torch.ones(1, 21)
    official = grid([21], 8, 4, "official")
    with pytest.raises(LikenessError, match="1 of 21 values have no weight"):
        fuse(lambda crops, _: crops, canvas, official)
    zeroed = fuse(lambda crops, _: crops, canvas, official, bare="zero")
    assert zeroed[0].tolist() == [1.0] * 20 + [0.0]


def test_circular_windows_go_on_at_the_beginning():
    windows = grid([4, 12], (4, 8), (4, 4), ("flush", "circular"))
    assert [w.starts for w in windows] == [(0, 0), (0, 4), (0, 8)]
    canvas = torch.arange(12.0).repeat(4, 1)
    assert windows[2].crop(canvas)[0].tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert len(grid([13], 5, 5, "circular")) == 3  # 13 // 5 = 2 would leave three cells


def test_published_weights_are_half_a_cell_off_in_height():
    cells = torch.arange(6, dtype=torch.float64)
    across = torch.exp(-((cells - 2.5) ** 2) / (36 * 0.02)) / math.sqrt(0.02 * math.pi)
    down = torch.exp(-((torch.arange(8, dtype=torch.float64) - 4) ** 2) / (64 * 0.02)) / math.sqrt(0.02 * math.pi)
    torch.testing.assert_close(gaussian([8, 6], published=True), (down[:, None] * across).float())
    even = gaussian([8, 6])
    torch.testing.assert_close(even, even.flip(0, 1))
    assert (gaussian([8, 6], published=True) - even).abs().max() > 0.1
    assert gaussian([5, 8, 6]).shape == (5, 8, 6)
    assert gaussian([64, 64]).min() > 0


def test_order_of_windows_does_not_matter():
    canvas = torch.randn(4, 16, 20)
    windows = grid([16, 20], 8, 4)

    def step(crops, numbers):
        return torch.tanh(crops - crops.mean((-1, -2), keepdim=True))

    weights = gaussian([8, 8])
    straight = fuse(step, canvas, windows, weights)
    order = torch.randperm(len(windows)).tolist()
    torch.testing.assert_close(fuse(step, canvas, [windows[i] for i in order], weights), straight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fuse(step, canvas, windows, weights, batch=3), straight, rtol=1e-5, atol=1e-6)
    assert (fuse(step, canvas, windows) - straight).abs().max() > 1e-3


def test_weights_by_window_and_results_of_other_channels():
    canvas = torch.randn(3, 6)
    windows = [Window((-1,), (0,), (4,)), Window((-1,), (2,), (4,))]
    found = fuse(lambda crops, numbers: torch.stack([torch.full((5, 4), float(n)) for n in numbers]), canvas, windows,
                 lambda n: torch.tensor([1.0, 3.0])[n])  # fmt: skip
    assert found.shape == (5, 6)
    assert found[0].tolist() == [0, 0, 0.75, 0.75, 1, 1]


def test_masks_that_part_the_canvas_keep_results_apart():
    mask = (torch.rand(1, 8, 12) > 0.5).float()
    masks = [mask, 1 - mask]
    windows = [w for w in grid([8, 12], 6, 2) for _ in masks]
    canvas = torch.randn(2, 8, 12)

    def step(crops, numbers):
        return torch.stack([torch.full_like(crop, float(n % 2)) for crop, n in zip(crops, numbers, strict=True)])

    found = fuse(step, canvas, windows, lambda n: windows[n].crop(masks[n % 2]), batch=5)
    assert torch.equal(found, (1 - mask).expand(2, 8, 12))


def test_memory_is_that_of_a_batch():
    seen = []

    def step(crops, numbers):
        seen.append(len(crops))
        return crops

    fuse(step, torch.randn(4, 8, 64), grid([8, 64], 8, 4), batch=4)
    assert seen == [4, 4, 4, 3]


def test_half_precision_is_summed_in_full():
    canvas = torch.full((1, 64), 0.1, dtype=torch.float16)
    windows = grid([64], 33, 1)
    rough = torch.zeros_like(canvas)
    for window in windows:
        window.add(rough, window.crop(canvas))
    counts = fuse(lambda crops, _: torch.ones_like(crops), torch.zeros(1, 64), windows)
    assert torch.equal(counts, torch.ones(1, 64))
    found = fuse(lambda crops, _: crops, canvas, windows)
    assert found.dtype == torch.float16
    assert torch.equal(found, canvas)
    assert not torch.equal(rough[0, 31] / 32, canvas[0, 31])  # what it would have been


def test_overlap_takes_seams_away():
    """A model that levels each window by its mean, on smooth hills: side by side it leaves steps, overlapping hardly any."""
    rows, columns = torch.arange(32.0)[:, None], torch.arange(48.0)
    canvas = (torch.sin(rows / 9) + torch.cos(columns / 7 + rows / 11))[None]
    apart = grid([32, 48], 8, 8)

    def level(crops, _):
        return crops - crops.mean((-1, -2), keepdim=True)

    assert seam_ratio(canvas, apart) == pytest.approx(1, abs=0.1)
    beside, over = (fuse(level, canvas, grid([32, 48], 8, stride)) for stride in (8, 2))
    belled = fuse(level, canvas, grid([32, 48], 8, 2), gaussian([8, 8]))
    assert seam_ratio(beside, apart) > 4
    assert seam_ratio(over, apart) < 1.5
    assert seam_ratio(belled, apart) < 1.1
    with pytest.raises(LikenessError, match="without a border"):
        seam_ratio(canvas, grid([32, 48], 48, 8))


def test_gradients_pass():
    canvas = torch.randn(2, 12, requires_grad=True)
    fuse(lambda crops, _: crops**2, canvas, grid([12], 6, 3)).sum().backward()
    torch.testing.assert_close(canvas.grad, 2 * canvas.detach())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: grid([16], 4, 6), "stride 6 leaves cells bare"),
        (lambda: grid([16], 0, 1), "window 0"),
        (lambda: grid([16, 8], (4, 4, 4), 1), "3 sizes"),
        (lambda: fuse(lambda c, n: c, torch.zeros(4), []), "no windows"),
        (lambda: fuse(lambda c, n: c, torch.zeros(4), grid([4], 2, 1), batch=0), "batches of 0"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(LikenessError, match=said):
        make()
