"""Which source frame a constant-rate clip shows at each of its frames, in exact arithmetic.

Everything downstream counts in frames of one rate (25 per second, 640 audio samples of 16 kHz each). Rounding in floating point
would make the choice depend on the machine near ties; integers do not.
"""

from fractions import Fraction
from itertools import pairwise

import numpy as np

from infra.errors import LikenessError
from preprocessing.media.probe import median_interval


def timeline_length(pts_ticks: np.ndarray, time_base: Fraction, fps: Fraction = Fraction(25)) -> int:
    """Frames at `fps` that a source fills, its last frame counted as long as the median interval between frames.

    Rounded to the nearest whole frame (half: down), at least one; a single frame, which has no interval, fills one. So a source
    of constant rate r keeps its number of frames at fps = r, and has it again after going to a higher rate and returning.

    Raises:
        LikenessError: no frames, times that do not ascend, or a rate that is not positive.
    """
    ticks = _checked(pts_ticks, fps)
    if len(ticks) == 1:
        return 1
    length = (int(ticks[-1] - ticks[0]) + median_interval(ticks)) * time_base * fps
    return max(1, -((1 - 2 * length) // 2))  # ceil(length - 1/2)


def timeline(
    pts_ticks: np.ndarray,
    time_base: Fraction,
    fps: Fraction = Fraction(25),
    start: int = 0,
    n_frames: int | None = None,
) -> np.ndarray:
    """The source frame shown by each frame of a constant-rate clip.

    Output frame k shows the source frame whose display time is nearest to k/fps after the first frame's; of two equally near
    the earlier. A source that already has this rate maps to itself; one of variable rate repeats and drops frames as needed.

    Args:
        pts_ticks: int (N,), ascending display times in ticks of `time_base` seconds (`MediaInfo.pts_ticks`).
        start: the first output frame wanted, to map a piece of the clip only.
        n_frames: how many are wanted; None for all up to `timeline_length`. Beyond the end the last frame is repeated.

    Returns:
        int64 (n_frames,), ascending indices into `pts_ticks`.

    Raises:
        LikenessError: as `timeline_length`, or a negative start or length.
    """
    ticks = _checked(pts_ticks, fps)
    if n_frames is None:
        n_frames = max(0, timeline_length(ticks, time_base, fps) - start)
    if start < 0 or n_frames < 0:
        raise LikenessError(f"timeline start {start}, length {n_frames}", allowed="numbers from 0 up")
    step = 1 / (fps * time_base)  # ticks per output frame
    # Frame j is nearest while 2 k step lies in (p[j-1] + p[j], p[j] + p[j+1]]; multiplied by the denominator, all are integers.
    relative = ticks - ticks[0]
    reach = max(int(relative[-1]) * 2 * step.denominator, 2 * (start + n_frames) * step.numerator)
    kind = np.int64 if reach < 2**62 else object
    between = (relative[:-1] + relative[1:]).astype(kind) * step.denominator
    moments = np.arange(start, start + n_frames).astype(kind) * (2 * step.numerator)
    return np.searchsorted(between, moments, "left").astype(np.int64)


def split(n_frames: int, fps: Fraction, max_s: float | Fraction) -> list[tuple[int, int]]:
    """Cut a clip into equal pieces of about `max_s` seconds.

    The number of pieces is ceil(duration / max_s - 1/10): up to a tenth over the limit does not make another piece, so there is
    no short tail, and no piece is longer than 1.1 max_s.

    Returns:
        (start, stop) frame ranges, in order and without gaps, lengths differing by one frame at most; [] for no frames.

    Raises:
        LikenessError: a negative number of frames, or a rate or limit that is not positive.
    """
    if n_frames < 0 or fps <= 0 or max_s <= 0:
        raise LikenessError(f"{n_frames} frames at {fps} fps in pieces of {max_s} s", allowed="positive numbers")
    limit = Fraction(str(max_s)) if isinstance(max_s, float) else Fraction(max_s)  # 0.1 means a tenth, not its binary neighbour
    tenths = n_frames / (fps * limit) - Fraction(1, 10)
    pieces = min(n_frames, max(1, -(-tenths.numerator // tenths.denominator)))
    edges = [i * n_frames // pieces for i in range(pieces + 1)] if pieces else []
    return list(pairwise(edges))


def _checked(pts_ticks: np.ndarray, fps: Fraction) -> np.ndarray:
    ticks = np.asarray(pts_ticks, np.int64)
    if len(ticks) == 0 or (np.diff(ticks) <= 0).any():
        raise LikenessError(f"{len(ticks)} display times that do not strictly ascend", allowed="one or more, ascending")
    if fps <= 0:
        raise LikenessError(f"frame rate {fps}", allowed="a positive number")
    return ticks
