"""Sound moved to where the lips are, by SyncNet's offset."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import AUDIO, AUDIO_REALIGNED, REALIGNMENT, SYNC, Field
from preprocessing.operator import Operator, OperatorParams, Sample
from preprocessing.operators.sync import SAMPLES_PER_FRAME


class Realign(Operator):
    """AUDIO_REALIGNED: AUDIO delayed by SYNC's offset (positive: the sound is early), where SYNC can be relied on.

    The rule is LatentSync's: a confidence of 3 and more, an offset of at most 6 frames; then the sound is moved by offset / 25 s.
    Confidences of short clips are noise, so there is a least number of windows too. Where SYNC is not trusted the sound stays as it
    is: the row remains, and a selection decides by `realignment.trusted`, or by SYNC_REALIGNED. What the shift uncovers is silent.
    """

    name = "realign"
    version = 1

    class Params(OperatorParams):
        """When SYNC is trusted: `min_confidence` (LSE-C), `max_offset_frames`, and `min_windows` (45 are 50 frames, 2 s)."""

        min_confidence: float = 3.0
        max_offset_frames: int = Setting(6, ge=0, le=15)
        min_windows: int = Setting(45, ge=0)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (AUDIO, SYNC)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (AUDIO_REALIGNED, REALIGNMENT)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        sync, params = sample[SYNC], self.params
        trusted = (
            sync["confidence"] >= params.min_confidence
            and abs(sync["offset_frames"]) <= params.max_offset_frames
            and sync["n_windows"] >= params.min_windows
        )
        shift = int(sync["offset_frames"]) if trusted else 0
        moved = delayed(sample[AUDIO], shift * SAMPLES_PER_FRAME)
        return {AUDIO_REALIGNED: moved, REALIGNMENT: {"shift_frames": shift, "trusted": int(trusted)}}


def delayed(audio: np.ndarray, samples: int) -> np.ndarray:
    """(n,) `audio` later by `samples`, earlier by as many where negative; zeros where there is nothing to put."""
    out = np.zeros_like(audio)
    if samples >= 0:
        out[samples:] = audio[: max(0, len(audio) - samples)]
    else:
        out[:samples] = audio[-samples:]
    return out
