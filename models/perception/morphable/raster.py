"""A small z-buffer renderer: which triangle each pixel of a picture shows. NumPy on the CPU; nothing is differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAGMENTS = 1 << 22  # pixels under triangles that are worked on together, some 100 bytes each
LEAST_AREA = 1e-9  # px^2 of a triangle that is seen at all


@dataclass(frozen=True)
class Raster:
    """What each pixel shows.

    Attributes:
        triangle: (H, W) int64, the nearest triangle; -1 where there is none.
        weights: (H, W, 3) float64 barycentric weights of its corners; zeros where there is none.
        depth: (H, W) float64 z of the point that is seen; -inf where there is none.
    """

    triangle: np.ndarray
    weights: np.ndarray
    depth: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: where the mesh is seen."""
        return self.triangle >= 0

    def interpolate(self, corners: np.ndarray) -> np.ndarray:
        """(F, 3, C) values at each triangle's corners -> (H, W, C) float64, zeros where there is no triangle.

        Without correction for perspective, as CapHuman's maps are.
        """
        found = np.zeros((*self.triangle.shape, corners.shape[2]))
        seen = self.mask
        found[seen] = np.einsum("nk,nkc->nc", self.weights[seen], corners[self.triangle[seen]])
        return found


def rasterise(points: np.ndarray, triangles: np.ndarray, height: int, width: int) -> Raster:
    """Draw a mesh.

    Args:
        points: (V, 3) x right, y down in px with pixel centres at .5, and z, the larger the nearer.
        triangles: (F, 3); both sides are seen. Of equally near ones the first is.
    """
    corners = np.asarray(points, np.float64)[triangles]
    flat = corners[:, :, :2]
    low = np.maximum(np.ceil(flat.min(1) - 0.5), 0).astype(np.int64)
    high = np.minimum(np.floor(flat.max(1) - 0.5) + 1, (width, height)).astype(np.int64)
    side = np.maximum(high - low, 0)
    area = _cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    counts = np.where(np.abs(area) > LEAST_AREA, side.prod(1), 0)
    triangle = np.full(height * width, -1, np.int64)
    weights, depth = np.zeros((height * width, 3)), np.full(height * width, -np.inf)
    ends = np.cumsum(counts)
    start = 0
    while start < len(triangles):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + FRAGMENTS, "right")))
        which = np.repeat(np.arange(start, stop), counts[start:stop])
        _draw(which, corners, low, side, area, width, (triangle, weights, depth))
        start = stop
    return Raster(triangle.reshape(height, width), weights.reshape(height, width, 3), depth.reshape(height, width))


def _draw(
    which: np.ndarray, corners: np.ndarray, low: np.ndarray, side: np.ndarray, area: np.ndarray, width: int,
    into: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:  # fmt: skip
    """The fragments of some triangles, each of which stands in `which` as often as its box has pixels."""
    if not len(which):
        return
    first = np.flatnonzero(np.r_[True, which[1:] != which[:-1]])
    place = np.arange(len(which)) - np.repeat(first, np.diff(np.r_[first, len(which)]))
    row, column = np.divmod(place, side[which, 0])
    x, y = low[which, 0] + column, low[which, 1] + row
    spot = np.stack([x, y], 1) + 0.5
    a, b, c = (corners[which, corner, :2] - spot for corner in range(3))
    shares = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], 1) / area[which, None]
    inside = (shares >= 0).all(1)
    which, shares, pixel = which[inside], shares[inside], (y * width + x)[inside]
    near = np.einsum("nk,nk->n", shares, corners[which, :, 2])
    order = np.lexsort((which, -near, pixel))
    order = order[np.r_[True, np.diff(pixel[order]) != 0]] if len(order) else order
    triangle, weights, depth = into
    order = order[near[order] > depth[pixel[order]]]
    triangle[pixel[order]], weights[pixel[order]], depth[pixel[order]] = which[order], shares[order], near[order]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
