"""What the sources' labels say, and how to ask for it: instructions from an emotion, action units and movements of the head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import Field as Setting
from pydantic import field_validator

from preprocessing.fields import FACE_VALID, GIVEN, HEAD_POSE, INSTRUCTIONS, LABELS_GIVEN, SOURCE, Field
from preprocessing.head_moves import head_moves
from preprocessing.instructions import EMOTIONS, imperative, instruction, unit_words
from preprocessing.operator import Operator, OperatorParams, Refused, Sample
from preprocessing.operators.wording import named_field
from preprocessing.seeds import generator


class LabelsGiven(Operator):
    """LABELS_GIVEN: the tags that came with the source, as they are."""

    name = "labels_given"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (GIVEN,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (LABELS_GIVEN,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        tags = sample[GIVEN].get("tags") or {}
        if not tags:
            raise Refused("no tags were given")
        return {LABELS_GIVEN: dict(tags)}


class Instructions(Operator):
    """INSTRUCTIONS: several ways to ask for what the clip shows, by `preprocessing.instructions`, from

    - the emotion and its level: tags `emotion` and `intensity` given with the source, else a path as MEAD's, such as
      M003/video/front/angry/level_3/001.mp4;
    - action units, where `action_units` names a field whose labels they are;
    - movements of the head.

    Task "emotion" where there is a label, "motion" where there are only movements, "neutral" where there is nothing. The
    texts' chance comes from `seed` and the row's key alone.
    """

    name = "instructions"
    version = 1

    class Params(OperatorParams):
        """Attributes:
        action_units: a JSON field whose "labels" are units such as AU12; "" for none.
        head: tell movements of the head too.
        texts: how many are drawn.
        seed: other numbers draw others.
        """

        action_units: str = ""
        head: bool = True
        texts: int = Setting(8, ge=1)
        seed: int = Setting(0, ge=0)

        @field_validator("action_units")
        @classmethod
        def _a_json_field(cls, name: str) -> str:
            return named_field(name, "json").name if name else ""

    @property
    def reads(self) -> tuple[Field, ...]:
        units = (named_field(self.params.action_units, "json"),) if self.params.action_units else ()
        return (GIVEN, SOURCE, *((HEAD_POSE, FACE_VALID) if self.params.head else ()), *units)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (INSTRUCTIONS,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        emotion, level = labelled_emotion(sample[GIVEN].get("tags") or {}, str(sample[SOURCE].get("path", "")))
        units = list(sample[self.reads[-1]]["labels"]) if self.params.action_units else []
        head = []
        if self.params.head:
            head = head_moves(sample[HEAD_POSE], sample[FACE_VALID], float(Fraction(str(sample[SOURCE]["fps"]))))
        does = [unit_words(label) for label in units] + [imperative(move) for move in head]
        rng = generator(self.params.seed, self.name, sample.key)
        texts = [instruction(emotion, level, does, rng) for _ in range(self.params.texts)]
        task = "emotion" if emotion else "motion" if does else "neutral"
        value = {"task": task, "emotion": emotion, "level": level, "action_units": units, "head": head, "texts": texts}
        return {INSTRUCTIONS: value}


def labelled_emotion(tags: Mapping[str, Any], path: str) -> tuple[str, int]:
    """(emotion of `EMOTIONS` or "", level 1 to 3 or 0) by tags, else by a path as MEAD's.

    Raises:
        Refused: a tag that is no emotion or level known here.
    """
    emotion, level = str(tags.get("emotion") or "").strip().lower(), tags.get("intensity")
    if not emotion:
        match = re.search(rf"(?:^|[/_])({'|'.join(EMOTIONS)})[/_]level_([123])(?:[/_.]|$)", path)
        return (match[1], int(match[2])) if match else ("", 0)
    synonyms = {word: name for name, words in EMOTIONS.items() for word in words}
    known = emotion if emotion in EMOTIONS else synonyms.get(emotion, "")
    if not known:
        raise Refused(f"emotion {emotion!r} is none of {', '.join(EMOTIONS)}")
    if level in (None, ""):
        return known, 0
    if str(level) not in ("0", "1", "2", "3"):
        raise Refused(f"intensity {level!r} is none of 1, 2, 3")
    return known, int(level)
