"""Where one shot ends and another begins."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import SCENE_CUTS, SHOT_MEASURES, VIDEO, Field
from preprocessing.operator import Operator, OperatorParams, Sample

LOOK_PX = 64  # shorter side at which frames are compared
LEAST_AROUND = 1e-3  # a change after stillness counts as many times larger, not as infinitely many
DIGITS = 6


class SceneCuts(Operator):
    """SCENE_CUTS and SHOT_MEASURES by the change of colour from frame to frame.

    The change is the mean over pixels (at a shorter side of 64 px) and over hue, saturation and value of the absolute difference,
    each in 0..255, as PySceneDetect's content detector measures it (hue in half degrees). A frame begins a shot where its change is
    at least `least_change` and at least `ratio` times the mean change of the `window` frames on either side (its adaptive
    detector), and no shot becomes shorter than `shortest_s`. So pans, zooms and shaking are no cuts. Fades and dissolves are not
    found.
    """

    name = "scene_cuts"
    version = 1

    class Params(OperatorParams):
        """PySceneDetect's own are 3, 15, 2 and 0.6 s (15 frames of 25); LatentSync uses a `ratio` of 2."""

        ratio: float = Setting(3.0, gt=1)
        least_change: float = Setting(15.0, gt=0)
        window: int = Setting(2, ge=1)
        shortest_s: float = Setting(0.2, ge=0)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (SCENE_CUTS, SHOT_MEASURES)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        changes = np.zeros(video.n_frames)
        before: np.ndarray | None = None
        for place, frame in enumerate(video):
            look = colours(frame)
            if before is not None:
                changes[place] = np.abs(look - before).mean()
            before = look
        cuts = find_cuts(changes, self.params, video.fps)
        edges = [0, *cuts, video.n_frames]
        numbers = {
            "cuts": len(cuts),
            "longest_s": round(float(np.diff(edges).max()) / video.fps, DIGITS),
            "strongest": round(float(changes.max(initial=0)), DIGITS),
        }
        return {SCENE_CUTS: np.array(cuts, np.int64), SHOT_MEASURES: numbers}


def colours(frame: np.ndarray) -> np.ndarray:
    """(h, w, 3) int16: hue (0..179), saturation and value (0..255) of a shrunk (H, W, 3) RGB frame."""
    height, width = frame.shape[:2]
    scale = min(1.0, LOOK_PX / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2HSV).astype(np.int16)


def find_cuts(changes: np.ndarray, params: SceneCuts.Params, fps: float) -> list[int]:
    """Places that begin a shot, from each frame's change against the frame before (n,); see `SceneCuts`."""
    shortest = max(1, round(params.shortest_s * fps))
    cuts: list[int] = []
    for place in np.flatnonzero(changes >= params.least_change).tolist():
        low, high = max(1, place - params.window), min(len(changes), place + params.window + 1)
        around = np.delete(changes[low:high], place - low)
        usual = float(around.mean()) if len(around) else 0.0
        since = place - (cuts[-1] if cuts else 0)
        if changes[place] >= params.ratio * max(usual, LEAST_AROUND) and min(since, len(changes) - place) >= shortest:
            cuts.append(place)
    return cuts
