"""Expanders: one row of a dataset in, the rows of a derived dataset out.

The keys of the children name their parent, and the derived dataset's digests carry the expander's version: a better detector
makes other children, and never renames a parent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from preprocessing.fields import FACE_DETECTIONS, FACE_TRACK, SCENE_CUTS, VIDEO, Field
from preprocessing.operator import OperatorParams, Resources, Sample
from preprocessing.operators.face_track import FaceTrack, boxes_per_frame, link


@dataclass(frozen=True)
class Child:
    """A row made from a parent.

    Attributes:
        name: end of its key, such as `t01`.
        start, stop: its frames, of the parent's.
        facts: what its SOURCE record says besides.
        values: of the fields that the expander writes, cut to its frames.
    """

    name: str
    start: int
    stop: int
    facts: dict[str, Any]
    values: dict[Field, Any] = field(default_factory=dict)


class Expander(ABC):
    """Reads fields of a parent row, gives its children. `version` is raised when it gives others."""

    name: ClassVar[str]
    version: ClassVar[int]
    Params: ClassVar[type[OperatorParams]]
    resources: ClassVar[Resources] = Resources()
    reads: ClassVar[tuple[Field, ...]]
    writes: ClassVar[tuple[Field, ...]]

    def __init__(self, params: OperatorParams | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    @abstractmethod
    def __call__(self, parent: Sample) -> list[Child]:
        """The children of one row, none where there is nothing to make rows of."""


class FaceTracks(Expander):
    """A row per person followed through the clip: the tracks that `FaceTrack` chooses the main face from.

    A child has its track's frames from first to last, and its track as FACE_TRACK, so that everything about "the face" is about
    this one. Tracks are numbered from the heaviest (area x score, summed) on.
    """

    name = "face_tracks"
    version = 1
    reads = (VIDEO, FACE_DETECTIONS)
    writes = (FACE_TRACK,)

    class Params(FaceTrack.Params):
        """As `FaceTrack`, and what a track must have: `min_frames` seen, boxes with a mean side of `min_side_px`; at most
        `most_tracks` per row."""

        min_frames: int = 25
        min_side_px: float = 0
        most_tracks: int = 16

    def __call__(self, parent: Sample) -> list[Child]:
        video, params = parent[VIDEO], self.params
        # A photo has one frame, in which everybody counts.
        wanted = min(params.min_frames, video.n_frames)
        tracks = [track for track in link(video, parent[FACE_DETECTIONS], params)
                  if len(track.seen) >= wanted and track.side_px >= params.min_side_px]  # fmt: skip
        tracks.sort(key=lambda track: -track.weight)
        children = []
        for number, track in enumerate(tracks[: params.most_tracks]):
            start, stop = track.seen[0][0], track.seen[-1][0] + 1
            boxes = boxes_per_frame(track, video.n_frames)[start:stop]
            facts = {"track": number, "tracks": min(len(tracks), params.most_tracks)}
            children.append(Child(f"t{number:02d}", start, stop, facts, {FACE_TRACK: boxes}))
        return children


class Shots(Expander):
    """A row per shot, from SCENE_CUTS: no child shows two. Shots of fewer than `min_frames` give none; a photo is one."""

    name = "shots"
    version = 1
    reads = (VIDEO, SCENE_CUTS)
    writes = ()

    class Params(OperatorParams):
        min_frames: int = 25

    def __call__(self, parent: Sample) -> list[Child]:
        n_frames = parent[VIDEO].n_frames
        edges = [0, *parent[SCENE_CUTS].tolist(), n_frames]
        wanted = min(self.params.min_frames, n_frames)
        facts = {"shots": len(edges) - 1}
        return [Child(f"s{number:02d}", start, stop, {"shot": number, **facts})
                for number, (start, stop) in enumerate(pairwise(edges)) if stop - start >= wanted]  # fmt: skip


EXPANDERS: dict[str, type[Expander]] = {kind.name: kind for kind in (FaceTracks, Shots)}
