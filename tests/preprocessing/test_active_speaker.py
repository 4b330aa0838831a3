"""The active speaker: what the network sees and hears of which frames, its numbers, and a clip whose speaker is known."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_onnx import speaker_detector, voice_detector

from infra import assets
from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.apply import run_in_memory
from preprocessing.audio_features import mfcc13
from preprocessing.clip import InMemory
from preprocessing.codecs import encode
from preprocessing.expander import FaceTracks
from preprocessing.fields import (
    ACTIVE_SPEAKER,
    ACTIVE_SPEAKER_MEASURES,
    AUDIO,
    AUDIO_REALIGNED,
    FACE_BOX,
    FACE_DETECTIONS,
    FACE_VALID,
    SOURCE,
    VIDEO,
    VOICED,
)
from preprocessing.operator import Refused, Sample
from preprocessing.operators.active_speaker import ActiveSpeaker, steps, summary
from preprocessing.operators.sync import sightings, smoothed

corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")
needs_lightasd = pytest.mark.skipif(assets.locate(assets.get("lightasd")) is None, reason="LIKENESS_ASSETS has no lightasd")


def ready(path: Path | None = None, **settings: str) -> ActiveSpeaker:
    operator = catalogue.producer("active_speaker", {"active_speaker": settings})
    assert isinstance(operator, ActiveSpeaker)
    if path is not None:
        operator.asset_paths = {"lightasd": path}
    operator.setup()
    return operator


def clip(n: int = 30) -> Sample:
    """Frames of one brightness each, a face in their middle, loud sound in the second half."""
    frames = np.repeat(np.arange(n, dtype=np.uint8) * 5 + 20, 100 * 100 * 3).reshape(n, 100, 100, 3)
    rng = np.random.default_rng(0)
    audio = np.rint(rng.standard_normal(n * 640) * np.repeat(np.where(np.arange(n) < n // 2, 10, 3000), 640)).astype(np.int16)
    sample = Sample("clip", {VIDEO.name: InMemory(frames), AUDIO.name: audio})
    sample[FACE_BOX] = np.tile(np.array([35, 35, 65, 65], np.float32), (n, 1))
    sample[FACE_VALID] = np.ones(n, bool)
    sample[VOICED] = np.arange(n) >= n // 2
    return sample


def heard(audio: np.ndarray) -> np.ndarray:
    """(frames,) mean of the four MFCC steps of each frame, the sound followed by silence."""
    return mfcc13(np.concatenate([audio, np.zeros(240, np.int16)])).T.reshape(-1, 52).mean(1)


def test_every_frame_is_seen_with_the_sound_that_is_heard_while_it_is_shown(tmp_path):
    sample = clip()
    made = ready(speaker_detector(tmp_path / "asd.onnx", bias=-80))(sample)
    scores = made[ACTIVE_SPEAKER]
    assert scores.dtype == np.float32
    want = np.arange(30) * 5 + 20 + heard(sample[AUDIO]) - 80
    np.testing.assert_allclose(scores, want, atol=2e-3)
    measures = made[ACTIVE_SPEAKER_MEASURES]
    assert measures["n_frames"] == 30
    assert measures["voiced_frames"] == 15
    assert measures["mean_score"] == pytest.approx(want.mean(), abs=2e-3)
    assert measures["voiced_score"] == pytest.approx(want[15:].mean(), abs=2e-3)
    assert measures["speaking_share"] == pytest.approx((want > 0).mean(), abs=1e-6)
    assert measures["voiced_speaking_share"] == 1
    for field, value in made.items():
        assert encode(field, value)


def test_what_goes_in_is_the_lower_face_in_grey(tmp_path):
    """SyncNet's crop at 224 px, its middle: rows y - 0.3 s to y + 1.1 s, columns x - 0.7 s to x + 0.7 s."""
    sample = clip(1)
    picture = np.random.default_rng(1).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    picture = cv2.resize(picture, (400, 400), interpolation=cv2.INTER_CUBIC)
    sample[VIDEO] = InMemory(picture[None])
    sample[FACE_BOX] = np.array([[120, 120, 200, 200]], np.float32)  # s = 40 around (160, 160)
    seen = ready(speaker_detector(tmp_path / "asd.onnx"))(sample)[ACTIVE_SPEAKER][0] - heard(sample[AUDIO])[0]
    assert seen == pytest.approx(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[148:204, 132:188].mean(), abs=0.5)


