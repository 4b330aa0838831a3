"""Speech features: lengths, ranges, windows and refusals (the values are held by the parity fixtures)."""

import math

import numpy as np
import pytest

from infra.errors import LikenessError
from preprocessing.audio_features import MEL_WINDOW, mel80, mel_chunk_count, mel_chunks, mel_window, mel_window_start, mfcc13


def noise(samples: int, level: float = 0.3) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 2, 199, 200, 401, 999, 1000, 1001, 16_000, 16_199])
def test_mel_length_and_range(samples):
    mel = mel80(noise(samples))
    assert mel.shape == (80, samples // 200 + 1)
    assert mel.dtype == np.float32
    assert mel.min() >= -4
    assert mel.max() <= 4


def test_mel_stays_in_range_for_extreme_audio():
    for level in (1e-30, 1e6):
        mel = mel80(noise(4000, level))
        assert mel.min() >= -4
        assert mel.max() <= 4


def test_silence_is_the_floor():
    assert (mel80(np.zeros(16_000, np.float32)) == -4).all()
    assert np.isfinite(mfcc13(np.zeros(16_000, np.int16))).all()


def test_mel_moves_one_column_per_200_samples():
    wav = noise(8000)
    moved = mel80(np.concatenate([np.zeros(400, np.float32), wav]))
    np.testing.assert_allclose(moved[:, 6:38], mel80(wav)[:, 4:36], atol=1e-5)


def test_ten_seconds():
    assert mel80(noise(160_000)).shape[1] == 801
    assert mfcc13((noise(160_000) * 10_000).astype(np.int16)).shape == (13, 999)


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, 16_000])
def test_mfcc_length(samples):
    mfcc = mfcc13(np.full(samples, 100, np.int16))
    assert mfcc.shape == (13, max(1, math.ceil((samples - 400) / 160) + 1))
    assert mfcc.dtype == np.float32
    assert np.isfinite(mfcc).all()


def test_first_cepstrum_is_the_log_energy_on_the_int16_scale():
    wav = (noise(8000) * 1000).astype(np.int16)
    # Ten times louder: 20 dB more energy, the other cepstra (shape of the spectrum) as they were.
    np.testing.assert_allclose(mfcc13(wav * 10)[0] - mfcc13(wav)[0], 2 * math.log(10), atol=1e-4)
    np.testing.assert_allclose(mfcc13(wav * 10)[1:], mfcc13(wav)[1:], atol=1e-3)


def test_window_starts():
    assert [mel_window_start(frame) for frame in range(6)] == [0, 3, 6, 9, 12, 16]
    assert mel_window_start(30, fps=30) == 80
    for frame, fps in ((-1, 25), (1, 0), (1, float("nan")), (1, float("inf"))):
        with pytest.raises(LikenessError):
            mel_window_start(frame, fps)


def test_window():
    mel = np.arange(80 * 20).reshape(80, 20)
    assert mel_window(mel, 4).shape == (80, MEL_WINDOW)
    np.testing.assert_array_equal(mel_window(mel, 4), mel[:, 4:])
    for start in (-1, 5):
        with pytest.raises(LikenessError, match="columns 0 to 4"):
            mel_window(mel, start)


@pytest.mark.parametrize("fps", [23.976, 24, 25, 29.97, 30, 50, 60])
def test_chunks_follow_the_published_loop(fps):
    for columns in (16, 17, 19, 20, 81, 161, 801):
        mel = np.tile(np.arange(columns), (80, 1))
        starts, i = [], 0
        while int(i * 80 / fps) + MEL_WINDOW <= columns:
            starts.append(int(i * 80 / fps))
            i += 1
        starts.append(columns - MEL_WINDOW)
        chunks = mel_chunks(mel, fps)
        assert chunks.shape == (len(starts), 80, MEL_WINDOW)
        assert len(starts) == mel_chunk_count(columns, fps)
        np.testing.assert_array_equal(chunks[:, 0, 0], starts)
    assert mel_chunk_count(801) == 247


def test_mel_too_short_for_a_chunk():
    with pytest.raises(LikenessError, match="15 mel columns"):
        mel_chunks(np.zeros((80, 15)))
    with pytest.raises(LikenessError, match="NaN"):
        mel_chunks(np.full((80, 20), np.nan))


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(16_000, np.int16), "divide int16"),
        (np.zeros((2, 16_000), np.float32), "one channel"),
        (np.array([0.0] * 500 + [np.nan] * 500), "first at sample 500"),
        (np.array([0.0] * 500 + [np.inf]), "first at sample 500"),
    ],
)
def test_mel_refuses(wav, message):
    with pytest.raises(LikenessError, match=message):
        mel80(wav)


def test_mfcc_refuses():
    for wav in (np.zeros(0, np.int16), np.zeros(1000, np.float32), np.zeros(1000, np.int32), np.zeros((1000, 1), np.int16)):
        with pytest.raises(LikenessError):
            mfcc13(wav)


def test_other_rates_are_refused():
    with pytest.raises(LikenessError, match="44100 Hz"):
        mel80(noise(1000), sample_rate=44_100)
    with pytest.raises(LikenessError, match="8000 Hz"):
        mfcc13(np.zeros(1000, np.int16), sample_rate=8000)
