"""Normals of a mesh, and light as nine spherical harmonics per colour, in the two conventions that are published.

DECA (FLAME) and Deep3DFaceRecon (BFM) order and scale the nine functions differently, so their 27 numbers of light are not
interchangeable; both let a surface of colour a show a x (basis(n) @ light).
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Harmonics = Literal["deca", "deep3d"]
LIGHT_OFFSET = 0.8  # Deep3DFaceRecon's 27 numbers leave out this much of each colour's constant term

_CONSTANT = 1 / math.sqrt(4 * math.pi)
_FIRST = 2 * math.pi / 3 * math.sqrt(3 / (4 * math.pi))
_SECOND = math.pi / 4 * 3 * math.sqrt(5 / (12 * math.pi))
_DECA = (_CONSTANT, *[_FIRST] * 3, *[_SECOND] * 3, _SECOND / 2, math.pi / 8 * math.sqrt(5 / (4 * math.pi)))
# Lambertian reflectance per order, times the harmonics' constants (Ramamoorthi and Hanrahan 2001), with the scale of the
# published BFM code: pi, 2 pi / sqrt 3, 2 pi / sqrt 8 by 1, sqrt 3, 3 sqrt 5 / sqrt 3 over sqrt(4 pi).
_A0, _A1 = math.pi * _CONSTANT, 2 * math.pi / math.sqrt(3) * math.sqrt(3) * _CONSTANT
_A2 = 2 * math.pi / math.sqrt(8) * 3 * math.sqrt(5) / math.sqrt(12 * math.pi)


def harmonics(normals: Tensor, order: Harmonics) -> Tensor:
    """(..., 3) unit normals -> (..., 9)."""
    x, y, z = normals.unbind(-1)
    one = torch.ones_like(x)
    if order == "deca":
        basis = torch.stack([one, x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1], -1)
        return basis * torch.tensor(_DECA, dtype=x.dtype, device=x.device)
    return torch.stack([
        _A0 * one, -_A1 * y, _A1 * z, -_A1 * x, _A2 * x * y, -_A2 * y * z, 0.5 * _A2 / math.sqrt(3) * (3 * z * z - 1),
        -_A2 * x * z, 0.5 * _A2 * (x * x - y * y),
    ], -1)  # fmt: skip


def shade(normals: Tensor, light: Tensor, order: Harmonics) -> Tensor:
    """(B, ..., 3) unit normals, (B, 9, 3) light -> (B, ..., 3): by how much each colour of the surface shows."""
    basis = harmonics(normals, order)
    return (basis.flatten(1, -2) @ light).reshape(*normals.shape[:-1], 3)


def light_of(numbers: Tensor, order: Harmonics) -> Tensor:
    """(B, 27) as stored -> (B, 9, 3) for `shade`.

    DECA stores nine harmonics of three colours each; Deep3DFaceRecon three colours of nine, without the 0.8 of the constants.
    """
    if order == "deca":
        return numbers.reshape(-1, 9, 3)
    light = numbers.reshape(-1, 3, 9).clone()
    light[:, :, 0] += LIGHT_OFFSET
    return light.transpose(1, 2)


def vertex_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """(B, V, 3), (F, 3) counter-clockwise as seen from outside -> (B, V, 3) unit: mean of the triangles' normals, weighed by area.

    A vertex without a triangle has zeros.
    """
    corners = [vertices[:, triangles[:, corner]] for corner in range(3)]
    total = torch.zeros_like(vertices)
    for corner in (1, 2, 0):
        here, following, before = corners[corner], corners[(corner + 1) % 3], corners[(corner + 2) % 3]
        # The same normal at each corner but for rounding, which is all that a triangle without area has.
        total = total.index_add(1, triangles[:, corner], torch.linalg.cross(following - here, before - here, dim=-1))
    return normalize(total, eps=1e-6, dim=-1)


def listed_normals(vertices: Tensor, triangles: Tensor, around: Tensor) -> Tensor:
    """As Deep3DFaceRecon: the plain mean of unit normals of the triangles that `around` (V, k) lists; F stands for none."""
    a, b, c = (vertices[:, triangles[:, corner]] for corner in range(3))
    faces = normalize(torch.linalg.cross(a - b, b - c, dim=-1), dim=-1)
    faces = torch.cat([faces, torch.zeros_like(faces[:, :1])], 1)
    return normalize(faces[:, around].sum(2), dim=-1)
