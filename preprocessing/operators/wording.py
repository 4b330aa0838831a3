"""Text that needs no network of its own: captions and face descriptions from what was measured, and texts joined of others."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import Field as Setting
from pydantic import field_validator

from preprocessing.face_attributes import description, face_attributes, mouth_words
from preprocessing.fields import (
    CAPTION_ACTION,
    CAPTION_BLIP,
    CAPTION_MEASURED,
    CAPTION_TAGGED,
    CAPTION_UNIFIED,
    DESCRIPTION_MEASURED,
    FACE_VALID,
    HEAD_POSE,
    KEY_FRAME,
    LANDMARKS_478,
    MEASURES,
    OBJECTS,
    PICTURE_CLASS,
    PICTURE_MEASURES,
    SOURCE,
    Field,
    by_name,
)
from preprocessing.head_moves import head_moves
from preprocessing.operator import Operator, OperatorParams, Refused, Sample

COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKS = 0.045  # `lip_motion` from which on somebody speaks: people who keep silent measured up to 0.025, talkers from 0.068


class MeasuredDescription(Operator):
    """DESCRIPTION_MEASURED: one sentence about the key frame's face, from its mesh; see `preprocessing.face_attributes`.

    For ConsistentID where no language model is at hand. It says nothing that a mesh does not show: no age, sex or colour.
    """

    name = "measured_description"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (LANDMARKS_478, FACE_VALID, HEAD_POSE, KEY_FRAME)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (DESCRIPTION_MEASURED,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        place = int(sample[KEY_FRAME])
        if not sample[FACE_VALID][place]:
            raise Refused("no valid face in the key frame")
        face = face_attributes(sample[LANDMARKS_478][place])
        return {DESCRIPTION_MEASURED: description(face, float(sample[HEAD_POSE][place, 0]))}


class MeasuredCaption(Operator):
    """CAPTION_MEASURED: "a photo of one person, head and shoulders, looking at the camera, smiling with parted lips, in dim light,
    muted colours"."""

    name = "measured_caption"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (SOURCE, MEASURES, PICTURE_MEASURES, LANDMARKS_478, FACE_VALID, HEAD_POSE, KEY_FRAME)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (CAPTION_MEASURED,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        place, measures = int(sample[KEY_FRAME]), sample[MEASURES]
        kind = "photo" if sample[SOURCE].get("kind") == "photo" else "video"
        if not sample[FACE_VALID][place]:
            parts = [f"a {kind} in which no face is seen well"]
        else:
            yaw, pitch = (float(angle) for angle in sample[HEAD_POSE][place, :2])
            face = face_attributes(sample[LANDMARKS_478][place])
            parts = [f"a {kind} of {people(measures['faces'])}", shot(measures["face_share"]), gaze(yaw, pitch), mouth_words(face)]
        return {CAPTION_MEASURED: ", ".join(filter(None, [*parts, *look(sample[PICTURE_MEASURES])]))}


def people(count: float) -> str:
    """By the median number of faces in a frame."""
    number = max(1, round(count))
    return "one person" if number == 1 else f"{COUNTS[number] if number < len(COUNTS) else 'many'} people"


def shot(face_share: float) -> str:
    """By the share of the picture that the face's box covers."""
    named = ((0.25, "the face close up"), (0.06, "head and shoulders"), (0.015, "from the waist up"))
    return next((words for least, words in named if face_share >= least), "seen from afar")


def gaze(yaw: float, pitch: float) -> str:
    """By the head's angles in degrees; left and right are the picture's."""
    side = "right" if yaw > 0 else "left"
    if abs(yaw) >= 45:
        return f"in profile, turned to the {side}"
    turned = f"turned to the {side}" if abs(yaw) >= 15 else ""
    raised = "looking up" if pitch >= 15 else "looking down" if pitch <= -15 else ""
    return ", ".join(filter(None, (turned, raised))) or "facing the camera"


def look(measures: Mapping[str, float]) -> list[str]:
    """Light and colours, where they are out of the ordinary."""
    light, colours, sharp = measures["brightness"], measures["colourfulness"], measures["blur"]
    words = ["in dim light"] if light < 0.22 else ["in bright light"] if light > 0.62 else []
    if colours < 3:
        words += ["black and white"]
    elif not 20 <= colours <= 60:
        words += ["muted colours" if colours < 20 else "strong colours"]
    return words + (["blurred"] if sharp < 20 else [])


class ActionCaption(Operator):
    """CAPTION_ACTION: "the person speaks and turns the head to the left, then nods".

    ID-Animator's second caption, without a network: movements of the head by `preprocessing.head_moves`, speaking by the
    lip_motion of MEASURES.
    """

    name = "action_caption"
    version = 1

    class Params(OperatorParams):
        """`most`: movements that are told."""

        most: int = Setting(4, ge=1)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (SOURCE, MEASURES, HEAD_POSE, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (CAPTION_ACTION,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        valid, measures = sample[FACE_VALID], sample[MEASURES]
        if len(valid) < 2 or not valid.any():
            raise Refused("a photo shows no action" if len(valid) < 2 else "no valid face in the clip")
        fps = float(Fraction(str(sample[SOURCE]["fps"])))
        moves = head_moves(sample[HEAD_POSE], valid, fps)[: self.params.most]
        speaks = "speaks" if measures["lip_motion"] >= SPEAKS else "keeps silent"
        told = f"{speaks} and {', then '.join(moves)}" if moves else f"{speaks}, holding the head still"
        return {CAPTION_ACTION: f"the person {told}"}


class UnifiedCaption(Operator):
    """CAPTION_UNIFIED: "<who and what they look like>. <what they do>.": ID-Animator's training text.

    A rule stands in for the published language model. Text encoders cut after 77 tokens, so where both have more than
    `most_words` words together, the action stands first and the other is cut.
    """

    name = "unified_caption"
    version = 1

    class Params(OperatorParams):
        """`attributes`, `action`: fields of text; `most_words`: words that are sure to fit 77 tokens or so."""

        attributes: str = CAPTION_MEASURED.name
        action: str = CAPTION_ACTION.name
        most_words: int = Setting(50, ge=2)

        @field_validator("attributes", "action")
        @classmethod
        def _a_text(cls, caption: str) -> str:
            return named_field(caption, "txt").name

    @property
    def reads(self) -> tuple[Field, ...]:
        return (named_field(self.params.attributes, "txt"), named_field(self.params.action, "txt"))

    @property
    def writes(self) -> tuple[Field, ...]:
        return (CAPTION_UNIFIED,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        attributes, action = (sample[field].strip().rstrip(".") for field in self.reads)
        most = self.params.most_words
        if len(attributes.split()) + len(action.split()) <= most:
            return {CAPTION_UNIFIED: f"{attributes}. {action}."}
        words = f"{action}. {attributes}.".split()
        return {CAPTION_UNIFIED: " ".join(words[:most])}


class TaggedCaption(Operator):
    """CAPTION_TAGGED: PASD's text from three networks: "suit, 2 person, 1 tie, a man in a clear room".

    The class stands first where its score reaches `least_score`, then every kind of object with its count, then the caption, with
    words for bad pictures turned into those for good ones, since the text is to describe the restored picture.
    """

    name = "tagged_caption"
    version = 1

    class Params(OperatorParams):
        """Attributes:
        caption: the field of text that ends it.
        least_score: of the class, for its being named.
        painting_to_photo: also turn "painting" into "photo", as PASD does for SDXL.
        """

        caption: str = CAPTION_BLIP.name
        least_score: float = Setting(0.1, ge=0, le=1)
        painting_to_photo: bool = False

        @field_validator("caption")
        @classmethod
        def _a_text(cls, caption: str) -> str:
            return named_field(caption, "txt").name

    @property
    def reads(self) -> tuple[Field, ...]:
        return (PICTURE_CLASS, OBJECTS, named_field(self.params.caption, "txt"))

    @property
    def writes(self) -> tuple[Field, ...]:
        return (CAPTION_TAGGED,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        shown, counts = sample[PICTURE_CLASS], sample[OBJECTS]["counts"]
        caption = sample[self.reads[2]]
        swaps = {"blurry": "clear", "noisy": "clean"} | ({"painting": "photo"} if self.params.painting_to_photo else {})
        for bad, good in swaps.items():
            caption = caption.replace(bad, good)
        tags = [shown["label"]] * (shown["score"] >= self.params.least_score)
        return {CAPTION_TAGGED: ", ".join([*tags, *(f"{count} {label}" for label, count in counts.items()), caption])}


def named_field(name: str, codec: str) -> Field:
    """The field of that name.

    Raises:
        ValueError: there is none, or it holds something else.
    """
    field = by_name(name)
    if field is None or field.codec != codec:
        raise ValueError(f"{name!r} is no field of {'text' if codec == 'txt' else 'JSON'}")
    return field
