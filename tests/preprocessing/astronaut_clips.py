"""Clips for tests, made from scikit-image's astronaut (NASA, public domain) and numbers: nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data

from preprocessing import catalogue
from preprocessing.clip import InMemory
from preprocessing.fields import AUDIO, GIVEN, SOURCE, VIDEO, Field
from preprocessing.media.mux import write_video
from preprocessing.operator import Operator, Sample


def portrait(dx: int = 0, dy: int = 0, side: int = 288) -> np.ndarray:
    """(side, side, 3): the astronaut's head, as if the camera had moved by (dx, dy); her face is about 100 px high."""
    return np.ascontiguousarray(skimage.data.astronaut()[10 + dy : 10 + dy + side, 80 + dx : 80 + dx + side])


def swaying(n: int = 10) -> np.ndarray:
    """(n, 288, 288, 3): the head moves on a slow ellipse."""
    turns = 2 * np.pi * np.arange(n) / 25
    return np.stack([portrait(round(12 * np.sin(t)), round(8 * (1 - np.cos(t)))) for t in turns])


def burst_audio(n_frames: int, voiced: Iterable[int]) -> np.ndarray:
    """int16 (640 n,): faint noise, and loud noise with a 150 Hz beat in the voiced frames."""
    rng = np.random.default_rng(7)
    loud = np.repeat(np.isin(np.arange(n_frames), list(voiced)), 640)
    beat = 0.6 + 0.4 * np.sin(2 * np.pi * 150 * np.arange(640 * n_frames) / 16_000)
    return np.rint(rng.standard_normal(640 * n_frames) * np.where(loud, 3000 * beat, 10)).astype(np.int16)


def make_sample(frames: np.ndarray, audio: np.ndarray | None = None, key: str = "clip") -> Sample:
    """A row as ingest makes it, without a file."""
    n, height, width = frames.shape[:3]
    audio = burst_audio(n, range(n // 3, n)) if audio is None else audio
    source = {"n_frames": n, "fps": "25/1", "width": width, "height": height}
    given = {"caption": " An astronaut in an orange suit.\n", "tags": {"emotion": "happy", "intensity": "2"}}
    return Sample(key, {SOURCE.name: source, AUDIO.name: audio, VIDEO.name: InMemory(frames.copy()), GIVEN.name: given})


def fill(sample: Sample, *wanted: Field, **settings: dict[str, Any]) -> Sample:
    """Make fields in place, and what they are made from. Set-up operators are shared, as they are in a worker."""
    for field in wanted:
        if field not in sample:
            operator = _ready(field.name, repr(settings), **settings) if not settings else _fresh(field.name, settings)
            fill(sample, *operator.reads, **settings)
            for written, value in operator(sample).items():
                sample[written] = value
    return sample


@cache
def _ready(field: str, _: str) -> Operator:
    return _fresh(field, {})


def _fresh(field: str, settings: dict[str, Any]) -> Operator:
    operator = catalogue.producer(field, settings)
    operator.setup()
    return operator


def write_clip(path: Path, n: int = 25, audio: np.ndarray | None = None, fps: int = 25, small: bool = True) -> Path:
    """A video file; `audio` None for no sound track. `small` ones are 64 px of the picture, without a face."""
    frames = swaying(n)
    write_video(path, frames[:, :64, :64] if small else frames, Fraction(fps), audio)
    return path
