"""The constant-rate timeline against its definition, computed by brute force in fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import LikenessError
from preprocessing.media.timeline import split, timeline, timeline_length

RATES = st.sampled_from([Fraction(25), Fraction(30), Fraction(24), Fraction(30000, 1001), Fraction(1, 2), Fraction(120)])
BASES = st.sampled_from([Fraction(1, 1000), Fraction(1, 12800), Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 25)])


def nearest(ticks: list[int], base: Fraction, fps: Fraction, k: int) -> int:
    """The definition: least distance, then the earlier frame."""
    return min(range(len(ticks)), key=lambda j: (abs((ticks[j] - ticks[0]) * base - k / fps), j))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 5000), max_size=30), st.integers(-(10**12), 10**12), BASES, RATES)
def test_shows_the_nearest_frame(steps: list[int], first: int, base: Fraction, fps: Fraction) -> None:
    ticks = np.cumsum([first, *steps])
    moments = min(60, timeline_length(ticks, base, fps) + 2)
    expected = [nearest(ticks.tolist(), base, fps, k) for k in range(moments)]
    assert timeline(ticks, base, fps, 0, moments).tolist() == expected
    assert timeline(ticks, base, fps, 3, 5).tolist() == [nearest(ticks.tolist(), base, fps, k) for k in range(3, 8)]


def test_a_source_of_the_same_rate_maps_to_itself() -> None:
    for n in (1, 2, 75, 5000):
        for base, step, fps in (
            (Fraction(1, 12800), 512, Fraction(25)),
            (Fraction(1, 90000), 3600, Fraction(25)),
            (Fraction(1, 1000), 40, Fraction(25)),
            (Fraction(1, 30000), 1001, Fraction(30000, 1001)),
        ):
            assert timeline(np.arange(n) * step + 7, base, fps).tolist() == list(range(n))


def test_milliseconds_keep_every_ntsc_frame() -> None:
    ticks = np.array([round(k * 1001 / 30) for k in range(9000)])
    assert timeline(ticks, Fraction(1, 1000), Fraction(30000, 1001))[:9000].tolist() == list(range(9000))


def test_thirty_to_twenty_five_drops_every_sixth() -> None:
    chosen = timeline(np.arange(300), Fraction(1, 30))
    assert len(chosen) == 250
    # k/25 = 1.2 k source frames: 0 1.2 2.4 3.6 4.8 | 6
    assert chosen[:6].tolist() == [0, 1, 2, 4, 5, 6]


def test_ties_take_the_earlier_frame() -> None:
    # Half-rate source at 50 fps: every odd output lies exactly between two frames.
    assert timeline(np.arange(4), Fraction(1, 25), Fraction(50)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_gaps_are_filled_by_the_nearer_side() -> None:
    ticks = np.array([k for k in range(20) if k not in (5, 6, 7)])
    assert ticks[timeline(ticks, Fraction(1, 25))].tolist() == [0, 1, 2, 3, 4, 4, 4, 8, *range(8, 20)]


@given(st.integers(2, 400), st.sampled_from([24, 25, 30, 50, 60]))
def test_up_and_back_gives_the_length_back(n: int, rate: int) -> None:
    up = timeline_length(np.arange(n), Fraction(1, 25), Fraction(rate))
    if rate >= 25:
        assert timeline_length(np.arange(up), Fraction(1, rate), Fraction(25)) == n


def test_numbers_beyond_64_bits_stay_exact() -> None:
    base = Fraction(1, 2**40)
    ticks = np.arange(100) * (2**40 // 25) + 2**55
    assert timeline(ticks, base).tolist() == list(range(100))


def test_one_frame_and_pieces_beyond_the_end() -> None:
    assert timeline(np.array([512]), Fraction(1, 12800)).tolist() == [0]
    assert timeline(np.arange(10), Fraction(1, 25), start=8, n_frames=4).tolist() == [8, 9, 9, 9]
    assert timeline(np.arange(10), Fraction(1, 25), start=20).tolist() == []


def test_bad_times_are_refused() -> None:
    for ticks in ([], [3, 3], [2, 1]):
        with pytest.raises(LikenessError, match="ascend"):
            timeline(np.array(ticks, np.int64), Fraction(1, 25))
    with pytest.raises(LikenessError):
        timeline(np.arange(3), Fraction(1, 25), Fraction(0))
    with pytest.raises(LikenessError):
        timeline(np.arange(3), Fraction(1, 25), start=-1)


@given(st.integers(0, 5000), RATES, st.sampled_from([0.1, 1, 2.5, 10.0, Fraction(10, 3)]))
def test_pieces_cover_everything_once_and_are_equal(n: int, fps: Fraction, max_s: float) -> None:
    pieces = split(n, fps, max_s)
    assert [k for start, stop in pieces for k in range(start, stop)] == list(range(n))
    lengths = [stop - start for start, stop in pieces]
    if n:
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1
        assert max(lengths) <= fps * Fraction(str(float(max_s))) * Fraction(11, 10) + 1


def test_no_short_tail() -> None:
    fps = Fraction(25)
    assert split(250, fps, 10) == [(0, 250)]
    assert split(275, fps, 10) == [(0, 275)], "a tenth over makes no new piece"
    assert split(276, fps, 10) == [(0, 138), (138, 276)]
    assert split(0, fps, 10) == []
    with pytest.raises(LikenessError):
        split(10, fps, 0)
