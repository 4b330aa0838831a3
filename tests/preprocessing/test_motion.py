"""Motion between frames, and which frames an example takes."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from astronaut_clips import fill, make_sample

from preprocessing.fields import FLOW_SPEED, MOTION_MEASURES
from preprocessing.frame_sampling import at_rate, strided, windows


def panned(step_px: int, n: int = 6) -> np.ndarray:
    """The camera moves to the right by so many px of 256 a frame."""
    picture = skimage.data.astronaut()
    return np.stack([picture[128:384, 100 + step_px * k : 356 + step_px * k] for k in range(n)])


def test_speed_of_a_pan():
    sample = fill(make_sample(panned(4)), FLOW_SPEED, MOTION_MEASURES)
    speeds, numbers = sample[FLOW_SPEED], sample[MOTION_MEASURES]
    assert speeds[0] == 0
    assert speeds[1:] == pytest.approx(4 / 256 * 25, rel=0.12)
    assert numbers["speed_mean"] == pytest.approx(speeds[1:].mean(), rel=1e-4)
    assert numbers["speed_max"] == pytest.approx(speeds.max(), rel=1e-4)
    assert numbers["still_share"] == 0
    assert numbers["jump_max"] < 0.05


def test_a_cut_is_a_jump_and_a_pan_is_none():
    frames = panned(2, 8)
    frames[5:] = frames[5:, ::-1, :, ::-1]
    numbers = fill(make_sample(frames), MOTION_MEASURES)[MOTION_MEASURES]
    assert numbers["jump_frame"] == 5
    assert numbers["jump_max"] > 0.1


def test_still_clips_and_photos():
    sample = fill(make_sample(panned(0)), FLOW_SPEED, MOTION_MEASURES)
    assert sample[FLOW_SPEED].max() < 1e-3
    assert sample[MOTION_MEASURES]["still_share"] == 1
    photo = fill(make_sample(panned(0, 1)), FLOW_SPEED, MOTION_MEASURES)
    assert photo[FLOW_SPEED].tolist() == [0]
    assert photo[MOTION_MEASURES]["speed_mean"] == 0


def test_strided_windows():
    assert strided(100, 16, 4).tolist() == list(range(0, 61, 4))
    assert strided(30, 16, 4).tolist() == np.linspace(0, 29, 16).astype(int).tolist()
    assert strided(3, 5, 4).tolist() == [0, 0, 1, 1, 2]
    starts = {int(strided(64, 16, 4, np.random.default_rng(seed))[0]) for seed in range(60)}
    assert starts == {0, 1, 2, 3}


def test_frames_at_another_rate_are_the_nearest_in_time():
    eight = at_rate(250, 25, 16, 8)
    assert eight.tolist() == [int(np.floor(k * 25 / 8 + 0.5)) for k in range(16)]
    sixteen = at_rate(250, 25, 80, 16, np.random.default_rng(1))
    times = (sixteen - sixteen[0]) / 25
    assert np.abs(times - np.arange(80) / 16).max() <= 0.02 + 1e-9
    assert sixteen[-1] < 250
    assert at_rate(100, 25, 80, 16) is None
    assert at_rate(124, 25, 80, 16).tolist()[-1] == 123
    assert at_rate(10, 25, 4, 50).tolist() == [0, 1, 1, 2]
    latest = {int(at_rate(126, 25, 80, 16, np.random.default_rng(seed))[0]) for seed in range(40)}
    assert latest == {0, 1, 2}


def test_windows_in_a_row():
    found = windows(30, 16, 4)
    assert found[:, 0].tolist() == [0, 4, 8, 12]
    assert found[3].tolist() == list(range(12, 28))
    assert windows(15, 16, 4).shape == (0, 16)
