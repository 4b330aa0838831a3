"""Lip sync of a clip, judged by SyncNet: LSE-D, LSE-C and the offset between picture and sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import scipy.ndimage

from preprocessing.audio_features import mfcc13
from preprocessing.fields import AUDIO, AUDIO_REALIGNED, FACE_BOX, FACE_VALID, SYNC, SYNC_REALIGNED, VIDEO, Field
from preprocessing.operator import Operator, OperatorParams, Refused, Resources, Sample
from preprocessing.operators.face_track import iou

FPS = 25  # SyncNet knows nothing else
SIZE = 224
SCALE = 0.4  # the crop reaches 1 + SCALE half-sizes to each side of the face's centre, 1 + 2 SCALE below it
GREY = 110  # outside the picture
MEDIAN = 13  # frames of the track's median filter
MAX_GAP = 25  # frames between two sightings of one track
MIN_IOU = 0.5  # between them
SHORTEST = MEDIAN  # shorter clips give no smooth track, and fewer than 8 windows
SAMPLES_PER_FRAME = 640  # at 16 kHz


@dataclass(frozen=True)
class Track:
    """A face followed from frame `first` on: (N, 3) float64, for each frame its centre x, y and half-size in px."""

    first: int
    places: np.ndarray


class SyncScores(Operator):
    """SYNC: SyncNet's mean distance between sight and sound at 31 time shifts, read at its minimum (joonson/syncnet_python).

    Two ways to make the 224 px pictures, whose scores do not compare:

    - `track`, for free video: the face cut by its smoothed track (see `longest_track` and `cut`). The published pipeline takes
      its boxes from S3FD on the picture at a quarter of its size, and crops go through lossy files; here they are FACE_BOX,
      which follows the same convention, and nothing is compressed in between.
    - `resize`, for videos that are face crops already (LRS): the whole picture, stretched.

    Runs on the CPU: equal clips give equal numbers.
    """

    name = "syncnet"
    version = 1
    resources = Resources(assets=("syncnet_v2",))
    sound: ClassVar[Field] = AUDIO
    score: ClassVar[Field] = SYNC

    class Params(OperatorParams):
        """`protocol`: how the pictures are made."""

        protocol: Literal["track", "resize"] = "track"

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, self.sound, FACE_BOX, FACE_VALID) if self.params.protocol == "track" else (VIDEO, self.sound)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (self.score,)

    def setup(self) -> None:
        """Load SyncNet.

        Raises:
            LikenessError: the asset is not here (what to place where), or is another network.
        """
        from infra import assets
        from models.perception import syncnet

        self._syncnet = syncnet
        self._network = syncnet.load_syncnet(assets.find("syncnet_v2"))

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video, audio = sample[VIDEO], sample[self.sound]
        if video.fps != FPS:
            raise Refused(f"wrong-rate: {video.fps:g} frames per second, SyncNet works at {FPS}")
        track, first, count = None, 0, video.n_frames
        if self.params.protocol == "track":
            track = longest_track(sample[FACE_BOX], sample[FACE_VALID])
            if track is None:
                raise Refused("no-face: no face is seen in any frame")
            first, count = track.first, len(track.places)
        heard = audio[first * SAMPLES_PER_FRAME : (first + count) * SAMPLES_PER_FRAME]
        usable = min(count, len(heard) // SAMPLES_PER_FRAME)
        if usable < SHORTEST:
            what = f"{usable} frames with {'a face and ' if track else ''}sound"
            raise Refused(f"too-short: {what}, fewer than {SHORTEST}")
        pictures = np.zeros((count, SIZE, SIZE, 3), np.uint8)
        for place, picture in enumerate(_pictures(video, track)):
            pictures[place] = picture[..., ::-1]  # SyncNet was trained on BGR
        return {self.score: self._score(pictures, heard)}

    def _score(self, pictures: np.ndarray, heard: np.ndarray) -> dict[str, float]:
        import torch

        mfcc = torch.from_numpy(mfcc13(heard))
        visual, audio = self._network.embed_clip(torch.from_numpy(pictures), mfcc, len(heard))
        score = self._syncnet.SyncScore.from_curve(self._syncnet.sync_curve(visual, audio))
        return {
            "offset_frames": score.offset_frames, "confidence": score.confidence, "min_distance": score.min_distance,
            "n_windows": len(visual),
        }  # fmt: skip


class RealignedSyncScores(SyncScores):
    """SYNC_REALIGNED: SYNC measured again, with AUDIO_REALIGNED. A field of its own, since AUDIO_REALIGNED is made from SYNC; with
    settings of its own, that want to be SyncScores'."""

    name = "syncnet_realigned"
    sound = AUDIO_REALIGNED
    score = SYNC_REALIGNED


