"""The value of VIDEO: the frames of one clip, decoded once and shared by all operators that work on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.media.decode import open_video
from preprocessing.media.photo import read_photo
from preprocessing.media.probe import MediaInfo, MediaProblem, probe

# Raise when the same file gives other frames; columns made from frames are then rebuilt.
VERSION = 1
BUDGET_BYTES = 2 * 1024**3
# With more frames than this called damaged by the decoder the clip is damaged; with fewer, those frames just hold no face.
MAX_DAMAGED_SHARE = 0.1


class Clip:
    """Frames of a clip at constant rate, as often as asked (the `Frames` protocol).

    Frames stay in memory after the first pass if they fit into the budget; a longer clip is decoded again on each pass. Every
    frame is (height, width, 3) uint8 RGB, upright and read-only.

    Attributes:
        n_frames: length of the timeline.
        fps: frames per second.
        damaged: bool (n_frames,), what the decoder reported as damaged or replaced; filled as frames are first given.
        decodes: passes over the file so far.
    """

    def __init__(
        self, path: str | os.PathLike, info: MediaInfo, timeline: np.ndarray, fps: Fraction, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        self.path, self.info, self.timeline = Path(path), info, np.asarray(timeline, np.int64)
        self.n_frames, self.fps = len(self.timeline), float(fps)
        self.damaged = np.zeros(self.n_frames, bool)
        self.decodes = 0
        height, width, channels = info.shape
        # A source frame that is shown several times is held once.
        self._fits = len(np.unique(self.timeline)) * height * width * channels <= budget_bytes
        self._held: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return self.n_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames in order.

        Raises:
            MediaProblem: "damaged", on reaching the end with too many damaged frames, or when no frame can be decoded.
        """
        if self._held is not None:
            yield from self._held
            return
        self.decodes += 1
        kept: list[np.ndarray] = []
        reader = open_video(self.path, self.info)
        for place, frame in enumerate(reader.frames(self.timeline)):
            frame.flags.writeable = False
            if self._fits:
                kept.append(frame)
            self.damaged[place] = self.timeline[place] in reader.corrupt_frames
            yield frame
        count = int(self.damaged.sum())
        if count > MAX_DAMAGED_SHARE * self.n_frames:
            what = f"{count} of {self.n_frames} frames of {self.path.name} are damaged"
            raise MediaProblem("damaged", what, allowed=f"up to {MAX_DAMAGED_SHARE:.0%}", fix="copy the file again")
        if self._fits:
            self._held = kept


class InMemory:
    """Frames that are in memory already, such as a photo, as a clip (the `Frames` protocol).

    Args:
        frames: (n, height, width, 3) uint8 RGB; made read-only.
        fps: frames per second.
    """

    def __init__(self, frames: np.ndarray, fps: float = 25.0) -> None:
        frames.flags.writeable = False
        self._frames, self.n_frames, self.fps = frames, len(frames), fps
        self.damaged = np.zeros(len(frames), bool)

    def __len__(self) -> int:
        return self.n_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._frames)


class Photo:
    """A photo as a clip of one frame (the `Frames` protocol), decoded when first asked for."""

    n_frames = 1

    def __init__(self, path: str | os.PathLike, fps: float) -> None:
        self.path, self.fps = Path(path), fps
        self.damaged = np.zeros(1, bool)
        self._frame: np.ndarray | None = None

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._frame is None:
            self._frame = read_photo(self.path)[0]
            self._frame.flags.writeable = False
        yield self._frame


def open_clip(
    path: str | os.PathLike,
    source: Mapping[str, Any],
    timeline: np.ndarray,
    budget_bytes: int = BUDGET_BYTES,
    info: MediaInfo | None = None,
) -> Clip | Photo:
    """The frames of a row.

    Args:
        path: the source file on this machine.
        source: the row's SOURCE record, for its frame rate.
        timeline: the row's TIMELINE, (N,).
        budget_bytes: memory for decoded frames; 10 s of 1080p take 1.5 GiB.
        info: what `probe(path)` said, to save probing again.
    """
    if source.get("kind") == "photo":
        return Photo(path, float(Fraction(str(source["fps"]))))
    return Clip(path, info or probe(path), timeline, Fraction(str(source["fps"])), budget_bytes)
