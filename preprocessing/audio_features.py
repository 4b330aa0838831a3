"""Speech features at 16 kHz, as the published networks were trained on them: values, lengths, and the windows that networks see.

`mel80` feeds Wav2Lip and the experts derived from it: 80 columns per second, 3.2 per video frame at 25 fps. `mfcc13` feeds the
SyncNet judge: 100 steps per second, 4 per frame. Features of wav2vec 2.0 (made by `preprocessing.operators.speech_features`)
come 50 to the second, 2 per frame. Pure functions of an array; resampling happens where audio is decoded.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

from infra.errors import LikenessError

SAMPLE_RATE = 16_000
MEL_BINS, MEL_RATE, MEL_WINDOW = 80, 80, 16  # bins, columns per second, columns a network sees (0.2 s)
MFCC_RATE, MFCC_WINDOW = 100, 20  # steps per second, steps a network sees (0.2 s)
SPEECH_RATE, SPEECH_RADIUS = 50, 5  # wav2vec 2.0 features per second; DreamTalk sees this many to each side of a frame's own

_PREEMPHASIS = 0.97
_MEL_FFT, _MEL_HOP = 800, 200
_MFCC_LENGTH, _MFCC_STEP, _MFCC_FFT, _MFCC_FILTERS, _MFCC_LIFTER = 400, 160, 512, 26, 22
SPEECH_KERNELS, SPEECH_STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def mel_column_count(samples: int) -> int:
    """How many columns `mel80` makes of this many samples: n // 200 + 1."""
    return samples // _MEL_HOP + 1


