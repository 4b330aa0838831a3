"""The vocabulary: names resolve, families carry their size, alternatives join, and the page about it is current."""

from __future__ import annotations

from pathlib import Path

import pytest

from preprocessing import fields
from preprocessing.fields import FIELDS, MEL80, VOICED, Field, by_name, face_crop


def test_names_are_unique_and_resolve():
    assert len({f.name for f in FIELDS}) == len(FIELDS)
    assert all(by_name(f.name) is f for f in FIELDS)
    assert by_name("face_box_96") == face_crop(96, "box")
    assert by_name("face_tube_512") == face_crop(512, "tube")
    assert by_name("face_box_096") is None
    assert by_name("nothing") is None


def test_a_dot_would_break_member_names():
    with pytest.raises(ValueError, match="lower-case"):
        Field("a.b", "npy", "float32", (), "clip", "")


def test_alternatives_join_in_order():
    assert (MEL80 | VOICED | face_crop(96, "box")).options == (MEL80, VOICED, face_crop(96, "box"))
    assert str(MEL80 | VOICED) == "mel80 | voiced"


def test_the_page_is_current():
    page = (Path(__file__).parents[2] / "docs" / "fields.md").read_text()
    assert fields.markdown() in page, "write it again: see the head of docs/fields.md"