def _pictures(video: Any, track: Track | None) -> Iterator[np.ndarray]:
    """(224, 224, 3) RGB for every frame of the track, or of the clip. Reads all frames, since only a whole pass is kept."""
    for place, frame in enumerate(video):
        if track is None:
            yield cv2.resize(frame, (SIZE, SIZE))
        elif 0 <= place - track.first < len(track.places):
            yield cv2.resize(cut(frame, *track.places[place - track.first]), (SIZE, SIZE))


def longest_track(boxes: np.ndarray, valid: np.ndarray) -> Track | None:
    """The longest stretch in which one face is followed; None where no face is seen. See `sightings` and `smoothed`."""
    seen = max(sightings(boxes, valid), key=lambda track: track[-1] - track[0], default=None)
    return None if seen is None else smoothed(boxes, seen)


def sightings(boxes: np.ndarray, valid: np.ndarray) -> list[list[int]]:
    """Stretches in which one face is followed, each as the frames in which it is seen.

    A sighting goes on with the track when it comes at most `MAX_GAP` frames after the last one and overlaps it by more than
    `MIN_IOU`, and begins a new one otherwise.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in px.
        valid: (N,) bool, where the face is seen.
    """
    boxes = boxes.astype(np.float64)
    tracks: list[list[int]] = []
    for place in np.flatnonzero(valid):
        last = tracks[-1][-1] if tracks else None
        if last is None or place - last > MAX_GAP or iou(boxes[place], boxes[last]) <= MIN_IOU:
            tracks.append([])
        tracks[-1].append(int(place))
    return tracks


def smoothed(boxes: np.ndarray, seen: list[int], ends: Literal["constant", "nearest"] = "constant") -> Track:
    """The track of these sightings, its centre and size smoothed over time.

    Frames between sightings get linearly interpolated boxes; then centre and half-size (of the longer side) go through a median
    filter of `MEDIAN` frames, as published with zeros beyond the ends ("constant"), so that the first and last six values are
    lower than a median would be, and a track of six frames has no size; or with its first and last value ("nearest").
    """
    frames = np.arange(seen[0], seen[-1] + 1)
    x0, y0, x1, y1 = (np.interp(frames, seen, boxes[seen, side].astype(np.float64)) for side in range(4))
    curves = (x0 + x1) / 2, (y0 + y1) / 2, np.maximum(y1 - y0, x1 - x0) / 2
    return Track(seen[0], np.stack([scipy.ndimage.median_filter(c, MEDIAN, mode=ends) for c in curves], axis=1))


def cut(frame: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """The face with its surroundings: rows y - s to y + 1.8 s, columns x - 1.4 s to x + 1.4 s, grey outside the picture.

    Edges are rounded as published: the frame is padded on all sides by 1.8 s, rounded down, and cut there.

    Args:
        frame: (H, W, 3) uint8.
        x, y, half: centre and half-size s of the face, px.

    Returns:
        (about 2.8 s, about 2.8 s, 3) uint8, channels as they came.
    """
    pad = int(half * (1 + 2 * SCALE))
    top, bottom = int(y + pad - half) - pad, int(y + pad + half * (1 + 2 * SCALE)) - pad
    left, right = int(x + pad - half * (1 + SCALE)) - pad, int(x + pad + half * (1 + SCALE)) - pad
    out = np.full((bottom - top, right - left, 3), GREY, np.uint8)
    inside = frame[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    out[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]] = inside
    return out
