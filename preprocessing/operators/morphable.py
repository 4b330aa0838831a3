"""Coefficients of 3D morphable face models: fitted to landmarks, or said by published encoders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field as Setting
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from infra.errors import LikenessError
from preprocessing import templates
from preprocessing.alignment import deep3d_alignment, five_points
from preprocessing.fields import (
    FACE_VALID,
    LANDMARKS_68,
    LAYOUTS,
    LAYOUTS_OF,
    SOURCE,
    STORED_LAYOUT,
    TUBE_BOX,
    VIDEO,
    Field,
    MorphableModel,
    coefficients,
    morphable_crop,
    morphable_fit,
)  # fmt: skip
from preprocessing.morphable import encoders, heads, light, places, solver
from preprocessing.operator import FamilyOperator, OperatorParams, Resources, Sample
from preprocessing.operators.face_crops import tube_picture
from preprocessing.operators.identity import spread

MODELS = "|".join(get_args(MorphableModel))
OUTER_CORNERS = (36, 45)  # of the eyes, among the 68: errors are told in per cent of their distance
# What `by` one way has settings for and the other has not.
FITTED = ("noise_percent", "expression_step", "turn_step_degree", "identity_frames", "light_frames", "texture")
ENCODED = ("errors",)
LIGHT_OFFSET = 0.8  # which Deep3DFaceRecon's layout leaves out of each colour's constant


class MorphableFit(FamilyOperator):
    """`morphable_MODEL_260` (FLAME: `morphable_flame_236`), `morphable_MODEL_crop` and `morphable_MODEL_fit`.

    By landmarks: regularised least squares on LANDMARKS_68 (see `preprocessing.morphable.solver`): first one identity with the
    expressions, turns and cameras of up to `identity_frames` valid frames, then every valid frame with that identity, held to its
    neighbours. Light and colour of the skin are the clip's, from the pixels of up to `light_frames` frames.

    By encoder: what Deep3DFaceRecon's network says of BFM, or DECA's of FLAME, in each valid frame by itself.

    learned, ict and bfm are seen by Deep3DFaceRecon's camera in its own crop, cut from `frame`: the clip's tube square at
    `frame_px`, which is what PIRenderer and DreamTalk count scale, tx and ty in; or the picture. FLAME is seen by DECA's in its
    crop of the picture. Zeros where no face is valid, and for components that the model lacks.
    """

    name = "morphable"
    version = 1
    resources = Resources()

    class Params(OperatorParams):
        """`model`, fixed by the field's name. Settings of the way that is not taken are refused.

        Attributes:
            by: "landmarks" fits the model; "encoder" asks its published network, for bfm and flame.
            errors: by encoder, tell how far the model's landmarks lie from the face's, which needs the model's files too.
            frame, frame_px: what the crop is cut from; no matter to FLAME.
            noise_percent: how far a landmark lies from where the model should have it, of the outer eye corners' distance.
            expression_step, turn_step_degree: how much may change between frames, expression in its standard deviations.
            identity_frames: frames that the identity is found in.
            light_frames: frames that light is found in; 0 leaves light and texture zero.
            texture: FLAME with its texture space, which is two more files; an encoder's numbers are always about it.
            gpus: by encoder, the fraction of a GPU that a worker takes, where there are GPUs.
        """

        model: MorphableModel
        by: Literal["landmarks", "encoder"] = "landmarks"
        errors: bool = False
        frame: Literal["tube", "picture"] = "tube"
        frame_px: int = Setting(256, ge=32)
        noise_percent: float = Setting(1.0, gt=0)
        expression_step: float = Setting(0.5, gt=0)
        turn_step_degree: float = Setting(2.0, gt=0)
        identity_frames: int = Setting(24, ge=1)
        light_frames: int = Setting(4, ge=0)
        texture: bool = False
        gpus: float = Setting(0.25, ge=0, exclude=True)

        @model_validator(mode="after")
        def _one_way(self) -> MorphableFit.Params:
            if self.by == "encoder" and self.model not in encoders.ASSETS:
                raise ValueError(f"by=encoder is for {' and '.join(encoders.ASSETS)}: no network says {self.model}'s coefficients")
            idle, other = (ENCODED, "encoder") if self.by == "landmarks" else (FITTED, "landmarks")
            if given := [name for name in idle if getattr(self, name) != type(self).model_fields[name].default]:
                raise ValueError(f"{given[0]}={getattr(self, given[0])} changes nothing with by={self.by}: it is for by={other}")
            return self

        @model_serializer(mode="wrap")
        def _without_news(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
            # What was fitted before there were encoders keeps its digest.
            news = {"by": "landmarks", "errors": False}
            return {name: value for name, value in handler(self).items() if name not in news or value != news[name]}

    def __init__(self, params: OperatorParams | None = None) -> None:
        super().__init__(params)
        self.name = f"morphable_{self.params.model}"  # models have settings of their own
        self._stored = STORED_LAYOUT[self.params.model]
        self._encoded = self.params.by == "encoder"
        if self._encoded:
            self.resources = Resources(gpus=self.params.gpus)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"morphable_({MODELS})_(260|236|crop|fit)", field)
        if match and match[2] in ("crop", "fit", str(STORED_LAYOUT[match[1]].size)):  # type: ignore[index]
            return {"model": match[1]}
        return None

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return tuple(f"morphable_{model}_fit" for model in get_args(MorphableModel))

    @property
    def assets(self) -> tuple[str, ...]:
        model = self.params.model
        if self._encoded:
            return (encoders.ASSETS[model], *(heads.ASSETS[model] if self.params.errors else ()))
        return heads.ASSETS[model] + (heads.FLAME_TEXTURE if model == "flame" and self.params.texture else ())

    @property
    def reads(self) -> tuple[Field, ...]:
        frames = (VIDEO,) if self._encoded or self.params.light_frames else ()
        return (SOURCE, LANDMARKS_68, FACE_VALID, TUBE_BOX, *frames)

    @property
    def writes(self) -> tuple[Field, ...]:
        model = self.params.model
        return (coefficients(model, self._stored.size), morphable_crop(model), morphable_fit(model))

    def setup(self) -> None:
        """Load the model, or its encoder.

        Raises:
            LikenessError: a file is not here (what to place where), or is another.
        """
        model = self.params.model
        paths = {name: self.asset(name) for name in self.assets}
        if self._encoded:
            self._encode = encoders.Encoder(model, paths.pop(encoders.ASSETS[model]))
        if paths:
            self._head = heads.load(model, paths)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        valid, landmarks = sample[FACE_VALID], sample[LANDMARKS_68].astype(np.float64)
        rows, matrices = np.zeros((len(valid), self._stored.size)), np.zeros((len(valid), 2, 3))
        times = np.flatnonzero(valid)
        compared = not self._encoded or self.params.errors
        numbers = dict.fromkeys(("error_percent", "contour_error_percent", "worst_error_percent"), 0.0) if compared else {}
        if len(times):
            cut = self._places(sample, landmarks[times])
            matrices[times] = [place.matrix for place in cut]
            points = np.stack([templates.transform(p.matrix, marks) for p, marks in zip(cut, landmarks[times], strict=True)])
            if self._encoded:
                seen = self._encode(self._crops(sample, landmarks, matrices))
            else:
                face = self._fit(points, times)
                seen = self._head.pack(face)
            rows[times] = np.column_stack([seen, [place.transform for place in cut]])
            if not self._encoded and self.params.light_frames:
                self._add_light(sample, rows, times, matrices, points)
            if compared:
                found = np.stack([self._head.landmarks(row) for row in seen]) if self._encoded else places.down(face.landmarks)
                numbers = errors(found, points)
        coefficient_field, crop_field, fit_field = self.writes
        return {coefficient_field: rows.astype(np.float32), crop_field: matrices, fit_field: self._facts() | {
            "frames": len(times), **{name: round(value, 3) for name, value in numbers.items()},
        }}  # fmt: skip

    def _facts(self) -> dict[str, Any]:
        """What the numbers are, told beside them."""
        if self._encoded:
            how = encoders.facts(self.params.model)
        else:
            head = self._head
            how = {
                "camera": head.camera.name, "harmonics": head.harmonics, "identity_components": head.shape.n_identity,
                "expression_components": head.shape.n_expression, "texture_components": head.n_texture,
            }  # fmt: skip
        frame = f"tube at {self.params.frame_px} px" if self._in_tube else "picture"
        return {"morphable_model": self.params.model, "layout": self._stored.name, **how, "frame": frame}

    @property
    def _in_tube(self) -> bool:
        return self.params.model != "flame" and self.params.frame == "tube"

    def _places(self, sample: Sample, landmarks: np.ndarray) -> list[places.Place]:
        if self.params.model == "flame":
            return [places.deca(marks) for marks in landmarks]
        height = width = self.params.frame_px
        frame = np.eye(3)[:2]
        if self._in_tube:
            frame = self._square(sample)
        else:
            height, width = int(sample[SOURCE]["height"]), int(sample[SOURCE]["width"])
        return [places.deep3d(marks, frame, height, width) for marks in landmarks]

    def _crops(self, sample: Sample, landmarks: np.ndarray, matrices: np.ndarray) -> Iterator[np.ndarray]:
        """(224, 224, 3) uint8 of each valid frame, resampled as the encoder's authors do."""
        for frame, marks, matrix, valid in zip(sample[VIDEO], landmarks, matrices, sample[FACE_VALID], strict=True):
            if not valid:
                continue
            if self.params.model == "flame":  # plainly bilinear
                yield templates.warp(frame, matrix, heads.CROP_PX, antialias=False)
                continue
            picture, inside = frame, marks
            if self._in_tube:
                picture = tube_picture(frame, sample[TUBE_BOX], self.params.frame_px)
                inside = templates.transform(self._square(sample), marks)
            yield deep3d_alignment(picture, five_points(inside) - templates.CENTRE).crop

    def _square(self, sample: Sample) -> np.ndarray:
        return places.square_frame(sample[TUBE_BOX].astype(np.float64), self.params.frame_px)

    def _fit(self, points: np.ndarray, times: np.ndarray) -> solver.FittedFace:
        """The face of (T, 68, 2) landmarks in their crops."""
        head, params = self._head, self.params
        weights = np.ones(68)
        weights[: heads.JAW_LINE] = heads.CONTOUR_WEIGHT[params.model]
        points = places.up(points)
        noise = params.noise_percent / 100 * eye_distance(points)
        prior = solver.Prior(noise, weights, np.ones(head.shape.n_identity), head.expression_sd)
        begun = solver.start(head.shape, head.camera, points, weights)
        some = spread(np.arange(len(times)), params.identity_frames)
        # What the model can't show is off by the same in every frame, so many frames say little more about the shape than one.
        one = replace(prior, noise_px=noise[some], identity=prior.identity / np.sqrt(len(some)))
        first = solver.fit(head.shape, head.camera, points[some], times[some], one, of(begun, some))
        held = replace(prior, expression_step=params.expression_step * heads.EXPRESSION_SD[params.model],
                       turn_step_rad=np.radians(params.turn_step_degree))  # fmt: skip
        begun = replace(begun, identity=first.identity)
        return solver.fit(head.shape, head.camera, points, times, held, begun, with_identity=False)

    def _add_light(self, sample: Sample, rows: np.ndarray, times: np.ndarray, matrices: np.ndarray, points: np.ndarray) -> None:
        chosen = {int(times[place]): int(place) for place in spread(np.arange(len(times)), self.params.light_frames)}
        frames = []
        for number, frame in enumerate(islice(sample[VIDEO], max(chosen) + 1)):
            if number in chosen:
                crop = templates.warp(frame, matrices[number], heads.CROP_PX)
                frames.append((rows[number, : self._head.layout.size], crop, points[chosen[number]]))
        texture, found = light.estimate(self._head, frames)
        place = self._head.layout.slices()
        rows[times, place["texture"].start : place["texture"].start + len(texture)] = texture
        # DECA counts harmonics of three colours, Deep3DFaceRecon colours of nine harmonics.
        deca = self._head.harmonics == "deca"
        rows[times, place["light"]] = found.ravel() if deca else (found.T - LIGHT_OFFSET * np.eye(9)[0]).ravel()


