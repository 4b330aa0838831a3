"""Windows on a canvas of any axes (height, width, time): a model of one size works on any other, without seams.

MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113): each window is worked on by itself, and where windows overlap the canvas
takes the weighted mean of their results, the closed form of the least-squares problem of its equation 3 (with the weights as the
published code has them, not squared).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from infra.errors import LikenessError

Weights = Tensor | Callable[[int], Tensor] | None
Step = Callable[[Tensor, Sequence[int]], Tensor]
Rule = Literal["flush", "official", "circular"]


@dataclass(frozen=True)
class Window:
    """A box on some axes of a canvas; all of every other axis.

    Attributes:
        axes: axes of the canvas, counted from its end (-2 height, -1 width, -3 time).
        starts: first cells.
        sizes: in cells; a window that runs over the end of an axis goes on at its beginning.
    """

    axes: tuple[int, ...]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    def crop(self, canvas: Tensor) -> Tensor:
        """The canvas within the window."""
        for axis, start, size in zip(self.axes, self.starts, self.sizes, strict=True):
            parts = [canvas.narrow(axis, at, count) for at, _, count in _parts(start, size, canvas.shape[axis])]
            canvas = parts[0] if len(parts) == 1 else torch.cat(parts, axis)
        return canvas

    def times(self, factor: int) -> Window:
        """The same window on a canvas of `factor` times as many cells along its axes: in pixels where cells are of a latent."""
        starts, sizes = (tuple(factor * cells for cells in box) for box in (self.starts, self.sizes))
        return Window(self.axes, starts, sizes)

    def add(self, canvas: Tensor, values: Tensor) -> None:
        """Adds values of the window's size to the canvas, in place."""
        boxes = zip(self.axes, self.starts, self.sizes, strict=True)
        for parts in product(*(_parts(start, size, canvas.shape[axis]) for axis, start, size in boxes)):
            here, there = canvas, values
            for axis, (at, within, count) in zip(self.axes, parts, strict=True):
                here, there = here.narrow(axis, at, count), there.narrow(axis, within, count)
            here += there


def _parts(start: int, size: int, length: int) -> list[tuple[int, int, int]]:
    """(first cell of the canvas, first cell of the window, cells): two where the window runs over the end."""
    first = min(size, length - start)
    return [(start, 0, first), *([(0, first, size - first)] if size > first else [])]


def grid(
    lengths: Sequence[int], size: int | Sequence[int], stride: int | Sequence[int], rules: Rule | Sequence[Rule] = "flush"
) -> list[Window]:
    """Windows over the last axes of a canvas, row by row.

    Args:
        lengths: of the canvas along its last axes, as (height, width) in latent cells, or (frames, height, width).
        size, stride: one for all axes, or one each.
        rules: how windows stand along an axis:

            - "flush": one each `stride`; a last one ends with the canvas; a window longer than the canvas is cut to it.
            - "official": MultiDiffusion's get_views: (length - size) // stride + 1 of them. Cells after the last stay bare where
              the stride does not fit, and a canvas shorter than the window has none at all.
            - "circular": the canvas's end joins its beginning (pictures of 360 degrees): windows go on over it.

    Raises:
        LikenessError: sizes that leave bare cells ("official" is taken as it is).
    """
    count = len(lengths)
    sizes, strides = ((value,) * count if isinstance(value, int) else tuple(value) for value in (size, stride))
    kinds = (rules,) * count if isinstance(rules, str) else tuple(rules)
    if not len(sizes) == len(strides) == len(kinds) == count:
        raise LikenessError(
            f"{len(sizes)} sizes, {len(strides)} strides and {len(kinds)} rules for {count} axes", allowed="one each"
        )
    along = [_starts(*of_axis) for of_axis in zip(lengths, sizes, strides, kinds, strict=True)]
    fitting = tuple(s if kind == "official" else min(s, n) for n, s, kind in zip(lengths, sizes, kinds, strict=True))
    return [Window(tuple(range(-count, 0)), starts, fitting) for starts in product(*along)]


