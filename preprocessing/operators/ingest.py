"""Ingest: one source file in, its rows out. The only operator that decides which rows exist.

A video becomes clips of constant frame rate, a photo one row of one frame: whatever works on frames works on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field as Setting
from pydantic import model_validator

from preprocessing.fields import AUDIO, SOURCE, TIMELINE, Field
from preprocessing.media.audio import read_audio
from preprocessing.media.photo import read_photo
from preprocessing.media.probe import MediaInfo, MediaProblem, probe
from preprocessing.media.timeline import split, timeline
from preprocessing.operator import OperatorParams, Refused, Resources

# Understood, and the file is simply not what is wanted. Everything else that media code complains about is damage.
REFUSED_REASONS = {
    "empty-file", "not-media", "still-image", "no-video-stream", "no-audio-stream", "unknown-codec", "no-frames", "no-samples",
}  # fmt: skip
# `probe` words that mean frames are missing; other warnings are kept in the SOURCE record.
CUT_OFF = ("can be read", "reading stopped early")


class Ingest:
    """Video file -> clips of constant frame rate with their sound; photo -> one row.

    The clip is the time that picture and sound share, from the first frame on: sound that ends early cuts the clip, longer
    sound is cut, sound that begins late begins with silence. A silent track is fine. Content counts, not the file's name.
    """

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 2
    resources: ClassVar[Resources] = Resources()

    class Params(OperatorParams):
        """Settings.

        Attributes:
            fps, rate_hz: of the clip; a frame must last a whole number of samples.
            max_clip_s: longer clips are cut into equal pieces, each up to a tenth longer than this.
            min_frames: shorter clips are refused (a lip-sync window has 5 frames).
            sound: "required" refuses videos without sound; "kept" takes them too, and their rows have no AUDIO; with "ignored"
                no row has AUDIO, and sound cuts no clip.
            photos: take still pictures too; they never have sound.
            min_side_px: refuse what is smaller, upright width or height.
        """

        fps: int = Setting(25, gt=0)
        rate_hz: Literal[16000] = 16000
        max_clip_s: float = Setting(10.0, gt=0)
        min_frames: int = Setting(5, ge=1)
        sound: Literal["required", "kept", "ignored"] = "required"
        photos: bool = False
        min_side_px: int = Setting(1, ge=1)

        @model_validator(mode="after")
        def _whole_samples(self) -> Ingest.Params:
            if self.rate_hz % self.fps:
                raise ValueError(f"a frame at {self.fps} fps is not a whole number of samples at {self.rate_hz} Hz")
            return self

    def __init__(self, params: Params | None = None) -> None:
        self.params = params if params is not None else self.Params()

    @property
    def writes(self) -> tuple[Field, ...]:
        return (SOURCE, TIMELINE) if self.params.sound == "ignored" else (SOURCE, TIMELINE, AUDIO)

    def __call__(self, path: Path, source: Mapping[str, Any]) -> list[tuple[int, dict[Field, Any]]]:
        """The clips of one file, as (segment number, fields).

        Args:
            source: what is known about the file beforehand (path, sha256, bytes, person, split, tags); goes into SOURCE.

        Raises:
            Refused: "reason: explanation" for a file that can be understood and is of no use.
            MediaProblem: "cannot-open" or "damaged"; such files are quarantined.
        """
        try:
            try:
                info = probe(path)
            except MediaProblem as problem:
                if problem.reason == "still-image" and self.params.photos:
                    picture, facts = read_photo(path)
                    return self.photo(picture.shape, facts, source)
                raise
            for warning in info.warnings:
                if any(words in warning for words in CUT_OFF):
                    raise MediaProblem("damaged", f"{Path(path).name} is cut off: {warning}", fix="copy the file again")
            return self.rows(info, self._sound(path, info), source)
        except MediaProblem as problem:
            if problem.reason in REFUSED_REASONS:
                raise Refused(f"{problem.reason}: {problem.what}") from problem
            raise

    def _sound(self, path: Path, info: MediaInfo) -> np.ndarray | None:
        if self.params.sound == "ignored" or (self.params.sound == "kept" and info.audio is None):
            return None
        try:
            return read_audio(path, info, self.params.rate_hz)
        except MediaProblem as problem:
            if self.params.sound == "kept" and problem.reason == "no-samples":
                return None
            raise

    def photo(
        self, shape: tuple[int, ...], facts: Mapping[str, Any], source: Mapping[str, Any]
    ) -> list[tuple[int, dict[Field, Any]]]:
        """The row of a decoded photo of `shape` (height, width, 3); `facts` as `read_photo` gives them."""
        height, width = shape[:2]
        self._check_side(width, height)
        record = {
            **source, "kind": "photo", "segment": 0, "start": "0/1", "n_frames": 1, "fps": f"{self.params.fps}/1",
            "width": width, "height": height, "container": facts["format"], "codec": facts["format"],
            "pixel_format": facts["mode"], "exif_orientation": facts["exif_orientation"], "warnings": [],
        }  # fmt: skip
        values: dict[Field, Any] = {SOURCE: record, TIMELINE: np.zeros(1, np.int64)}
        return [(0, values if self.params.sound == "ignored" else values | {AUDIO: None})]

    def _check_side(self, width: int, height: int) -> None:
        if min(width, height) < self.params.min_side_px:
            raise Refused(f"too-small: {width} x {height} px, shorter side under {self.params.min_side_px}")

    def rows(self, info: MediaInfo, audio: np.ndarray | None, source: Mapping[str, Any]) -> list[tuple[int, dict[Field, Any]]]:
        """Rows of an opened file; `audio` as `read_audio` gives it, None for a clip without."""
        params = self.params
        self._check_side(info.shape[1], info.shape[0])
        samples = params.rate_hz // params.fps
        shown = timeline(info.pts_ticks, info.time_base, Fraction(params.fps))
        whole = len(shown) if audio is None else min(len(shown), len(audio) // samples)
        if whole < params.min_frames:
            sound = "" if audio is None else f", {len(audio) / params.rate_hz:.2f} s of sound"
            what = f"{whole} frames at {params.fps} fps ({len(shown)} of picture{sound}), fewer than {params.min_frames}"
            raise Refused(f"too-short: {what}")
        rows = []
        for segment, (start, stop) in enumerate(split(whole, Fraction(params.fps), params.max_clip_s)):
            facts = self._facts(info, segment, start, stop)
            values: dict[Field, Any] = {SOURCE: {**source, **facts}, TIMELINE: shown[start:stop]}
            if params.sound != "ignored":
                values[AUDIO] = None if audio is None else audio[start * samples : stop * samples]
            rows.append((segment, values))
        return rows

    def _facts(self, info: MediaInfo, segment: int, start: int, stop: int) -> dict[str, Any]:
        """What SOURCE says about a segment besides what is known about its file; times and rates are exact fractions."""
        begin = Fraction(start, self.params.fps)
        height, width = info.shape[:2]
        return {
            "kind": "video",
            "segment": segment,
            "start": f"{begin.numerator}/{begin.denominator}",  # seconds after the first frame of the file
            "n_frames": stop - start,
            "fps": f"{self.params.fps}/1",
            "rate_hz": self.params.rate_hz,
            "width": width,  # upright
            "height": height,
            "rotation": info.rotation,
            "pixel_aspect": f"{info.sample_aspect_ratio.numerator}/{info.sample_aspect_ratio.denominator}",
            "source_fps": f"{info.fps.numerator}/{info.fps.denominator}",
            "source_frames": info.n_frames,
            "container": info.container,
            "codec": info.codec,
            "interlaced": info.interlaced,
            "audio_codec": info.audio.codec if info.audio else None,
            "audio_rate_hz": info.audio.rate_hz if info.audio else None,
            "audio_channels": info.audio.channels if info.audio else None,
            "warnings": list(info.warnings),
        }
