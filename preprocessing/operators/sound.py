"""What is heard when: the spectra that lip-sync networks hear, which frames hold speech, silence, and plain numbers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import Field as Setting
from pydantic import field_validator

from preprocessing.audio_features import SAMPLE_RATE, mel80, mfcc13
from preprocessing.fields import (
    AUDIO,
    AUDIO_SILENT,
    MEL80,
    MFCC13,
    SOUND_MEASURES,
    SOURCE,
    SPEECH_PROBABILITY,
    VOICED,
    Field,
    by_name,
)
from preprocessing.operator import Operator, OperatorParams, Sample

SILENCE_DBFS = -120.0
DIGITS = 6


class SoundParams(OperatorParams):
    """Settings of every operator that hears something.

    Attributes:
        sound: the field it hears: audio, audio_realigned (fits the lips) or audio_silent. No part of the operator's digest, which
            names the fields that are read anyway.
    """

    sound: str = Setting(AUDIO.name, exclude=True)

    @field_validator("sound")
    @classmethod
    def _a_sound(cls, sound: str) -> str:
        field = by_name(sound)
        if field is None or field.codec != "wav":
            raise ValueError("a field of sound: audio, audio_realigned or audio_silent")
        return sound

    @property
    def heard(self) -> Field:
        """The field called `sound`."""
        field = by_name(self.sound)
        assert field is not None, "the settings were checked"
        return field


class Mel80(Operator):
    """Wav2Lip's mel spectrogram (`preprocessing.audio_features.mel80`) of the samples / 32768, not rescaled."""

    name = "mel80"
    version = 1
    Params = SoundParams

    @property
    def reads(self) -> tuple[Field, ...]:
        return (self.params.heard,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (MEL80,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return {MEL80: mel80(sample[self.params.heard].astype(np.float32) / 32768)}


class Mfcc13(Operator):
    """SyncNet's cepstra (`preprocessing.audio_features.mfcc13`) of the int16 samples."""

    name = "mfcc13"
    version = 1
    Params = SoundParams

    @property
    def reads(self) -> tuple[Field, ...]:
        return (self.params.heard,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (MFCC13,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return {MFCC13: mfcc13(sample[self.params.heard])}


class Silence(Operator):
    """AUDIO_SILENT: zeros, as many samples as the clip's frames last. Needs no sound: `ingest.sound` may be "ignored"."""

    name = "silence"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (SOURCE,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (AUDIO_SILENT,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        source = sample[SOURCE]
        return {AUDIO_SILENT: np.zeros(int(source["n_frames"] * SAMPLE_RATE / Fraction(source["fps"])), np.int16)}


class VoiceActivity(Operator):
    """VOICED: by energy, with a threshold that follows the clip's own noise, or by a threshold on SPEECH_PROBABILITY.

    By energy, the level of a frame is the RMS, in dBFS, of its own samples after pre-emphasis (which takes out hum). Quiet is the
    10th percentile of the clip's levels, loud the 95th. The threshold lies `above_quiet` over quiet, but no nearer than 10 dB and
    no further than 30 dB below loud, and never under `floor`. Sound that hardly varies (loud - quiet under `min_range`: a hum, a
    fan, digital silence) is nobody's speech. Music counts as speech.

    By probability, frames of `min_probability` and more are voiced: the network has run once, moving the threshold runs nothing.

    Either way gaps of up to `bridge` frames between voiced ones are filled, which are closures within words.
    """

    name = "voice_activity"
    version = 1

    class Params(SoundParams):
        """Levels in dB, `floor` in dBFS, `bridge` in frames; `sound` counts by energy only (see SpeechProbability's)."""

        by: Literal["energy", "speech_probability"] = "energy"
        min_probability: float = Setting(0.5, ge=0, le=1)
        above_quiet: float = Setting(10.0, gt=0)
        floor: float = -60.0
        min_range: float = Setting(6.0, ge=0)
        bridge: int = Setting(3, ge=0)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (SPEECH_PROBABILITY,) if self.params.by == "speech_probability" else (self.params.heard, SOURCE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (VOICED,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        if self.params.by == "speech_probability":
            voiced = sample[SPEECH_PROBABILITY] >= self.params.min_probability
        else:
            voiced = self._by_energy(frame_levels(sample[self.params.heard], sample[SOURCE]["n_frames"]))
        return {VOICED: bridged(voiced, self.params.bridge)}

    def _by_energy(self, levels: np.ndarray) -> np.ndarray:
        quiet, loud = (float(v) for v in np.percentile(levels, (10, 95)))
        params = self.params
        threshold = max(params.floor, min(max(quiet + params.above_quiet, loud - 30), loud - 10))
        return levels > threshold if loud - quiet >= params.min_range else np.zeros(len(levels), bool)


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