class MorphableLayouts(FamilyOperator):
    """`morphable_MODEL_257` and `morphable_MODEL_73`: parts of `morphable_MODEL_260` in other published orders."""

    name = "morphable_layouts"
    version = 1

    class Params(OperatorParams):
        """`model` and `size`, both fixed by the field's name."""

        model: MorphableModel
        size: Literal[257, 73]

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"morphable_({MODELS})_(257|73)", field)
        if match and int(match[2]) in LAYOUTS_OF[match[1]]:  # type: ignore[index]
            return {"model": match[1], "size": int(match[2])}
        return None

    @property
    def reads(self) -> tuple[Field, ...]:
        return (coefficients(self.params.model, STORED_LAYOUT[self.params.model].size),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (coefficients(self.params.model, self.params.size),)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        (read,), (written,) = self.reads, self.writes
        return {written: as_layout(sample[read], self.params.size)}


def as_layout(rows: np.ndarray, size: int) -> np.ndarray:
    """(T, n) in the layout of n numbers -> (T, size) in the layout of that many, part by part.

    Raises:
        LikenessError: no such layout, or a part that the rows lack.
    """
    if rows.shape[-1] not in LAYOUTS or size not in LAYOUTS:
        raise LikenessError(f"a layout of {rows.shape[-1]} numbers as one of {size}", allowed=", ".join(map(str, LAYOUTS)))
    have, want = LAYOUTS[rows.shape[-1]], LAYOUTS[size]
    if lacking := [part for part in want.parts if part not in have.parts]:
        what = f"layout {have.name} has no {lacking[0][0]} of {lacking[0][1]} numbers, which {want.name} needs"
        raise LikenessError(what, allowed="parts of the same name and size")
    slices = have.slices()
    return np.concatenate([rows[..., slices[name]] for name, _ in want.parts], -1)


def of(face: solver.FittedFace, frames: np.ndarray) -> solver.FittedFace:
    """The face in some of its frames."""
    parts = {name: getattr(face, name)[frames] for name in ("expression", "rotations", "camera", "landmarks")}
    return replace(face, **parts)


def eye_distance(points: np.ndarray) -> np.ndarray:
    """(T, 68, 2) -> (T,) between the outer corners; in profile, where they draw near, what the height from brow to chin says."""
    # A frontal face is about 1.25 times as high from the bridge of the nose to the chin.
    wide = np.linalg.norm(points[:, OUTER_CORNERS[0]] - points[:, OUTER_CORNERS[1]], axis=1)
    return np.maximum(wide, np.linalg.norm(points[:, 27] - points[:, 8], axis=1) / 1.25)


def errors(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """How far (T, 68, 2) fitted landmarks lie from the given ones, in per cent of `eye_distance`."""
    each = 100 * np.linalg.norm(found - wanted, axis=2) / eye_distance(wanted)[:, None]
    inner = each[:, heads.JAW_LINE :].mean(1)
    return {"error_percent": float(inner.mean()), "contour_error_percent": float(each[:, : heads.JAW_LINE].mean()),
            "worst_error_percent": float(inner.max())}  # fmt: skip
