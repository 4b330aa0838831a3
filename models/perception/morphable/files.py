"""The files that morphable models come in, read without running anything in them, as `FaceBasis` and `FlameBasis`."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import LikenessError
from models.perception.morphable.flame import FlameBasis
from models.perception.morphable.linear import N_EXPRESSION, N_IDENTITY, N_TEXTURE, FaceBasis

# Of BFM-2009's mean face in Deep3DFaceRecon's coordinates: where the middle of the eyes lies, and how far apart they are.
EYES_MIDDLE, EYES_APART = (0.0, 0.290, 0.133), 0.6213
# Models without colours of their own get one colour, and three components that change its red, green and blue: so the layouts'
# place for texture tells the skin's mean colour.
SKIN, SKIN_STEP = (0.62, 0.47, 0.40), 0.15
FLAME_IDENTITY = 300  # blend shapes of FLAME's file that are identity; expression follows
LEFT_EYE, RIGHT_EYE = (36, 39), (42, 45)  # corners among the 68


def read_ict(path: str | Path) -> FaceBasis:
    """ICT-FaceKit's face (Li et al. 2020) with its 80 largest identities and its 57 expressions, which run from 0 to 1."""
    with _arrays(path, "ict_facekit_face.npz") as file:
        neutral, landmarks = file["neutral"].astype(np.float64), file["landmarks68"].astype(np.int64)
        mean, scale = in_standard_place(neutral, landmarks)
        identity, expression = (np.moveaxis(file[name].astype(np.float64), 0, 2) * scale for name in ("identity", "expression"))
        triangles = _triangles(file["quads"].astype(np.int64))
    albedo, albedo_basis = one_colour(len(mean))
    return FaceBasis(
        mean=_single(mean), identity=_single(identity[:, :, :N_IDENTITY]), expression=_single(expression[:, :, :N_EXPRESSION]),
        triangles=triangles, landmarks=landmarks, albedo=albedo, albedo_basis=albedo_basis,
    )  # fmt: skip


def read_bfm(path: str | Path) -> FaceBasis:
    """BFM-2009 cut to the face with FaceWarehouse's expressions: `BFM_model_front.mat`, as Deep3DFaceRecon's script makes it.

    Raises:
        LikenessError: another file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    names = ("meanshape", "idBase", "exBase", "meantex", "texBase", "tri", "point_buf", "keypoints")
    try:
        file = loadmat(str(path))
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise LikenessError(f"{path} does not read as a .mat file: {error}", allowed="BFM_model_front.mat") from None
    if missing := [name for name in names if name not in file]:
        raise LikenessError(f"{path} lacks {', '.join(missing)}", allowed="BFM_model_front.mat", fix=_BFM_FIX)
    mean = np.asarray(file["meanshape"], np.float64).reshape(-1, 3)
    bases = {name: np.asarray(file[name], np.float32) for name in ("idBase", "exBase", "texBase")}
    counts = {"idBase": N_IDENTITY, "exBase": N_EXPRESSION, "texBase": N_TEXTURE}
    for name, count in counts.items():
        if bases[name].shape != (mean.size, count):
            raise LikenessError(f"{path}: {name} has shape {bases[name].shape}", allowed=f"({mean.size}, {count})", fix=_BFM_FIX)
    identity, expression, texture = (bases[name].reshape(len(mean), 3, -1) for name in counts)
    return FaceBasis(
        mean=_single(mean - mean.mean(0)), identity=identity, expression=expression,
        triangles=file["tri"].astype(np.int64) - 1, around=file["point_buf"].astype(np.int64) - 1,
        landmarks=file["keypoints"].astype(np.int64).reshape(-1) - 1,
        albedo=_single(np.asarray(file["meantex"], np.float64).reshape(-1, 3) / 255), albedo_basis=_single(texture / 255),
    )  # fmt: skip


_BFM_FIX = "make it with Deep3DFaceRecon's transferBFM09 from 01_MorphableModel.mat and Exp_Pca.bin"


def read_learned(path: str | Path) -> FaceBasis:
    """What the fit `morphable` made: arrays `mean`, `identity`, `expression`, `triangles`, `landmarks`."""
    with _arrays(path, "a fit called morphable") as file:
        arrays = {name: file[name] for name in ("mean", "identity", "expression", "triangles", "landmarks")}
    albedo, albedo_basis = one_colour(len(arrays["mean"]))
    return FaceBasis(**arrays, albedo=albedo, albedo_basis=albedo_basis)


def read_flame(model: str | Path, landmarks: str | Path, n_identity: int = 100, n_expression: int = 50) -> FlameBasis:
    """FLAME's `generic_model.pkl` and DECA's `landmark_embedding.npy`, the first so many components of each kind.

    Both are pickles: only numbers are taken from them, whatever else they hold is refused.

    Raises:
        LikenessError: another file, or one that holds more than arrays.
    """
    content, embedding = _plain_pickle(model), _embedding(landmarks)
    try:
        template, kinds = _array(content["v_template"]), np.asarray(content["kintree_table"])
        directions, pose = _array(content["shapedirs"]), _array(content["posedirs"])
        chosen = [*range(n_identity), *range(FLAME_IDENTITY, FLAME_IDENTITY + n_expression)]
        parents = kinds[0].astype(np.int64)
        parents[0] = -1
        return FlameBasis(
            template=_single(template), directions=_single(directions[:, :, chosen]), n_identity=n_identity,
            pose_directions=_single(pose.reshape(-1, pose.shape[-1]).T), joints=_single(_array(content["J_regressor"])),
            parents=parents, weights=_single(_array(content["weights"])), triangles=_array(content["f"]).astype(np.int64),
            landmark_triangles=_array(embedding["full_lmk_faces_idx"]).astype(np.int64).reshape(-1),
            landmark_weights=_single(_array(embedding["full_lmk_bary_coords"]).reshape(-1, 3)),
            contour_triangles=_stacked(embedding["dynamic_lmk_faces_idx"]).astype(np.int64),
            contour_weights=_single(_stacked(embedding["dynamic_lmk_bary_coords"])),
        )  # fmt: skip
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        what = f"{model} with {landmarks} is not FLAME ({type(error).__name__}: {error})"
        raise LikenessError(what, allowed="generic_model.pkl of FLAME 2019 or 2020, landmark_embedding.npy of DECA") from None


def read_flame_texture(texture: str | Path, template: str | Path, count: int = 50) -> dict[str, np.ndarray]:
    """FLAME's texture space and the mesh's map onto it.

    Returns:
        `mean` (256, 256, 3) and `basis` (256, 256, 3, count), RGB in 0..1, every second pixel of the 512; `corners` (F, 3, 2):
        where each corner of each triangle lies in it, 0..1, y down.
    """
    with _arrays(texture, "FLAME_texture.npz") as file:
        mean, basis = file["mean"], file["tex_dir"][..., :count]
    mean, basis = (_single(a.reshape(512, 512, 3, -1)[::2, ::2, ::-1] / 255) for a in (mean, basis))
    places, corners = [], []
    for line in Path(template).read_text().splitlines():
        words = line.split()
        if words[:1] == ["vt"]:
            places.append([float(words[1]), 1 - float(words[2])])
        elif words[:1] == ["f"]:
            corners.append([int(word.split("/")[1]) - 1 for word in words[1:4]])
    if not places or not corners:
        raise LikenessError(f"{template} maps no triangle onto a texture", allowed="head_template.obj of DECA")
    return {"mean": mean[..., 0], "basis": basis, "corners": np.array(places, np.float32)[np.array(corners)]}


def in_standard_place(vertices: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """An upright face (V, 3) scaled and moved so that its eyes are where BFM's are; and by how much it was scaled."""
    left, right = (vertices[landmarks[list(corners)]].mean(0) for corners in (LEFT_EYE, RIGHT_EYE))
    scale = EYES_APART / float(np.linalg.norm(right - left))
    return (vertices - (left + right) / 2) * scale + EYES_MIDDLE, scale


