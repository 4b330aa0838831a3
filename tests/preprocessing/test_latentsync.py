"""LatentSync's three-point alignment against the published arithmetic worked out by hand, and pasting back."""

from __future__ import annotations

import numpy as np
import pytest
from astronaut_clips import fill, make_sample, portrait, swaying

from infra.errors import LikenessError
from preprocessing import latentsync, templates
from preprocessing.fields import FACE_VALID, LANDMARKS_68, aligned_face, alignment

CENTRE = 0.5
TEMPLATE_256 = latentsync.TEMPLATE * 2.8
STRETCH = np.array([256 / 210, 256 / 280])


def test_a_face_in_place_comes_to_the_template():
    assert latentsync.canvas_px(256) == (210, 280)
    assert latentsync.canvas_px(512) == (420, 560)
    m, offset = latentsync.align(TEMPLATE_256 + CENTRE, 256)
    np.testing.assert_allclose(offset, 0, atol=1e-12)
    np.testing.assert_allclose(m, [[STRETCH[0], 0, 0], [0, STRETCH[1], 0]], atol=1e-12)
    # Turned by a quarter and three times as large.
    points = 3 * TEMPLATE_256[:, ::-1] * (1, -1) + (7, 900)
    m, _ = latentsync.align(points, 256)
    # The turn comes from the points; the published offset compares the nose before turning.
    spread = TEMPLATE_256 - TEMPLATE_256.mean(0)
    nose = spread[2] / spread.std()
    found = templates.transform(m, points) / STRETCH
    np.testing.assert_allclose(found - TEMPLATE_256 - CENTRE, np.tile(nose - nose[::-1] * (1, -1), (3, 1)), atol=1e-9)


def test_the_published_arithmetic():
    """Points (60, 80), (140, 84), (104, 130), counted at whole numbers."""
    points = np.array([[60.0, 80], [140, 84], [104, 130]])
    source, target = points - points.mean(0), TEMPLATE_256 - TEMPLATE_256.mean(0)
    # Scale: ratio of the standard deviations of all six numbers. Turn: of the polar decomposition.
    scale = target.std() / source.std()
    a = (source[:, :, None] * target[:, None, :]).sum(0)  # [x, y of the source][x, y of the target]
    angle = np.arctan2(a[0, 1] - a[1, 0], a[0, 0] + a[1, 1])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    missed = target[2] / target.std() - source[2] / source.std()
    shift = TEMPLATE_256.mean(0) - turn @ points.mean(0) + missed
    m, offset = latentsync.align(points + CENTRE, 256)
    np.testing.assert_allclose(offset, missed, atol=1e-12)
    ours = templates.transform(m, points + CENTRE) / STRETCH - CENTRE
    np.testing.assert_allclose(ours, points @ turn.T + shift, atol=1e-9)


def test_the_offset_is_smoothed_over_frames():
    points = TEMPLATE_256 + CENTRE
    other = points + [[0, 0], [0, 0], [0, 9]]
    (still, none), (alone, first) = latentsync.align(points, 256), latentsync.align(other, 256)
    after, kept = latentsync.align(other, 256, none)
    np.testing.assert_allclose(kept, 0.8 * first, atol=1e-12)
    np.testing.assert_allclose(after[:, 2] - alone[:, 2], -0.2 * first * STRETCH, atol=1e-9)
    np.testing.assert_allclose(after[:, :2], alone[:, :2])
    assert not np.allclose(still, alone)


def test_whole_clips():
    frames = swaying(5)
    frames[2] = 0
    sample = fill(make_sample(frames), aligned_face("latentsync", 256), alignment("latentsync", 256), LANDMARKS_68)
    faces, matrices = sample[aligned_face("latentsync", 256)], sample[alignment("latentsync", 256)]
    assert faces.shape == (5, 256, 256, 3)
    assert faces.present.tolist() == sample[FACE_VALID].tolist() == [True, True, False, True, True]
    offset = None
    for place in (0, 1, 3, 4):
        three = latentsync.three_points(sample[LANDMARKS_68][place])
        assert np.array_equal(three - CENTRE, np.rint(three - CENTRE))
        want, offset = latentsync.align(three, 256, offset)
        np.testing.assert_allclose(matrices[place], want)
        away = templates.transform(matrices[place], three) / STRETCH - TEMPLATE_256
        assert np.abs(away).max() < 16  # of 210 x 280 px
    first = templates.matrix("latentsync", 256, landmarks68=sample[LANDMARKS_68][0])
    np.testing.assert_allclose(first, matrices[0])


def test_grey_outside_the_picture():
    frame = portrait()
    crop = latentsync.crop(frame, [[1, 0, 100], [0, 1, 0]], 256)
    assert (crop[:, :90] == 127).all()
    assert np.abs(crop[20:200, 130:].astype(int) - frame[20:200, 30:156]).mean() < 6  # to the canvas and back


def test_pasting_back():
    frame = portrait()
    points = fill(make_sample(frame[None]), LANDMARKS_68)[LANDMARKS_68][0]
    m = templates.matrix("latentsync", 256, landmarks68=points)
    mask = latentsync.paste_mask(m, 256, (288, 288))
    assert 0 <= mask.min() <= mask.max() <= 1 + 1e-6
    nose = points[30].astype(int)
    assert mask[nose[1], nose[0]] == pytest.approx(1)
    inside = templates.transform(m, np.stack(np.meshgrid(np.arange(288) + 0.5, np.arange(288) + 0.5), -1))
    outside = ((inside < 0) | (inside > 256)).any(-1)
    assert mask[outside].max() < 0.05
    assert 0.3 < mask.sum() / (~outside).sum() < 0.95
    same = latentsync.paste_back(frame, latentsync.crop(frame, m, 256), m)
    assert np.abs(same.astype(int) - frame).mean() < 1.5
    black = latentsync.paste_back(frame, np.zeros((256, 256, 3), np.uint8), m)
    assert black[nose[1], nose[0]].max() == 0
    assert np.array_equal(black[mask == 0], frame[mask == 0])


def test_refusals():
    with pytest.raises(LikenessError, match="spread 0 px"):
        latentsync.align(np.full((3, 2), 5.0), 256)
    with pytest.raises(LikenessError, match="give landmarks_68"):
        templates.matrix("latentsync", 256)
