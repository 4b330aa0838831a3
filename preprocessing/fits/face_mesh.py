"""The face mesh of 478 landmarks as a surface: its triangles, and which point is which in a mirror."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import numpy as np

POINTS, SURFACE = 478, 468
# Points of the left half of the picture, and which points of the right half they are in a mirror; the others lie in the middle.
# fmt: off
LEFT = (
    3, 7, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49,
    50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80,
    81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 95, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110,
    111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135,
    136, 137, 138, 139, 140, 141, 142, 143, 144, 145, 146, 147, 148, 149, 150, 153, 154, 155, 156, 157, 158, 159, 160, 161, 162,
    163, 165, 166, 167, 169, 170, 171, 172, 173, 174, 176, 177, 178, 179, 180, 181, 182, 183, 184, 185, 186, 187, 188, 189, 190,
    191, 192, 193, 194, 196, 198, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219,
    220, 221, 222, 223, 224, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237, 238, 239, 240, 241, 242, 243, 244,
    245, 246, 247,
    468, 469, 470, 471, 472,
)
RIGHT = (*range(248, 468), 473, 476, 475, 474, 477)
# fmt: on
MIRRORED = np.arange(POINTS)
MIRRORED[[*LEFT, *RIGHT]] = [*RIGHT, *LEFT]


@cache
def _surface() -> frozenset[tuple[int, int, int]]:
    """The 852 triangles, corners in rising order, not turned: those among MediaPipe's edges that close no hole."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

    near: dict[int, set[int]] = defaultdict(set)
    for a, b in FACEMESH_TESSELATION:
        near[a].add(b)
        near[b].add(a)
    found = {tuple(sorted((a, b, c))) for a, b in FACEMESH_TESSELATION for c in near[a] & near[b]}
    sides: dict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)
    for triangle in found:
        for edge in _edges(triangle):
            sides[edge].append(triangle)
    # Three edges around other triangles look like one too; each of its edges then has three sides.
    false = {t for t in found if all(len(sides[edge]) > 2 for edge in _edges(t))}
    return frozenset(found - false)  # type: ignore[arg-type]


def _edges(triangle: tuple[int, ...]) -> list[tuple[int, int]]:
    a, b, c = sorted(triangle)
    return [(a, b), (a, c), (b, c)]


def triangles(mean: np.ndarray) -> np.ndarray:
    """(852, 3) int64, counter-clockwise as seen from outside of a frontal face (478, 3) with x right, y up, z to the viewer."""
    found = np.array(sorted(_surface()), np.int64)
    a, b, c = (mean[found[:, corner]] for corner in range(3))
    outward = (a + b + c) / 3 - (mean[:SURFACE].mean(0) - (0, 0, 1))  # from a point behind the face
    inside = np.einsum("fc,fc->f", np.cross(b - a, c - a), outward) < 0
    found[inside] = found[inside][:, [0, 2, 1]]
    return found
