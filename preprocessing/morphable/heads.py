"""Morphable models with everything that one needs to fit and to render them: one class per family, one loader for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from preprocessing.fields import DECA, DEEP3D, Layout, MorphableModel
from preprocessing.morphable.cameras import Camera, Orthographic, Perspective
from preprocessing.morphable.shapes import JAW, FlameLandmarks, LinearLandmarks
from preprocessing.morphable.solver import FittedFace, LandmarkShape

if TYPE_CHECKING:
    from models.perception.morphable.flame import FlameBasis
    from models.perception.morphable.linear import FaceBasis
    from models.perception.morphable.raster import Raster

CROP_PX = 224
FIT = "fit:morphable"
ASSETS: dict[MorphableModel, tuple[str, ...]] = {
    "learned": (FIT,), "ict": ("ict_facekit",), "bfm": ("bfm_deep3d",), "flame": ("flame_model", "flame_landmarks"),
}  # fmt: skip
FLAME_TEXTURE = ("flame_texture", "flame_template")
# Deviations of the models' coefficients: ICT's expressions run from 0 to 1, the others' are scaled to 1.
EXPRESSION_SD: dict[MorphableModel, float] = {"learned": 1.0, "ict": 0.35, "bfm": 1.0, "flame": 1.0}
JAW_SD_RAD = 0.2
# The jaw line of the mesh is no anatomical line: other models' vertices lie beside it. The learned model has those very points.
CONTOUR_WEIGHT: dict[MorphableModel, float] = {"learned": 1.0, "ict": 0.25, "bfm": 0.25, "flame": 0.25}
JAW_LINE = 17  # first of the 68


class Head(Protocol):
    """A morphable model in its layout.

    Attributes:
        shape, camera: for the solver.
        expression_sd: (E,) of its prior.
        layout: of one frame's numbers, without what tells where the crop was cut.
        harmonics: how its light is counted.
        triangles: (F, 3).
        n_texture: components of its colours.
    """

    shape: LandmarkShape
    camera: Camera
    expression_sd: np.ndarray
    layout: Layout
    harmonics: Literal["deca", "deep3d"]
    triangles: np.ndarray
    n_texture: int

    def pack(self, face: FittedFace) -> np.ndarray:
        """(T, layout.size) float64, texture and light zero."""

    def mesh(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(V, 3) points in the crop, px, x right, y down, centres at .5, z larger where nearer; (V, 3) normals, y up, turned."""

    def landmarks(self, row: np.ndarray) -> np.ndarray:
        """(68, 2) of `mesh`, px."""

    def colours(self, raster: Raster) -> tuple[np.ndarray, np.ndarray]:
        """(n, 3) and (n, 3, n_texture): mean and components of the colour at every pixel of `raster.mask`."""


