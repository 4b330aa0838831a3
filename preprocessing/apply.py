"""The dataset's operators on one file in memory: what generation works on is made as what training saw was made."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.catalogue import Settings
from preprocessing.clip import InMemory, open_clip
from preprocessing.fields import AUDIO, SOURCE, TIMELINE, VIDEO, Field
from preprocessing.media.audio import read_audio
from preprocessing.media.probe import MediaProblem, probe
from preprocessing.operator import Operator, Sample
from preprocessing.operators.ingest import Ingest

WHOLE_FILE_S = 1e9  # nothing is cut into pieces here


def run_in_memory(
    path: str | os.PathLike, wanted: Iterable[Field], settings: Settings | None = None, keep_video: bool = True
) -> Sample:
    """Fields of one video or photo.

    The whole file is one clip, however long; sound that ends early is followed by silence instead of cutting the picture. A
    photo is a clip of one frame (turned upright by its EXIF orientation), and has no sound.

    Args:
        wanted: fields to make; what they are made from comes along.
        settings: as for a dataset build, operator name -> settings.
        keep_video: leave the frames in the sample too (VIDEO).

    Returns:
        A sample with SOURCE, TIMELINE, VIDEO, AUDIO where there is sound, and all that was made.

    Raises:
        LikenessError: a file that cannot be used, a field that cannot be made from it, or a wrong setting.
    """
    settings = settings or {}
    known = catalogue.operator_names()
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" (nearest: {near[0]})" if near else ""
            raise LikenessError(f"settings for unknown operator {name!r}{hint}", allowed=", ".join(known))
    values = open_file(path, settings)
    sample = Sample(Path(path).stem, {field.name: value for field, value in values.items()})
    done: dict[Field, None] = dict.fromkeys(values)
    for field in wanted:
        _make(field, sample, settings, done, Path(path).name)
    return sample if keep_video else Sample(sample.key, {f.name: sample[f] for f in done if f != VIDEO})


def open_file(path: str | os.PathLike, settings: Settings) -> dict[Field, Any]:
    """SOURCE, TIMELINE, VIDEO and, where there is sound, AUDIO of a whole video or photo."""
    given = {**settings.get(Ingest.name, {}), "max_clip_s": WHOLE_FILE_S, "min_frames": 1, "require_audio": False}
    ingest = catalogue.ingest({Ingest.name: given})
    source = {"path": Path(path).name}
    try:
        info = probe(path)
    except MediaProblem as problem:
        if problem.reason != "still-image":
            raise
        picture = read_photo(path)
        height, width = picture.shape[:2]
        record = {**source, "n_frames": 1, "fps": f"{ingest.params.fps}/1", "width": width, "height": height}
        return {SOURCE: record, TIMELINE: np.zeros(1, np.int64), VIDEO: InMemory(picture[None], ingest.params.fps)}
    ((_, values),) = ingest.rows(info, None, source)
    values[VIDEO] = open_clip(path, values[SOURCE], values[TIMELINE], info=info)
    if info.audio is not None:
        try:
            sound = read_audio(path, info, ingest.params.rate_hz)
        except MediaProblem as problem:
            if problem.reason != "no-samples":
                raise
        else:
            length = len(values[TIMELINE]) * ingest.params.rate_hz // ingest.params.fps
            values[AUDIO] = np.pad(sound[:length], (0, max(0, length - len(sound))))
    return values


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright by EXIF orientation, transparency dropped.

    Raises:
        LikenessError: not a picture, or a damaged one.
    """
    name = Path(path).name
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would cut off what is above 255 instead of scaling it
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except UnidentifiedImageError as error:
        raise LikenessError(f"{name} is not a picture that can be read", allowed="JPEG, PNG, WebP, TIFF, BMP") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LikenessError(f"{name} is damaged: {error}", fix="copy the file again") from error


def _make(field: Field, sample: Sample, settings: Settings, done: dict[Field, None], name: str) -> None:
    """Make a field and, before it, what it is made from."""
    if field in sample:
        return
    if field == AUDIO:
        raise LikenessError(f"{name} has no sound", allowed="a video with sound, to make fields of sound from")
    operator: Operator = catalogue.producer(field.name, settings)
    for read in operator.reads:
        _make(read, sample, settings, done, name)
    operator.setup()
    for written, value in operator(sample).items():
        sample[written] = value
        done[written] = None
