"""Small pictures and clips of a row, as bytes for the page: what it looks like, how it sounds, where the landmarks lie."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from infra.errors import LikenessError
from infra.storage import Dataset, Row
from pipelines.report.originals import Originals
from preprocessing.clip import open_clip
from preprocessing.codecs import decode
from preprocessing.fields import (
    AUDIO,
    FACE_BOX,
    FACE_VALID,
    KEY_FRAME,
    LANDMARKS_5,
    LANDMARKS_68,
    LANDMARKS_478,
    TIMELINE,
    VOICED,
    Field,
    by_name,
)
from preprocessing.media.audio import SAMPLE_RATE_HZ
from preprocessing.media.mux import write_video

PREVIEW_FRAMES = 60
SHORT_SIDE_PX = 176  # of moving previews; x264 gives the same bytes every time from 128 px up
PICTURE_SIDE_PX = 320  # shorter side of photos and posters
LONGEST_RATIO = 2.4  # panoramas are cut to it, or a preview would be mostly sky
JPEG_QUALITY = 82
MAX_CLIP_BYTES = 150_000
QUALITIES = (27, 32, 38, 44)  # x264 crf, taken in order until the clip is small enough
TRACK_STEP = 2  # every second frame has its landmarks in the page; the page interpolates
MANY_POINTS = 100  # from here on a coordinate is kept in 8 bits, else in 16
TRACKS = {"5": LANDMARKS_5, "68": LANDMARKS_68, "478": LANDMARKS_478}


@dataclass
class Preview:
    """What can be shown of a row.

    Attributes:
        poster: JPEG, b"" where nothing can be shown; `clip`: MP4, b"" for photos and where frames can't be had.
        width, height: of the poster.
        part: begin and end of the clip as shares of the row.
        tracks: what to draw over the picture, see `_packed`.
        origin: "source", or the field the picture is from, or "" for none.
    """

    poster: bytes = b""
    clip: bytes = b""
    width: int = 0
    height: int = 0
    part: tuple[float, float] = (0.0, 1.0)
    seconds: float = 0.0
    audible: bool = False
    tracks: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    audio: np.ndarray | None = None
    voiced: np.ndarray | None = None


class Previews:
    """Makes previews of rows of one dataset; `scratch` is an empty folder for the time being."""

    def __init__(self, dataset: Dataset, scratch: Path) -> None:
        self.dataset, self.scratch = dataset, scratch
        self.originals = Originals(dataset, scratch)

    def of(self, row: Row) -> Preview:
        """Never fails for want of a source or a field: what is not there is not shown."""
        preview = Preview(audio=self._read(row, AUDIO), voiced=self._read(row, VOICED))
        valid = self._read(row, FACE_VALID)
        n_frames = int(row.source["n_frames"])
        start, stop = window(n_frames, valid, preview.voiced)
        preview.part = (start / n_frames, stop / n_frames)
        frames = self._source_frames(row, start, stop)
        if frames:
            preview.origin = "source"
            preview.tracks = self._tracks(row, start, stop, valid)
        else:
            frames, preview.origin = self._stored_frames(row, start, stop)
        if not frames:
            return preview
        place = self._still(row, start, stop, valid) if len(frames) == stop - start else 0
        poster = fitted(frames[place], PICTURE_SIDE_PX, enlarge=False)
        preview.poster = jpeg(poster)
        preview.height, preview.width = poster.shape[:2]
        preview.tracks["still"] = place
        if len(frames) > 1:
            fps = Fraction(str(row.source["fps"]))
            preview.seconds, preview.tracks["fps"] = float(len(frames) / fps), float(fps)
            sound = preview.audio
            if sound is not None:
                per_frame = Fraction(SAMPLE_RATE_HZ) / fps
                sound = sound[int(start * per_frame) : int(stop * per_frame)]
            preview.clip, preview.audible = self._encoded(frames, fps, sound), sound is not None
        return preview

    def _source_frames(self, row: Row, start: int, stop: int) -> list[np.ndarray]:
        timeline = self._read(row, TIMELINE)
        if timeline is None:
            return []
        try:
            with self.originals.file(row) as path:
                if path is None:
                    return []
                stretch = Fraction(str(row.source.get("pixel_aspect", "1/1"))) or Fraction(1)
                clip = open_clip(path, row.source, timeline[start:stop], budget_bytes=0)
                frames: list[np.ndarray] = []
                with suppress(LikenessError):  # a clip said to be damaged at its end has given its frames by then
                    for frame in clip:
                        frames.append(fitted(frame, PICTURE_SIDE_PX, enlarge=False, stretch=float(stretch)))
                return frames
        except (LikenessError, OSError, ValueError):
            return []

    def _stored_frames(self, row: Row, start: int, stop: int) -> tuple[list[np.ndarray], str]:
        """Pictures that the dataset itself holds: the largest face crops, else a whole picture."""
        kinds = {"mjpeg": 1, "jpg": 0}
        stored = [f for f in map(by_name, self.dataset.fields) if f is not None and f.codec in kinds and f.colour]
        largest = sorted(stored, key=lambda f: (kinds[f.codec], max(n for n in f.shape if isinstance(n, int)), f.name))
        for wanted in reversed(largest):
            value = self._read(row, wanted)
            if value is None:
                continue
            pictures = list(value[start:stop]) if wanted.codec == "mjpeg" else [value]
            if any(picture.any() for picture in pictures):
                return [fitted(picture, max(SHORT_SIDE_PX, min(picture.shape[:2]))) for picture in pictures], wanted.name
        return [], ""

    def _tracks(self, row: Row, start: int, stop: int, valid: np.ndarray | None) -> dict[str, Any]:
        size = np.array([row.source["width"], row.source["height"]], np.float64)
        places = np.arange(start, stop, TRACK_STEP)
        seen = np.ones(len(places), bool) if valid is None else valid[places]
        tracks: dict[str, Any] = {"step": TRACK_STEP, "seen": "".join("01"[int(s)] for s in seen)}
        if not seen.any():
            return tracks
        box = self._read(row, FACE_BOX)
        if box is not None:
            tracks["box"] = _packed(box[places].reshape(len(places), 2, 2) / size, seen)
        for name, points in TRACKS.items():
            found = self._read(row, points)
            if found is not None:
                tracks[name] = _packed(found[places, :, :2] / size, seen)
        return tracks

    def _still(self, row: Row, start: int, stop: int, valid: np.ndarray | None) -> int:
        """The frame of the stretch for its poster: the row's key frame, else one with a face near the middle."""
        key = self._read(row, KEY_FRAME)
        if key is not None and start <= int(key) < stop:
            return (int(key) - start) // TRACK_STEP * TRACK_STEP
        middle = (stop - start) // 2
        faces = np.arange(0, stop - start, TRACK_STEP)
        if valid is not None and valid[start:stop:TRACK_STEP].any():
            faces = faces[valid[start:stop:TRACK_STEP]]
        return int(faces[np.abs(faces - middle).argmin()])

    def _encoded(self, frames: Sequence[np.ndarray], fps: Fraction, sound: np.ndarray | None) -> bytes:
        file = self.scratch / "preview.mp4"
        small = [fitted(frame, SHORT_SIDE_PX) for frame in frames]
        for crf in QUALITIES:
            write_video(file, small, fps, sound, SAMPLE_RATE_HZ, crf=crf)
            data = file.read_bytes()
            file.unlink()
            if len(data) <= MAX_CLIP_BYTES:
                return data
        return b""

    def _read(self, row: Row, wanted: Field) -> Any:
        if wanted.name not in self.dataset.fields or not self.dataset.has(row, wanted.name):
            return None
        try:
            return decode(wanted, self.dataset.read(row, wanted.name))
        except LikenessError:
            return None


