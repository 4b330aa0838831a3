"""Sound: lengths that training relies on, silence, and who speaks when."""

import numpy as np
import pytest
from astronaut_clips import burst_audio, fill, make_sample

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.audio_features import mfcc13
from preprocessing.codecs import encode
from preprocessing.fields import AUDIO, AUDIO_REALIGNED, AUDIO_SILENT, MEL80, MFCC13, SOURCE, VOICED
from preprocessing.operator import Sample
from preprocessing.operators.sound import VoiceActivity, bridged, frame_levels


def heard(audio, n_frames):
    return make_sample(np.zeros((n_frames, 8, 8, 3), np.uint8), audio)


@pytest.mark.parametrize("n_frames", [5, 75, 250])
def test_mel_length(n_frames):
    mel = fill(heard(burst_audio(n_frames, [2, 3]), n_frames), MEL80)[MEL80]
    assert mel.shape == (80, 640 * n_frames // 200 + 1)
    assert mel.dtype == np.float32


def test_ten_seconds_are_801_columns():
    assert fill(heard(np.zeros(160_000, np.int16), 250), MEL80)[MEL80].shape == (80, 801)


def test_silence():
    sample = fill(heard(np.zeros(50 * 640, np.int16), 50), MEL80, VOICED)
    assert (sample[MEL80] == -4).all()
    assert not sample[VOICED].any()


def test_bursts_are_found():
    voiced = [*range(20, 45), *range(60, 90)]
    found = fill(heard(burst_audio(100, voiced), 100), VOICED)[VOICED]
    assert found.dtype == bool
    assert np.flatnonzero(found).tolist() == voiced


@pytest.mark.parametrize("gain", [0.03, 1, 8])
def test_the_threshold_follows_the_level(gain):
    audio = np.clip(burst_audio(100, range(30, 70)) * gain, -32768, 32767).astype(np.int16)
    found = fill(heard(audio, 100), VOICED)[VOICED]
    assert np.flatnonzero(found).tolist() == list(range(30, 70))


def test_steady_sound_is_nobodys_speech():
    rng = np.random.default_rng(0)
    noise = np.rint(rng.standard_normal(64_000) * 2000).astype(np.int16)
    hum = np.rint(9000 * np.sin(2 * np.pi * 50 * np.arange(64_000) / 16_000)).astype(np.int16)
    for audio in (noise, hum):
        assert not fill(heard(audio, 100), VOICED)[VOICED].any()


def test_short_gaps_are_bridged():
    flags = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1, 0], bool)
    assert bridged(flags, 2).tolist() == [False, True, True, True, True, False, False, False, True, False]
    assert bridged(flags, 0).tolist() == flags.tolist()
    assert bridged(np.zeros(3, bool), 5).tolist() == [False] * 3


def test_levels():
    assert frame_levels(np.zeros(1280, np.int16), 2).tolist() == [-120, -120]
    alternating = np.tile(np.array([16384, -16384], np.int16), 640)
    assert frame_levels(alternating, 2)[1] == pytest.approx(20 * np.log10(0.5 * 1.97), abs=0.01)


def test_settings_reach_the_operator():
    audio = burst_audio(50, range(20, 40))
    assert not VoiceActivity(VoiceActivity.Params(floor=0))(heard(audio, 50))[VOICED].any()
    with pytest.raises(LikenessError, match=r"operator voice_activity: unknown setting 'flor'.*nearest is floor"):
        fill(heard(audio, 50), VOICED, voice_activity={"flor": 1})


def test_mfcc_is_of_the_int16_samples():
    audio = burst_audio(10, [4, 5])
    found = fill(heard(audio, 10), MFCC13)[MFCC13]
    assert np.array_equal(found, mfcc13(audio))
    assert found.shape == (13, 39)
    assert encode(MFCC13, found)


@pytest.mark.parametrize(("fps", "n_frames", "samples"), [("25/1", 250, 160_000), ("30000/1001", 90, 48_048), ("25/1", 1, 640)])
def test_silence_is_as_long_as_the_clip_and_needs_no_sound(fps, n_frames, samples):
    sample = Sample("clip", {SOURCE.name: {"n_frames": n_frames, "fps": fps}})
    silent = fill(sample, AUDIO_SILENT)[AUDIO_SILENT]
    assert silent.shape == (samples,)
    assert silent.dtype == np.int16
    assert not silent.any()
    assert encode(AUDIO_SILENT, silent)


@pytest.mark.parametrize("name", ["mel80", "mfcc13", "voiced"])
def test_operators_hear_the_sound_they_are_told_to(name):
    audio, other = burst_audio(50, range(20, 40)), burst_audio(50, range(10, 15))
    operator_name = {"voiced": "voice_activity"}.get(name, name)
    plain, told = (catalogue.producer(name, {operator_name: given}) for given in ({}, {"sound": "audio_realigned"}))
    assert AUDIO in plain.reads
    assert AUDIO not in told.reads
    assert AUDIO_REALIGNED in told.reads
    assert plain.params.model_dump() == told.params.model_dump()  # what is read tells them apart, datasets stay as they are
    sample = heard(audio, 50)
    sample[AUDIO_REALIGNED] = other
    (field,) = told.writes
    assert np.array_equal(told(sample)[field], plain(heard(other, 50))[field])
    assert not np.array_equal(told(sample)[field], plain(sample)[field])
    for wrong in ("mel80", "sound", ""):
        with pytest.raises(LikenessError, match="field of sound"):
            catalogue.producer(name, {operator_name: {"sound": wrong}})
