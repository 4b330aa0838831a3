"""Which frames a training example takes: plain arithmetic on frame numbers, shared by stages and generation."""

from __future__ import annotations

import numpy as np


def strided(n_frames: int, count: int, stride: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """AnimateDiff's clip: `count` frames `stride` apart; a shorter video gets a smaller stride, a very short one repeats frames.

    The stretch is min(n_frames, (count - 1) stride + 1) frames long and begins anywhere, all beginnings alike; of it `count`
    places, evenly, rounded down.

    Args:
        rng: draws the beginning; None for the first frame.

    Returns:
        (count,) int64, rising.
    """
    length = min(n_frames, (count - 1) * stride + 1)
    start = int(rng.integers(0, n_frames - length + 1)) if rng is not None else 0
    return np.linspace(start, start + length - 1, count).astype(np.int64)


def at_rate(
    n_frames: int, clip_fps: float, count: int, rate_fps: float, rng: np.random.Generator | None = None
) -> np.ndarray | None:
    """`count` frames at `rate_fps`: for each instant the frame nearest in time (Lumiere: 80 at 16 fps, Vlogger: 16 at 8 fps).

    Args:
        clip_fps: of the frames there are; a rate above it repeats frames.
        rng: draws the first frame; None for the clip's first.

    Returns:
        (count,) int64, or None where the clip is too short.
    """
    steps = np.floor(np.arange(count) * clip_fps / rate_fps + 0.5).astype(np.int64)
    latest = n_frames - 1 - int(steps[-1])
    if latest < 0:
        return None
    return steps + (int(rng.integers(0, latest + 1)) if rng is not None else 0)


def windows(n_frames: int, count: int, every: int) -> np.ndarray:
    """(windows, count) int64: `count` frames in a row from every `every`-th frame on (DisCo: 16 from every 4th)."""
    starts = np.arange(0, n_frames - count + 1, every)
    return starts[:, None] + np.arange(count)