def window(n_frames: int, valid: np.ndarray | None, voiced: np.ndarray | None) -> tuple[int, int]:
    """The stretch of at most PREVIEW_FRAMES frames with most faces and speech in it; of equals the earliest."""
    length = min(n_frames, PREVIEW_FRAMES)
    worth = np.zeros(n_frames)
    for flags, weight in ((valid, 2.0), (voiced, 1.0)):
        if flags is not None and len(flags) == n_frames:
            worth += weight * flags
    sums = np.concatenate([[0], np.cumsum(worth)])
    start = int(np.argmax(sums[length:] - sums[: n_frames - length + 1]))
    return start, start + length


def fitted(picture: np.ndarray, short_side_px: int, enlarge: bool = True, stretch: float = 1.0) -> np.ndarray:
    """(H, W, 3) resized so that its shorter side has `short_side_px`, sides even; `stretch` widens non-square pixels.

    Without `enlarge` a smaller picture keeps its size. What is longer than LONGEST_RATIO is squeezed, not cut, so that
    landmarks as shares of the picture still fit.
    """
    height, width = picture.shape[0], picture.shape[1] * stretch
    scale = short_side_px / min(height, width)
    scale = scale if enlarge else min(scale, 1.0)
    longest = LONGEST_RATIO * short_side_px
    size = tuple(max(2, 2 * round(min(side * scale, longest) / 2)) for side in (width, height))
    if size == (picture.shape[1], picture.shape[0]):
        return np.ascontiguousarray(picture)
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=kind)


def jpeg(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG for looking at."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def _packed(points: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """Points (frames, n, 2), as shares of the picture, in few bytes: between `low` and `high` (x, y) in `bits` bits each."""
    known = points[seen].reshape(-1, 2)
    low, high = known.min(0), known.max(0)
    bits = 8 if points.shape[1] > MANY_POINTS else 16
    scaled = (points - low) / np.maximum(high - low, 1e-9) * (2**bits - 1)
    data = np.clip(np.rint(scaled), 0, 2**bits - 1).astype("<u1" if bits == 8 else "<u2")
    text = base64.b64encode(data.tobytes()).decode()
    return {"n": points.shape[1], "bits": bits, "low": _short(low), "high": _short(high), "data": text}


def _short(numbers: np.ndarray) -> list[float]:
    return [round(float(n), 6) for n in numbers]
