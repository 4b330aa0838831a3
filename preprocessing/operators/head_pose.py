"""How the head is turned."""

from __future__ import annotations

from typing import Any

import numpy as np

from preprocessing.fields import FACE_VALID, HEAD_POSE, LANDMARKS_478, Field
from preprocessing.operator import Operator, Sample

# Where points that neither talking nor smiling moves lie on a frontal face, in cm: x to the picture's right, y up, z to the
# viewer. From MediaPipe's canonical face model (Apache-2.0), rounded to mm.
RIGID = {
    10: (0.0, 8.3, 4.5), 151: (0.0, 6.5, 5.0), 168: (0.0, 3.3, 5.2), 6: (0.0, 2.5, 5.8), 197: (0.0, 1.1, 6.8),
    33: (-4.4, 2.7, 3.2), 133: (-1.9, 2.6, 3.8), 362: (1.9, 2.6, 3.8), 263: (4.4, 2.7, 3.2),
    54: (-5.3, 7.5, 2.7), 284: (5.3, 7.5, 2.7), 162: (-7.6, 4.1, -1.0), 389: (7.6, 4.1, -1.0),
    127: (-7.7, 2.4, -2.0), 356: (7.7, 2.4, -2.0),
}  # fmt: skip


class HeadPose(Operator):
    """Yaw, pitch and roll of the rotation that best lays the frontal face's rigid points onto the mesh (Kabsch's method).

    The mesh is seen as by a camera far away: a face at the picture's edge appears turned by a few degrees.
    """

    name = "head_pose"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (LANDMARKS_478, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (HEAD_POSE,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        mesh, valid = sample[LANDMARKS_478], sample[FACE_VALID]
        pose = np.zeros((len(mesh), 3), np.float32)
        if valid.any():
            pose[valid] = angles(rotation(mesh[valid][:, list(RIGID)]))
        return {HEAD_POSE: pose}


def rotation(points: np.ndarray) -> np.ndarray:
    """(n, k, 3) rigid points, x right, y down, z away -> (n, 3, 3) rotations from the frontal face onto them."""
    frontal = np.array(list(RIGID.values())) * (1, -1, -1)
    frontal = frontal - frontal.mean(0)
    points = points.astype(np.float64) - points.mean(1, keepdims=True)
    u, _, vt = np.linalg.svd(np.swapaxes(points, 1, 2) @ frontal)
    mirrored = np.linalg.det(u @ vt)
    u[:, :, 2] *= np.sign(mirrored)[:, None]
    return u @ vt


def angles(r: np.ndarray) -> np.ndarray:
    """(n, 3, 3) rotations R = Ry(-yaw) Rx(-pitch) Rz(roll) -> (n, 3) yaw, pitch, roll in degrees.

    Positive: turned to the picture's right, looking up, tilted clockwise.
    """
    yaw = -np.arctan2(r[:, 0, 2], r[:, 2, 2])
    pitch = np.arcsin(np.clip(r[:, 1, 2], -1, 1))
    roll = np.arctan2(r[:, 1, 0], r[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], 1))
