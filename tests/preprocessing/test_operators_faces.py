"""Faces: found, followed, measured and cut as the operators' texts say; the same for the same clip, whatever came before."""

import cv2
import numpy as np
import pytest
from astronaut_clips import fill, make_sample, portrait, swaying

from preprocessing.codecs import encode
from preprocessing.fields import (
    FACE_BOX,
    FACE_DETECTIONS,
    FACE_TRACK,
    FACE_VALID,
    HEAD_POSE,
    LANDMARKS_5,
    LANDMARKS_68,
    LANDMARKS_478,
    MEASURES,
    TUBE_BOX,
    VIDEO,
    face_crop,
)
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operators.face_crops import CropParams, FaceTube, FaceTubeCrops
from preprocessing.operators.face_track import FaceTrack, face_look, iou, likeness
from preprocessing.operators.head_pose import RIGID, angles, rotation
from preprocessing.operators.landmark_subsets import IBUG_68
from preprocessing.operators.measures import outside_share

BOX, TUBE = face_crop(96, "box"), face_crop(128, "tube")
ALL = (
    FACE_DETECTIONS, FACE_TRACK, LANDMARKS_478, LANDMARKS_68, LANDMARKS_5, FACE_BOX, FACE_VALID, TUBE_BOX, HEAD_POSE, BOX, TUBE,
)  # fmt: skip


@pytest.fixture(scope="module")
def talker():
    return fill(make_sample(swaying(8)), *ALL, MEASURES)


def test_the_face_is_found_in_every_frame(talker):
    assert talker[FACE_VALID].all()
    assert (talker[FACE_TRACK][:, 4] > 0.5).all()
    assert talker[FACE_DETECTIONS][:, 0].tolist() == list(range(8))
    for box, track in zip(talker[FACE_BOX], talker[FACE_TRACK], strict=True):
        assert iou(box, track) > 0.5


def test_landmarks_move_with_the_head(talker):
    turns = 2 * np.pi * np.arange(8) / 25
    moved = np.stack([-np.rint(12 * np.sin(turns)), -np.rint(8 * (1 - np.cos(turns)))], 1)
    seen = talker[LANDMARKS_68].mean(1) - talker[LANDMARKS_68][0].mean(0)
    assert np.abs(seen - moved).max() < 1


def test_landmarks_stand_where_their_names_say(talker):
    points, five, box = talker[LANDMARKS_68], talker[LANDMARKS_5], talker[FACE_BOX]
    assert len(set(IBUG_68)) == 68
    left_eye, right_eye, nose, left_corner, right_corner = np.swapaxes(five, 0, 1)
    assert (left_eye[:, 0] < nose[:, 0]).all()
    assert (nose[:, 0] < right_eye[:, 0]).all()
    assert (left_corner[:, 0] < right_corner[:, 0]).all()
    assert (nose[:, 1] > left_eye[:, 1]).all()
    assert (left_corner[:, 1] > nose[:, 1]).all()
    # The jaw goes from left to right around all else; the mouth lies in the lower half of the box, below row 48 of 96.
    assert (np.diff(points[:, :17, 0]) > 0).all()
    assert (points[:, 8, 1, None] > points[:, 17:, 1]).all()
    assert (points[:, 48:, 1].min(1) > box[:, [1, 3]].mean(1)).all()
    # Upper lip above lower lip, brows above eyes.
    assert (points[:, 51, 1] < points[:, 57, 1]).all()
    assert (points[:, 62, 1] < points[:, 66, 1]).all()
    assert (points[:, 17:27, 1].max(1) < points[:, 36:48, 1].min(1)).all()


