"""Sound moved by SyncNet's offset: where to, when, and what is left at the ends (with SyncNet itself: test_sync_operator)."""

import numpy as np
import pytest

from preprocessing import catalogue
from preprocessing.codecs import encode
from preprocessing.fields import AUDIO, AUDIO_REALIGNED, REALIGNMENT, SYNC
from preprocessing.operator import Sample
from preprocessing.operators.realign import Realign, delayed

SOUND = np.random.default_rng(0).integers(-9000, 9000, 80 * 640, dtype=np.int16)


def realigned(offset: int, confidence: float = 5.0, n_windows: int = 75, audio: np.ndarray = SOUND, **settings: float):
    sync = {"offset_frames": offset, "confidence": confidence, "min_distance": 6.0, "n_windows": n_windows}
    operator = catalogue.producer("audio_realigned", {"realign": settings})
    assert isinstance(operator, Realign)
    made = operator(Sample("clip", {AUDIO.name: audio, SYNC.name: sync}))
    for field, value in made.items():
        assert encode(field, value)
    return made[AUDIO_REALIGNED], made[REALIGNMENT]


@pytest.mark.parametrize("k", [-6, -1, 0, 2, 6])
def test_early_sound_is_delayed_and_late_sound_advanced(k):
    moved, record = realigned(k)
    assert record == {"shift_frames": k, "trusted": 1}
    assert moved.dtype == np.int16
    assert moved.shape == SOUND.shape
    for sample in range(0, len(SOUND), 333):
        source = sample - 640 * k
        assert moved[sample] == (SOUND[source] if 0 <= source < len(SOUND) else 0)
    assert not moved[: max(0, 640 * k)].any()
    assert not moved[len(moved) + min(0, 640 * k) :].any()


@pytest.mark.parametrize("k", [-5, -2, 3, 6])
def test_what_was_shifted_comes_back(k):
    """Sound that is k frames late measures -k; realigned it equals the original wherever the shift did not push it out."""
    moved, _ = realigned(-k, audio=delayed(SOUND, 640 * k))
    kept = slice(0, len(SOUND) - 640 * k) if k > 0 else slice(-640 * k, None)
    assert np.array_equal(moved[kept], SOUND[kept])
    rest = np.delete(moved, np.arange(len(moved))[kept])
    assert len(rest) == 640 * abs(k)
    assert not rest.any()


@pytest.mark.parametrize(
    ("sync", "settings"),
    [
        ({"confidence": 2.99}, {}), ({"n_windows": 44}, {}), ({"offset": 7}, {}), ({"offset": -7}, {}),
        ({"confidence": 4.0}, {"min_confidence": 4.5}), ({"offset": 3}, {"max_offset_frames": 2}), ({}, {"min_windows": 76}),
    ],
)  # fmt: skip
def test_sound_stays_where_the_score_can_not_be_trusted(sync, settings):
    moved, record = realigned(**{"offset": 2, **sync}, **settings)
    assert record == {"shift_frames": 0, "trusted": 0}
    assert np.array_equal(moved, SOUND)


def test_thresholds_are_included():
    assert realigned(6, confidence=3.0, n_windows=45)[1] == {"shift_frames": 6, "trusted": 1}
    assert realigned(-15, min_confidence=0, max_offset_frames=15)[1]["shift_frames"] == -15


def test_shifts_longer_than_the_sound():
    assert not delayed(SOUND[:500], 640).any()
    assert not delayed(SOUND[:500], -640).any()
    assert np.array_equal(delayed(SOUND, 0), SOUND)
