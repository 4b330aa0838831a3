"""Files in the layouts of BFM and FLAME that hold another face, since the real ones are licensed per user."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.io import savemat
from scipy.sparse import csc_matrix

from models.perception.morphable.linear import FaceBasis


def write_bfm(path: Path, basis: FaceBasis) -> Path:
    """`BFM_model_front.mat` of a basis, as Deep3DFaceRecon's script lays it out: counted from 1, colours to 255."""
    around = [np.flatnonzero((basis.triangles == vertex).any(1))[:8] for vertex in range(len(basis.mean))]
    listed = np.full((len(basis.mean), 8), len(basis.triangles))
    for vertex, triangles in enumerate(around):
        listed[vertex, : len(triangles)] = triangles
    savemat(path, {
        "meanshape": basis.mean.reshape(1, -1), "idBase": _padded(basis.identity, 80), "exBase": _padded(basis.expression, 64),
        "meantex": basis.albedo.reshape(1, -1) * 255, "texBase": _padded(basis.albedo_basis, 80) * 255,
        "tri": basis.triangles + 1, "point_buf": listed + 1, "keypoints": basis.landmarks[None] + 1,
    })  # fmt: skip
    return path


def _padded(directions: np.ndarray, count: int) -> np.ndarray:
    flat = directions.reshape(-1, directions.shape[2])
    return np.pad(flat, ((0, 0), (0, count - flat.shape[1])))


def write_flame(folder: Path, basis: FaceBasis, jaw: np.ndarray, seed: int = 0) -> dict[str, Path]:
    """`generic_model.pkl` and `landmark_embedding.npy` of a basis, a tenth as large, with a jaw that `jaw` (V,) follows.

    Blend shapes are chumpy's variables and the joints' regressor a sparse matrix, as in FLAME's own file.
    """
    count, rng = len(basis.mean), np.random.default_rng(seed)
    directions = np.zeros((count, 3, 400))
    directions[:, :, : basis.identity.shape[2]] = basis.identity / 10
    directions[:, :, 300 : 300 + basis.expression.shape[2]] = basis.expression / 10
    near = np.zeros((5, count))
    near[:2] = 1 / count
    near[2, basis.landmarks[[1, 15]]] = 0.5
    near[3, basis.landmarks[36:42]] = near[4, basis.landmarks[42:48]] = 1 / 6
    weights = np.zeros((count, 5))
    weights[:, 2], weights[:, 1] = jaw, 1 - jaw
    chosen = [int(np.flatnonzero((basis.triangles == vertex).any(1))[0]) for vertex in basis.landmarks]
    onto = (basis.triangles[chosen] == basis.landmarks[:, None]).astype(np.float64)
    onto[onto.sum(1) > 1] = (1, 0, 0)
    embedding = {
        "full_lmk_faces_idx": np.array(chosen)[None], "full_lmk_bary_coords": onto[None],
        "dynamic_lmk_faces_idx": np.tile(chosen[:17], (79, 1)), "dynamic_lmk_bary_coords": np.tile(onto[:17], (79, 1, 1)),
    }  # fmt: skip
    with _chumpy() as variable:
        content = {
            "v_template": variable(basis.mean / 10.0), "shapedirs": variable(directions), "weights": variable(weights),
            "posedirs": variable(rng.standard_normal((count, 3, 36)) * 1e-4), "J_regressor": csc_matrix(near),
            "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], range(5)]), "f": basis.triangles.astype(np.uint32),
            "bs_type": "lrotmin",
        }  # fmt: skip
        (folder / "generic_model.pkl").write_bytes(pickle.dumps(content, protocol=2))
    np.save(folder / "landmark_embedding.npy", np.array(embedding, dtype=object), allow_pickle=True)
    return {"flame_model": folder / "generic_model.pkl", "flame_landmarks": folder / "landmark_embedding.npy"}


@contextmanager
def _chumpy() -> Iterator[type]:
    """A class that pickles as chumpy's variable, which is not installed; gone afterwards."""
    package, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")

    class Ch:
        def __init__(self, x: np.ndarray) -> None:
            self.x = x

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    module.Ch = Ch  # type: ignore[attr-defined]
    sys.modules.update({"chumpy": package, "chumpy.ch": module})
    try:
        yield Ch
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]
