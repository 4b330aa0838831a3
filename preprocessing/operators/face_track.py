"""The main face followed through the clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import FACE_DETECTIONS, FACE_TRACK, VIDEO, Field
from preprocessing.operator import Frames, Operator, OperatorParams, Sample

LOOK_PX, LOOK_MARGIN = 16, 1.6  # the look of a face: its box enlarged (hair and collar tell people apart), shrunk to this size


@dataclass
class Track:
    """A face under way: (frame, box and score) where it was seen, and its last look."""

    seen: list[tuple[int, np.ndarray]]
    look: np.ndarray

    @property
    def weight(self) -> float:
        """Sum over frames of box area x score: who is large, long and certain is the main face."""
        return float(sum((b[2] - b[0]) * (b[3] - b[1]) * b[4] for _, b in self.seen))

    @property
    def side_px(self) -> float:
        """Mean over frames of the square root of the box's area."""
        return float(np.mean([np.sqrt(max(0.0, float((b[2] - b[0]) * (b[3] - b[1])))) for _, b in self.seen]))


class FaceTrack(Operator):
    """Detections linked into tracks; the track with the largest sum of box area x score is the main face.

    A detection continues a track when its box overlaps the track's last one (IoU) and looks like it (correlation of 16 px
    thumbnails), so that a cut to another person in the same place ends the track. Best overlaps are linked first. A track may
    be missing for up to `max_missing` frames (25: joonson/syncnet_python); frames in which it is not seen stay zero. Of two
    people the larger one wins, not the one who speaks.
    """

    name = "face_track"
    version = 1

    class Params(OperatorParams):
        """`min_likeness`: genuine neighbours measured 0.81 and more, a cut between two similar portraits 0.67."""

        min_iou: float = Setting(0.4, gt=0, lt=1)
        min_likeness: float = Setting(0.75, ge=-1, le=1)
        max_missing: int = Setting(25, ge=0)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, FACE_DETECTIONS)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (FACE_TRACK,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        tracks = link(video, sample[FACE_DETECTIONS], self.params)
        main = max(tracks, key=lambda t: t.weight, default=None)  # of equals the first
        return {FACE_TRACK: boxes_per_frame(main, video.n_frames)}


def link(video: Frames, detections: np.ndarray, params: FaceTrack.Params) -> list[Track]:
    """All tracks of a clip, in the order in which they begin; see `FaceTrack` for the rules."""
    edges = np.searchsorted(detections[:, 0], np.arange(video.n_frames + 1))
    tracks: list[Track] = []
    # A clip without faces need not be decoded.
    for place, frame in enumerate(video if len(detections) else ()):
        _extend(tracks, place, frame, detections[edges[place] : edges[place + 1], 1:], params)
    return tracks


def boxes_per_frame(track: Track | None, n_frames: int) -> np.ndarray:
    """FACE_TRACK's value for one track: (n_frames, 5) float32, zeros where it is not seen."""
    out = np.zeros((n_frames, 5), np.float32)
    for place, box in track.seen if track else ():
        out[place] = box
    return out


def _extend(tracks: list[Track], place: int, frame: np.ndarray, boxes: np.ndarray, params: FaceTrack.Params) -> None:
    """Link the faces of one frame to the open tracks, best overlap first; what is left begins tracks."""
    looks = [face_look(frame, box) for box in boxes]
    open_tracks = [t for t in tracks if place - t.seen[-1][0] <= params.max_missing + 1]
    pairs = [
        (iou(track.seen[-1][1], box), -t, -b)
        for t, track in enumerate(open_tracks)
        for b, box in enumerate(boxes)
        if likeness(track.look, looks[b]) >= params.min_likeness
    ]
    linked: set[int] = set()
    grown: set[int] = set()
    for overlap, t, b in sorted(pairs, reverse=True):
        if overlap >= params.min_iou and t not in grown and b not in linked:
            grown.add(t)
            linked.add(b)
            open_tracks[-t].seen.append((place, boxes[-b]))
            open_tracks[-t].look = looks[-b]
    tracks.extend(Track([(place, box)], looks[b]) for b, box in enumerate(boxes) if -b not in linked)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def face_look(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(16, 16, 3) float32 with mean zero: the square around a face, enlarged and shrunk; zeros where it leaves the picture."""
    half = LOOK_MARGIN * max(box[2] - box[0], box[3] - box[1]) / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    height, width = frame.shape[:2]
    x0, x1 = (int(np.clip(round(float(v)), 0, width)) for v in (x - half, x + half))
    y0, y1 = (int(np.clip(round(float(v)), 0, height)) for v in (y - half, y + half))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return np.zeros((LOOK_PX, LOOK_PX, 3), np.float32)
    small = cv2.resize(frame[y0:y1, x0:x1], (LOOK_PX, LOOK_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    return small - small.mean()


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two looks, 1 for equal ones; 1 too where both are one flat colour."""
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else float(not a.any() and not b.any())
