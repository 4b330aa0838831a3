"""Words and maps of real photos say what can be seen in them. Wants $LIKENESS_CORPUS."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from preprocessing.apply import run_in_memory
from preprocessing.fields import CAPTION_MEASURED, DESCRIPTION_MEASURED, condition_map, degraded, image

CORPUS = Path(os.environ.get("LIKENESS_CORPUS", ""))
pytestmark = pytest.mark.skipif(not (CORPUS / "INDEX.tsv").is_file(), reason="$LIKENESS_CORPUS names no corpus")


@pytest.mark.parametrize(
    ("file", "said", "not_said"),
    [
        ("biden_2.jpg", "smiling with parted lips", "turned"),
        ("joyvasa_005.png", "facing the camera", "smiling"),
        ("consistentid_einstein.jpg", "black and white", "smiling"),
        ("pulid_rihanna.webp", "turned to the left", "closed"),
        ("liveportrait_d9.jpg", "with the mouth wide open", "smiling"),
    ],
)
def test_captions_say_what_is_seen(file: str, said: str, not_said: str):
    sample = run_in_memory(CORPUS / "faces" / file, [CAPTION_MEASURED, DESCRIPTION_MEASURED])
    assert sample[CAPTION_MEASURED].startswith("a photo of one person")
    assert said in sample[CAPTION_MEASURED]
    assert not_said not in sample[CAPTION_MEASURED]
    assert sample[DESCRIPTION_MEASURED].startswith("The person has")


def test_maps_and_degradations_of_a_portrait():
    wanted = [image(512), condition_map("canny", 512), condition_map("lines", 512), degraded("pasd", 512)]
    sample = run_in_memory(CORPUS / "faces" / "joyvasa_005.png", wanted)
    clean = sample[image(512)]
    for kind in ("canny", "lines"):
        drawn = sample[condition_map(kind, 512)]
        assert drawn.shape == clean.shape[:2]
        assert 0.005 < (drawn > 127).mean() < 0.2
        assert (drawn[:, :60] > 127).mean() < 0.005  # the plain background
    low = sample[degraded("pasd", 512)].astype(float)
    error = np.mean((low - clean) ** 2)
    assert 18 < 10 * np.log10(255**2 / error) < 36
