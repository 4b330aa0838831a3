"""What the coarse face parser takes from mediapipe's wheel: which mesh vertices are neighbours."""

from __future__ import annotations

import numpy as np


def mesh_triangles() -> np.ndarray:
    """(n, 3) int64 vertices of the mesh's triangles, in order: three vertices that are all neighbours. Eyes and mouth are holes."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

    near: dict[int, set[int]] = {}
    for a, b in FACEMESH_TESSELATION:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    return np.array(sorted((a, b, c) for a in near for b in near[a] for c in near[a] & near[b] if a < b < c), np.int64)
