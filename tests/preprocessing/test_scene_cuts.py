"""Cuts in made clips and in the corpus; rows per shot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astronaut_clips import fill, make_sample, swaying

from preprocessing.apply import run_in_memory
from preprocessing.expander import Shots
from preprocessing.fields import SCENE_CUTS, SHOT_MEASURES
from preprocessing.operators.scene_cuts import SceneCuts, find_cuts

corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")


def three_shots() -> np.ndarray:
    """Frames 0-9 the astronaut, 10-21 her negative, 22-29 the astronaut upside down."""
    moving = swaying(30)
    return np.concatenate([moving[:10], 255 - moving[10:22], moving[22:, ::-1]])


def test_cuts_are_found_and_nothing_else():
    sample = fill(make_sample(three_shots()), SCENE_CUTS)
    assert sample[SCENE_CUTS].tolist() == [10, 22]
    assert sample[SCENE_CUTS].dtype == np.int64
    assert sample[SHOT_MEASURES]["cuts"] == 2
    assert sample[SHOT_MEASURES]["longest_s"] == pytest.approx(12 / 25)
    for still in (swaying(20), np.zeros((5, 40, 40, 3), np.uint8), swaying(1)):
        quiet = fill(make_sample(still), SCENE_CUTS)
        assert quiet[SCENE_CUTS].shape == (0,)
        assert quiet[SHOT_MEASURES] | {"strongest": 0} == {"cuts": 0, "longest_s": len(still) / 25, "strongest": 0}


def test_a_fast_pan_is_no_cut():
    """Every frame changes as much as a cut would; none stands out."""
    wide = np.random.default_rng(0).integers(0, 255, (40, 2000, 3), dtype=np.uint8)
    pan = np.stack([wide[:, 40 * i : 40 * i + 60] for i in range(20)])
    sample = fill(make_sample(pan), SCENE_CUTS)
    assert sample[SHOT_MEASURES]["strongest"] > 15
    assert not len(sample[SCENE_CUTS])


def test_the_rules_by_hand():
    params = SceneCuts.Params()
    changes = np.full(50, 2.0)
    changes[0] = 0
    changes[[20, 30]] = (16, 14)  # 14 is less than the least
    assert find_cuts(changes, params, 25) == [20]
    changes[[18, 19, 21, 22]] = 6  # 16 is less than three times 6
    assert find_cuts(changes, params, 25) == []
    assert find_cuts(changes, SceneCuts.Params(ratio=2), 25) == [20]
    flash = np.zeros(50)
    flash[[20, 22]] = 90  # a flash: back after two frames
    assert find_cuts(flash, params, 25) == [20]  # no shot is shorter than 0.2 s
    near_ends = np.zeros(50)
    near_ends[[2, 47]] = 90
    assert find_cuts(near_ends, params, 25) == []
    assert find_cuts(near_ends, SceneCuts.Params(shortest_s=0), 25) == [2, 47]


def test_a_row_per_shot():
    sample = fill(make_sample(three_shots()), SCENE_CUTS)
    children = Shots(Shots.Params(min_frames=10))(sample)
    assert [(c.name, c.start, c.stop) for c in children] == [("s00", 0, 10), ("s01", 10, 22)]  # the last has 8 frames
    assert [c.facts for c in children] == [{"shot": 0, "shots": 3}, {"shot": 1, "shots": 3}]
    assert all(not c.values for c in children)
    photo = fill(make_sample(swaying(1)), SCENE_CUTS)
    assert [(c.start, c.stop) for c in Shots()(photo)] == [(0, 1)]


@corpus
@pytest.mark.parametrize(("file", "cuts"), [
    ("hard/made_identity_switch_frame75.mp4", [75]), ("hard/real_cuts_two_faces_noface_gaps.mp4", [17, 68, 176]),
    ("hard/made_vfr_dropped.mp4", []), ("talk/grid_bbaf2n.mpg", []),
])  # fmt: skip
def test_real_cuts(file, cuts):
    path = Path(os.environ["LIKENESS_CORPUS"]) / file
    assert run_in_memory(path, [SCENE_CUTS], {"ingest": {"sound": "ignored"}})[SCENE_CUTS].tolist() == cuts
