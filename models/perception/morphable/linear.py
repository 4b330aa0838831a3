"""A linear morphable model under Deep3DFaceRecon's camera: BFM-2009, and whatever else is given in its coordinates.

Coordinates: one unit is about 10 cm, x to the picture's right, y up, z to the viewer; the picture is 224 px, y up.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.perception.morphable import shading
from models.perception.morphable.rotations import from_angles

CAMERA_DISTANCE = 10.0
FOCAL_PX = 1015.0
CENTRE_PX = 112.0
SIZE_PX = 224
N_IDENTITY, N_EXPRESSION, N_TEXTURE = 80, 64, 80


@dataclass(frozen=True)
class FaceBasis:
    """A linear morphable model as arrays, float32, in the coordinates above; coefficients have standard deviations of about 1.

    Attributes:
        mean: (V, 3).
        identity: (V, 3, at most 80).
        expression: (V, 3, at most 64).
        triangles: (F, 3) int64, counter-clockwise as seen from outside.
        landmarks: (68,) int64, vertices in the iBUG 300-W order.
        albedo: (V, 3) mean colour of the surface in 0..1.
        albedo_basis: (V, 3, at most 80).
        around: (V, 8) int64 triangles around each vertex, F for none; None where the model's file lists none.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    triangles: np.ndarray
    landmarks: np.ndarray
    albedo: np.ndarray
    albedo_basis: np.ndarray
    around: np.ndarray | None = None


class LinearFace(nn.Module):
    """What 257 coefficients look like (Deng et al., CVPRW 2019): shape, colours and landmarks.

    Takes the 257 numbers of `preprocessing.fields.morphable.DEEP3D`; a basis with fewer components uses the first ones of each
    part. The basis lies in buffers that no state dict holds: it is licensed apart from any weights.
    """

    def __init__(self, basis: FaceBasis) -> None:
        super().__init__()
        for name in ("mean", "identity", "expression", "albedo", "albedo_basis"):
            self.register_buffer(name, torch.from_numpy(getattr(basis, name)).float(), persistent=False)
        for name in ("triangles", "landmarks", "around"):
            array = getattr(basis, name)
            self.register_buffer(name, None if array is None else torch.from_numpy(array).long(), persistent=False)
        self.mean: Tensor
        self.identity: Tensor
        self.expression: Tensor
        self.albedo: Tensor
        self.albedo_basis: Tensor
        self.triangles: Tensor
        self.landmarks: Tensor
        self.around: Tensor | None

    def shape(self, identity: Tensor, expression: Tensor) -> Tensor:
        """(B, <= 80), (B, <= 64) -> (B, V, 3), not turned."""
        return self.mean + _blend(self.identity, identity) + _blend(self.expression, expression)

    def texture(self, coefficients: Tensor) -> Tensor:
        """(B, <= 80) -> (B, V, 3) colours of the surface, about 0..1."""
        return self.albedo + _blend(self.albedo_basis, coefficients)

    def normals(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, V, 3) unit."""
        if self.around is None:
            return shading.vertex_normals(vertices, self.triangles)
        return shading.listed_normals(vertices, self.triangles, self.around)

    def forward(self, coefficients: Tensor) -> dict[str, Tensor]:
        """(B, 257) -> `vertices` (B, V, 3) before the camera, z towards it falling to 0 at the camera's place; `normals` turned
        with the head, `texture`, `colour` under the light, `landmarks` (B, 68, 2) px, y up; `rotation` (B, 3, 3), R."""
        identity, expression, texture, angles, light, shift = coefficients.split([80, 64, 80, 3, 27, 3], dim=1)
        rotation = from_angles(angles)
        shape = self.shape(identity, expression)
        normals = self.normals(shape) @ rotation.mT
        vertices = to_camera(shape @ rotation.mT + shift[:, None])
        albedo = self.texture(texture)
        colour = albedo * shading.shade(normals, shading.light_of(light, "deep3d"), "deep3d")
        landmarks = project(vertices[:, self.landmarks])
        return {"vertices": vertices, "normals": normals, "texture": albedo, "colour": colour, "landmarks": landmarks,
                "rotation": rotation}  # fmt: skip


def to_camera(points: Tensor) -> Tensor:
    """(..., 3): z becomes the distance along the camera's axis."""
    return torch.cat([points[..., :2], CAMERA_DISTANCE - points[..., 2:]], -1)


def project(points: Tensor) -> Tensor:
    """(..., 3) of `to_camera` -> (..., 2) px of the 224 px picture, y up, pixel centres at whole numbers."""
    return FOCAL_PX * points[..., :2] / points[..., 2:] + CENTRE_PX


def _blend(basis: Tensor, coefficients: Tensor) -> Tensor:
    """(V, 3, k), (B, >= k) -> (B, V, 3)."""
    return torch.einsum("vck,bk->bvc", basis, coefficients[:, : basis.shape[2]])
