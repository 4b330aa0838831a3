"""A morphable face model of a dataset's own people, from their landmarks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing.fields import DEEP3D, FACE_VALID, LANDMARKS_478, STORED_LAYOUT, Field, coefficients
from preprocessing.fits.contract import Fit
from preprocessing.fits.face_mesh import MIRRORED, triangles
from preprocessing.operator import OperatorParams, Sample
from preprocessing.operators.head_pose import RIGID, rotation
from preprocessing.operators.identity import spread
from preprocessing.operators.landmark_subsets import IBUG_68

_PARTS = dict(DEEP3D.parts)
ROUNDS = 4  # of aligning clips to their mean
LEAST_CLIPS = 3


class Morphable(Fit):
    """A linear model of the 478 landmarks: identity is how clips' mean faces differ, expression how a face moves within its clip.

    Faces of up to `frames` valid frames of each clip are turned, scaled and moved onto the clip's mean face (all points, least
    squares), the clips' means onto the dataset's; then principal components, each times its standard deviation. Every face counts
    with its mirror image, so the mean is symmetric. A clip's mean face holds the expression that it mostly wears.

    Arrays: `mean` (478, 3), `identity` (478, 3, k <= 80), `expression` (478, 3, e <= 64) in Deep3DFaceRecon's coordinates;
    `triangles` (852, 3); `landmarks` (68,); `clips`, `frames`: how many; `identity_share`, `expression_share` of the variance that
    the components hold.
    """

    name = "morphable"
    version = 1

    class Params(OperatorParams):
        """`frames` of a clip that are looked at; `share` of each variance that is kept, if so many components are allowed."""

        frames: int = Setting(48, ge=2)
        share: float = Setting(0.999, gt=0, le=1)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (LANDMARKS_478, FACE_VALID)

    @property
    def makes(self) -> tuple[Field, dict[str, Any]]:
        return coefficients("learned", STORED_LAYOUT["learned"].size), {}

    def __call__(self, rows: Iterable[Sample]) -> dict[str, np.ndarray]:
        clips = [mesh for row in rows if len(mesh := self._frames(row))]
        if len(clips) < LEAST_CLIPS:
            what = f"{len(clips)} rows have a valid face in {LANDMARKS_478.name}"
            raise LikenessError(what, allowed=f"{LEAST_CLIPS} or more to learn a morphable model from", fix="fit rows with faces")
        moved = [_onto_their_mean(frames) for frames in clips]
        means = np.stack([frames.mean(0) for frames in moved])
        faces = _onto_their_mean(np.concatenate([means, mirrored(means)]))
        mean = (faces.mean(0) + mirrored(faces.mean(0)[None])[0]) / 2
        # Expressions turn and scale with their clip's mean face.
        bends = np.concatenate([_aligned(frames, mean, frames.mean(0)) for frames in moved])
        identity, identity_share = self._components(faces - mean, _PARTS["identity"])
        expression, expression_share = self._components(np.concatenate([bends, mirrored(bends)]), _PARTS["expression"])
        return self._in_place(mean, identity, expression) | {
            "clips": np.array(len(clips)), "frames": np.array(len(bends)), "identity_share": np.array(identity_share),
            "expression_share": np.array(expression_share),
        }  # fmt: skip

    def numbers(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        counts = {"clips": int(arrays["clips"]), "frames": int(arrays["frames"])}
        return counts | {part: arrays[part].shape[2] for part in ("identity", "expression")}

    def _frames(self, row: Sample) -> np.ndarray:
        """(n, 478, 3) float64 of some valid frames, frontal by their rigid points, x right, y up, z to the viewer."""
        chosen = spread(np.flatnonzero(row[FACE_VALID]), self.params.frames)
        mesh = row[LANDMARKS_478][chosen].astype(np.float64)
        if not len(mesh):
            return mesh
        turned = np.einsum("tji,tlj->tli", rotation(mesh[:, list(RIGID)]), mesh)
        return _unit_size(turned * (1, -1, -1))

    def _components(self, samples: np.ndarray, most: int) -> tuple[np.ndarray, float]:
        """(n, 478, 3) deviations -> (478, 3, k) principal components times their standard deviations, and their share."""
        flat = samples.reshape(len(samples), -1)
        # The smaller of the two products of the samples with themselves has all that is needed.
        if len(flat) <= flat.shape[1]:
            values, vectors = np.linalg.eigh(flat @ flat.T)
            vectors = flat.T @ vectors
        else:
            values, vectors = np.linalg.eigh(flat.T @ flat)
        values, vectors = values[::-1].clip(0), vectors[:, ::-1]
        total = float(values.sum())
        if total <= 1e-12 * len(flat):
            return np.zeros((*samples.shape[1:], 0)), 1.0
        held = np.cumsum(values) / total
        count = min(most, int(np.searchsorted(held, self.params.share)) + 1, int((values > 1e-9 * total).sum()))
        vectors = vectors[:, :count] / np.linalg.norm(vectors[:, :count], axis=0)
        vectors *= np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])
        return (vectors * np.sqrt(values[:count] / len(flat))).reshape(*samples.shape[1:], count), float(held[count - 1])

    def _in_place(self, mean: np.ndarray, identity: np.ndarray, expression: np.ndarray) -> dict[str, np.ndarray]:
        from models.perception.morphable.files import in_standard_place

        landmarks = np.array(IBUG_68, np.int64)
        placed, scale = in_standard_place(mean, landmarks)
        arrays = {"mean": placed, "identity": identity * scale, "expression": expression * scale}
        return {name: array.astype(np.float32) for name, array in arrays.items()} | {
            "landmarks": landmarks, "triangles": triangles(placed),
        }  # fmt: skip


def mirrored(faces: np.ndarray) -> np.ndarray:
    """(n, 478, 3) faces, or what they differ by, as in a mirror."""
    return faces[:, MIRRORED] * (-1, 1, 1)


def _unit_size(faces: np.ndarray) -> np.ndarray:
    """Around their middles, and as large as each other."""
    faces = faces - faces.mean(1, keepdims=True)
    return faces / np.sqrt(np.square(faces).sum((1, 2), keepdims=True) / faces.shape[1])


def _onto_their_mean(faces: np.ndarray) -> np.ndarray:
    """(n, 478, 3) turned, scaled and moved so that they lie closest to their mean (generalised Procrustes analysis)."""
    mean = faces[0]
    for _ in range(ROUNDS):
        faces = _unit_size(_aligned(faces, mean))
        mean = faces.mean(0)
    return faces


def _aligned(faces: np.ndarray, target: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """Each face laid onto `target` (478, 3) by turn, scale and shift.

    With `own` (478, 3) all by what lays `own` there, and of each only how it differs from `own`.
    """
    source = (faces if own is None else own[None]) - (faces.mean(1, keepdims=True) if own is None else own.mean(0))
    wanted = target - target.mean(0)
    u, sizes, vt = np.linalg.svd(np.swapaxes(source, 1, 2) @ wanted)
    sign = np.sign(np.linalg.det(u @ vt))
    u[:, :, 2] *= sign[:, None]
    sizes[:, 2] *= sign
    turn = (u @ vt) * (sizes.sum(1) / np.square(source).sum((1, 2)))[:, None, None]
    if own is None:
        return source @ turn + target.mean(0)
    return (faces - own) @ turn[0]
