"""Frames of a video by index: streaming, exact, and the same whichever backend does the work.

A frame is identified by its display time: index i is `info.pts_ticks[i]` of `probe`. Frames come upright (rotation applied), as
RGB of the coded size; the pixels may be non-square (`info.sample_aspect_ratio`). Colours follow the matrix and range the stream
states, BT.601 limited range where it states none (libswscale's rule, hence that of ffmpeg and OpenCV); no tone mapping for HDR.

`PyAVReader` reads everything and is the default (docs/decoding.md has the measurements). `DecordReader` answers only for files
on which decord was found to be right: 8-bit video in an mp4 or mkv, with decord's frame count, times and first picture equal to
ours; its pictures are then bit-equal. On any other file, and from the first error on, PyAV takes over;
`reader.backend` tells. One difference remains: where a damaged stream still decodes, decord conceals the damage in its own way.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from infra.errors import LikenessError
from preprocessing.media.probe import MediaInfo, MediaProblem, decoded, one_stream, open_media, probe

DEFAULT_BACKEND = "pyav"
BACKENDS = ("pyav", "decord")
# For 8-bit 4:2:0 libswscale takes its fast path whatever the flags say (bit-equal to decord's and OpenCV's default); the
# flags matter for all else, where chroma would otherwise be computed for every second output pixel only.
SCALING = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT
DECORD_CONTAINERS = ("mov,", "matroska,")  # in MPEG-PS decord starts a whole group of pictures late, with the right times
DECORD_PIXELS = ("yuv420p", "yuvj420p", "yuv444p", "yuvj444p", "yuv422p", "yuvj422p", "gray")  # it converts 10-bit otherwise


class VideoReader(Protocol):
    """What both backends offer.

    Attributes:
        info: the probe's account of the file.
        backend: "pyav" or "decord": which one answers.
        corrupt_frames: sorted indices, among the frames read so far, that cannot be trusted: the decoder flagged them or could not
            give them (the frame before, at the very beginning the one after, stands in), or they follow such a frame before the
            next key frame. decord cannot tell.
    """

    info: MediaInfo

    @property
    def backend(self) -> str: ...

    @property
    def corrupt_frames(self) -> list[int]: ...

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield one (H, W, 3) uint8 RGB array, `info.shape`, per index.

        Each frame is decoded at most once and only a few are alive at a time; a repeated index yields the same array again, so
        treat arrays as read-only. Calls are independent: every one opens the file anew.

        Args:
            indices: display-order frame indices, not descending, repeats allowed.

        Raises:
            LikenessError: indices out of range or descending (before anything is decoded).
            MediaProblem: "damaged", when no frame at all can be had to stand in for a requested one.
        """
        ...


def open_video(path: str | os.PathLike, info: MediaInfo | None = None, backend: str | None = None, threads: int = 1) -> VideoReader:
    """A reader for one video file.

    Args:
        info: what `probe(path)` said, to save probing again.
        backend: "pyav" or "decord"; None for the default. "decord" is a wish: see the module's text.
        threads: decoding threads: 1, unless a process has the machine to itself. Only the concealment of damage depends on it.

    Raises:
        MediaProblem: as `probe`.
    """
    backend = backend or DEFAULT_BACKEND
    if backend not in BACKENDS:
        raise LikenessError(f"video backend {backend!r} is unknown", allowed=" or ".join(BACKENDS))
    info = info or probe(path)
    pyav = PyAVReader(path, info, threads)
    if backend == "decord" and _decord_agrees(pyav):
        return DecordReader(pyav)
    return pyav


