"""Speech probability: what the network hears and remembers, its chunks on the frames' clock, and real speech where Silero is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astronaut_clips import burst_audio
from tiny_onnx import speaker_detector, voice_detector

from infra import assets
from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.apply import read_sound
from preprocessing.fields import AUDIO, AUDIO_REALIGNED, SOURCE, SPEECH_PROBABILITY, VOICED
from preprocessing.operator import Operator, Sample
from preprocessing.operators.speech_probability import SpeechProbability, per_frame

corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")
needs_silero = pytest.mark.skipif(assets.locate(assets.get("silero_vad")) is None, reason="LIKENESS_ASSETS has no silero_vad")


def ready(path: Path | None = None, **settings: str) -> SpeechProbability:
    operator = catalogue.producer("speech_probability", {"speech_probability": settings})
    assert isinstance(operator, SpeechProbability)
    if path is not None:
        operator.asset_paths = {"silero_vad": path}
    operator.setup()
    return operator


def heard(audio: np.ndarray, n_frames: int | None = None) -> Sample:
    n_frames = len(audio) // 640 if n_frames is None else n_frames
    return Sample("clip", {AUDIO.name: audio, SOURCE.name: {"n_frames": n_frames, "fps": "25/1"}})


def test_each_chunk_is_heard_with_the_end_of_the_last_one_and_its_memory(tmp_path):
    audio = burst_audio(8, [3, 4])
    wave = np.pad(audio / 32768, (64, 512))
    want = [np.abs(wave[at : at + 576]).mean() + number for number, at in enumerate(range(0, len(audio), 512))]
    operator = ready(voice_detector(tmp_path / "vad.onnx"))
    np.testing.assert_allclose(operator.chunks(audio), want, atol=1e-5)
    found = operator(heard(audio))[SPEECH_PROBABILITY]
    assert found.shape == (8,)
    assert found.dtype == np.float32
    assert np.array_equal(found, operator(heard(audio))[SPEECH_PROBABILITY])  # no memory from clip to clip


def test_frames_are_the_mean_of_the_chunks_they_share():
    rng = np.random.default_rng(0)
    for n_frames, samples in ((1, 640), (10, 6400), (13, 8320), (5, 3203)):
        chunks = rng.uniform(size=-(-samples // 512))
        held = np.repeat(chunks, 512)[:samples]
        if samples % n_frames == 0:
            want = held.reshape(n_frames, -1).mean(1)
            np.testing.assert_allclose(per_frame(chunks, samples, n_frames), want, atol=1e-6)
        assert per_frame(chunks, samples, n_frames).mean() == pytest.approx(held.mean(), abs=1e-6)


def test_voiced_by_probability_runs_no_network():
    operator = catalogue.producer("voiced", {"voice_activity": {"by": "speech_probability", "min_probability": 0.6, "bridge": 1}})
    assert operator.reads == (SPEECH_PROBABILITY,)
    sample = Sample("clip", {SPEECH_PROBABILITY.name: np.array([0.7, 0.1, 0.6, 0, 0, 0.59, 0.9], np.float32)})
    found = operator(sample)[VOICED]
    assert found.dtype == bool
    assert found.tolist() == [True, True, True, False, False, False, True]


def test_it_can_hear_other_sound(tmp_path):
    operator = ready(voice_detector(tmp_path / "vad.onnx"), sound="audio_realigned")
    assert operator.reads == (AUDIO_REALIGNED, SOURCE)
    sample = heard(np.zeros(6400, np.int16))
    sample[AUDIO_REALIGNED] = np.full(6400, 16384, np.int16)
    assert operator(sample)[SPEECH_PROBABILITY][0] > 0.4


def test_another_network_is_refused(tmp_path, monkeypatch):
    with pytest.raises(LikenessError, match=r"asd\.onnx takes mfcc, faces.*input, state, sr"):
        ready(speaker_detector(tmp_path / "asd.onnx"))
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    with pytest.raises(LikenessError, match=r"silero_vad is not here.*silero_vad_16k_op15\.onnx"):
        ready()


@corpus
@needs_silero
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("speech/hdtf_rd31.wav", 0.9, 1), ("speech/librispeech_1688-142285-0001.wav", 0.8, 1),
        ("speech/silero_noisy_16k.wav", 0.4, 0.9), ("hard/made_wav_silence_2s.wav", 0, 0),
        ("hard/real_hand_in_front_silent.mp4", 0, 0),
    ],
)  # fmt: skip
def test_real_speech_and_silence(name, low, high):
    audio = read_sound(Path(os.environ["LIKENESS_CORPUS"]) / name)[: 10 * 16_000]
    operator: Operator = ready()
    share = (operator(heard(audio))[SPEECH_PROBABILITY] >= 0.5).mean()
    assert low <= share <= high


@needs_silero
def test_noise_and_hum_are_no_speech():
    noise = np.rint(np.random.default_rng(0).standard_normal(64_000) * 2000).astype(np.int16)
    hum = np.rint(9000 * np.sin(2 * np.pi * 50 * np.arange(64_000) / 16_000)).astype(np.int16)
    for audio in (noise, hum, burst_audio(100, range(30, 70))):
        assert ready()(heard(audio))[SPEECH_PROBABILITY].mean() < 0.2