def one_colour(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (count, 3) and basis (count, 3, 3) of a surface of one colour."""
    return np.full((count, 3), SKIN, np.float32), np.repeat(np.eye(3, dtype=np.float32)[None] * np.float32(SKIN_STEP), count, 0)


def _triangles(quads: np.ndarray) -> np.ndarray:
    halves = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return halves[(halves[:, 0] != halves[:, 1]) & (halves[:, 1] != halves[:, 2]) & (halves[:, 0] != halves[:, 2])]


def _single(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _arrays(path: str | Path, expected: str) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise LikenessError(f"{path} does not read as arrays: {error}", allowed=expected) from None


class _Held:
    """Stands for an object of a class that is not loaded (chumpy's, SciPy's sparse matrices): its attributes, nothing else."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, Mapping) else {})


class _PlainUnpickler(pickle.Unpickler):
    """Knows NumPy's arrays; other classes of chumpy and SciPy become `_Held`, everything else is refused."""

    NUMPY = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
             ("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.NUMPY:
            return super().find_class(module, name)
        if (module, name) in {("_codecs", "encode"), ("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor")}:
            return super().find_class(module.replace("copy_reg", "copyreg"), name)
        if (module, name) in {("__builtin__", "object"), ("builtins", "object")}:
            return object
        if module.partition(".")[0] in ("chumpy", "scipy"):
            return _Held
        raise LikenessError(f"a pickled {module}.{name}, which could run code", allowed="arrays")


def _plain_pickle(path: str | Path, opened: Callable[[], io.BufferedIOBase] | None = None) -> Any:
    try:
        with opened() if opened else open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except LikenessError as error:
        raise LikenessError(f"{path} holds {error.what}", allowed="a published file of arrays") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError, IndexError, KeyError) as error:
        raise LikenessError(f"{path} does not read as a pickle: {error}", allowed="a published file of arrays") from None


def _embedding(path: str | Path) -> Mapping[str, Any]:
    """The dict in a .npy file of one object."""

    def behind_header() -> io.BufferedIOBase:
        file = open(path, "rb")  # noqa: SIM115  (closed by whoever reads it)
        version = np.lib.format.read_magic(file)
        (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
        return file

    content = _plain_pickle(path, behind_header)
    return content.item() if isinstance(content, np.ndarray) else content


def _array(value: Any) -> np.ndarray:
    """A plain array of an array, of chumpy's variable, or of a compressed sparse column matrix."""
    if not isinstance(value, _Held):
        return np.asarray(value)
    held = vars(value)
    if "x" in held:
        return np.asarray(held["x"])
    if "indptr" in held:
        from scipy.sparse import csc_matrix

        shape = held.get("_shape", held.get("shape"))
        return csc_matrix((held["data"], held["indices"], held["indptr"]), shape=shape).toarray()
    raise LikenessError(f"a pickled object with {', '.join(sorted(held)) or 'nothing'} in it", allowed="an array")


def _stacked(value: Any) -> np.ndarray:
    """Lists of arrays, tensors saved as arrays, or an array."""
    return np.stack([_array(v) for v in value]) if isinstance(value, (list, tuple)) else _array(value)