class LinearHead:
    """Learned, ICT or BFM: 257 numbers under Deep3DFaceRecon's camera."""

    shape: LandmarkShape
    camera: Camera
    harmonics: Literal["deca", "deep3d"] = "deep3d"
    layout = DEEP3D

    def __init__(self, basis: FaceBasis, expression_sd: float) -> None:
        from models.perception.morphable.linear import LinearFace

        self.basis, self._face = basis, LinearFace(basis)
        self.shape, self.camera = LinearLandmarks(basis), Perspective()
        self.expression_sd = np.full(self.shape.n_expression, expression_sd)
        self.triangles, self.n_texture = basis.triangles, basis.albedo_basis.shape[2]

    def pack(self, face: FittedFace) -> np.ndarray:
        rows, place = np.zeros((len(face.camera), DEEP3D.size)), DEEP3D.slices()
        rows[:, : len(face.identity)] = face.identity
        rows[:, place["expression"].start :][:, : face.expression.shape[1]] = face.expression
        rows[:, place["angles"]] = Rotation.from_matrix(face.rotations).as_euler("xyz")
        rows[:, place["translation"]] = face.camera
        return rows

    def mesh(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        from models.perception.morphable.linear import project

        with torch.no_grad():
            found = self._face(torch.from_numpy(np.asarray(row, np.float32)[None, : DEEP3D.size]))
            seen = project(found["vertices"])[0].double().numpy()
        points = np.column_stack([seen[:, 0] + 0.5, CROP_PX - 0.5 - seen[:, 1], -found["vertices"][0, :, 2].double().numpy()])
        return points, found["normals"][0].numpy()

    def landmarks(self, row: np.ndarray) -> np.ndarray:
        return self.mesh(row)[0][self.basis.landmarks, :2]

    def colours(self, raster: Raster) -> tuple[np.ndarray, np.ndarray]:
        seen, basis = raster.mask, self.basis.albedo_basis
        corners = self.triangles[raster.triangle[seen]]
        weights = raster.weights[seen]
        return np.einsum("nk,nkc->nc", weights, self.basis.albedo[corners]), np.einsum("nk,nkca->nca", weights, basis[corners])


class FlameHead:
    """FLAME: DECA's 236 numbers. Without its texture space it has one colour, told by the first three numbers of texture."""

    shape: LandmarkShape
    camera: Camera
    harmonics: Literal["deca", "deep3d"] = "deca"
    layout = DECA

    def __init__(self, basis: FlameBasis, expression_sd: float, texture: Mapping[str, np.ndarray] | None = None) -> None:
        from models.perception.morphable.flame import Flame

        self.basis, self._head, self._texture = basis, Flame(basis), texture
        self.shape, self.camera = FlameLandmarks(basis), Orthographic()
        self.expression_sd = np.r_[np.full(self.shape.n_expression - JAW, expression_sd), np.full(JAW, JAW_SD_RAD)]
        self.triangles = basis.triangles
        self.n_texture = 3 if texture is None else texture["basis"].shape[3]

    def pack(self, face: FittedFace) -> np.ndarray:
        rows, place = np.zeros((len(face.camera), DECA.size)), DECA.slices()
        rows[:, : len(face.identity)] = face.identity
        rows[:, place["expression"].start :][:, : face.expression.shape[1] - JAW] = face.expression[:, :-JAW]
        rows[:, place["pose"]] = np.column_stack([Rotation.from_matrix(face.rotations).as_rotvec(), face.expression[:, -JAW:]])
        # FLAME turns about its root joint, the solver about the origin.
        root = (self._head.joint_template + self._head.joint_directions @ _single(self._blend(rows)[0]))[0].double().numpy()
        rows[:, place["camera"]] = face.camera
        rows[:, place["camera"].start + 1 : place["camera"].stop] -= (root - face.rotations @ root)[:, :2]
        return rows

    def _blend(self, rows: np.ndarray) -> np.ndarray:
        place, expression = DECA.slices(), self.basis.directions.shape[2] - self.basis.n_identity
        start = place["expression"].start
        return np.concatenate([rows[:, : self.basis.n_identity], rows[:, start : start + expression]], 1)

    def mesh(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        from models.perception.morphable.flame import full_pose, orthographic
        from models.perception.morphable.shading import vertex_normals

        rows, place = np.asarray(row, np.float64)[None], DECA.slices()
        with torch.no_grad():
            vertices, _ = self._head(_single(self._blend(rows)), full_pose(_single(rows[:, place["pose"]])))
            normals = vertex_normals(vertices, torch.from_numpy(self.triangles))[0].numpy()
            x, y, z = orthographic(vertices, _single(rows[:, place["camera"]]))[0].double().numpy().T
        return np.column_stack([(x + 1) * CROP_PX / 2, (1 - y) * CROP_PX / 2, z * CROP_PX / 2]), normals

    def landmarks(self, row: np.ndarray) -> np.ndarray:
        corners = self.mesh(row)[0][self.triangles[self.basis.landmark_triangles], :2]
        return np.einsum("lk,lkc->lc", self.basis.landmark_weights, corners)

    def colours(self, raster: Raster) -> tuple[np.ndarray, np.ndarray]:
        from models.perception.morphable.files import one_colour

        seen = raster.mask
        if self._texture is None:
            return one_colour(int(seen.sum()))
        size = len(self._texture["mean"])
        places = np.einsum("nk,nkc->nc", raster.weights[seen], self._texture["corners"][raster.triangle[seen]]) * size - 0.5
        low = np.clip(np.floor(places), 0, size - 2).astype(np.int64)
        share = np.clip(places - low, 0, 1)
        mean, basis = np.zeros((len(low), 3)), np.zeros((len(low), 3, self.n_texture))
        for dx in (0, 1):
            for dy in (0, 1):
                weight = (share[:, 0] if dx else 1 - share[:, 0]) * (share[:, 1] if dy else 1 - share[:, 1])
                at = (low[:, 1] + dy, low[:, 0] + dx)
                mean += weight[:, None] * self._texture["mean"][at]
                basis += weight[:, None, None] * self._texture["basis"][at]
        return mean, basis


def load(model: MorphableModel, paths: Mapping[str, Path]) -> Head:
    """The model from its assets' files (asset name -> file); FLAME's texture space is used where its files are given.

    Raises:
        LikenessError: a file is not what its name says.
    """
    from models.perception.morphable import files

    sd = EXPRESSION_SD[model]
    if model == "flame":
        texture = None
        if (space := paths.get("flame_texture")) is not None:
            texture = files.read_flame_texture(space, paths["flame_template"])
        return FlameHead(files.read_flame(paths["flame_model"], paths["flame_landmarks"]), sd, texture)
    read = {"learned": files.read_learned, "ict": files.read_ict, "bfm": files.read_bfm}[model]
    return LinearHead(read(paths[ASSETS[model][0]]), sd)


def _single(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
