"""What the followed face does: blendshapes of every frame, and the action units that hold through a clip."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
from pydantic import Field as Setting
from pydantic import model_validator

from infra.errors import LikenessError
from preprocessing.action_units import BLENDSHAPES, LABELS, RULES, from_blendshapes
from preprocessing.fields import (
    BLENDSHAPES_52,
    FACE_VALID,
    LANDMARKS_478,
    SOURCE,
    ActionUnitVariant,
    Field,
    Template,
    action_units,
    aligned_face,
)
from preprocessing.operator import FamilyOperator, Operator, OperatorParams, Resources, Sample

FRAMES = 3
FACE_PX = 224
IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


class Blendshapes(Operator):
    """BLENDSHAPES_52 by the network in MediaPipe's face_landmarker.task, from the mesh that is there already.

    Landmarker's own detector and mesh are not run: on the frames of a clip the mesh of `face_landmarks` is the same kind of
    network. No picture is read, so it costs 2 ms a frame.
    """

    name = "blendshapes"
    version = 1
    resources = Resources(assets=("face_landmarker",))

    @property
    def reads(self) -> tuple[Field, ...]:
        return (LANDMARKS_478, FACE_VALID, SOURCE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (BLENDSHAPES_52,)

    def setup(self) -> None:
        """Load the network.

        Raises:
            LikenessError: the asset is not here (what to place where), or holds no such network.
        """
        from preprocessing.operators.mediapipe_blendshapes import BlendshapeNetwork

        self._network = BlendshapeNetwork(self.asset("face_landmarker"))

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        mesh, source = sample[LANDMARKS_478], sample[SOURCE]
        shapes = np.zeros((len(mesh), len(BLENDSHAPES)), np.float32)
        for place in np.flatnonzero(sample[FACE_VALID]):
            shapes[place] = self._network(mesh[place], source["height"], source["width"])
        return {BLENDSHAPES_52: shapes}


class ActionUnits(FamilyOperator):
    """action_units_VARIANT: of up to 3 valid frames drawn at random the units of each, and those that all of them show.

    - blendshapes: `preprocessing.action_units.RULES` on BLENDSHAPES_52, with thresholds of its own (`docs/motion.md`).
    - megraphau: ME-GraphAU with Swin-B (Luo et al. 2022; hybrid set of 41 labels) as ONNX, on the aligned face at 224 px with
      ImageNet's mean and spread. A unit counts above `threshold`, and the strongest of a frame counts always: that is what
      InstructAvatar's preparation reads off facetorch.

    Frames are drawn by `seed` and the row's key. Without a valid face there are no frames and no labels.
    """

    version = 1

    class Params(OperatorParams):
        """Settings.

        `variant`: fixed by the field's name.
        `seed`: of the draw.
        `thresholds`: for blendshapes, label -> threshold, such as {"AU12": 0.6}.
        `threshold`, `strongest`, `template`, `output`: for megraphau. `output` says what the network gives: "score" (0 to 1, the
        similarity that ME-GraphAU ends with) or "logit" (a sigmoid is still to come).
        """

        variant: ActionUnitVariant
        seed: int = Setting(0, ge=0)
        thresholds: dict[str, float] = {}
        threshold: float = Setting(0.5, gt=0, lt=1)
        strongest: bool = True
        template: Template = "five"
        output: Literal["score", "logit"] = "score"

        @model_validator(mode="after")
        def _known(self) -> ActionUnits.Params:
            if unknown := sorted(self.thresholds.keys() - RULES.keys()):
                raise ValueError(f"thresholds for {unknown[0]}, which blendshapes do not tell: known are {', '.join(RULES)}")
            return self

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        variant = field.removeprefix("action_units_")
        return {"variant": variant} if field != variant and variant in ("blendshapes", "megraphau") else None

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return ("action_units_blendshapes", "action_units_megraphau")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"action_units_{self.params.variant}"

    @property
    def assets(self) -> tuple[str, ...]:
        return ("megraphau",) if self.params.variant == "megraphau" else ()

    @property
    def reads(self) -> tuple[Field, ...]:
        if self.params.variant == "megraphau":
            return (aligned_face(self.params.template, FACE_PX), FACE_VALID)
        return (BLENDSHAPES_52, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (action_units(self.params.variant),)

    def setup(self) -> None:
        """Load the network, for megraphau.

        Raises:
            LikenessError: its asset is not here (what to place where), or is another network.
        """
        if self.params.variant == "megraphau":
            self._network = GraphNetwork(self.asset("megraphau"), self.params.output)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        places = drawn(np.flatnonzero(sample[FACE_VALID]), FRAMES, self.params.seed, sample.key)
        value = sample[self.reads[0]]
        if self.params.variant == "megraphau":
            scores = [self._network(value[int(place)]) for place in places]
            each = [labels_above(found, self.params.threshold, self.params.strongest) for found in scores]
        else:
            each = from_blendshapes(value[places], self.params.thresholds)
        common = [label for label in LABELS if each and all(label in found for found in each)]
        return {self.writes[0]: {"frames": [int(place) for place in places], "per_frame": each, "labels": common}}


class GraphNetwork:
    """ME-GraphAU as a function of a face.

    Args:
        path: the ONNX file: (n, 3, 224, 224) -> (n, 41), in the order of `action_units.LABELS`.

    Raises:
        LikenessError: the file is another network.
    """

    def __init__(self, path: Any, output: Literal["score", "logit"] = "score") -> None:
        from preprocessing.onnx_session import OnnxNetwork

        self._network, self._output = OnnxNetwork(path), output
        shapes = list(self._network.inputs.values())
        if len(shapes) != 1 or shapes[0][1:] != (3, FACE_PX, FACE_PX):
            raise LikenessError(f"asset megraphau takes {shapes}", allowed=f"one input of (n, 3, {FACE_PX}, {FACE_PX})")

    def __call__(self, face: np.ndarray) -> np.ndarray:
        """(41,) from 0 to 1 for a face (224, 224, 3) uint8 RGB."""
        blob = (face.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        found = self._network(np.ascontiguousarray(blob.transpose(2, 0, 1)[None]))[0]
        if found.shape != (1, len(LABELS)):
            raise LikenessError(f"asset megraphau gives {found.shape}", allowed=f"(1, {len(LABELS)})")
        scores = found[0].astype(np.float64)
        if self._output == "logit":
            return 1 / (1 + np.exp(-scores))
        if scores.min() < -1e-3 or scores.max() > 1 + 1e-3:
            what = f"asset megraphau gives values from {scores.min():.3g} to {scores.max():.3g}"
            raise LikenessError(what, allowed="0 to 1", fix="set action_units_megraphau.output=logit")
        return scores


def labels_above(scores: np.ndarray, threshold: float, strongest: bool) -> list[str]:
    """Labels of (41,) scores above the threshold, and with `strongest` the one of the highest score whatever it is."""
    always = int(scores.argmax()) if strongest else -1
    return [label for place, label in enumerate(LABELS) if scores[place] > threshold or place == always]


def drawn(places: np.ndarray, most: int, seed: int, key: str) -> np.ndarray:
    """At most so many of these places, at random by seed and key, rising."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    return np.sort(rng.permutation(places)[:most])
