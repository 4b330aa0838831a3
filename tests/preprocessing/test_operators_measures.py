"""Numbers to select by: what they say of pictures made to measure, and that photos and silent clips have them too."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from astronaut_clips import burst_audio, fill, make_sample, portrait, swaying

from preprocessing.apply import run_in_memory
from preprocessing.clip import InMemory
from preprocessing.fields import KEY_FRAME, MEASURES, PERCEPTUAL_HASH, PICTURE_MEASURES, SOUND_MEASURES, SOURCE, VIDEO
from preprocessing.operator import Sample
from preprocessing.operators.measures import INNER_LIPS, OUTER_EYE_CORNERS, lip_motion
from preprocessing.operators.picture_measures import PerceptualHash, PictureMeasures, picture_hash, sampled


def pictures(frames: np.ndarray) -> dict:
    return PictureMeasures()(make_sample(frames))[PICTURE_MEASURES]


def flat(grey: int, n: int = 1) -> np.ndarray:
    return np.full((n, 120, 160, 3), grey, np.uint8)


def bits(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.unpackbits(picture_hash(a) ^ picture_hash(b)).sum())


def test_flat_pictures_have_brightness_and_nothing_else():
    numbers = pictures(flat(102, 3))
    assert numbers == {
        "width_px": 160, "height_px": 120, "blur": 0, "brightness": pytest.approx(0.4), "contrast": 0, "dark_share": 0,
        "bright_share": 0, "colourfulness": 0, "motion": 0,
    }  # fmt: skip


def test_exposure_and_contrast():
    frame = flat(0)
    frame[:, :, :40], frame[:, :, 40:120] = 255, 128
    numbers = pictures(frame)
    assert (numbers["dark_share"], numbers["bright_share"]) == (pytest.approx(0.25, abs=0.01), pytest.approx(0.25, abs=0.01))
    assert numbers["brightness"] == pytest.approx(0.5, abs=0.01)
    assert numbers["contrast"] == pytest.approx(np.std([255, 128, 128, 0]) / 255, abs=0.01)


def test_colourfulness_is_that_of_the_paper():
    # Half red, half blue: rg = 255 and 0, yb = 127.5 and -255; sigma = half the steps, mu = their middles.
    frame = flat(0)
    frame[:, :, :80, 0], frame[:, :, 80:, 2] = 255, 255
    expected = np.hypot(127.5, 191.25) + 0.3 * np.hypot(127.5, 63.75)
    assert pictures(frame)["colourfulness"] == pytest.approx(expected, rel=0.01)


def test_blur_means_the_same_at_every_size():
    sharp = cv2.resize(portrait(), (512, 512), interpolation=cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 4)
    larger = sharp.repeat(3, 0).repeat(3, 1)
    numbers = [pictures(frame[None])["blur"] for frame in (sharp, blurred, larger)]
    assert numbers[1] < numbers[0] / 10
    assert numbers[2] == pytest.approx(numbers[0], rel=0.01)


@pytest.mark.parametrize("step", [1, 4])
def test_motion_is_speed_in_shorter_sides_per_second(step):
    panned = np.stack([portrait(step * n) for n in range(12)])
    assert pictures(panned)["motion"] == pytest.approx(step / 288 * 25, rel=0.25)
    assert pictures(panned[:1])["motion"] == 0


def test_motion_ignores_flicker():
    still = np.repeat(portrait()[None], 8, 0)
    still[1::2] = np.clip(still[1::2].astype(int) + 6, 0, 255)
    assert pictures(still)["motion"] < 0.02


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 250])
def test_sampled_frames_are_spread_evenly(n):
    places = sorted(sampled(n, 8))
    assert len(places) == min(n, 8)
    assert places[0] >= 0
    assert places[-1] < n
    assert np.ptp(np.diff([-places[0] - 1, *places, 2 * n - places[-1]])) <= 2


@pytest.mark.parametrize("size", [0.25, 0.5, 1.5])
def test_hash_survives_resizing_and_jpeg_but_tells_pictures_apart(size):
    picture = portrait()
    resized = cv2.resize(picture, None, fx=size, fy=size, interpolation=cv2.INTER_AREA if size < 1 else cv2.INTER_LINEAR)
    copy = cv2.imdecode(cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    assert bits(picture, copy) <= 4
    assert bits(picture, np.clip(picture * 0.8 + 20, 0, 255).astype(np.uint8)) <= 6
    assert bits(picture, np.ascontiguousarray(picture[:, ::-1])) > 16
    assert bits(picture, portrait(60, 40)) > 16


def test_hash_of_an_empty_picture_is_steady():
    assert not picture_hash(flat(0)[0]).any()
    assert not picture_hash(flat(77)[0]).any()


def test_hash_is_of_the_key_frame():
    frames = swaying(6)
    values = {SOURCE.name: {}, VIDEO.name: InMemory(frames.copy())}
    for place in (0, 4):
        found = PerceptualHash()(Sample("clip", {**values, KEY_FRAME.name: np.array(place)}))[PERCEPTUAL_HASH]
        assert np.array_equal(found, picture_hash(frames[place]))
        assert (found.shape, found.dtype) == ((8,), np.uint8)


def test_lip_motion_is_the_mouths_and_not_the_heads():
    n = 50
    mesh = np.zeros((n, 478, 3), np.float32)
    mesh[:, OUTER_EYE_CORNERS[1], 0] = 100
    mesh[:, INNER_LIPS[1], 1] = 10 + 10 * np.sin(np.arange(n))
    still = mesh[:1].repeat(n, 0)
    turns = np.linspace(-0.6, 0.6, n)
    about_y = np.array([[np.cos(turns), 0 * turns, np.sin(turns)], [0 * turns, 0 * turns + 1, 0 * turns],
                        [-np.sin(turns), 0 * turns, np.cos(turns)]]).transpose(2, 0, 1)  # fmt: skip
    assert lip_motion(mesh) == pytest.approx(0.19, abs=0.01)
    assert lip_motion(3 * mesh @ about_y) == pytest.approx(lip_motion(mesh), abs=1e-5)
    assert lip_motion(still @ about_y) == pytest.approx(0, abs=1e-5)
    assert lip_motion(mesh[:0]) == lip_motion(mesh[:1]) == 0


def test_photos_have_measures_and_no_sound(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "photo.png"), cv2.cvtColor(portrait(), cv2.COLOR_RGB2BGR))
    numbers = run_in_memory(tmp_path / "photo.png", [MEASURES, PICTURE_MEASURES])
    face = numbers[MEASURES]
    assert (face["n_frames"], face["valid_share"], face["faces"], face["lip_motion"]) == (1, 1, 1, 0)
    assert face["face_side_px"] > 60
    assert (numbers[PICTURE_MEASURES]["width_px"], numbers[PICTURE_MEASURES]["motion"]) == (288, 0)


def test_two_faces_are_counted():
    pair = np.concatenate([portrait(), portrait()], 1)[None].repeat(3, 0)
    assert fill(make_sample(pair), MEASURES)[MEASURES]["faces"] == 2
    assert fill(make_sample(flat(127, 3)), MEASURES)[MEASURES]["faces"] == 0


def test_loudness_and_voiced_share():
    def sound(audio: np.ndarray) -> dict:
        return fill(make_sample(flat(0, 3), audio.astype(np.int16)), SOUND_MEASURES)[SOUND_MEASURES]

    assert sound(np.zeros(1920)) == {"loudness_dbfs": -120, "voiced_share": 0}
    assert sound(np.full(1920, 16384))["loudness_dbfs"] == pytest.approx(-6.02, abs=0.01)
    speech = fill(make_sample(flat(0, 40), burst_audio(40, range(10, 30))), SOUND_MEASURES)[SOUND_MEASURES]
    assert speech["voiced_share"] == 0.5