def _starts(length: int, size: int, stride: int, rule: Rule) -> list[int]:
    if min(length, size, stride) < 1:
        raise LikenessError(f"window {size}, stride {stride} on {length} cells", allowed="1 and more")
    if rule == "official":
        return list(range(0, length - size + 1, stride))
    size = min(size, length)
    if stride > size < length:
        raise LikenessError(
            f"stride {stride} leaves cells bare between windows of {size}", allowed=f"1 to {size}", fix="lower the stride"
        )
    if rule == "flush":
        starts = list(range(0, length - size + 1, stride))
        return starts if starts[-1] + size == length else [*starts, length - size]
    if size == length:
        return [0]
    starts = [i * stride for i in range(length // stride)]
    bare = starts[-1] + size < length
    return [*starts, len(starts) * stride] if bare else starts


def gaussian(sizes: Sequence[int], published: bool = False, variance: float = 0.01) -> Tensor:
    """(sizes) weights that fall from the middle of a window to its sides, float32.

    Product over the axes of exp(-(i - m)^2 / (2 variance n^2)) / sqrt(2 pi variance), n cells along the axis, m = (n - 1) / 2.

    Args:
        published: as in the tiled samplers of PASD and DiffBIR: m = n / 2 on every axis but the last (width), half a cell off.
    """
    weights = torch.ones(())
    for axis, count in enumerate(sizes):
        middle = count / 2 if published and axis < len(sizes) - 1 else (count - 1) / 2
        place = (torch.arange(count, dtype=torch.float64) - middle) / count
        bell = torch.exp(-(place**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        weights = weights[..., None] * bell
    return weights.float()


def fuse(
    step: Step,
    canvas: Tensor,
    windows: Sequence[Window],
    weights: Weights = None,
    batch: int = 8,
    bare: Literal["refuse", "zero"] = "refuse",
) -> Tensor:
    """Works on each window and joins the results: sum of weight x result over sum of weights, at each cell.

    Sums are in float32 (float64 for such a canvas), whatever the model works in: sixty-four windows over one cell lose digits in
    half precision.

    Args:
        step: (crops (n, *crop), numbers of the n windows) -> (n, *result). Crops are of one size. Results have the crop's size
            along the windows' axes and may differ on others (more channels). Windows' own prompts, control pictures and
            solver states are looked up by number.
        canvas: what is cropped; it is not changed.
        windows: a window may be named several times, to be worked on with several prompts.
        weights: None weighs all alike; a tensor is the weight of every window, a function that of the window with a number. They
            broadcast against a result and are at least 0.
        batch: windows worked on at once, at most: bounds the memory.
        bare: what becomes of cells without any weight: an error, or 0 as in the published code.

    Returns:
        the joined results, of the canvas's type.

    Raises:
        LikenessError: no windows, or cells without weight.
    """
    if not windows:
        raise LikenessError("no windows", fix="make them by models.diffusion.windows.grid")
    exact = torch.float64 if canvas.dtype == torch.float64 else torch.float32
    total: Tensor | None = None
    weight_sum: Tensor | None = None
    for numbers in _batches(windows, batch):
        results = step(torch.stack([windows[i].crop(canvas) for i in numbers]), numbers)
        for number, result in zip(numbers, results, strict=True):
            window = windows[number]
            weight = _weight(weights, number, result).to(exact)
            if total is None or weight_sum is None:
                total = _blank(result, window, canvas, exact)
                weight_sum = torch.zeros_like(total)
            window.add(total, weight * result.to(exact))
            window.add(weight_sum, weight.expand_as(result))
    assert total is not None
    assert weight_sum is not None
    empty = weight_sum == 0
    if bare == "refuse" and empty.any():
        share = f"{int(empty.sum())} of {empty.numel()} values"
        raise LikenessError(
            f"{share} have no weight in any window", fix="use rules='flush' in grid, or masks that cover the canvas"
        )
    return torch.where(empty, 0, total / torch.where(empty, 1, weight_sum)).to(canvas.dtype)


def _batches(windows: Sequence[Window], batch: int) -> Iterator[list[int]]:
    """Numbers of at most `batch` windows in a row that are of equal size."""
    if batch < 1:
        raise LikenessError(f"batches of {batch} windows", allowed="1 and more")
    numbers: list[int] = []
    for number, window in enumerate(windows):
        if numbers and (len(numbers) == batch or windows[numbers[0]].sizes != window.sizes):
            yield numbers
            numbers = []
        numbers.append(number)
    yield numbers


def _weight(weights: Weights, number: int, result: Tensor) -> Tensor:
    if weights is None:
        return torch.ones((1,) * result.ndim, device=result.device)
    found = weights(number) if callable(weights) else weights
    return found.to(result.device)


def _blank(result: Tensor, window: Window, canvas: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros of the canvas's size along the window's axes, of the result's along others."""
    shape = list(result.shape)
    for axis in window.axes:
        shape[axis] = canvas.shape[axis]
    return torch.zeros(shape, dtype=dtype, device=result.device)


def seam_ratio(canvas: Tensor, windows: Sequence[Window]) -> float:
    """Mean absolute step between neighbouring cells across windows' borders, over that between all other neighbours.

    About 1 where nothing is to be seen of the windows. Compare canvases at the borders of the same windows, such as those of a grid
    without overlap.

    Raises:
        LikenessError: the windows have no border within the canvas, or nothing but borders.
    """
    across, elsewhere = [], []
    for axis in windows[0].axes if windows else ():
        length = canvas.shape[axis]
        steps = canvas.float().diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)
        border = torch.zeros(length, dtype=torch.bool, device=steps.device)
        for window in windows:
            place = window.axes.index(axis)
            first, size = window.starts[place], window.sizes[place]
            border[[first, (first + size) % length]] = True
        border = border[1:]  # the step before each cell; before the first there is none
        across.append(steps[border])
        elsewhere.append(steps[~border])
    if not across or not torch.cat(across).numel() or not torch.cat(elsewhere).numel():
        raise LikenessError("windows without a border within the canvas, or with nothing else", fix="take smaller or larger ones")
    return float(torch.cat(across).mean() / torch.cat(elsewhere).mean())
