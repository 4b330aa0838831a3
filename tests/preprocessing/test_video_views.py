"""Whole frames, masks, splits and drawn maps of one size are cut alike; holes are 0 once networks have normalised."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from astronaut_clips import fill, make_sample

from infra.errors import LikenessError
from models.diffusion.key_points import draw_key_points
from preprocessing import catalogue, fields
from preprocessing.apply import run_in_memory
from preprocessing.drawing import draw_pose
from preprocessing.fields import FACE_VALID, KEY_FRAME, LANDMARKS_5, POSE_133, SOURCE, VIDEO
from preprocessing.operator import Sample
from preprocessing.operators.video_views import CLIP_MEAN, split
from preprocessing.views import View, match

corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")


@pytest.mark.parametrize("source", [(1080, 604), (604, 1080), (500, 500), (341, 257)])
@pytest.mark.parametrize("size", [(256, 256), (320, 512), (512, 320)])
def test_a_view_is_the_largest_centred_cut(source, size):
    view = View.of(source, *size)
    height, width = view.y1 - view.y0, view.x1 - view.x0
    assert height == source[0] or width == source[1]
    assert width / height == pytest.approx(size[1] / size[0], abs=1 / min(height, width))
    assert abs(view.x0 - (source[1] - view.x1)) <= 1
    assert abs(view.y0 - (source[0] - view.y1)) <= 1
    corners = view.points(np.array([(view.x0, view.y0, 7), (view.x1, view.y1, 8)]))
    np.testing.assert_allclose(corners, [(0, 0, 7), (size[1], size[0], 8)], atol=1e-9)
    assert view.picture(np.zeros((*source, 3), np.uint8)).shape == (*size, 3)
    assert view.picture(np.zeros(source, np.float32)).shape == size


def test_points_lie_where_the_picture_shows_them():
    picture = np.zeros((900, 600, 3), np.uint8)
    cv2.circle(picture, (420, 500), 12, (255, 255, 255), -1)
    view = View.of((900, 600), 128, 128)
    rows, columns = np.nonzero(view.picture(picture)[..., 0] > 128)
    np.testing.assert_allclose(view.points(np.array([420.5, 500.5])), (columns.mean() + 0.5, rows.mean() + 0.5), atol=0.3)


def test_sizes_in_names():
    assert fields.view_shape("256") == (256, 256)
    assert fields.view_shape("320x512") == (320, 512)
    assert match("frames", "frames_320x512") == "320x512"
    assert match("frames", "frames_0320") is None
    assert match("frames", "frames_320x") is None
    assert fields.by_name("person_mask_64x96") == fields.person_mask("64x96")
    assert fields.by_name("pose_map_disco_256").shape == ("frames", 256, 256, 3)
    assert fields.by_name("pose_map_stick_256") is None
    with pytest.raises(LikenessError, match="unknown field 'frames_x256'"):
        catalogue.producer("frames_x256")


@pytest.fixture(scope="module")
def sample() -> Sample:
    """The astronaut on a wide canvas, and an empty frame."""
    frames = np.full((2, 512, 640, 3), 90, np.uint8)
    frames[0, :, 64:576] = skimage.data.astronaut()
    wanted = [make("96x128") for make in (fields.frames, fields.person_mask, fields.foreground, fields.background)]
    return fill(make_sample(frames), *wanted, fields.pose_map("openpose", "96x128"), fields.pose_map("disco", "96x128"))


def test_frames_are_all_there(sample):
    found = sample[fields.frames("96x128")]
    assert found.shape == (2, 96, 128, 3)
    wanted = cv2.resize(next(iter(sample[VIDEO]))[16:496], (128, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(found[0].astype(int) - wanted).mean() < 2  # JPEG


def test_the_mask_is_the_person(sample):
    mask = sample[fields.person_mask("96x128")]
    assert mask.kind == "grey png"
    assert mask[:].shape == (2, 96, 128)
    x, y = np.array([64 + 222, 115 - 16]) * 0.2  # her face
    assert mask[0][int(y) - 5 : int(y) + 5, int(x) - 5 : int(x) + 5].min() > 230
    assert mask[0][:, :10].max() < 30
    assert 0.25 < mask[0].mean() / 255 < 0.7
    assert mask[1].max() < 60


def test_the_split_goes_by_the_mask(sample):
    mask, picture = sample[fields.person_mask("96x128")][0], sample[fields.frames("96x128")][0]
    one, other = sample[fields.foreground("96x128")][0], sample[fields.background("96x128")][0]
    person, scene = (cv2.erode(part.astype(np.uint8), np.ones((9, 9))) > 0 for part in (mask > 250, mask < 5))
    assert np.abs(one[person].astype(int) - picture[person]).mean() < 3
    assert np.abs(other[scene].astype(int) - picture[scene]).mean() < 3
    assert np.abs(one[scene] / 255.0 - CLIP_MEAN).max() < 0.06
    assert np.abs(other[person] / 127.5 - 1).max() < 0.1


def test_normalise_first_mask_after():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    mask = rng.integers(0, 256, (8, 9), dtype=np.uint8)
    one, other = split(picture, mask)
    share = mask[..., None] / 255
    # CLIP's normalisation and the autoencoder's, then the mask: as DisCo's loader does it
    clip_std = np.array((0.26862954, 0.26130258, 0.27577711))
    np.testing.assert_allclose((one / 255 - CLIP_MEAN) / clip_std, (picture / 255 - CLIP_MEAN) / clip_std * share, atol=0.02)
    np.testing.assert_allclose(other / 127.5 - 1, (picture / 127.5 - 1) * (1 - share), atol=0.005)


def test_bodies_mask_follows_one_person():
    frames = np.stack([skimage.data.astronaut(), np.full((512, 512, 3), 90, np.uint8)])
    masks = fill(make_sample(frames), fields.person_mask("64"), person_mask={"model": "body"})[fields.person_mask("64")]
    assert masks[0][10:18, 23:31].min() > 200
    assert not masks[1].any()


def test_maps_are_drawn_on_their_own_canvas_and_cut_like_frames(sample):
    pose = sample[POSE_133][0].astype(float)
    for style, canvas in (("openpose", 512), ("disco", 604)):
        maps = sample[fields.pose_map(style, "96x128")]
        assert maps.kind == "png"
        assert maps.present.tolist() == [True, False]
        scaled = pose.copy()
        scaled[:, :2] *= canvas / 512
        drawn = draw_pose(scaled, canvas, round(640 * canvas / 512), style)
        assert np.array_equal(maps[0], View.of(drawn, 96, 128).picture(drawn))
        assert not maps[1].any()
    nose = (pose[0, :2] - (0, 16)) * 0.2
    x, y = nose.astype(int)
    around = sample[fields.pose_map("openpose", "96x128")][0][y - 1 : y + 2, x - 1 : x + 2]
    assert around[..., 0].max() > 80  # the nose's red


def test_hands_and_face_are_settings(sample):
    field = fields.pose_map("openpose", "128")
    plain, rich = (
        fill(Sample("a", {POSE_133.name: sample[POSE_133], SOURCE.name: sample[SOURCE]}), field, **settings)[field][0]
        for settings in ({}, {"pose_map_openpose": {"hands": True, "face": True}})
    )
    assert not (plain == 255).all(2).any()
    assert rich.min(2).max() > 150  # white points of the face


@pytest.mark.parametrize("size", [1024, 256])
def test_instantids_points_lie_over_the_key_frame(size):
    points = np.zeros((2, 5, 2), np.float32)
    points[1] = [(150, 100), (210, 98), (182, 130), (160, 170), (204, 168)]
    source = {"width": 400, "height": 300, "fps": "25/1"}
    values = {LANDMARKS_5.name: points, SOURCE.name: source, FACE_VALID.name: np.array([False, True])}
    field = fields.key_points(size)
    picture = fill(Sample("a", values | {KEY_FRAME.name: np.array(1)}), field)[field]
    assert picture.shape == (size, round(400 * size / 300), 3)
    drawn = draw_key_points(points[1] * 1024 / 300, 1024, round(400 * 1024 / 300))
    wanted = drawn if size == 1024 else cv2.resize(drawn, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.array_equal(picture, wanted)
    for (x, y), colour in zip((points[1] * size / 300).astype(int), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=False):
        assert np.abs(picture[y, x].astype(int) - colour).max() < 30
    assert not fill(Sample("b", values | {KEY_FRAME.name: np.array(0)}), field)[field].any()


@corpus
def test_masks_of_a_juggler_by_body_and_by_front():
    path = Path(os.environ["LIKENESS_CORPUS"]) / "body" / "sam2_juggle.mp4"
    field = fields.person_mask("128")
    for model in ("general", "body"):
        mask = run_in_memory(path, [field], {"person_mask": {"model": model}}, most_frames=lambda fps: 2)[field][:]
        assert 0.05 < (mask > 128).mean() < 0.2, model
