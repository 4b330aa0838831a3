"""Key frames and pictures: the best-seen face stands for a clip, whole and at the size asked for."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing import catalogue
from preprocessing.codecs import decode, encode
from preprocessing.fields import FACE_TRACK, FACE_VALID, HEAD_POSE, KEY_FRAME, VIDEO, image
from preprocessing.operator import Sample
from preprocessing.operators.pictures import KeyFrame, shrunk


def key_frame(scores: list[float], yaw: list[float] | None = None, pitch: list[float] | None = None, valid=None) -> int:
    n = len(scores)
    sample = Sample("clip")
    sample[FACE_TRACK] = np.zeros((n, 5), np.float32)
    sample[FACE_TRACK][:, 4] = scores
    sample[FACE_VALID] = np.ones(n, bool) if valid is None else np.array(valid)
    sample[HEAD_POSE] = np.stack([yaw or [0] * n, pitch or [0] * n, [80] * n], 1).astype(np.float32)
    value = KeyFrame()(sample)[KEY_FRAME]
    again = decode(KEY_FRAME, encode(KEY_FRAME, value))
    assert again.shape == ()
    assert again == value
    return int(value)


def test_the_face_that_is_seen_best_stands_for_the_clip():
    assert key_frame([0.8, 0.9, 0.7]) == 1
    assert key_frame([0.8, 0.9, 0.7], yaw=[0, 40, 0]) == 0  # 0.9 cos 40 = 0.69
    assert key_frame([0.8, 0.9, 0.7], yaw=[0, -20, 0]) == 1  # 0.9 cos 20 = 0.85
    assert key_frame([0.8, 0.9, 0.7], pitch=[50, 60, -10]) == 2
    assert key_frame([0.5, 0.5, 0.5]) == 0
    assert key_frame([0.8, 0.9, 0.7], valid=[True, False, True]) == 0
    assert key_frame([0.8, 0.9, 0.0], yaw=[120, 100, 0], valid=[False, True, True]) == 1  # all 0: still a valid one


def test_without_a_face_the_middle_does():
    assert [key_frame([0.9] * n, valid=[False] * n) for n in (1, 2, 3, 10, 11)] == [0, 0, 1, 4, 5]


class Counted:
    """Three frames, and how many were asked for."""

    n_frames, fps = 3, 25.0

    def __init__(self, height: int, width: int) -> None:
        rng = np.random.default_rng(0)
        self.frames, self.given = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(3)], 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.frames:
            self.given += 1
            yield frame


@pytest.mark.parametrize(("height", "width", "shape"), [(90, 160, (48, 85, 3)), (100, 60, (80, 48, 3)), (48, 50, (48, 50, 3))])
def test_the_key_frame_is_shown_whole_and_no_more_is_decoded(height: int, width: int, shape: tuple[int, ...]):
    video = Counted(height, width)
    sample = Sample("clip", {"video": video, "key_frame": np.array(1)})
    operator = catalogue.producer("image_48")
    assert operator.reads == (VIDEO, KEY_FRAME)
    picture = operator(sample)[image(48)]
    assert picture.shape == shape
    assert video.given == 2
    want = cv2.resize(video.frames[1], shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.array_equal(picture, want)
    assert decode(image(48), encode(image(48), picture)).shape == shape


def test_small_pictures_are_enlarged():
    ramp = np.tile(np.arange(0, 240, 8, dtype=np.uint8)[None, :, None], (20, 1, 3))
    picture = shrunk(ramp, 60)
    assert picture.shape == (60, 90, 3)
    assert np.abs(picture[30, 10:80, 0].astype(float) - (np.arange(10, 80) - 1) * 8 / 3).max() < 1.5


@given(st.integers(10, 300), st.integers(10, 300), st.integers(10, 120))
def test_the_shorter_side_has_the_size_and_the_aspect_is_kept(height: int, width: int, size: int):
    new = shrunk(np.zeros((height, width, 3), np.uint8), size).shape
    assert min(new[:2]) == size
    scale = size / min(height, width)
    assert max(abs(new[0] - height * scale), abs(new[1] - width * scale)) <= 0.5
