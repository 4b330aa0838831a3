"""Parity of text functions: their fixtures hold cases, which are compared here, and no arrays."""

from __future__ import annotations

import numpy as np
from adapters import adapter

from preprocessing.face_words import first_sentence, marked_description


@adapter("21-consistentid", "caption_markers*")
def _markers(description: dict) -> dict[str, np.ndarray]:
    assert description["cases"]
    for case in description["cases"]:
        assert marked_description(case["text"], case["parts"]) == (case["marked"], case["parts_left"])
        assert first_sentence(case["text"]) == case["first_sentence"]
    return {}
