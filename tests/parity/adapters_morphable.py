"""Parity adapters of 3D morphable face models: BFM under Deep3DFaceRecon's camera, FLAME, DECA's encoder, light and normals."""

from __future__ import annotations

import fixtures
import numpy as np
import torch
from adapters import adapter

from models.perception.deca import DecaEncoder
from models.perception.morphable import flame, shading
from models.perception.morphable.linear import FaceBasis, LinearFace
from models.perception.morphable.rotations import from_axis_angle, turn_about_y


def _given(description: dict) -> dict[str, np.ndarray]:
    """Every input that is drawn, times its own scale and the one that the constructor names for it."""
    scales = description["constructor"].get("scales", {})
    given = {}
    for name, spec in description["inputs"].items():
        if "seed" in spec:
            drawn = fixtures.make_input(spec["shape"], spec["seed"], spec["kind"])
            given[name] = drawn * np.asarray(spec.get("scale", 1) * scales.get(name, 1), drawn.dtype)
    return given


def _numbers(rule: str) -> np.ndarray:
    """ "0,5,...,55" -> 0, 5, 10, ... 55."""
    first, second, _, last = rule.split(",")
    return np.arange(int(first), int(last) + 1, int(second) - int(first))


@adapter("00-talking-head-data", "bfm*")
def _bfm(description: dict) -> dict[str, np.ndarray]:
    given = _given(description)
    mean = given["mean_shape"].reshape(-1, 3)
    basis = FaceBasis(
        mean=mean, identity=given["id_base"].reshape(len(mean), 3, -1), triangles=given["face_buf"],
        expression=given["exp_base"].reshape(len(mean), 3, -1), landmarks=_numbers(description["inputs"]["keypoints"]["rule"]),
        albedo=given["mean_tex"].reshape(-1, 3) / 255, albedo_basis=given["tex_base"].reshape(len(mean), 3, -1) / 255,
        around=given["point_buf"],
    )  # fmt: skip
    found = LinearFace(basis)(torch.from_numpy(given["coeffs"]))
    names = {"vertex_camera": "vertices", "texture": "texture", "color": "colour", "landmark": "landmarks"}
    return {**{ours: found[theirs].numpy() for ours, theirs in names.items()}, "rotation": found["rotation"].mT.numpy()}


@adapter("07-caphuman", "flame_lbs*")
def _flame(description: dict) -> dict[str, np.ndarray]:
    given = _given(description)
    faces, weights = (torch.from_numpy(given[name]) for name in ("lmk_faces", "lmk_bary"))
    n = len(description["constructor"]["parents"])
    basis = flame.FlameBasis(
        template=given["v_template"], directions=given["shapedirs"], n_identity=given["shapedirs"].shape[2],
        pose_directions=given["posedirs"], joints=given["J_regressor"] / given["J_regressor"].sum(1, keepdims=True),
        parents=np.array(description["constructor"]["parents"]), triangles=given["faces"],
        weights=given["lbs_weights"] / given["lbs_weights"].sum(1, keepdims=True),
        landmark_triangles=given["lmk_faces"][0], landmark_weights=given["lmk_bary"][0],
    )  # fmt: skip
    pose = torch.from_numpy(given["pose"]).reshape(-1, n, 3)
    vertices, joints = flame.Flame(basis)(torch.from_numpy(given["betas"]), pose)
    rotations = from_axis_angle(pose.reshape(-1, 3))
    weights = weights / weights.sum(-1, keepdim=True)
    landmarks = flame.on_surface(vertices, torch.from_numpy(given["faces"]), faces, weights)
    found = {"vertices": vertices, "joints": joints, "rotations": rotations, "y_angle": turn_about_y(rotations)}
    return {name: value.numpy() for name, value in {**found, "landmarks": landmarks}.items()}


@adapter("07-caphuman", "shading_geometry*")
def _shading(description: dict) -> dict[str, np.ndarray]:
    given = {name: torch.from_numpy(value) for name, value in _given(description).items()}
    normals = torch.nn.functional.normalize(given["normals"].movedim(1, -1), dim=-1)
    return {
        "shading": shading.shade(normals, given["sh"], "deca").movedim(-1, 1).numpy(),
        "vertex_normals": shading.vertex_normals(given["verts"], given["faces"]).numpy(),
        "projected": flame.orthographic(given["verts"], given["cam"]).numpy(),
    }


@adapter("07-caphuman", "deca_encoder*")
def _encoder(description: dict) -> dict[str, np.ndarray]:
    network = fixtures.fill(DecaEncoder(description["constructor"]["outsize"]), description)
    return {"out": network(fixtures.tensor(description["inputs"]["x"])).numpy()}