def test_each_stretch_of_one_face_is_heard_alone(tmp_path):
    sample = clip(40)
    valid = sample[FACE_VALID]
    valid[[0, 1, 20, 39]] = False
    sample[FACE_BOX][21:] += 30  # somebody else
    sample[FACE_BOX][~valid] = 0
    scores = ready(speaker_detector(tmp_path / "asd.onnx"))(sample)[ACTIVE_SPEAKER]
    assert (scores[~valid] == 0).all()
    for start, stop in ((2, 20), (21, 39)):
        want = np.arange(start, stop) * 5 + 20 + heard(sample[AUDIO][start * 640 : stop * 640])
        np.testing.assert_allclose(scores[start:stop], want, atol=2e-3)


def test_short_tracks_have_a_size():
    boxes = np.tile(np.array([10, 20, 50, 70], np.float32), (9, 1))
    valid = np.arange(9) < 2
    (seen,) = sightings(boxes, valid)
    assert smoothed(boxes, seen, "nearest").places.tolist() == [[30, 45, 25]] * 2
    assert not smoothed(boxes, seen).places.any()  # as published


def test_without_a_face_there_is_no_mean(tmp_path):
    sample = clip()
    sample[FACE_VALID][:] = False
    made = ready(speaker_detector(tmp_path / "asd.onnx"))(sample)
    assert not made[ACTIVE_SPEAKER].any()
    assert made[ACTIVE_SPEAKER_MEASURES] == {"n_frames": 0, "voiced_frames": 0}
    one = np.array([True, False])
    assert summary(np.array([-2.0, 3.0]), one, ~one) == {"n_frames": 1, "mean_score": -2, "speaking_share": 0, "voiced_frames": 0}


def test_sound_that_ends_early_is_followed_by_silence():
    audio = clip()[AUDIO]
    assert steps(audio, slice(0, 30)).shape == (120, 13)
    short = np.concatenate([audio[: 20 * 640], np.zeros(10 * 640, np.int16)])
    assert np.array_equal(steps(audio[: 20 * 640], slice(5, 30)), steps(short, slice(5, 30)))


def test_it_can_hear_other_sound(tmp_path):
    sample = clip()
    sample[AUDIO_REALIGNED] = sample[AUDIO][::-1].copy()
    path = speaker_detector(tmp_path / "asd.onnx")
    assert ready(path, sound="audio_realigned").reads == (VIDEO, AUDIO_REALIGNED, FACE_BOX, FACE_VALID, VOICED)
    other = ready(path, sound="audio_realigned")(sample)[ACTIVE_SPEAKER]
    sample[AUDIO] = sample[AUDIO_REALIGNED]
    assert np.array_equal(other, ready(path)(sample)[ACTIVE_SPEAKER])


def test_what_can_not_be_scored_is_refused(tmp_path, monkeypatch):
    sample = clip()
    sample[VIDEO] = InMemory(np.zeros((30, 8, 8, 3), np.uint8), 50)
    with pytest.raises(Refused, match="wrong-rate: 50"):
        ready(speaker_detector(tmp_path / "asd.onnx"))(sample)
    with pytest.raises(LikenessError, match=r"vad\.onnx takes .*input.*mfcc \(1, 4 T, 13\)"):
        ready(voice_detector(tmp_path / "vad.onnx"))
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    with pytest.raises(LikenessError, match=r"lightasd is not here.*lightasd_ava\.onnx"):
        ready()


@corpus
@needs_lightasd
def test_the_one_who_speaks_is_found():
    """Two people side by side, the left one's voice: as `data expand --by face_tracks` makes a row of each."""
    path = Path(os.environ["LIKENESS_CORPUS"]) / "hard/made_two_talkers_left_speaks.mp4"
    parent = run_in_memory(path, [FACE_DETECTIONS, VOICED])
    scores = {}
    for child in FaceTracks()(parent):
        row = Sample(child.name, {f.name: parent[f] for f in (VIDEO, AUDIO, SOURCE, VOICED)})
        for field, value in child.values.items():
            row[field] = value
        for name in ("landmarks_478", "face_box", "active_speaker"):
            operator = catalogue.producer(name)
            operator.setup()
            for field, value in operator(row).items():
                row[field] = value
        x = float(row[FACE_BOX][row[FACE_VALID], 0].mean())
        scores[x] = row[ACTIVE_SPEAKER_MEASURES]
    left, right = (scores[x] for x in sorted(scores))
    assert left["voiced_score"] > right["voiced_score"] + 0.4
    assert left["mean_score"] > right["mean_score"] + 0.2