class PyAVReader:
    """Reads with libav through PyAV; see `VideoReader`."""

    backend = "pyav"

    def __init__(self, path: str | os.PathLike, info: MediaInfo, threads: int = 1) -> None:
        self.path, self.info, self.threads = Path(path), info, threads
        self._corrupt: set[int] = set()

    @property
    def corrupt_frames(self) -> list[int]:
        return sorted(self._corrupt)

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        return self._frames(_checked(indices, self.info))

    def _frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        to_rgb, run = _ToRgb(self.info), self._run(indices)
        end: tuple[int, VideoFrame | None] = (self.info.n_frames, None)
        at, frame, before = -1, None, None
        key_frames, spoiled = set(self.info.key_frames.tolist()), False
        shown, picture = -1, np.zeros(0, np.uint8)
        for index in indices:
            if index != shown:
                while at < index:
                    before, last = frame, at
                    at, frame = next(run, end)
                    if frame is not None:  # whatever is built on damage is damaged, until a key frame starts afresh
                        fresh = frame.key_frame or at in key_frames
                        spoiled = frame.is_corrupt or (not fresh and (spoiled or at != last + 1))
                source = frame if at == index or before is None else before
                if source is None:
                    raise MediaProblem("damaged", f"no frame of {self.path.name} can be decoded", fix="copy the file again")
                if at != index or spoiled:
                    self._corrupt.add(index)
                shown, picture = index, to_rgb(source)
            yield picture

    def _run(self, wanted: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        """(index, frame) ascending, with every wanted frame that decodes; jumps over stretches in which none is wanted."""
        info = self.info
        position = 0  # the next frame not yet given
        with open_media(self.path) as container:
            stream = one_stream(container, info.stream, self.threads)
            if info.pts_source == "decoder":  # these frames have no times of their own: count them from the start
                yield from enumerate(decoded(container, stream))
                return
            source = self._timed(decoded(container, stream))
            for target in wanted:
                if target < position:
                    continue
                key = self._key_frame(target)
                if key > position:
                    try:
                        container.seek(int(info.pts_ticks[key]), stream=stream)
                    except av.FFmpegError:  # not every format can
                        break
                    source = self._timed(decoded(container, stream))
                    landed = next(source, None)
                    if landed is None or landed[0] > key:  # in the wrong place, or the key frame is broken
                        break
                    source = chain([landed], source)
                for index, frame in source:
                    if index >= position:
                        yield index, frame
                        position = index + 1
                    if index >= target:
                        break
            else:
                return
        # Only a run from the start finds the same stand-ins as reading everything does.
        with open_media(self.path) as container:
            for index, frame in self._timed(decoded(container, one_stream(container, info.stream, self.threads))):
                if index >= position:
                    yield index, frame

    def _key_frame(self, index: int) -> int:
        """The last frame at or before `index` at which decoding can begin; 0 when only the file's beginning will do."""
        before = np.searchsorted(self.info.key_frames, index, "right")
        return int(self.info.key_frames[before - 1]) if before else 0

    def _timed(self, frames: Iterable[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
        """Pair frames with their index; those that are not to be shown drop out."""
        ticks = self.info.pts_ticks
        for frame in frames:
            if frame.pts is not None:
                index = int(np.searchsorted(ticks, frame.pts))
                if index < len(ticks) and ticks[index] == frame.pts:
                    yield index, frame


class DecordReader:
    """Reads with decord, and with PyAV from the first error on; see `VideoReader`. `open_video` makes it, after checking."""

    def __init__(self, pyav: PyAVReader) -> None:
        self.info, self._pyav, self._failed = pyav.info, pyav, False

    @property
    def backend(self) -> str:
        return "pyav" if self._failed else "decord"

    @property
    def corrupt_frames(self) -> list[int]:
        return self._pyav.corrupt_frames

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        return self._frames(_checked(indices, self.info))

    def _frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        video = None
        shown, picture = -1, np.zeros(0, np.uint8)
        for done, index in enumerate(indices):
            if index != shown:
                try:
                    video = video or _decord(self._pyav.path, self._pyav.threads)
                    shown, picture = index, video[index].asnumpy()
                except Exception:  # whatever decord says, PyAV has the last word
                    self._failed = True
                    yield from self._pyav.frames(indices[done:])
                    return
            yield picture


class _ToRgb:
    """Turns decoded frames into upright RGB arrays; keeps libswscale's state between frames."""

    def __init__(self, info: MediaInfo) -> None:
        self.info, self.scaler = info, VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        info = self.info
        # Size given, so that a stream that changes resolution half-way still comes as one shape.
        rgb = self.scaler.reformat(frame, info.width, info.height, "rgb24", interpolation=SCALING, threads=1).to_ndarray()
        if info.mirrored:
            rgb = rgb[:, ::-1]
        return np.ascontiguousarray(np.rot90(rgb, -info.rotation // 90))


def _checked(indices: Iterable[int], info: MediaInfo) -> list[int]:
    found = np.fromiter(indices, np.int64)
    if len(found) and (found.min() < 0 or found.max() >= info.n_frames):
        outside = int(found.min() if found.min() < 0 else found.max())
        raise LikenessError(f"frame {outside} was asked for", allowed=f"0 to {info.n_frames - 1}")
    if (np.diff(found) < 0).any():
        raise LikenessError("frame indices descend", allowed="indices in ascending order", fix="sort them")
    return found.tolist()


def _decord(path: Path, threads: int) -> Any:
    import decord  # here, because most runs never need it

    decord.logging.set_level(decord.logging.QUIET)
    return decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=threads)


def _decord_agrees(pyav: PyAVReader) -> bool:
    """Whether decord sees the same frames at the same times, and the same first picture."""
    info = pyav.info
    if info.pixel_format not in DECORD_PIXELS or not info.container.startswith(DECORD_CONTAINERS) or info.pts_source != "packets":
        return False
    try:
        video = _decord(pyav.path, pyav.threads)
        if len(video) != info.n_frames:
            return False
        times = video.get_frame_timestamp(list(range(info.n_frames)))[:, 0].astype(float)
        first = video[0].asnumpy()
    except Exception:  # it cannot read the file, which is an answer too
        return False
    ours = (info.pts_ticks - info.pts_ticks[0]) * float(info.time_base)
    half_step = np.diff(ours).min() / 2 if len(ours) > 1 else 1.0
    if np.abs(times - times[0] - ours).max() > half_step or first.shape != info.shape:
        return False
    return float(np.abs(first.astype(int) - next(pyav.frames([0]))).mean()) <= 1.0
