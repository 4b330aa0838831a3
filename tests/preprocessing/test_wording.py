"""Text operators without networks: captions of what was measured, tags in words, instructions drawn for the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astronaut_clips import fill, make_sample, swaying

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.codecs import decode, encode
from preprocessing.fields import (
    CAPTION_ACTION,
    CAPTION_BLIP,
    CAPTION_MEASURED,
    CAPTION_TAGGED,
    CAPTION_UNIFIED,
    DESCRIPTION_MEASURED,
    FACE_VALID,
    GIVEN,
    HEAD_POSE,
    INSTRUCTIONS,
    LABELS_GIVEN,
    OBJECTS,
    PICTURE_CLASS,
    SOURCE,
)
from preprocessing.instructions import ACTION_UNITS, EMOTIONS, NEUTRAL, imperative, instruction, unit_words
from preprocessing.operator import Refused, Sample
from preprocessing.operators.instructions import labelled_emotion
from preprocessing.operators.wording import gaze, look, people, shot


def test_given_labels_are_passed_on():
    operator = catalogue.producer("labels_given")
    assert operator(Sample("row", {"given": {"tags": {"style": "oil"}, "caption": "x"}})) == {LABELS_GIVEN: {"style": "oil"}}
    with pytest.raises(Refused, match="no tags were given"):
        operator(Sample("row", {"given": {"caption": "x"}}))


def test_the_astronaut_in_words():
    sample = fill(make_sample(swaying(6)), CAPTION_MEASURED, DESCRIPTION_MEASURED, CAPTION_ACTION)
    seen = "a video of one person, head and shoulders, facing the camera, smiling with parted lips"
    assert sample[CAPTION_MEASURED].startswith(seen)
    assert sample[DESCRIPTION_MEASURED].startswith("The person has ")
    assert sample[CAPTION_ACTION] == "the person keeps silent, holding the head still"
    sample[FACE_VALID] = np.zeros(6, bool)
    seen = catalogue.producer("caption_measured")(sample)[CAPTION_MEASURED]
    assert seen.startswith("a video in which no face is seen well")
    for field in ("description_measured", "caption_action"):
        with pytest.raises(Refused, match="no valid face"):
            catalogue.producer(field)(sample)
    photo = fill(make_sample(swaying(1)), CAPTION_MEASURED)
    photo[SOURCE]["kind"] = "photo"
    assert catalogue.producer("caption_measured")(photo)[CAPTION_MEASURED].startswith("a photo of one person")
    with pytest.raises(Refused, match="a photo shows no action"):
        fill(photo, CAPTION_ACTION)


def test_parts_of_a_measured_caption():
    assert [people(n) for n in (0.4, 1, 2.6, 12)] == ["one person", "one person", "three people", "many people"]
    assert [shot(s) for s in (0.3, 0.1, 0.02, 0.001)] == [
        "the face close up", "head and shoulders", "from the waist up", "seen from afar",
    ]  # fmt: skip
    assert [gaze(*a) for a in ((0, 0), (20, 0), (-60, 30), (-20, 20), (0, -20))] == [
        "facing the camera", "turned to the right", "in profile, turned to the left", "turned to the left, looking up",
        "looking down",
    ]  # fmt: skip
    assert look({"brightness": 0.1, "colourfulness": 0, "blur": 5}) == ["in dim light", "black and white", "blurred"]
    assert look({"brightness": 0.7, "colourfulness": 70, "blur": 100}) == ["in bright light", "strong colours"]
    assert look({"brightness": 0.4, "colourfulness": 40, "blur": 100}) == []


def tagged(score: float, caption: str, **settings: Any) -> str:
    sample = Sample("row", {
        PICTURE_CLASS.name: {"label": "suit", "score": score}, OBJECTS.name: {"counts": {"person": 2, "tie": 1}},
        CAPTION_BLIP.name: caption,
    })  # fmt: skip
    return catalogue.producer("caption_tagged", {"tagged_caption": settings})(sample)[CAPTION_TAGGED]


def test_pasds_text():
    assert tagged(0.3, "a blurry photo of a noisy room") == "suit, 2 person, 1 tie, a clear photo of a clean room"
    assert tagged(0.05, "a man") == "2 person, 1 tie, a man"
    assert tagged(0.05, "a painting", painting_to_photo=True) == "2 person, 1 tie, a photo"
    assert catalogue.producer("caption_tagged", {"tagged_caption": {"caption": "caption_llava"}}).reads[2].name == "caption_llava"
    with pytest.raises(LikenessError, match="no field of text"):
        catalogue.producer("caption_tagged", {"tagged_caption": {"caption": "mel80"}})


def test_captions_are_joined_and_cut():
    def joined(attributes: str, action: str, **settings: Any) -> str:
        values = {CAPTION_MEASURED.name: attributes, CAPTION_ACTION.name: action}
        return catalogue.producer("caption_unified", {"unified_caption": settings})(Sample("row", values))[CAPTION_UNIFIED]

    assert joined("a photo of a man", "the person nods.") == "a photo of a man. the person nods."
    assert joined("a b c d e", "f g", most_words=5) == "f g. a b c"
    other = catalogue.producer("caption_unified", {"unified_caption": {"attributes": "caption_llava"}})
    assert other.reads[0].name == "caption_llava"
    with pytest.raises(LikenessError, match="no field of text"):
        catalogue.producer("caption_unified", {"unified_caption": {"action": "measures"}})


def instructed(key: str = "a", tags: dict | None = None, units: list[str] | None = None, **settings: Any) -> dict:
    turn = np.zeros((50, 3), np.float32)
    turn[:, 0] = np.linspace(0, 30, 50) if settings.pop("turns", False) else 0
    values: dict[Any, Any] = {
        GIVEN: {"tags": tags or {}}, SOURCE: {"path": "x.mp4", "fps": "25/1"}, HEAD_POSE: turn, FACE_VALID: np.ones(50, bool),
    }  # fmt: skip
    if units is not None:  # any field of JSON with labels will do
        values[OBJECTS], settings["action_units"] = {"labels": units}, "objects"
    operator = catalogue.producer("instructions", {"instructions": settings})
    found = operator(Sample(key, {field.name: value for field, value in values.items()}))[INSTRUCTIONS]
    return decode(INSTRUCTIONS, encode(INSTRUCTIONS, found))


def test_instructions_say_what_is_known():
    plain = instructed()
    assert (plain["task"], plain["emotion"], plain["level"]) == ("neutral", "", 0)
    assert len(plain["texts"]) == 8
    assert set(plain["texts"]) <= set(NEUTRAL)
    moved = instructed(turns=True, texts=20)
    assert moved["head"] == ["turns the head to the right"]
    assert set(moved["texts"]) == {"turn the head to the right.", "Turn the head to the right."}
    assert instructed(turns=True, head=False)["task"] == "neutral"
    angry = instructed(tags={"emotion": "Furious", "intensity": "3"}, texts=40)
    assert (angry["task"], angry["emotion"], angry["level"]) == ("emotion", "angry", 3)
    assert all(any(word in text for word in EMOTIONS["angry"]) for text in angry["texts"])
    assert 10 < sum("intensity 3" in text for text in angry["texts"]) < 30
    both = instructed(tags={"emotion": "sad"}, units=["AU1", "AUL15"], texts=400)
    assert both["action_units"] == ["AU1", "AUL15"]
    units = [("inner brows" in t or "Raise the inner" in t) and "pull the lip corners down on the left" in t for t in both["texts"]]
    words = [any(word in t for word in EMOTIONS["sad"]) for t in both["texts"]]
    share = [np.mean(np.array(units) & np.array(words)), np.mean(units), np.mean(words)]
    assert share == pytest.approx([0.2, 0.7, 0.5], abs=0.08)


def test_a_row_has_instructions_of_its_own():
    given = {"emotion": "happy", "intensity": 2}
    assert instructed("a", given) == instructed("a", given)
    assert instructed("a", given)["texts"] != instructed("b", given)["texts"]
    assert instructed("a", given)["texts"] != instructed("a", given, seed=1)["texts"]


def test_labels_from_tags_and_paths():
    assert labelled_emotion({}, "M003/video/front/disgusted/level_2/011.mp4") == ("disgusted", 2)
    assert labelled_emotion({}, "M003_front_neutral_level_1_011.mp4") == ("neutral", 1)
    assert labelled_emotion({}, "sadly/level_2/a.mp4") == ("", 0)
    assert labelled_emotion({"emotion": "calm"}, "angry/level_3/1.mp4") == ("neutral", 0)
    with pytest.raises(Refused, match="emotion 'hungry' is none of angry"):
        labelled_emotion({"emotion": "hungry"}, "")
    with pytest.raises(Refused, match="intensity 9 is none"):
        labelled_emotion({"emotion": "sad", "intensity": 9}, "")


def test_action_units_in_words():
    assert len(ACTION_UNITS) == 27
    assert unit_words("AU12") == unit_words("12") == "pull the lip corners up"
    assert unit_words("AUR4") == "lower the brows on the right"
    with pytest.raises(KeyError):
        unit_words("AU99")
    assert imperative("turns the head to the left") == "turn the head to the left"
    assert imperative("nods") == "nod"
    rng = np.random.default_rng(0)
    texts = {instruction("", 0, ["nod", "part the lips", "raise the chin"], rng) for _ in range(20)}
    assert texts == {"nod, part the lips, raise the chin.", "Nod, part the lips and raise the chin."}
