"""What a head does, from its angles: turns, looks, tilts, nods and shakes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

YAW, PITCH, ROLL = 0, 1, 2
LEAST_DEGREES = (12.0, 9.0, 10.0)  # of a movement about each axis; less is the sway of somebody who talks
SMOOTH_S = 0.2
REPEATED_LEGS, REPEATED_LEG_S = 3, 1.0  # so many legs there and back, none longer, are one nod or shake
WORDS = {
    (YAW, 1): "turns the head to the right", (YAW, -1): "turns the head to the left",
    (PITCH, 1): "looks up", (PITCH, -1): "looks down",
    (ROLL, 1): "tilts the head to the right", (ROLL, -1): "tilts the head to the left",
}  # fmt: skip
STRAIGHT = {YAW: "turns to the front", PITCH: "looks straight ahead", ROLL: "straightens the head"}
REPEATED = {YAW: "shakes the head", PITCH: "nods", ROLL: "rocks the head"}


@dataclass(frozen=True)
class Leg:
    """A movement about one axis from one turning point to the next.

    Attributes:
        axis: YAW, PITCH or ROLL.
        first, last: frames.
        start_degrees, end_degrees: the angle at either end.
    """

    axis: int
    first: int
    last: int
    start_degrees: float
    end_degrees: float


def head_moves(pose: np.ndarray, valid: np.ndarray, fps: float) -> list[str]:
    """What the head does, in order of time, in words such as "nods"; right and left are the picture's.

    Args:
        pose: HEAD_POSE, (frames, 3) degrees.
        valid: FACE_VALID; between valid frames the angles are taken to move evenly.
    """
    seen = np.flatnonzero(valid)
    if len(seen) < 2:
        return []
    told: list[tuple[int, str]] = []
    for axis in (YAW, PITCH, ROLL):
        angle = _smooth(np.interp(np.arange(len(pose)), seen, pose[seen, axis].astype(np.float64)), fps)
        told += _told(legs(angle, axis), fps)
    return [words for _, words in sorted(told, key=lambda entry: entry[0])]


def legs(angle: np.ndarray, axis: int) -> list[Leg]:
    """Movements of at least the axis's least size: from extreme to extreme, ripples left out."""
    least = LEAST_DEGREES[axis]
    pivots, low, high = [], 0, 0
    way = 0  # 1 while rising, -1 while falling, 0 before the first movement
    for place, value in enumerate(angle):
        if way <= 0 and value < angle[low]:
            low = place
        if way >= 0 and value > angle[high]:
            high = place
        if way == 0:
            if angle[high] - angle[low] >= least:
                way, first = (1, low) if low < high else (-1, high)
                pivots.append(first)
        elif way == 1 and angle[high] - value >= least:
            pivots.append(high)
            way, low = -1, place
        elif way == -1 and value - angle[low] >= least:
            pivots.append(low)
            way, high = 1, place
    if way:
        pivots.append(high if way == 1 else low)
    return [Leg(axis, a, b, float(angle[a]), float(angle[b])) for a, b in pairwise(pivots)]


def _told(found: list[Leg], fps: float) -> list[tuple[int, str]]:
    """(first frame, words) of movements about one axis."""
    told, place = [], 0
    while place < len(found):
        run = place
        while run < len(found) and (found[run].last - found[run].first) <= REPEATED_LEG_S * fps:
            run += 1
        leg = found[place]
        if run - place >= REPEATED_LEGS:
            told.append((leg.first, REPEATED[leg.axis]))
            place = run
            continue
        way = 1 if leg.end_degrees > leg.start_degrees else -1
        returns = abs(leg.end_degrees) < LEAST_DEGREES[leg.axis] / 2 < abs(leg.start_degrees)
        told.append((leg.first, STRAIGHT[leg.axis] if returns else WORDS[leg.axis, way]))
        place += 1
    return told


def _smooth(angle: np.ndarray, fps: float) -> np.ndarray:
    width = max(1, round(SMOOTH_S * fps)) | 1
    padded = np.pad(angle, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")
