"""Sound: on the picture's clock to the millisecond, right in level, and readable from whatever holds it."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from test_media_samples import RATE_HZ, Sample, clicks, encode, onsets, paint

from preprocessing.media.audio import read_audio, read_audio_file
from preprocessing.media.probe import MediaProblem, probe

pytest_plugins = ("test_media_samples",)

BURSTS = np.array([0, 0.5, 1, 1.5])
# What a codec adds before the first sample and the container cannot say: MP2's and MP3's filter delay.
CODEC_DELAY = {"avi": 1105 / RATE_HZ, "mpeg_ps": 0.0}


def test_sound_stands_where_the_picture_is(samples: dict[str, Sample]) -> None:
    for name in ("25fps", "ntsc", "mpeg_ps", "avi", "late_mp4", "late_mkv"):
        info = probe(samples[name].path)
        late = 0.2 if name.startswith("late") else CODEC_DELAY.get(name, 0)
        sound = read_audio(samples[name].path, info)
        assert (sound.dtype, sound.ndim) == (np.int16, 1)
        # 1.5 ms: Matroska's whole milliseconds, and the onset's threshold.
        np.testing.assert_allclose(onsets(sound), BURSTS + late, atol=1.5e-3, err_msg=name)


def test_sound_before_the_first_frame_is_cut(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mkv", [paint(k) for k in range(20)], list(range(15, 35)), sound=clicks(1.6), sound_codec="libopus")
    info = probe(path)
    assert info.start == Fraction(3, 5)
    np.testing.assert_allclose(onsets(read_audio(path, info)), [0.4, 0.9], atol=1.5e-3)
    np.testing.assert_allclose(onsets(read_audio_file(path)), BURSTS, atol=1.5e-3)


def test_a_hole_in_the_sound_stays_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "hole.mkv"
    sound = clicks(1.6)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 25, width=160, height=128)
        voice = container.add_stream("pcm_s16le", RATE_HZ, layout="mono")
        for k in range(40):
            container.mux(video.encode(av.VideoFrame.from_ndarray(paint(k), "rgb24")))
        container.mux(video.encode(None))
        for start in range(0, sound.shape[1], 4800):
            if start not in (4800 * 6, 4800 * 7):  # 0.6 s to 0.8 s is lost
                block = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + 4800]), "s16", "mono")
                block.sample_rate, block.pts, block.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
                container.mux(voice.encode(block))
    np.testing.assert_allclose(onsets(read_audio(path, probe(path))), BURSTS, atol=1.5e-3)
    np.testing.assert_allclose(onsets(read_audio_file(path)), [0, 0.5, 0.8, 1.3], atol=1.5e-3)


def test_no_sound_is_said(samples: dict[str, Sample]) -> None:
    path = samples["30fps"].path
    for read in (lambda: read_audio(path, probe(path)), lambda: read_audio_file(path)):
        with pytest.raises(MediaProblem) as caught:
            read()
        assert caught.value.reason == "no-audio-stream"


def tone(seconds: float, rate_hz: int, hz: float = 440) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


@pytest.mark.parametrize(
    ("rate_hz", "subtype", "tolerance"),
    [(8000, "PCM_U8", 0.012), (96000, "FLOAT", 2e-4), (44100, "PCM_24", 2e-4), (48000, "PCM_16", 2e-4), (16000, "DOUBLE", 4e-5)],
)
def test_any_rate_and_depth_gives_the_same_wave(tmp_path: Path, rate_hz: int, subtype: str, tolerance: float) -> None:
    soundfile.write(tmp_path / "t.wav", tone(1, rate_hz), rate_hz, subtype=subtype)
    heard = read_audio_file(tmp_path / "t.wav")
    assert abs(len(heard) - 16000) <= 1
    middle = slice(800, 15200)  # the resampler's filter has nothing to hold on to at the ends
    assert np.abs(heard[middle] / 32768 - tone(1, 16000)[middle]).max() < tolerance


def test_sixteen_bit_mono_at_the_wanted_rate_is_untouched(tmp_path: Path) -> None:
    original = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / "t.wav", original, 16000)
    assert np.array_equal(read_audio_file(tmp_path / "t.wav"), original)


def test_channels_are_averaged_but_silent_ones_ignored(tmp_path: Path) -> None:
    wave = tone(0.5, 16000)
    for columns, level in (
        ((wave, wave / 2), 0.75),
        ((wave, 0 * wave), 1),
        ((0 * wave, wave), 1),
        ((wave, 0 * wave, wave / 2), 0.75),
    ):
        soundfile.write(tmp_path / "t.wav", np.stack(columns, 1), 16000, subtype="FLOAT")
        assert np.abs(read_audio_file(tmp_path / "t.wav") / 32768 - level * wave).max() < 4e-5
    soundfile.write(tmp_path / "t.wav", np.zeros((800, 2)), 16000)
    assert np.array_equal(read_audio_file(tmp_path / "t.wav"), np.zeros(800, np.int16))


def test_loud_sound_is_clipped_not_wrapped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "t.wav", 4 * tone(0.1, 16000), 16000, subtype="FLOAT")
    heard = read_audio_file(tmp_path / "t.wav")
    assert (heard.max(), heard.min()) == (32767, -32768)


@pytest.mark.parametrize(
    ("codec", "suffix", "delay"), [("libmp3lame", "mp3", 0), ("mp2", "mp2", 481), ("libopus", "ogg", 0), ("aac", "m4a", 0)]
)
def test_coded_sound_keeps_time(tmp_path: Path, codec: str, suffix: str, delay: int) -> None:
    path = tmp_path / f"sound.{suffix}"
    with av.open(str(path), "w") as container:
        voice = container.add_stream(codec, RATE_HZ, layout="mono")
        block = av.AudioFrame.from_ndarray(clicks(1.6), "s16", "mono")
        block.sample_rate, block.pts, block.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
        container.mux(voice.encode(block))
        container.mux(voice.encode(None))
    np.testing.assert_allclose(onsets(read_audio_file(path)), BURSTS + delay / RATE_HZ, atol=1.5e-3)


def test_reading_twice_gives_the_same_bytes(samples: dict[str, Sample]) -> None:
    path = samples["25fps"].path
    assert np.array_equal(read_audio(path, probe(path)), read_audio(path, probe(path)))


def test_a_cut_off_wav_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "t.wav"
    soundfile.write(path, tone(1, 16000), 16000)
    whole = read_audio_file(path)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 5000])
    assert np.array_equal(read_audio_file(path), whole[:5000])
    path.write_bytes(path.read_bytes()[:44])
    with pytest.raises(MediaProblem) as caught:
        read_audio_file(path)
    assert caught.value.reason == "no-samples"


def test_damaged_packets_are_silence_and_shift_nothing(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mp4", [paint(k) for k in range(40)], sound=clicks(1.6))
    info = probe(path)
    assert info.audio is not None
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [
            (p.pos, p.size) for p in container.demux(container.streams.audio[0]) if p.size and p.pts and 0.6 < p.pts / RATE_HZ < 0.9
        ]
    for position, size in packets:
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    np.testing.assert_allclose(onsets(read_audio(path, info))[[0, 1, -2, -1]], BURSTS, atol=1.5e-3)


def test_nothing_but_sound_and_nothing_at_all(tmp_path: Path) -> None:
    (tmp_path / "t.wav").write_bytes(b"")
    with pytest.raises(MediaProblem, match="empty"):
        read_audio_file(tmp_path / "t.wav")
    (tmp_path / "t.wav").write_bytes(b"RIFF" + struct.pack("<I", 100))
    with pytest.raises(MediaProblem) as caught:
        read_audio_file(tmp_path / "t.wav")
    assert caught.value.reason == "cannot-open"
