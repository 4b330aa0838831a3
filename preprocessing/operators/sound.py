"""What is heard when: the mel spectrogram that lip-sync networks hear, which frames hold speech, and plain numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import Field as Setting

from preprocessing.audio_features import mel80
from preprocessing.fields import AUDIO, MEL80, SOUND_MEASURES, SOURCE, VOICED, Field
from preprocessing.operator import Operator, OperatorParams, Sample

SILENCE_DBFS = -120.0
DIGITS = 6


class Mel80(Operator):
    """Wav2Lip's mel spectrogram (`preprocessing.audio_features.mel80`) of the samples / 32768, not rescaled."""

    name = "mel80"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (AUDIO,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (MEL80,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return {MEL80: mel80(sample[AUDIO].astype(np.float32) / 32768)}


class VoiceActivity(Operator):
    """VOICED by energy, with a threshold that follows the clip's own noise.

    The level of a frame is the RMS, in dBFS, of its own samples after pre-emphasis (which takes out hum). Quiet is the 10th
    percentile of the clip's levels, loud the 95th. The threshold lies `above_quiet` over quiet, but no nearer than 10 dB and no
    further than 30 dB below loud, and never under `floor`. Sound that hardly varies (loud - quiet under `min_range`: a hum, a
    fan, digital silence) is nobody's speech. Then gaps of up to `bridge` frames between voiced ones are filled, which are
    closures within words. Music counts as speech.
    """

    name = "voice_activity"
    version = 1

    class Params(OperatorParams):
        """Levels in dB, `floor` in dBFS, `bridge` in frames."""

        above_quiet: float = Setting(10.0, gt=0)
        floor: float = -60.0
        min_range: float = Setting(6.0, ge=0)
        bridge: int = Setting(3, ge=0)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (AUDIO, SOURCE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (VOICED,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        levels = frame_levels(sample[AUDIO], sample[SOURCE]["n_frames"])
        quiet, loud = (float(v) for v in np.percentile(levels, (10, 95)))
        params = self.params
        threshold = max(params.floor, min(max(quiet + params.above_quiet, loud - 30), loud - 10))
        voiced = levels > threshold if loud - quiet >= params.min_range else np.zeros(len(levels), bool)
        return {VOICED: bridged(voiced, params.bridge)}


class SoundMeasures(Operator):
    """Numbers of a clip's sound; rows without sound have none.

    - voiced_share: share of frames in which somebody speaks.
    - loudness_dbfs: RMS of the whole clip, -120 for digital silence.
    """

    name = "sound_measures"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (AUDIO, VOICED)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (SOUND_MEASURES,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        numbers = {"voiced_share": sample[VOICED].mean(), "loudness_dbfs": loudness(sample[AUDIO])}
        return {SOUND_MEASURES: {name: round(float(number), DIGITS) for name, number in numbers.items()}}


def loudness(audio: np.ndarray) -> float:
    """RMS in dBFS of int16 samples, at least -120."""
    power = float((audio.astype(np.float64) ** 2).mean()) / 32768**2
    return 10 * np.log10(max(power, 10 ** (SILENCE_DBFS / 10)))


def frame_levels(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """(n_frames,) RMS in dBFS of each frame's samples after pre-emphasis 0.97, at least -120."""
    wave = audio.astype(np.float64) / 32768
    wave[1:] -= 0.97 * (audio[:-1].astype(np.float64) / 32768)
    power = (wave.reshape(n_frames, -1) ** 2).mean(1)
    return 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DBFS / 10)))


def bridged(flags: np.ndarray, longest: int) -> np.ndarray:
    """Flags with gaps of up to `longest` between two raised ones filled."""
    out = flags.copy()
    raised = np.flatnonzero(flags)
    for left, right in pairwise(raised):
        if right - left - 1 <= longest:
            out[left:right] = True
    return out
