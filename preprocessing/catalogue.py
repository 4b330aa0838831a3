"""Which operator makes which field.

A new operator is one line here; nothing else has to know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from infra.errors import LikenessError
from infra.settings import merge
from preprocessing.fields import AUDIO, VIDEO, by_name, known_names
from preprocessing.operator import Operator
from preprocessing.operators.face_crops import CropParams, FaceBoxCrops, FaceTube, FaceTubeCrops
from preprocessing.operators.face_detect import FaceDetect
from preprocessing.operators.face_landmarks import FaceLandmarks
from preprocessing.operators.face_track import FaceTrack
from preprocessing.operators.head_pose import HeadPose
from preprocessing.operators.ingest import Ingest
from preprocessing.operators.landmark_subsets import LandmarkSubsets
from preprocessing.operators.measures import Measures
from preprocessing.operators.sound import Mel80, VoiceActivity
from preprocessing.operators.sync import SyncScores

Settings = Mapping[str, Mapping[str, Any]]

OPERATORS: tuple[type[Operator], ...] = (
    FaceDetect, FaceTrack, FaceLandmarks, LandmarkSubsets, FaceTube, HeadPose, Mel80, VoiceActivity, Measures, SyncScores,
)  # fmt: skip
# Their fields carry the size in the name: face_box_96.
CROPS: tuple[type[FaceBoxCrops | FaceTubeCrops], ...] = (FaceBoxCrops, FaceTubeCrops)
_BY_FIELD = {field.name: kind for kind in OPERATORS for field in kind().writes}


def producer(field: str, settings: Settings | None = None) -> Operator:
    """The operator that writes a field.

    Args:
        field: its name.
        settings: operator name -> settings that differ from the defaults.

    Raises:
        LikenessError: no such field, no operator for it, or a setting the operator does not have.
    """
    known = by_name(field)
    if known is None:
        near = get_close_matches(field, known_names(), n=1, cutoff=0.4)
        hint = f" (nearest: {near[0]})" if near else ""
        raise LikenessError(f"unknown field {field!r}{hint}", allowed=", ".join(known_names()))
    settings = settings or {}
    for crops in CROPS:
        if field.startswith(f"face_{crops.kind}_") and field not in _BY_FIELD:
            given = settings.get(crops.name, {})
            if "size" in given:
                what = f"setting {crops.name}.size={given['size']!r}"
                raise LikenessError(what, fix=f"ask for the field face_{crops.kind}_SIZE instead")
            return crops(_with(CropParams(size=known.shape[1]), given, crops.name))
    if field not in _BY_FIELD:
        if field == VIDEO.name or field in {f.name for f in Ingest().writes}:
            fix = "leave ingest.require_audio at true" if field == AUDIO.name else ""
            raise LikenessError(f"field {field} comes from ingest", fix=fix)
        raise LikenessError(f"no operator makes field {field} yet", allowed=", ".join(sorted(_BY_FIELD)))
    kind = _BY_FIELD[field]
    return kind(_with(kind.Params(), settings.get(kind.name, {}), kind.name))


def ingest(settings: Settings | None = None) -> Ingest:
    """Ingest with its settings, `settings["ingest"]`."""
    return Ingest(_with(Ingest.Params(), (settings or {}).get(Ingest.name, {}), Ingest.name))


def operators() -> list[Operator]:
    """Every operator at its defaults, for the documentation; crops at the sizes that published methods use."""
    return [kind() for kind in OPERATORS] + [FaceBoxCrops(CropParams(size=96)), FaceTubeCrops(CropParams(size=256))]


def operator_names() -> list[str]:
    """Names that settings may be given for."""
    return [Ingest.name, *(kind.name for kind in OPERATORS), *(crops.name for crops in CROPS)]


def _with(params: Any, given: Mapping[str, Any], operator: str) -> Any:
    try:
        return merge(params, given)
    except LikenessError as error:
        raise LikenessError(f"operator {operator}: {error.what}", allowed=error.allowed, fix=error.fix) from None
