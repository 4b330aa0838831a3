"""Who it is: face-recognition embeddings, one named variant per network and convention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing import templates
from preprocessing.fields import FACE_VALID, IDENTITY_DIMS, LANDMARKS_5, VIDEO, Field, identity
from preprocessing.operator import FamilyOperator, OperatorParams, Sample

Variant = Literal["antelopev2", "buffalo_l", "mobileface", "coarse"]
SIZE_PX = 112


@dataclass(frozen=True)
class Convention:
    """How a variant is computed; the asset carries the variant's name.

    Attributes:
        mean, scale: a pixel value x of 0..255 enters the network as (x - mean) / scale.
        mirrored: the embedding of a picture is the mean of its own and its mirror image's.
        unit: embeddings are scaled to length 1, each frame's before the mean over frames and the mean again.
    """

    mean: float
    scale: float
    mirrored: bool
    unit: bool


CONVENTIONS: dict[Variant, Convention] = {
    # insightface's `embedding`: lengths around 20, which InstantID's and PuLID's projections have learnt to expect.
    "antelopev2": Convention(127.5, 127.5, mirrored=False, unit=False),
    "buffalo_l": Convention(127.5, 127.5, mirrored=False, unit=True),  # insightface's `normed_embedding`
    "mobileface": Convention(0, 1, mirrored=True, unit=True),  # the network scales its input itself
    # No recognition network: the aligned face's brightness at 16 x 16 px, its mean taken off. It needs no weights, so with it
    # everything can be tried anywhere; it hardly tells people apart.
    "coarse": Convention(127.5, 127.5, mirrored=True, unit=True),
}


class Identity(FamilyOperator):
    """`identity_VARIANT`: the mean embedding of up to `most_frames` valid frames, evenly spread over them.

    Faces are aligned to the ArcFace template at 112 px by LANDMARKS_5 and cut from the frames themselves, RGB, as insightface cuts
    them. Variants with unit length average unit embeddings and scale the mean to 1 again; `antelopev2` is the plain mean of raw
    embeddings. Zeros where no frame is valid.
    """

    name = "identity"
    version = 1

    class Params(OperatorParams):
        """`variant`, fixed by the field's name; `most_frames` that are looked at."""

        variant: Variant
        most_frames: int = Setting(8, ge=1)

    def __init__(self, params: OperatorParams | None = None) -> None:
        super().__init__(params)
        self.name = f"identity_{self.params.variant}"  # variants have settings of their own

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        variant = field.removeprefix("identity_")
        return {"variant": variant} if field != variant and variant in get_args(Variant) else None

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return tuple(f"identity_{variant}" for variant in get_args(Variant))

    @property
    def assets(self) -> tuple[str, ...]:
        return () if self.params.variant == "coarse" else (self.params.variant,)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, LANDMARKS_5, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (identity(self.params.variant),)

    def setup(self) -> None:
        """Load the network.

        Raises:
            LikenessError: its asset is not here (what to place where), or is another network.
        """
        self._embed = Embedder(self.params.variant, self.asset(self.params.variant) if self.assets else None)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        points = sample[LANDMARKS_5]
        chosen = set(spread(np.flatnonzero(sample[FACE_VALID]), self.params.most_frames).tolist())
        frames = enumerate(sample[VIDEO] if chosen else ())  # without a face the clip need not be decoded
        faces = [aligned(frame, points[place]) for place, frame in frames if place in chosen]
        return {self.writes[0]: self._embed.mean(faces)}


class Embedder:
    """A recognition network under its variant's convention.

    Args:
        path: the network's file; None for "coarse", which has none.

    Raises:
        LikenessError: the file is another network.
    """

    def __init__(self, variant: Variant, path: Any) -> None:
        from preprocessing.onnx_session import OnnxNetwork

        self._variant, self._convention = variant, CONVENTIONS[variant]
        if variant == "coarse":
            self._network: Any = _coarse
            return
        self._network = OnnxNetwork(path)
        shapes = list(self._network.inputs.values())
        if len(shapes) != 1 or shapes[0][1:] != (3, SIZE_PX, SIZE_PX):
            raise LikenessError(f"asset {variant} takes {shapes}", allowed=f"one input of (n, 3, {SIZE_PX}, {SIZE_PX})")

    def __call__(self, faces: list[np.ndarray]) -> np.ndarray:
        """(n, dims) float32 of n faces (112, 112, 3) uint8 RGB, aligned; not averaged."""
        how, dims = self._convention, IDENTITY_DIMS[self._variant]
        found = np.zeros((len(faces), dims), np.float32)
        for place, face in enumerate(faces):
            views = (face, face[:, ::-1]) if how.mirrored else (face,)
            # One picture at a time: the sums, and so the bytes, do not depend on how many others there are.
            blobs = [(view.transpose(2, 0, 1)[None] - np.float32(how.mean)) / np.float32(how.scale) for view in views]
            each = [self._network(blob)[0] for blob in blobs]
            if each[0].shape != (1, dims):
                raise LikenessError(f"asset {self._variant} gives {each[0].shape}", allowed=f"(1, {dims})")
            found[place] = np.mean([unit(e[0]) if how.unit else e[0] for e in each], 0)
        return np.array([unit(e) for e in found], np.float32).reshape(-1, dims) if how.unit else found

    def mean(self, faces: list[np.ndarray]) -> np.ndarray:
        """(dims,) float32 of one person's faces; zeros of none."""
        if not faces:
            return np.zeros(IDENTITY_DIMS[self._variant], np.float32)
        mean = self(faces).mean(0)
        return unit(mean) if self._convention.unit else mean


def _coarse(blob: np.ndarray) -> list[np.ndarray]:
    """(1, 3, 112, 112) -> [(1, 256)]: mean brightness of 7 x 7 px each, the whole face's mean taken off."""
    brightness = blob[0].mean(0).reshape(16, 7, 16, 7).mean((1, 3))
    return [(brightness - brightness.mean()).reshape(1, -1).astype(np.float32)]


def aligned(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(112, 112, 3) uint8: a face by its five points, as recognition networks take it."""
    return templates.warp(picture, templates.matrix("arcface", SIZE_PX, points5=points), SIZE_PX, antialias=False)


def spread(places: np.ndarray, most: int) -> np.ndarray:
    """At most so many of these places, the first and the last among them and the others evenly between; of one the middle."""
    if len(places) <= most:
        return places
    if most == 1:
        return places[len(places) // 2 : len(places) // 2 + 1]
    return places[np.rint(np.linspace(0, len(places) - 1, most)).astype(int)]


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1; zeros stay zeros."""
    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)
