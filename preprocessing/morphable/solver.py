"""Fitting a morphable model to landmarks: regularised least squares by Gauss-Newton steps, damped where one leads astray.

Identity is one for all frames; expression, turn and camera are each frame's own, held to their neighbours in time. The frames'
normal equations are a band, identity borders it: each step solves the band once and eliminates it (Schur's complement).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solveh_banded
from scipy.spatial.transform import Rotation

from preprocessing.morphable.cameras import Camera

POSE = 6  # turn and camera of a frame, behind its expression


class LandmarkShape(Protocol):
    """Where a model's landmarks are before it is turned."""

    n_identity: int
    n_expression: int

    def mean(self) -> np.ndarray:
        """(L, 3) with all coefficients zero."""

    def points(self, identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """(K,), (T, E) -> (T, L, 3)."""

    def slopes(self, identity: np.ndarray, expression: np.ndarray, with_identity: bool) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of `points`, (T or 1, L, 3, K) and (T or 1, L, 3, E); the first is looked at `with_identity` alone."""


@dataclass(frozen=True)
class Prior:
    """How far what may go.

    Attributes:
        noise_px: (T,) deviation of a landmark from where the best face has it.
        weights: (L,) of each landmark; 0 for none.
        identity, expression: (K,), (E,) standard deviations around zero.
        expression_step, turn_step_rad: standard deviations of the change from one frame to the next; infinity for none held.
    """

    noise_px: np.ndarray
    weights: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_step: float = np.inf
    turn_step_rad: float = np.inf


@dataclass(frozen=True)
class FittedFace:
    """Identity (K,), expression (T, E), rotations (T, 3, 3), camera (T, 3), and the landmarks (T, L, 2) px that they give."""

    identity: np.ndarray
    expression: np.ndarray
    rotations: np.ndarray
    camera: np.ndarray
    landmarks: np.ndarray


def start(shape: LandmarkShape, camera: Camera, landmarks: np.ndarray, weights: np.ndarray) -> FittedFace:
    """The mean face laid on (T, L, 2) landmarks by least squares, seen from far away."""
    mean, used = shape.mean(), weights > 0
    rows = np.column_stack([mean, np.ones(len(mean))]) * weights[:, None]
    rows, wanted = rows[used], (landmarks * weights[:, None])[:, used]
    found = np.linalg.lstsq(rows, wanted.transpose(1, 0, 2).reshape(len(rows), -1), rcond=None)[0].reshape(4, -1, 2)
    across = found[:3].transpose(1, 2, 0)
    u, sizes, vt = np.linalg.svd(across, full_matrices=False)
    two = u @ vt
    rotations = np.concatenate([two, np.cross(two[:, 0], two[:, 1])[:, None]], 1)
    cameras = camera.start(np.maximum(sizes.mean(1), 1e-6), found[3])
    count = len(landmarks)
    return FittedFace(np.zeros(shape.n_identity), np.zeros((count, shape.n_expression)), rotations, cameras, landmarks)


def fit(
    shape: LandmarkShape, camera: Camera, landmarks: np.ndarray, times: np.ndarray, prior: Prior, face: FittedFace,
    with_identity: bool = True, steps: int = 8,
) -> FittedFace:  # fmt: skip
    """The face that fits best.

    Args:
        landmarks: (T, L, 2) px of the camera's crop.
        times: (T,) int frame numbers, rising; frames are held together only where they follow each other.
        face: to begin from; its identity stays where not `with_identity`.
        steps: at most so many; it stops when one gains less than a ten-thousandth.
    """
    problem = _Problem(shape, camera, landmarks, np.diff(times) == 1, prior, with_identity)
    damping, cost = 1e-3, problem.cost(face)
    for _ in range(steps):
        for _ in range(6):
            step = problem.step(face, damping)
            moved = problem.cost(step)
            if moved < cost:
                damping = max(damping / 10, 1e-6)
                break
            damping *= 10
        else:
            break
        gained, face, cost = cost - moved, step, moved
        if gained < 1e-4 * cost:
            break
    return replace(face, landmarks=problem.seen(face))


class _Problem:
    """One fit's sums of squares and its steps."""

    def __init__(
        self, shape: LandmarkShape, camera: Camera, landmarks: np.ndarray, linked: np.ndarray, prior: Prior, with_identity: bool
    ) -> None:
        self.shape, self.camera, self.landmarks, self.prior, self.with_identity = shape, camera, landmarks, prior, with_identity
        self.linked = linked if np.isfinite(prior.expression_step) or np.isfinite(prior.turn_step_rad) else linked & False
        # What multiplies a pixel's error: (T, L).
        self.weights = prior.weights[None] / prior.noise_px[:, None]
        holds = [*[prior.expression_step] * shape.n_expression, *[prior.turn_step_rad] * 3, *[np.inf] * 3]
        self.hold = 1 / np.square(np.array(holds))

    def seen(self, face: FittedFace) -> np.ndarray:
        points = self.shape.points(face.identity, face.expression)
        return self.camera.project(np.einsum("tij,tlj->tli", face.rotations, points), face.camera)[0]

    def cost(self, face: FittedFace) -> float:
        error = (self.landmarks - self.seen(face)) * self.weights[..., None]
        change = self._changes(face)
        terms = (error, face.expression / self.prior.expression, face.identity / self.prior.identity, change * np.sqrt(self.hold))
        return sum(float(np.square(term).sum()) for term in terms)

    def _changes(self, face: FittedFace) -> np.ndarray:
        """(links, E + 6): from each frame to the one that follows; the camera's are not looked at."""
        first = np.flatnonzero(self.linked)
        turn = Rotation.from_matrix(face.rotations[first + 1] @ face.rotations[first].transpose(0, 2, 1)).as_rotvec()
        bend = face.expression[first + 1] - face.expression[first]
        return np.concatenate([bend, turn.reshape(-1, 3), np.zeros((len(first), 3))], 1)

    def step(self, face: FittedFace, damping: float) -> FittedFace:
        """One Gauss-Newton step from `face`, its diagonal enlarged by `damping` of itself."""
        e, count = self.shape.n_expression, len(self.landmarks)
        points = self.shape.points(face.identity, face.expression)
        by_identity, by_expression = self.shape.slopes(face.identity, face.expression, self.with_identity)
        turned = np.einsum("tij,tlj->tli", face.rotations, points)
        seen, by_point, by_camera = self.camera.project(turned, face.camera)
        w = self.weights[..., None, None]
        by_shape = w * np.einsum("tlij,tjk->tlik", by_point, face.rotations)
        own = np.empty((count, len(self.weights[0]), 2, e + POSE))
        own[..., :e] = by_shape @ by_expression
        own[..., e : e + 3] = w * np.einsum("tlij,tljk->tlik", by_point, -_crossing(turned))
        own[..., e + 3 :] = w * by_camera
        own = own.reshape(count, -1, e + POSE)
        error = ((self.landmarks - seen) * self.weights[..., None]).reshape(count, -1)

        block = own.transpose(0, 2, 1) @ own
        right = (own.transpose(0, 2, 1) @ error[..., None])[..., 0]
        precision = np.r_[1 / np.square(self.prior.expression), np.zeros(POSE)]
        block[:, np.arange(e + POSE), np.arange(e + POSE)] += precision
        right[:, :e] -= face.expression * precision[:e]
        first, change = np.flatnonzero(self.linked), self._changes(face) * self.hold
        for side, sign in ((first, 1), (first + 1, -1)):
            block[side[:, None], np.arange(e + POSE), np.arange(e + POSE)] += self.hold
            right[side] += sign * change
        diagonal = block[:, np.arange(e + POSE), np.arange(e + POSE)]
        block[:, np.arange(e + POSE), np.arange(e + POSE)] = diagonal * (1 + damping) + 1e-9
        if not self.with_identity:
            return self._moved(face, np.zeros_like(face.identity), self._solve(block, right[..., None])[..., 0])

        shared = (by_shape @ by_identity).reshape(count, -1, self.shape.n_identity)
        border = own.transpose(0, 2, 1) @ shared
        solved = self._solve(block, np.concatenate([right[..., None], border], 2))
        rest = np.einsum("tni,tnj->ij", border, solved)
        own_identity = np.einsum("tni,tnj->ij", shared, shared)
        precision = 1 / np.square(self.prior.identity)
        whole = own_identity - rest[:, 1:]
        whole[np.diag_indices_from(whole)] += precision + damping * own_identity.diagonal()
        pull = np.einsum("tni,tn->i", shared, error) - precision * face.identity - rest[:, 0]
        identity = cho_solve(cho_factor(whole), pull)
        return self._moved(face, identity, solved[..., 0] - solved[..., 1:] @ identity)

    def _solve(self, block: np.ndarray, right: np.ndarray) -> np.ndarray:
        """(T, n, n) blocks on the diagonal, (T, n, r) -> (T, n, r); linked frames have `-hold` between equal unknowns."""
        count, n, _ = block.shape
        if not self.linked.any():
            return np.linalg.solve(block, right)
        band = np.zeros((n + 1, count * n))
        for offset in range(n):
            band[offset].reshape(count, n)[:, : n - offset] = block[:, np.arange(offset, n), np.arange(n - offset)]
        band[n].reshape(count, n)[:-1] = -self.hold * self.linked[:, None]
        return solveh_banded(band, right.reshape(count * n, -1), lower=True).reshape(right.shape)

    def _moved(self, face: FittedFace, identity: np.ndarray, own: np.ndarray) -> FittedFace:
        e = self.shape.n_expression
        turn = Rotation.from_rotvec(own[:, e : e + 3]).as_matrix() @ face.rotations
        return replace(
            face, identity=face.identity + identity, expression=face.expression + own[:, :e], rotations=turn,
            camera=face.camera + own[:, e + 3 :],
        )  # fmt: skip


def _crossing(points: np.ndarray) -> np.ndarray:
    """(..., 3) p -> (..., 3, 3) with M q = p x q; a small turn d moves p by -M d."""
    x, y, z = np.moveaxis(points, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
