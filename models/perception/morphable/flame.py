"""FLAME: a head of blend shapes on five joints (Li et al., SIGGRAPH Asia 2017), under DECA's orthographic camera.

Coordinates: metres, x to the picture's right, y up, z to the viewer. Joints: root, neck, jaw, left and right eye.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.perception.morphable.rotations import from_axis_angle, turn_about_y

N_JOINTS = 5
CONTOUR_STEPS = 39  # degrees to either side for which the file lists a jaw line


@dataclass(frozen=True)
class FlameBasis:
    """FLAME as arrays, float32.

    Attributes:
        template: (V, 3).
        directions: (V, 3, k) blend shapes: identity, then expression.
        n_identity: how many of them are identity.
        pose_directions: (9 x (joints - 1), 3 V): what the turn of each joint but the root adds.
        joints: (joints, V): joints as weighted means of vertices.
        parents: (joints,) int64; -1 for the root, and every parent before its children.
        weights: (V, joints): how far each vertex follows a joint.
        triangles: (F, 3) int64.
        landmark_triangles, landmark_weights: (68,) int64 and (68, 3): landmarks on the surface in the iBUG order.
        contour_triangles, contour_weights: (79, 17) int64 and (79, 17, 3): the jaw line as seen at a turn; see `contour_row`.
    """

    template: np.ndarray
    directions: np.ndarray
    n_identity: int
    pose_directions: np.ndarray
    joints: np.ndarray
    parents: np.ndarray
    weights: np.ndarray
    triangles: np.ndarray
    landmark_triangles: np.ndarray
    landmark_weights: np.ndarray
    contour_triangles: np.ndarray | None = None
    contour_weights: np.ndarray | None = None


class Flame(nn.Module):
    """Vertices and joints of shape, expression and pose; the basis lies in buffers that no state dict holds."""

    def __init__(self, basis: FlameBasis) -> None:
        super().__init__()
        self.n_identity, self.parents = basis.n_identity, [int(parent) for parent in basis.parents]
        self.template: Tensor
        self.directions: Tensor
        self.pose_directions: Tensor
        self.weights: Tensor
        self.joint_template: Tensor
        self.joint_directions: Tensor
        regressor = torch.from_numpy(basis.joints).float()
        template, directions = torch.from_numpy(basis.template).float(), torch.from_numpy(basis.directions).float()
        buffers = {
            "template": template, "directions": directions, "weights": torch.from_numpy(basis.weights).float(),
            "pose_directions": torch.from_numpy(basis.pose_directions).float().reshape(-1, len(template), 3),
            # Joints are linear in the shape, so they need no vertices but these.
            "joint_template": regressor @ template, "joint_directions": torch.einsum("jv,vck->jck", regressor, directions),
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, shape: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """(B, k) coefficients of `directions`, identity before expression; (B, joints, 3) axis x angle of every joint.

        Returns:
            (B, V, 3) vertices and (B, joints, 3) joints, turned.
        """
        turns = from_axis_angle(pose)
        bent = (turns[:, 1:] - torch.eye(3, dtype=turns.dtype, device=turns.device)).flatten(1)
        vertices = self.template + torch.einsum("vck,bk->bvc", self.directions, shape)
        vertices = vertices + torch.einsum("pvc,bp->bvc", self.pose_directions, bent)
        joints = self.joint_template + torch.einsum("jck,bk->bjc", self.joint_directions, shape)
        # Each joint's turn and place in the world, from the root outwards.
        worlds, places = [turns[:, 0]], [joints[:, 0]]
        for joint, parent in enumerate(self.parents[1:], 1):
            places.append(places[parent] + (worlds[parent] @ (joints[:, joint] - joints[:, parent])[..., None])[..., 0])
            worlds.append(worlds[parent] @ turns[:, joint])
        world, place = torch.stack(worlds, 1), torch.stack(places, 1)
        shift = place - (world @ joints[..., None])[..., 0]
        blended = torch.einsum("vj,bjxy->bvxy", self.weights, world)
        moved = (blended @ vertices[..., None])[..., 0] + torch.einsum("vj,bjx->bvx", self.weights, shift)
        return moved, place


def full_pose(pose: Tensor) -> Tensor:
    """(B, 6) as DECA stores it, root and jaw -> (B, 5, 3) with the neck and both eyes at rest."""
    rest = torch.zeros_like(pose[:, :3])
    return torch.stack([pose[:, :3], rest, pose[:, 3:], rest, rest], 1)


def on_surface(vertices: Tensor, triangles: Tensor, faces: Tensor, weights: Tensor) -> Tensor:
    """(B, V, 3), (F, 3), (B, L) numbers of triangles, (B, L, 3) barycentric weights -> (B, L, 3) points."""
    corners = triangles[faces].flatten(1)
    picked = vertices.gather(1, corners[..., None].expand(-1, -1, 3)).unflatten(1, (-1, 3))
    return (picked * weights[..., None]).sum(2)


def contour_row(rotations: Tensor) -> Tensor:
    """(B, 3, 3) of the head's turn -> (B,) int64 row of the 79 jaw lines of FLAME's landmark file.

    Rows 0..39 are for turns of 0..39 degrees about y, rows 40..78 for -1..-39; more counts as 39.
    """
    degrees = (turn_about_y(rotations) * 180 / math.pi).round().long().clamp(-CONTOUR_STEPS, CONTOUR_STEPS)
    return torch.where(degrees < 0, CONTOUR_STEPS - degrees, degrees)


def orthographic(points: Tensor, camera: Tensor) -> Tensor:
    """(B, L, 2 or 3), (B, 3) scale and shift x, y -> the points, shifted in x and y, then scaled.

    DECA turns the sign of y and z afterwards: then -1..1 spans its 224 px crop, y down.
    """
    shifted = points[..., :2] + camera[:, None, 1:]
    return camera[:, None, :1] * torch.cat([shifted, points[..., 2:]], -1)
