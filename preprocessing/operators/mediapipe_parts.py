"""What the coarse face parser takes from mediapipe's wheel: the selfie segmentation, and which mesh vertices are neighbours."""

from __future__ import annotations

import numpy as np

from preprocessing.operators.mediapipe_graphs import quiet


class SelfieSegmentation:
    """Which pixels belong to people, by the general model (256 px squared); made for one person near the camera."""

    def __init__(self) -> None:
        with quiet():
            from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation as Solution

            self._graph = Solution(model_selection=0)
            self(np.zeros((64, 64, 3), np.uint8))  # the graph starts, and talks, on first use

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(H, W) float32, the share of each pixel that belongs to somebody.

        Args:
            picture: (H, W, 3) uint8 RGB; when it is read-only it is not copied.
        """
        return np.asarray(self._graph.process(picture).segmentation_mask)


def mesh_triangles() -> np.ndarray:
    """(n, 3) int64 vertices of the mesh's triangles, in order: three vertices that are all neighbours. Eyes and mouth are holes."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

    near: dict[int, set[int]] = {}
    for a, b in FACEMESH_TESSELATION:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    return np.array(sorted((a, b, c) for a in near for b in near[a] for c in near[a] & near[b] if a < b < c), np.int64)
