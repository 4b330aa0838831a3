"""Morphable models as the solver sees them: where 68 landmarks lie, and how that changes with each coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from models.perception.morphable.flame import FlameBasis
    from models.perception.morphable.linear import FaceBasis

JAW = 3  # numbers
JAW_JOINT = 2


class LinearLandmarks:
    """Of a linear model: derivatives are its bases."""

    def __init__(self, basis: FaceBasis) -> None:
        points = basis.landmarks
        self._mean = basis.mean[points].astype(np.float64)
        self._identity, self._expression = (b[points].astype(np.float64) for b in (basis.identity, basis.expression))
        self.n_identity, self.n_expression = self._identity.shape[2], self._expression.shape[2]

    def mean(self) -> np.ndarray:
        return self._mean

    def __call__(self, identity: np.ndarray, expression: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        points = self._mean + self._identity @ identity + np.einsum("lce,te->tlc", self._expression, expression)
        return points, self._identity[None], self._expression[None]


class FlameLandmarks:
    """Of FLAME: the expression is followed by the jaw's axis x angle, whose effect is not linear; neck and eyes rest.

    With the other joints at rest a vertex v is at v + w (R - 1) (v - J): R turns the jaw about its joint J, w is how far v follows.
    """

    def __init__(self, basis: FlameBasis) -> None:
        corners, places = np.unique(basis.triangles[basis.landmark_triangles], return_inverse=True)
        self._onto = np.zeros((len(basis.landmark_triangles), len(corners)))
        np.add.at(self._onto, (np.arange(len(self._onto))[:, None], places.reshape(-1, 3)), basis.landmark_weights)
        self._template, self._directions = (a[corners].astype(np.float64) for a in (basis.template, basis.directions))
        bent = basis.pose_directions.reshape(-1, 9, len(basis.template), 3)[JAW_JOINT - 1]
        self._bent = bent[:, corners].transpose(1, 2, 0).astype(np.float64)  # (V, 3, 9) of the jaw's turn
        follows = basis.joints[JAW_JOINT].astype(np.float64)
        self._joint, self._joint_directions = follows @ basis.template, np.einsum("v,vck->ck", follows, basis.directions)
        self._follow = basis.weights[corners, JAW_JOINT].astype(np.float64)
        self.n_identity = basis.n_identity
        self.n_expression = basis.directions.shape[2] - basis.n_identity + JAW

    def mean(self) -> np.ndarray:
        return self(np.zeros(self.n_identity), np.zeros((1, self.n_expression)))[0][0]

    def __call__(self, identity: np.ndarray, expression: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = np.concatenate([np.tile(identity, (len(expression), 1)), expression[:, :-JAW]], 1)
        turn, slope = _turns(expression[:, -JAW:])
        bend = turn - np.eye(3)
        vertices = self._template + np.einsum("vck,tk->tvc", self._directions, shape) + self._corrected(bend[..., None])[..., 0]
        arm = vertices - (self._joint + shape @ self._joint_directions.T)[:, None]
        moved = self._follow[None, :, None, None] * bend[:, None]  # (T, V, 3, 3)
        points = vertices + np.einsum("tvij,tvj->tvi", moved, arm)

        by_shape = self._directions + moved @ (self._directions - self._joint_directions)
        by_jaw = self._corrected(slope)
        by_jaw = by_jaw + moved @ by_jaw + self._follow[None, :, None, None] * np.einsum("tijk,tvj->tvik", slope, arm)
        slopes = np.einsum("lv,tvck->tlck", self._onto, np.concatenate([by_shape, by_jaw], 3))
        return self._onto @ points, slopes[..., : self.n_identity], slopes[..., self.n_identity :]

    def _corrected(self, bend: np.ndarray) -> np.ndarray:
        """(T, 3, 3, k) -> (T, V, 3, k): the pose correctives of these turns less none."""
        return np.einsum("vcp,tpk->tvck", self._bent, bend.reshape(len(bend), 9, -1))


def _turns(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3) axis x angle -> (T, 3, 3) and its derivatives (T, 3, 3, 3), by central differences."""
    step = 1e-5 * np.eye(3)
    sides = [[Rotation.from_rotvec(vectors + sign * d).as_matrix() for sign in (1, -1)] for d in step]
    slope = np.stack([(ahead - behind) / 2e-5 for ahead, behind in sides], -1)
    return Rotation.from_rotvec(vectors).as_matrix(), slope