def test_box_crops_are_opencvs(talker):
    for place in (0, 5):
        x0, y0, x1, y1 = talker[FACE_BOX][place].astype(int)
        want = cv2.resize(list(talker[VIDEO])[place][y0:y1, x0:x1], (96, 96), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(talker[BOX][place], FrameSequence.of([want], 96, 96)[0])


def test_the_tube_is_one_enlarged_square(talker):
    boxes = talker[FACE_BOX]
    x0, y0, x1, y1 = talker[TUBE_BOX]
    assert x1 - x0 == y1 - y0 == round(1.2 * max(*(boxes[:, 2:].max(0) - boxes[:, :2].min(0))))
    assert talker[TUBE].shape == (8, 128, 128, 3)
    square = talker[VIDEO]._frames[3][int(y0) : int(y1), int(x0) : int(x1)]
    way = cv2.INTER_AREA if len(square) > 128 else cv2.INTER_LINEAR
    want = cv2.resize(square, (128, 128), interpolation=way)
    assert np.array_equal(talker[TUBE][3], FrameSequence.of([want], 128, 128)[0])


def tube_of(boxes, valid=None, **params):
    sample = make_sample(np.zeros((len(boxes), 8, 8, 3), np.uint8))
    sample[FACE_BOX] = np.array(boxes, np.float32)
    sample[FACE_VALID] = np.ones(len(boxes), bool) if valid is None else np.array(valid)
    return FaceTube(FaceTube.Params(**params))(sample)[TUBE_BOX].tolist()


def test_the_tube_of_a_constant_box():
    assert tube_of([[100, 200, 200, 300]] * 3) == [90, 190, 210, 310]
    assert tube_of([[100, 200, 180, 300]] * 3) == [80, 190, 200, 310]  # the shorter side grows more
    assert tube_of([[100, 200, 200, 300]], enlarge=0) == [100, 200, 200, 300]
    assert tube_of([[0, 0, 10, 10], [90, 0, 100, 10]]) == [-10, -55, 110, 65]  # the union
    assert tube_of([[0, 0, 10, 10], [90, 0, 100, 10]], [True, False]) == [-1, -1, 11, 11]
    assert tube_of([[0, 0, 0, 0]], [False]) == [0, 0, 0, 0]


def test_outside_the_picture_the_tube_is_black():
    sample = make_sample(np.full((2, 60, 80, 3), 200, np.uint8))
    sample[TUBE_BOX] = np.array([-20, -10, 20, 30], np.float32)
    sample[FACE_VALID] = np.array([True, False])
    crops = FaceTubeCrops(CropParams(size=40))(sample)[face_crop(40, "tube")]
    assert crops.present.tolist() == [True, False]
    assert crops[0][14:, 24:].min() > 190
    assert crops[0][:6].max() < 10
    assert crops[0][:, :16].max() < 10
    assert outside_share(sample[TUBE_BOX], (60, 80)) == pytest.approx(1 - 20 * 30 / 1600)
    assert outside_share(np.zeros(4), (60, 80)) == 0


def test_frames_without_a_face_stay_rows():
    frames = swaying(12)
    frames[4:7] = 0
    sample = fill(make_sample(frames), *ALL, MEASURES)
    valid = sample[FACE_VALID]
    assert np.flatnonzero(~valid).tolist() == [4, 5, 6]
    for field in (FACE_TRACK, LANDMARKS_478, LANDMARKS_68, LANDMARKS_5, FACE_BOX, HEAD_POSE):
        assert len(sample[field]) == 12
        assert not sample[field][~valid].any()
    for crops in (sample[BOX], sample[TUBE]):
        assert crops.present.tolist() == valid.tolist()
        assert not crops[4:7].any()
    assert sample[MEASURES]["valid_share"] == 0.75


def test_a_clip_without_any_face():
    sample = fill(make_sample(np.full((6, 64, 96, 3), 127, np.uint8)), *ALL, MEASURES)
    assert sample[FACE_DETECTIONS].shape == (0, 6)
    assert not sample[FACE_VALID].any()
    assert not sample[BOX][:].any()
    assert sample[MEASURES]["face_side_px"] == 0
    for field in (*ALL, MEASURES):
        encode(field, sample[field])


def test_damaged_frames_hold_no_face():
    sample = make_sample(swaying(6))
    sample[VIDEO].damaged[2] = True
    assert np.flatnonzero(~fill(sample, FACE_VALID)[FACE_VALID]).tolist() == [2]


def test_of_two_faces_the_larger_is_followed():
    near = swaying(6)
    far = np.stack([cv2.resize(frame[:, ::-1], None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA) for frame in near])
    frames = np.zeros((6, 288, 216 + 288, 3), np.uint8)
    frames[:, 36:252, :216], frames[:, :, 216:] = far, near
    sample = fill(make_sample(frames), FACE_VALID)
    assert np.bincount(sample[FACE_DETECTIONS][:, 0].astype(int)).tolist() == [2] * 6
    assert sample[FACE_VALID].all()
    assert (sample[FACE_TRACK][:, 0] > 216).all()


def test_equal_clips_give_equal_bytes_in_any_order():
    def bytes_of(frames):
        sample = fill(make_sample(frames), *ALL)
        return [encode(field, sample[field]) for field in ALL]

    clips = [swaying(4), np.stack([portrait(-20, 0, 256)[:, ::-1]] * 3), np.zeros((2, 64, 64, 3), np.uint8)]
    forth = [bytes_of(clip) for clip in clips]
    back = [bytes_of(clip) for clip in reversed(clips)]
    assert forth == back[::-1]


# FACE_TRACK alone, on made-up detections.


def track_of(frames, detections):
    sample = make_sample(np.stack(frames))
    sample[FACE_DETECTIONS] = np.array(detections, np.float32).reshape(-1, 6)
    return FaceTrack()(sample)[FACE_TRACK]


def patterned(seed, n):
    return [np.random.default_rng(seed).integers(0, 255, (80, 120, 3), dtype=np.uint8)] * n


def test_a_cut_ends_the_track():
    frames = patterned(1, 5) + patterned(2, 8)
    track = track_of(frames, [[i, 40, 20, 80, 60, 0.9] for i in range(13)])
    assert (track[:, 4] > 0).tolist() == [False] * 5 + [True] * 8
    same = track_of(patterned(1, 13), [[i, 40, 20, 80, 60, 0.9] for i in range(13)])
    assert (same[:, 4] > 0).all()


def test_a_track_outlives_a_gap_of_25_frames_only():
    for gap, survives in ((25, True), (26, False)):
        places = [0, 1, 2, *range(3 + gap, 3 + gap + 4)]
        track = track_of(patterned(1, 40), [[i, 40, 20, 80, 60, 0.9] for i in places])
        assert np.flatnonzero(track[:, 4]).tolist() == (places if survives else places[3:])


def test_the_main_face_is_large_long_and_certain():
    small = [[i, 2, 2, 22, 22, 0.95] for i in range(10)]
    brief = [[i, 30, 10, 90, 70, 0.9] for i in range(1)]
    large = [[i, 60, 20, 100, 60, 0.8] for i in range(10)]
    assert track_of(patterned(1, 10), sorted(small + large))[:, 0].tolist() == [60] * 10
    assert track_of(patterned(1, 10), sorted(small + brief))[:, 0].tolist() == [2] * 10
    assert not track_of(patterned(1, 3), []).any()


def test_likeness():
    a, b = (face_look(patterned(seed, 1)[0], np.array([40, 20, 80, 60])) for seed in (1, 2))
    flat = face_look(np.zeros((80, 120, 3), np.uint8), np.array([40, 20, 80, 60]))
    assert likeness(a, a) == pytest.approx(1)
    assert abs(likeness(a, b)) < 0.5
    assert likeness(a, flat) == 0
    assert likeness(flat, flat) == 1


# Head pose.


def turned(yaw=0.0, pitch=0.0, roll=0.0):
    """Rigid points of a face whose rotation is built here from the field's words: x right, y down, z away."""
    nose = np.array([0.0, 0.0, -1.0])
    y, p, r = np.radians([-yaw, -pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    turn = about_y @ about_x @ about_z
    points = np.array(list(RIGID.values())) * (1, -1, -1) @ turn.T
    return 30 * points + (300, 200, 10), turn @ nose, turn @ [1.0, 0, 0]


@pytest.mark.parametrize("pose", [(30, 0, 0), (0, 20, 0), (0, 0, 15), (-40, 10, -25), (5, -30, 60)])
def test_head_pose_signs_and_size(pose):
    points, nose, ear = turned(*pose)
    assert np.allclose(angles(rotation(points[None]))[0], pose, atol=0.1)
    if pose == (30, 0, 0):
        assert nose[0] > 0  # to the picture's right
    if pose == (0, 20, 0):
        assert nose[1] < 0  # up
    if pose == (0, 0, 15):
        assert ear[1] > 0  # clockwise: what was on the right goes down


def test_the_astronaut_looks_into_the_camera(talker):
    assert np.abs(talker[HEAD_POSE]).max() < 12
    mirrored = fill(make_sample(swaying(2)[:, :, ::-1]), HEAD_POSE)[HEAD_POSE][0]
    assert mirrored == pytest.approx(talker[HEAD_POSE][0] * (-1, 1, -1), abs=3)


def test_measures(talker):
    numbers = talker[MEASURES]
    box = np.median(np.diff(talker[FACE_BOX].reshape(-1, 2, 2), axis=1)[:, 0].prod(1))
    assert numbers["duration_s"] == 0.32
    assert numbers["n_frames"] == 8
    assert numbers["face_side_px"] == pytest.approx(box**0.5, rel=0.01)
    assert numbers["face_share"] == pytest.approx(box / 288**2, rel=0.01)
    assert numbers["face_score"] > 0.7
    assert numbers["face_outside_share"] == numbers["tube_outside_share"] == 0
    blurred = fill(make_sample(np.stack([cv2.GaussianBlur(f, (0, 0), 4) for f in swaying(3)])), MEASURES)
    assert blurred[MEASURES]["blur"] < numbers["blur"] / 4
