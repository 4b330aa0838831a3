"""Rotations as morphable models write them: axis times angle (FLAME) and three angles about the axes (Deep3DFaceRecon)."""

import torch
from torch import Tensor

_TINY = 1e-8  # added to every component before the length is taken, as FLAME's published code does: zero has a direction too


def from_axis_angle(vectors: Tensor) -> Tensor:
    """(..., 3) axis x angle in radians -> (..., 3, 3) (Rodrigues)."""
    angle = (vectors + _TINY).norm(dim=-1, keepdim=True)
    x, y, z = (vectors / angle).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    angle = angle[..., None]
    return torch.eye(3, dtype=x.dtype, device=x.device) + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def from_angles(angles: Tensor) -> Tensor:
    """(..., 3) angles about x, y, z in radians -> (..., 3, 3) R = Rz Ry Rx; a point turns as R @ point."""
    x, y, z = (_about(axis, angles[..., axis]) for axis in range(3))
    return z @ y @ x


def _about(axis: int, angle: Tensor) -> Tensor:
    sine, cosine = angle.sin(), angle.cos()
    turned = torch.zeros(*angle.shape, 3, 3, dtype=angle.dtype, device=angle.device)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turned[..., axis, axis] = 1
    turned[..., first, first] = turned[..., second, second] = cosine
    turned[..., first, second], turned[..., second, first] = -sine, sine
    return turned


def turn_about_y(rotations: Tensor) -> Tensor:
    """(..., 3, 3) -> (...) radians about y of R = Rz Ry Rx: how far a head is turned aside."""
    return torch.atan2(-rotations[..., 2, 0], torch.hypot(rotations[..., 0, 0], rotations[..., 1, 0]))