def mfcc_step_count(samples: int) -> int:
    """How many steps `mfcc13` makes of this many samples: ceil((n - 400) / 160) + 1, at least 1."""
    return 1 + max(0, -(-(samples - _MFCC_LENGTH) // _MFCC_STEP))


def speech_feature_count(samples: int) -> int:
    """How many features wav2vec 2.0 makes of this many samples: seven convolutions without padding, about n / 320 - 1.

    One short of two per video frame: 16 000 samples give 49. 0 below 400 samples.
    """
    for kernel, stride in zip(SPEECH_KERNELS, SPEECH_STRIDES, strict=True):
        samples = max(0, (samples - kernel) // stride + 1)
    return samples


def speech_frames(features: int) -> int:
    """Video frames (25 fps) that this many wav2vec 2.0 features serve in DreamTalk: features // 2, one frame less than the clip
    has."""
    return features // 2


def mel80(wav: NDArray[np.floating], sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """The normalised mel spectrogram of Wav2Lip (its `audio.py`).

    Pre-emphasis, an 800-point Hann STFT every 200 samples, magnitude, 80 Slaney filters from 55 to 7600 Hz, 20 log10 with a
    floor of -100 dB, minus 20 dB, then -100..0 dB mapped to -4..4.

    Args:
        wav: (n,) float samples, nominally in [-1, 1], not rescaled.
        sample_rate: what the samples were recorded at; only 16 000 is accepted.

    Returns:
        (80, `mel_column_count(n)`), every value in [-4, 4]; silence is -4.
    """
    _check(wav, sample_rate, np.floating, "float samples in [-1, 1] (divide int16 by 32768)")
    # lfilter answers in float64 whatever it is given; the released weights saw features computed at that precision.
    emphasised = scipy.signal.lfilter([1.0, -_PREEMPHASIS], [1.0], np.asarray(wav, np.float64))
    # Reflected at the ends, as librosa 0.7 did; 0.10 and later pad with zeros, which changes the first and last two columns.
    padded = np.pad(emphasised, _MEL_FFT // 2, mode="reflect")
    hann = scipy.signal.get_window("hann", _MEL_FFT)
    blocks = [mel_filters() @ np.abs(np.fft.rfft(windows * hann)).T for windows in _blocks(padded, _MEL_FFT, _MEL_HOP)]
    level = 20 * np.log10(np.maximum(1e-5, np.hstack(blocks))) - 20
    return np.clip(8 * (level + 100) / 100 - 4, -4, 4).astype(np.float32)


@lru_cache(maxsize=1)
def mel_filters() -> NDArray[np.float32]:
    """(80, 401) triangular filters, Slaney scale and area norm, 55 to 7600 Hz."""
    import librosa  # here because it costs a second, and most workers never compute a mel

    return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=_MEL_FFT, n_mels=MEL_BINS, fmin=55, fmax=7600)


def mel_window_start(frame: int, fps: float = 25) -> int:
    """The mel column at which video frame `frame` begins: int(80 frame / fps).

    Wav2Lip's training reads frame k's window at frame k - 1, its inference at frame k: a 40 ms mismatch that the released
    weights have learnt. The choice is the caller's.
    """
    _check_fps(fps)
    if frame < 0:
        raise LikenessError(f"no mel window starts at frame {frame}", allowed="frame 0 or later", fix="start the window later")
    return int(MEL_RATE * frame / fps)


def mel_window(mel: NDArray, start: int) -> NDArray:
    """The (80, 16) columns from `start` on."""
    if not 0 <= start <= mel.shape[1] - MEL_WINDOW:
        raise LikenessError(
            f"a mel of {mel.shape[1]} columns has no {MEL_WINDOW}-column window at column {start}",
            allowed=f"columns 0 to {mel.shape[1] - MEL_WINDOW}",
        )
    return mel[:, start : start + MEL_WINDOW]


def mel_chunks(mel: NDArray, fps: float = 25) -> NDArray:
    """One window per output frame, by Wav2Lip's inference rule.

    Window i starts at `mel_window_start(i, fps)`; the first that would overrun is replaced by the last 16 columns and ends the
    list. A 10 s clip (801 columns) gives 247 windows at 25 fps.

    Args:
        mel: (80, L), L at least 16 (3 000 samples).

    Returns:
        (n, 80, 16), n as `mel_chunk_count(L, fps)` tells.
    """
    if np.isnan(mel).any():
        raise LikenessError("the mel spectrogram holds NaN", allowed="finite values", fix="check the audio for NaN samples")
    last = mel.shape[1] - MEL_WINDOW
    count = mel_chunk_count(mel.shape[1], fps)
    return np.stack([mel_window(mel, min(mel_window_start(i, fps), last)) for i in range(count)])


def mel_chunk_count(columns: int, fps: float = 25) -> int:
    """How many windows `mel_chunks` makes of a mel with this many columns."""
    _check_fps(fps)
    if columns < MEL_WINDOW:
        raise LikenessError(
            f"{columns} mel columns hold no window",
            allowed=f"at least {MEL_WINDOW} columns (3000 samples, 0.19 s)",
            fix="pad the audio with silence or leave the clip out",
        )
    count = 1
    while mel_window_start(count - 1, fps) + MEL_WINDOW <= columns:
        count += 1
    return count


def mfcc13(wav: NDArray[np.integer], sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Mel-frequency cepstra as `python_speech_features.mfcc` defines them at its defaults.

    25 ms rectangular windows every 10 ms, 512-point power spectrum, 26 triangular filters from 0 to 8 kHz, log, orthonormal
    DCT-II, lifter 22; coefficient 0 is the log energy. Zero energies count as machine epsilon.

    Args:
        wav: (n,) int16 samples: the values' scale enters the energies.
        sample_rate: what the samples were recorded at; only 16 000 is accepted.

    Returns:
        (13, `mfcc_step_count(n)`); the last window is filled up with zeros.
    """
    _check(wav, sample_rate, np.int16, "int16 samples")
    samples = wav.astype(np.float64)
    samples[1:] -= _PREEMPHASIS * wav[:-1].astype(np.float64)
    padded = np.zeros((mfcc_step_count(len(wav)) - 1) * _MFCC_STEP + _MFCC_LENGTH)
    padded[: len(samples)] = samples
    blocks = [np.abs(np.fft.rfft(windows, _MFCC_FFT)) ** 2 for windows in _blocks(padded, _MFCC_LENGTH, _MFCC_STEP)]
    power = np.vstack(blocks) / _MFCC_FFT
    cepstra = scipy.fft.dct(np.log(_above_zero(power @ _mfcc_filters().T)), type=2, axis=1, norm="ortho")[:, :13]
    cepstra *= 1 + _MFCC_LIFTER / 2 * np.sin(np.pi * np.arange(13) / _MFCC_LIFTER)
    cepstra[:, 0] = np.log(_above_zero(power.sum(1)))
    return cepstra.T.astype(np.float32)


def mfcc_window(mfcc: NDArray, frame: int) -> NDArray:
    """The (13, 20) steps from 4 `frame` on, which SyncNet hears with frames `frame` to `frame` + 4.

    Raises:
        LikenessError: the steps end before; a clip of F frames has windows for frames 0 to F - 6.
    """
    start, last = MFCC_RATE // 25 * frame, mfcc.shape[1] - MFCC_WINDOW
    if not 0 <= start <= last:
        allowed = f"frames 0 to {last // 4} for {mfcc.shape[1]} steps" if last >= 0 else f"at least {MFCC_WINDOW} steps"
        raise LikenessError(f"no MFCC window of {MFCC_WINDOW} steps at frame {frame}", allowed=allowed)
    return mfcc[:, start : start + MFCC_WINDOW]


def speech_windows(features: NDArray, frames: range, radius: int = SPEECH_RADIUS) -> NDArray:
    """What DreamTalk hears with each video frame f at 25 fps: features 2 f - radius to 2 f + radius.

    Args:
        features: (n, D), of the whole clip: cut the windows, not the sound, or the edges differ.
        frames: video frames.

    Returns:
        (len(frames), 2 radius + 1, D), zero vectors before the first feature and after the last.
    """
    places = 2 * np.asarray(frames, np.int64)[:, None] + np.arange(-radius, radius + 1)
    return _taken(features, places)


def speech_segment(features: NDArray, frames: range) -> NDArray:
    """What InstructAvatar hears with a stretch of video frames at 25 fps: two features per frame, one after the other.

    Args:
        features: (n, D), of the whole clip.
        frames: consecutive video frames.

    Returns:
        (2 len(frames), D), zero vectors after the last feature: of a whole clip the last one.
    """
    return _taken(features, np.arange(2 * frames.start, 2 * frames.stop, dtype=np.int64))


def _taken(values: NDArray, places: NDArray) -> NDArray:
    """Rows of `values` at these places, zeros where there is none."""
    inside = (places >= 0) & (places < len(values))
    out = np.zeros((*places.shape, *values.shape[1:]), values.dtype)
    out[inside] = values[places[inside]]
    return out


@lru_cache(maxsize=1)
def _mfcc_filters() -> NDArray[np.float64]:
    """(26, 257) unit-height triangles whose corners are rounded down to FFT bins."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, _MFCC_FILTERS + 2) / 2595) - 1)
    corners = np.floor((_MFCC_FFT + 1) * hertz / SAMPLE_RATE)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(_MFCC_FFT // 2 + 1)
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.where((bins >= left) & (bins < centre), rising, np.where((bins >= centre) & (bins < right), falling, 0.0))


def _blocks(padded: NDArray[np.float64], length: int, step: int, block: int = 4096) -> Iterator[NDArray[np.float64]]:
    """Overlapping windows, (at most `block`, length) at a time: an hour of audio at once would take gigabytes."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[::step]
    return (windows[first : first + block] for first in range(0, len(windows), block))


def _above_zero(power: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(power == 0, np.finfo(np.float64).eps, power)


def _check(wav: NDArray, sample_rate: int, kind: type, allowed: str) -> None:
    if sample_rate != SAMPLE_RATE:
        raise LikenessError(
            f"audio at {sample_rate} Hz", allowed=f"{SAMPLE_RATE} Hz", fix="resample the audio when it is decoded"
        )
    if wav.ndim != 1 or not np.issubdtype(wav.dtype, kind):
        raise LikenessError(f"audio of shape {wav.shape} and type {wav.dtype}", allowed=f"one channel, (n,), of {allowed}")
    if not len(wav):
        raise LikenessError("the audio is empty", allowed="at least one sample", fix="leave the clip out")
    if not np.isfinite(wav).all():
        where = int(np.flatnonzero(~np.isfinite(wav))[0])
        raise LikenessError(f"the audio holds NaN or infinity, first at sample {where}", allowed="finite samples")


def _check_fps(fps: float) -> None:
    if not 0 < fps < float("inf"):
        raise LikenessError(f"a frame rate of {fps}", allowed="a positive number of frames per second")
