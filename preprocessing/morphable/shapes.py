"""Morphable models as the solver sees them: where 68 landmarks lie, and how that changes with each coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from models.perception.morphable.flame import FlameBasis
    from models.perception.morphable.linear import FaceBasis

JAW = 3


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
    """Of FLAME: the expression is followed by the jaw's axis x angle, whose effect is not linear; neck and eyes rest."""

    def __init__(self, basis: FlameBasis) -> None:
        import torch

        from models.perception.morphable.flame import Flame

        corners, places = np.unique(basis.triangles[basis.landmark_triangles], return_inverse=True)
        places = places.reshape(-1, 3)
        onto = np.zeros((len(places), len(corners)))
        np.add.at(onto, (np.arange(len(places))[:, None], places), basis.landmark_weights)
        self._onto = torch.from_numpy(onto)
        self._head = Flame(basis).only(torch.from_numpy(corners)).double()
        self.n_identity = basis.n_identity
        self._blend = basis.directions.shape[2] - basis.n_identity
        self.n_expression = self._blend + JAW

    def mean(self) -> np.ndarray:
        return self(np.zeros(self.n_identity), np.zeros((1, self.n_expression)))[0][0]

    def _points(self, both: Any) -> Any:
        """(K + E,) -> (68, 3)."""
        import torch

        pose = torch.zeros(1, 5, 3, dtype=both.dtype)
        pose = torch.cat([pose[:, :2], both[None, None, -JAW:], pose[:, 3:]], 1)
        return self._onto @ self._head(both[None, :-JAW], pose)[0][0]

    def __call__(self, identity: np.ndarray, expression: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import torch

        both = torch.from_numpy(np.concatenate([np.tile(identity, (len(expression), 1)), expression], 1))
        with torch.no_grad():
            points = torch.func.vmap(self._points)(both)
            slopes = torch.func.vmap(torch.func.jacfwd(self._points))(both)
        return points.numpy(), slopes[..., : self.n_identity].numpy(), slopes[..., self.n_identity :].numpy()
