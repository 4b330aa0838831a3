"""How many features a clip has, and which of them a network sees with a video frame."""

import numpy as np
import pytest
import torch

from infra.errors import LikenessError
from preprocessing.audio_features import (
    mel80,
    mel_column_count,
    mel_window,
    mel_window_start,
    mfcc13,
    mfcc_step_count,
    mfcc_window,
    speech_feature_count,
    speech_frames,
    speech_segment,
    speech_windows,
)


def test_ten_seconds():
    frames, samples = 250, 160_000
    assert samples == frames * 640
    assert mel_column_count(samples) == 801
    assert mfcc_step_count(samples) == 999
    assert speech_feature_count(samples) == 499
    assert speech_frames(499) == 249


@pytest.mark.parametrize("samples", [1, 199, 200, 399, 400, 401, 560, 561, 719, 720, 3000, 16_000])
def test_counts_are_what_comes_out(samples):
    wav = np.zeros(samples, np.int16)
    assert mel80(wav.astype(np.float32)).shape[1] == mel_column_count(samples)
    assert mfcc13(wav).shape[1] == mfcc_step_count(samples)
    kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
    steps = torch.zeros(1, 1, samples)
    for kernel, stride in zip(kernels, strides, strict=True):
        if steps.shape[2] < kernel:
            steps = steps[..., :0]
            break
        steps = torch.nn.functional.conv1d(steps, torch.zeros(1, 1, kernel), stride=stride)
    assert speech_feature_count(samples) == steps.shape[2]


def test_speech_features_are_one_short_of_two_per_frame():
    assert speech_feature_count(16_000) == 49
    assert speech_feature_count(399) == 0
    for frames in range(1, 400):
        assert speech_feature_count(640 * frames) == 2 * frames - 1


@pytest.mark.parametrize("frames", [6, 7, 25, 250])
def test_windows_of_the_last_frames(frames):
    mel, mfcc = np.zeros((80, mel_column_count(640 * frames))), np.zeros((13, mfcc_step_count(640 * frames)))
    assert mel_window(mel, mel_window_start(frames - 5)).shape == (80, 16)
    assert mfcc_window(mfcc, frames - 6).shape == (13, 20)
    with pytest.raises(LikenessError, match=f"frames 0 to {frames - 6} "):
        mfcc_window(mfcc, frames - 5)


def test_mfcc_windows_begin_four_steps_a_frame_later():
    mfcc = np.tile(np.arange(40), (13, 1))
    assert mfcc_window(mfcc, 0)[0].tolist() == list(range(20))
    assert mfcc_window(mfcc, 3)[0].tolist() == list(range(12, 32))
    for short, frame in ((mfcc, -1), (mfcc, 6), (mfcc[:, :19], 0)):
        with pytest.raises(LikenessError, match="no MFCC window"):
            mfcc_window(short, frame)


def test_speech_windows_are_centred_on_twice_the_frame():
    features = np.arange(1, 20, dtype=np.float16)[:, None] * np.array([1, -1], np.float16)  # feature i holds i + 1
    windows = speech_windows(features, range(-1, 12))
    assert windows.shape == (13, 11, 2)
    assert windows.dtype == np.float16
    for row, frame in enumerate(range(-1, 12)):
        want = [place + 1 if 0 <= place < 19 else 0 for place in range(2 * frame - 5, 2 * frame + 6)]
        assert windows[row, :, 0].tolist() == want
        assert windows[row, :, 1].tolist() == [-value for value in want]
    assert speech_windows(features, range(4, 5), radius=1)[0, :, 0].tolist() == [8, 9, 10]
    assert speech_windows(features, range(3, 3)).shape == (0, 11, 2)


def test_a_frame_hears_nothing_beyond_its_window():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((49, 4)).astype(np.float32)
    other = features.copy()
    other[[4, 16]] = 9
    assert np.array_equal(speech_windows(features, range(5, 6)), speech_windows(other, range(5, 6)))
    assert not np.array_equal(speech_windows(features, range(4, 5)), speech_windows(other, range(4, 5)))


def test_segments_are_two_features_a_frame():
    features = np.arange(1, 50)[:, None]  # of 25 frames
    assert speech_segment(features, range(25))[:, 0].tolist() == [*range(1, 50), 0]
    assert speech_segment(features, range(3, 5))[:, 0].tolist() == [7, 8, 9, 10]
    assert not speech_segment(features, range(40, 42)).any()
