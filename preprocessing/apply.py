"""The dataset's operators on one file in memory: what generation works on is made as what training saw was made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.catalogue import Settings
from preprocessing.clip import InMemory, open_clip
from preprocessing.fields import AUDIO, SOURCE, TIMELINE, VIDEO, Field
from preprocessing.media.audio import SAMPLE_RATE_HZ, read_audio, read_audio_file
from preprocessing.media.photo import read_photo
from preprocessing.media.probe import MediaInfo, MediaProblem, open_media, pick_audio, probe
from preprocessing.media.timeline import timeline
from preprocessing.operator import Operator, Sample
from preprocessing.operators.ingest import Ingest

WHOLE_FILE_S = 1e9  # nothing is cut into pieces here
Started = Callable[[str], None]  # told each operator's name before it runs


def run_in_memory(
    path: str | os.PathLike,
    wanted: Iterable[Field],
    settings: Settings | None = None,
    keep_video: bool = True,
    native_fps: bool = False,
    most_frames: Callable[[Fraction], int | None] = lambda fps: None,
    started: Started = lambda operator: None,
) -> Sample:
    """Fields of one video or photo.

    The whole file is one clip, however long; sound that ends early is followed by silence instead of cutting the picture. A
    photo is a clip of one frame (turned upright by its EXIF orientation), and has no sound.

    Args:
        wanted: fields to make; what they are made from comes along.
        settings: as for a dataset build, operator name -> settings.
        keep_video: leave the frames in the sample too (VIDEO).
        native_fps: keep the file's own frame rate (of a variable one the mean) instead of ingest's.
        most_frames: frame rate -> how many frames of a video are used, from the first on; None for all.

    Returns:
        A sample with SOURCE, TIMELINE, VIDEO, AUDIO where there is sound, and all that was made.

    Raises:
        LikenessError: a file that cannot be used, a field that cannot be made from it, or a wrong setting.
    """
    settings = _checked(settings)
    values = open_file(path, settings, native_fps, most_frames)
    sample, done = _made(path, values, wanted, settings, started)
    return sample if keep_video else Sample(sample.key, {f.name: sample[f] for f in done if f != VIDEO})


def run_on_sound(
    path: str | os.PathLike,
    wanted: Iterable[Field],
    settings: Settings | None = None,
    started: Started = lambda operator: None,
) -> Sample:
    """Fields of the sound of any file that has some, all of it: AUDIO and what is made from it alone (see `read_sound`)."""
    settings = _checked(settings)
    values = {SOURCE: {"path": Path(path).name}, AUDIO: read_sound(path)}
    return _made(path, values, wanted, settings, started)[0]


def read_sound(path: str | os.PathLike, rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """int16 (samples,): in a video sample 0 is heard when its first frame is shown, elsewhere it is the recording's first.

    Raises:
        MediaProblem: as `read_audio_file`.
    """
    try:
        info = probe(path)
    except MediaProblem:  # no picture, or none that can be used
        return read_audio_file(path, rate_hz)
    return read_audio(path, info, rate_hz)


def sound_rate_hz(path: str | os.PathLike) -> int:
    """The rate at which a file's sound was recorded.

    Raises:
        MediaProblem: as `open_media`; "no-audio-stream".
    """
    with open_media(path) as container:
        stream = pick_audio(container)
        if stream is None:
            what = f"{Path(path).name} has no sound"
            raise MediaProblem("no-audio-stream", what, allowed="a sound file, or a video with sound")
        return stream.codec_context.sample_rate


def _checked(settings: Settings | None) -> Settings:
    known = catalogue.operator_names()
    for name in settings or {}:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" (nearest: {near[0]})" if near else ""
            raise LikenessError(f"settings for unknown operator {name!r}{hint}", allowed=", ".join(known))
    return settings or {}


def _made(
    path: str | os.PathLike, values: dict[Field, Any], wanted: Iterable[Field], settings: Settings, started: Started
) -> tuple[Sample, dict[Field, None]]:
    """The sample with all wanted fields, and the fields there are."""
    sample = Sample(Path(path).stem, {field.name: value for field, value in values.items()})
    done: dict[Field, None] = dict.fromkeys(values)
    for field in wanted:
        _make(field, sample, settings, done, Path(path).name, started)
    return sample, done


def open_file(
    path: str | os.PathLike,
    settings: Settings,
    native_fps: bool = False,
    most_frames: Callable[[Fraction], int | None] = lambda fps: None,
) -> dict[Field, Any]:
    """SOURCE, TIMELINE, VIDEO and, where there is sound, AUDIO of a whole video or photo; see `run_in_memory`."""
    given = {**settings.get(Ingest.name, {}), "max_clip_s": WHOLE_FILE_S, "min_frames": 1, "sound": "ignored", "photos": True}
    ingest = catalogue.ingest({Ingest.name: given})
    source = {"path": Path(path).name}
    try:
        info = probe(path)
    except MediaProblem as problem:
        if problem.reason != "still-image":
            raise
        picture, facts = read_photo(path)
        ((_, values),) = ingest.photo(picture.shape, facts, source)
        return {**values, VIDEO: InMemory(picture[None], ingest.params.fps)}
    ((_, values),) = ingest.rows(info, None, source)
    rate = _mp4_rate(info) if native_fps else Fraction(ingest.params.fps)
    values[TIMELINE] = timeline(info.pts_ticks, info.time_base, rate)[: most_frames(rate)]
    values[SOURCE] |= {"fps": f"{rate.numerator}/{rate.denominator}", "n_frames": len(values[TIMELINE])}
    values[VIDEO] = open_clip(path, values[SOURCE], values[TIMELINE], info=info)
    if info.audio is not None:
        try:
            sound = read_audio(path, info, ingest.params.rate_hz)
        except MediaProblem as problem:
            if problem.reason != "no-samples":
                raise
        else:
            length = int(len(values[TIMELINE]) * ingest.params.rate_hz / rate)
            values[AUDIO] = np.pad(sound[:length], (0, max(0, length - len(sound))))
    return values


def _mp4_rate(info: MediaInfo) -> Fraction:
    """The file's frame rate as a fraction that every container can state: 30000/1001 stays, measured ones are rounded."""
    return info.fps.limit_denominator(1001) or info.fps


def _make(field: Field, sample: Sample, settings: Settings, done: dict[Field, None], name: str, started: Started) -> None:
    """Make a field and, before it, what it is made from."""
    if field in sample:
        return
    if field == AUDIO:
        raise LikenessError(f"{name} has no sound", allowed="a video with sound, to make fields of sound from")
    operator: Operator = catalogue.producer(field.name, settings)
    for read in operator.reads:
        _make(read, sample, settings, done, name, started)
    started(operator.name)
    operator.setup()
    for written, value in operator(sample).items():
        sample[written] = value
        done[written] = None
