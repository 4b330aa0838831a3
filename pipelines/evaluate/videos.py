"""Lip sync of finished videos, judged by SyncNet alone.

The expert that taught a generator finds its own pupil's lips in sync whether or not people do. No method trains with SyncNet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import LikenessError
from pipelines.dataset.graph import resolve, standard
from pipelines.dataset.outcome import STOPS_THE_RUN, describe
from preprocessing.clip import open_clip
from preprocessing.fields import SOURCE, SYNC, TIMELINE, VIDEO
from preprocessing.operator import Refused, Sample

LONGEST_S = 600.0  # of a video to score: 15 000 pictures of 224 px take 2.3 GB


@dataclass(frozen=True)
class VideoScore:
    """What SyncNet says about one video (a value of SYNC), or why there is no score."""

    file: Path
    sync: Mapping[str, Any] | None
    reason: str = ""


def video_files(places: Sequence[Path]) -> list[Path]:
    """Files as named, and all files of folders, hidden ones excepted.

    Raises:
        LikenessError: a place that does not exist, or nothing in any.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.exists():
            raise LikenessError(f"there is no file or folder {place}", allowed="videos, or folders of videos")
        inside = sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith("."))
        found |= dict.fromkeys(inside if place.is_dir() else [place])
    if not found:
        raise LikenessError(f"no file in {', '.join(map(str, places))}", allowed="videos, or folders of videos")
    return list(found)


def score_videos(files: Sequence[Path], protocol: str) -> Iterator[VideoScore]:
    """SyncNet's scores of whole videos, each made by the operators of a dataset build.

    Args:
        protocol: "track" for free video, "resize" for videos that are face crops (see `preprocessing.operators.sync`).

    Raises:
        LikenessError: SyncNet's weights are not here; before the first file.
    """
    settings: dict[str, dict[str, Any]] = {"ingest": {"max_clip_s": LONGEST_S}, "syncnet": {"protocol": protocol}}
    ingest, *operators = (node.operator for node in resolve(standard(), [SYNC.name], settings).nodes)
    for operator in operators:
        operator.setup()
    for file in files:
        try:
            (_, values), *more = ingest(file, {})
            if more:
                raise Refused(f"too-long: more than {LONGEST_S / 60:g} minutes; cut it into shots")
            sample = Sample(file.name, {field.name: value for field, value in values.items()})
            sample[VIDEO] = open_clip(file, values[SOURCE], values[TIMELINE])
            for operator in operators:
                for field, value in operator(sample).items():
                    sample[field] = value
            yield VideoScore(file, sample[SYNC])
        except STOPS_THE_RUN:
            raise
        except Exception as error:
            yield VideoScore(file, None, str(describe(error, {})))


def mean_scores(scores: Sequence[VideoScore]) -> dict[str, float]:
    """A set's LSE-D and LSE-C: the plain mean over its videos, long or short. Empty where none was scored."""
    scored = [score.sync for score in scores if score.sync is not None]
    return {name: sum(sync[name] for sync in scored) / len(scored) for name in ("min_distance", "confidence") if scored}
