"""Which operator makes which field.

A new operator is one line here; nothing else has to know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from infra.errors import LikenessError
from infra.settings import merge
from preprocessing.fields import AUDIO, GIVEN, VIDEO, by_name, known_names
from preprocessing.operator import FamilyOperator, Operator
from preprocessing.operators.active_speaker import ActiveSpeaker
from preprocessing.operators.aligned_faces import AlignedFaces
from preprocessing.operators.body_pose import BodyMeasures, BodyPose
from preprocessing.operators.captions import Blip, GivenCaption, Llava, LlavaDescription
from preprocessing.operators.clusters import IdentityCluster
from preprocessing.operators.condition_maps import Canny, Colours, Grey, Lines
from preprocessing.operators.contents import Objects, PictureClass
from preprocessing.operators.degradations import Degraded, Sharpened
from preprocessing.operators.depth import Depth
from preprocessing.operators.duplicates import Duplicate
from preprocessing.operators.expressions import ActionUnits, Blendshapes
from preprocessing.operators.face_cover import FaceCover
from preprocessing.operators.face_crops import FaceBoxCrops, FaceTube, FaceTubeCrops
from preprocessing.operators.face_detect import FaceDetect
from preprocessing.operators.face_landmarks import FaceLandmarks
from preprocessing.operators.face_maps import FaceMaps
from preprocessing.operators.face_parsing import FaceParsing
from preprocessing.operators.face_parts import FaceFeatures, PartMasks
from preprocessing.operators.face_track import FaceTrack
from preprocessing.operators.head_pose import HeadPose
from preprocessing.operators.identity import Identity
from preprocessing.operators.ingest import Ingest
from preprocessing.operators.insightface_landmarks import Landmarks3D68, Landmarks106
from preprocessing.operators.instructions import Instructions, LabelsGiven
from preprocessing.operators.landmark_subsets import LandmarkSubsets
from preprocessing.operators.latents import AutoencoderLatents, TinyLatents
from preprocessing.operators.measures import Measures
from preprocessing.operators.morphable import MorphableFit, MorphableLayouts
from preprocessing.operators.motion import Motion
from preprocessing.operators.naturalness import Naturalness
from preprocessing.operators.near_duplicates import NearDuplicate
from preprocessing.operators.picture_measures import PerceptualHash, PictureMeasures
from preprocessing.operators.pictures import KeyFrame, Pictures
from preprocessing.operators.pose_maps import KeyPointPictures, PoseMaps
from preprocessing.operators.realign import Realign
from preprocessing.operators.scene_cuts import SceneCuts
from preprocessing.operators.segmentation import Segmentation
from preprocessing.operators.sound import Mel80, Mfcc13, Silence, SoundMeasures, VoiceActivity
from preprocessing.operators.speech_features import SpeechConvolutions, SpeechStates
from preprocessing.operators.speech_probability import SpeechProbability
from preprocessing.operators.sync import RealignedSyncScores, SyncScores
from preprocessing.operators.text_embeddings import TextEmbeddings
from preprocessing.operators.video_views import PersonMask, PersonSplit, WholeFrames
from preprocessing.operators.wording import ActionCaption, MeasuredCaption, MeasuredDescription, TaggedCaption, UnifiedCaption

Settings = Mapping[str, Mapping[str, Any]]

OPERATORS: tuple[type[Operator], ...] = (
    FaceDetect, FaceTrack, FaceLandmarks, LandmarkSubsets, FaceTube, HeadPose, Mel80, VoiceActivity, Measures, SyncScores,
    PictureMeasures, SoundMeasures, PerceptualHash, IdentityCluster, Duplicate, KeyFrame, GivenCaption, Blip, Llava,
    Mfcc13, SpeechStates, SpeechConvolutions, Silence, SpeechProbability, Realign, RealignedSyncScores, ActiveSpeaker,
    LlavaDescription, PictureClass, Objects, LabelsGiven, MeasuredDescription, MeasuredCaption, ActionCaption, UnifiedCaption,
    TaggedCaption, Instructions,
    Landmarks106, Landmarks3D68, SceneCuts, Naturalness, FaceCover, NearDuplicate,
    BodyPose, BodyMeasures, Motion, Blendshapes,
)  # fmt: skip
# Their fields carry parameters in their names: face_box_96. With a field each for the documentation and the tests.
FAMILIES: dict[type[FamilyOperator], str] = {
    FaceBoxCrops: "face_box_96", FaceTubeCrops: "face_tube_256", AlignedFaces: "face_arcface_112", Identity: "identity_mobileface",
    Pictures: "image_512", AutoencoderLatents: "latent_sd15_512",
    TinyLatents: "latent_taef2_512", TextEmbeddings: "text_sd15",
    Degraded: "degraded_pasd_512", Sharpened: "sharpened_512", Grey: "grey_512", Colours: "colours_512", Canny: "canny_512",
    Lines: "lines_512", Depth: "depth_512", Segmentation: "segmentation_512", MorphableFit: "morphable_learned_260",
    MorphableLayouts: "morphable_learned_257", FaceMaps: "map_normal_learned_512", FaceParsing: "parsing_ffhq_512",
    PartMasks: "part_masks_image_512", FaceFeatures: "face_features_336", WholeFrames: "frames_256",
    PersonMask: "person_mask_256", PersonSplit: "foreground_256", PoseMaps: "pose_map_openpose_256",
    KeyPointPictures: "key_points_256", ActionUnits: "action_units_megraphau",
}  # fmt: skip
_BY_FIELD = {field.name: kind for kind in OPERATORS for field in kind().writes}


def producer(field: str, settings: Settings | None = None) -> Operator:
    """The operator that writes a field.

    Args:
        field: its name.
        settings: operator name -> settings that differ from the defaults.

    Raises:
        LikenessError: no such field, no operator for it, or a setting the operator does not have.
    """
    if by_name(field) is None:
        near = get_close_matches(field, known_names(), n=1, cutoff=0.4)
        hint = f" (nearest: {near[0]})" if near else ""
        raise LikenessError(f"unknown field {field!r}{hint}", allowed=", ".join(known_names()))
    settings = settings or {}
    if field in _BY_FIELD:
        kind = _BY_FIELD[field]
        return kind(_with(kind.Params(), settings.get(kind.name, {}), kind.name))
    for family in FAMILIES:
        if (fixed := family.of_field(field)) is not None:
            return _of_family(family, fixed, field, settings)
    if field in (VIDEO.name, GIVEN.name) or field in {f.name for f in Ingest().writes}:
        fix = "leave ingest.sound at required or kept" if field == AUDIO.name else ""
        raise LikenessError(f"field {field} comes from ingest", fix=fix)
    raise LikenessError(f"no operator makes field {field} yet", allowed=", ".join(sorted(_BY_FIELD)))


def _of_family(family: type[FamilyOperator], fixed: dict[str, Any], field: str, settings: Settings) -> Operator:
    plain = family(family.Params(**fixed))
    given = settings.get(plain.name, {})
    if clash := sorted(fixed.keys() & given.keys()):
        what = f"setting {plain.name}.{clash[0]}={given[clash[0]]!r}"
        raise LikenessError(what, fix=f"ask for another field instead: {field} says it already")
    return family(_with(plain.params, given, plain.name))


def ingest(settings: Settings | None = None) -> Ingest:
    """Ingest with its settings, `settings["ingest"]`."""
    return Ingest(_with(Ingest.Params(), (settings or {}).get(Ingest.name, {}), Ingest.name))


def operators() -> list[Operator]:
    """Every operator at its defaults, for the documentation; those of families for the field that stands beside them."""
    return [kind() for kind in OPERATORS] + [kind(kind.Params(**kind.of_field(field) or {})) for kind, field in FAMILIES.items()]


def operator_names() -> list[str]:
    """Names that settings may be given for."""
    fields = [(kind, field) for kind, example in FAMILIES.items() for field in (example, *kind.variants())]
    families = (kind(kind.Params(**kind.of_field(field) or {})).name for kind, field in fields)
    return list(dict.fromkeys([Ingest.name, *(kind.name for kind in OPERATORS), *families]))


def _with(params: Any, given: Mapping[str, Any], operator: str) -> Any:
    try:
        return merge(params, given)
    except LikenessError as error:
        raise LikenessError(f"operator {operator}: {error.what}", allowed=error.allowed, fix=error.fix) from None
