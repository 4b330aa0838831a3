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

    def points(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        return self._mean + self._identity @ identity + np.einsum("lce,te->tlc", self._expression, expression)

    def slopes(self, identity: np.ndarray, expression: np.ndarray, with_identity: bool) -> tuple[np.ndarray, np.ndarray]:
        return self._identity[None], self._expression[None]


class FlameLandmarks:
    """Of FLAME: the expression is followed by the jaw's axis x angle, whose effect is not linear; neck and eyes rest.

    With the other joints at rest a vertex v is at v + w (R - 1) (v - J): R turns the jaw about its joint J, w is how far v follows.
    Landmarks are weighted means of vertices, so v and w (v - J) are summed up over a landmark's vertices beforehand.
    """

    def __init__(self, basis: FlameBasis) -> None:
        corners, share = basis.triangles[basis.landmark_triangles], basis.landmark_weights.astype(np.float64)
        follow = share * basis.weights[corners, JAW_JOINT]
        nearby = basis.joints[JAW_JOINT].astype(np.float64)
        bent = basis.pose_directions.reshape(-1, 9, len(basis.template), 3)[JAW_JOINT - 1].transpose(1, 2, 0)  # (V, 3, 9)
        # Each (V, 3, k): the template, what the coefficients add, what the numbers of R - 1 add (pose correctives).
        parts = [array.astype(np.float64) for array in (basis.template[..., None], basis.directions, bent)]
        joints = [np.einsum("v,vck->ck", nearby, part) for part in parts[:2]] + [np.zeros((3, 9))]
        self._rest = [np.einsum("lk,lkcx->lcx", share, part[corners]) for part in parts]
        self._arm = [np.einsum("lk,lkcx->lcx", follow, part[corners] - joint) for part, joint in zip(parts, joints, strict=True)]
        self.n_identity = basis.n_identity
        self.n_expression = basis.directions.shape[2] - basis.n_identity + JAW

    def mean(self) -> np.ndarray:
        return self.points(np.zeros(self.n_identity), np.zeros((1, self.n_expression)))[0]

    def points(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        bend = Rotation.from_rotvec(expression[:, -JAW:]).as_matrix() - np.eye(3)
        return self._sum(self._rest, identity, expression, bend) + np.einsum(
            "tij,tlj->tli", bend, self._sum(self._arm, identity, expression, bend)
        )

    def slopes(self, identity: np.ndarray, expression: np.ndarray, with_identity: bool) -> tuple[np.ndarray, np.ndarray]:
        turn, slope = _turns(expression[:, -JAW:])
        bend, k = turn - np.eye(3), self.n_identity
        arm = self._sum(self._arm, identity, expression, bend)
        corrected = slope.reshape(len(bend), 1, 9, JAW)
        by_jaw = self._rest[2] @ corrected + bend[:, None] @ (self._arm[2] @ corrected) + np.einsum("tijk,tlj->tlik", slope, arm)
        by_expression = self._rest[1][..., k:] + bend[:, None] @ self._arm[1][..., k:]
        by_identity = self._rest[1][..., :k] + bend[:, None] @ self._arm[1][..., :k] if with_identity else np.zeros((1, 1, 3, k))
        return by_identity, np.concatenate([by_expression, by_jaw], 3)

    def _sum(self, parts: list[np.ndarray], identity: np.ndarray, expression: np.ndarray, bend: np.ndarray) -> np.ndarray:
        """(T, L, 3) of one of the two sets of sums."""
        constant, directions, corrections = parts
        fixed = constant[..., 0] + directions[..., : self.n_identity] @ identity
        own = np.einsum("lce,te->tlc", directions[..., self.n_identity :], expression[:, :-JAW])
        return fixed + own + np.einsum("lcp,tp->tlc", corrections, bend.reshape(len(bend), 9))


def _turns(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3) axis x angle -> (T, 3, 3) and its derivatives (T, 3, 3, 3), by central differences."""
    step = 1e-5 * np.eye(3)
    sides = [[Rotation.from_rotvec(vectors + sign * d).as_matrix() for sign in (1, -1)] for d in step]
    slope = np.stack([(ahead - behind) / 2e-5 for ahead, behind in sides], -1)
    return Rotation.from_rotvec(vectors).as_matrix(), slope
