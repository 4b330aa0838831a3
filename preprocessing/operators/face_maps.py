"""Condition maps rendered from a morphable model's coefficients: CapHuman's normals, albedo and shading, and depth."""

from __future__ import annotations

import re
from typing import Any, get_args

import numpy as np
from pydantic import Field as Setting

from preprocessing import templates
from preprocessing.fields import (
    FACE_VALID,
    KEY_FRAME,
    SOURCE,
    STORED_LAYOUT,
    Field,
    MorphableModel,
    RenderedMap,
    coefficients,
    face_map,
    morphable_crop,
    morphable_fit,
)  # fmt: skip
from preprocessing.morphable import heads
from preprocessing.operator import FamilyOperator, OperatorParams, Sample

FARTHEST = 0.1  # depth of the farthest point that is seen


class FaceMaps(FamilyOperator):
    """`map_KIND_MODEL_SIZE`: the key frame's face as its coefficients say, drawn where it is on `image_SIZE`.

    Four maps at once: normal, albedo, shaded, depth. Where the key frame has no valid face they are empty. Eyes and the inside of
    the mouth are holes, unless the model has them. FLAME's numbers of texture are used where they are about the texture that maps
    are drawn with (`morphable_flame_fit` tells); otherwise that texture's mean is drawn.
    """

    name = "face_maps"
    version = 1

    class Params(OperatorParams):
        """`model` and `size` (the shorter side in px), both fixed by the field's name; `texture` as in `morphable_flame`."""

        model: MorphableModel
        size: int = Setting(ge=10, le=9999)
        texture: bool = False

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        kinds, models = "|".join(get_args(RenderedMap)), "|".join(get_args(MorphableModel))
        match = re.fullmatch(rf"map_(?:{kinds})_({models})_([1-9]\d{{1,3}})", field)
        return {"model": match[1], "size": int(match[2])} if match else None

    @property
    def assets(self) -> tuple[str, ...]:
        model = self.params.model
        return heads.ASSETS[model] + (heads.FLAME_TEXTURE if model == "flame" and self.params.texture else ())

    @property
    def reads(self) -> tuple[Field, ...]:
        model = self.params.model
        about = (morphable_fit(model),) if model == "flame" else ()
        return (SOURCE, KEY_FRAME, FACE_VALID, coefficients(model, STORED_LAYOUT[model].size), morphable_crop(model), *about)

    @property
    def writes(self) -> tuple[Field, ...]:
        return tuple(face_map(self.params.model, kind, self.params.size) for kind in get_args(RenderedMap))

    def setup(self) -> None:
        """Load the model; see `MorphableFit.setup`."""
        self._head = heads.load(self.params.model, {name: self.asset(name) for name in self.assets})

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        _, place, valid, rows, crops = (sample[field] for field in self.reads[:5])
        height, width = int(sample[SOURCE]["height"]), int(sample[SOURCE]["width"])
        short = min(height, width)
        new = tuple(round(side * self.params.size / short) for side in (height, width))
        if valid[place]:
            row = rows[place].copy()
            if self.params.model == "flame" and sample[morphable_fit("flame")]["texture_components"] != self._head.n_texture:
                row[self._head.layout.slices()["texture"]] = 0
            back, scale = templates.invert(crops[place]), np.array([new[1] / width, new[0] / height])
            maps = render(self._head, row, np.column_stack([scale[:, None] * back[:, :2], scale * back[:, 2]]), *new)
        else:
            maps = dict.fromkeys(get_args(RenderedMap), np.zeros((*new, 3)))
        signed = {kind: value if kind == "depth" else (value + 1) / 2 for kind, value in maps.items()}
        pictures = {kind: np.rint(255 * value.clip(0, 1)).astype(np.uint8) for kind, value in signed.items()}
        return dict(zip(self.writes, (pictures[kind] for kind in get_args(RenderedMap)), strict=True))


def render(head: heads.Head, row: np.ndarray, matrix: np.ndarray, height_px: int, width_px: int) -> dict[str, np.ndarray]:
    """Maps of one face, each (height, width, 3) float64 and zero outside: normal in -1..1, albedo and shaded about 0..1, depth.

    Args:
        row: numbers of `head.layout`, and what may follow them.
        matrix: (2, 3) from the crop that they are about to the picture.
    """
    import torch

    from models.perception.morphable.raster import rasterise
    from models.perception.morphable.shading import light_of, shade

    row = row[: head.layout.size].astype(np.float64)
    points, normals = head.mesh(row)
    points[:, :2] = templates.transform(matrix, points[:, :2])
    raster = rasterise(points, head.triangles, height_px, width_px)
    seen, place = raster.mask, head.layout.slices()
    normal = raster.interpolate(normals[head.triangles])
    mean, basis = head.colours(raster)
    albedo = np.zeros((height_px, width_px, 3))
    albedo[seen] = mean + basis @ row[place["texture"]][: head.n_texture]
    shaded = np.zeros_like(albedo)
    unit = normal[seen] / np.maximum(np.linalg.norm(normal[seen], axis=1, keepdims=True), 1e-9)
    light = light_of(torch.from_numpy(row[None, place["light"]]), head.harmonics)
    shaded[seen] = albedo[seen] * shade(torch.from_numpy(unit[None]), light, head.harmonics)[0].numpy()
    depth = np.zeros_like(albedo)
    if seen.any():
        z = raster.depth[seen]
        depth[seen] = (FARTHEST + (1 - FARTHEST) * (z - z.min()) / max(float(np.ptp(z)), 1e-9))[:, None]
    return {"normal": normal, "albedo": albedo, "shaded": shaded, "depth": depth}
