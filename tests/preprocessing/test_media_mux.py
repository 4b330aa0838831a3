"""Writing: what goes in comes out, the same bytes every time, and never half a file."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_media_samples import clicks, number, onsets, paint

from infra.errors import LikenessError
from preprocessing.media.audio import read_audio
from preprocessing.media.decode import open_video
from preprocessing.media.mux import read_metadata, write_video
from preprocessing.media.probe import probe
from preprocessing.media.timeline import timeline

SOUND = clicks(1.6, 16_000)[0]


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(25, 2)])
def test_frames_sound_and_rate_come_back(tmp_path: Path, fps: Fraction) -> None:
    path = tmp_path / "v.mp4"
    assert write_video(path, (paint(k) for k in range(40)), fps, SOUND) == 40
    info = probe(path)
    assert (info.fps, info.n_frames, info.codec, info.pixel_format, info.start) == (fps, 40, "h264", "yuv420p", 0)
    assert timeline(info.pts_ticks, info.time_base, fps).tolist() == list(range(40))
    frames = list(open_video(path, info).frames(range(40)))
    assert [number(f) for f in frames] == list(range(40))
    for column in (30, 130):
        np.testing.assert_allclose(frames[7][112, column].astype(int), paint(7)[112, column], atol=4)
    np.testing.assert_allclose(onsets(read_audio(path, info)), [0, 0.5, 1, 1.5], atol=2e-3)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, (paint(k) for k in range(20)), Fraction(25), SOUND, metadata={"b": 1, "a": 2})
    content = (tmp_path / "a.mp4").read_bytes()
    assert content == (tmp_path / "b.mp4").read_bytes()
    assert b"Lavf" not in content, "no muxer version in the file"


def test_odd_sizes_gain_a_row_and_a_column(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [paint(k, 177, 241) for k in range(3)], Fraction(25))
    info = probe(tmp_path / "v.mp4")
    assert (info.shape, info.audio) == ((178, 242, 3), None)
    frame = next(iter(open_video(tmp_path / "v.mp4").frames([2])))
    assert number(frame[:177, :241]) == 2
    assert np.abs(frame[:, 241].astype(int) - frame[:, 240]).mean() < 3


def test_metadata_is_kept(tmp_path: Path) -> None:
    note = {"method": "wav2lip", "inputs": {"face": "sha256:00"}, "generated": True, "who": "Zoë"}
    write_video(tmp_path / "v.mp4", [paint(0)], Fraction(25), metadata=note)
    assert read_metadata(tmp_path / "v.mp4") == note
    write_video(tmp_path / "v.mp4", [paint(0)], Fraction(25))
    assert read_metadata(tmp_path / "v.mp4") == {}


def test_sound_may_be_longer_or_shorter_than_the_picture(tmp_path: Path) -> None:
    for n in (5, 80):
        write_video(tmp_path / "v.mp4", (paint(k) for k in range(n)), Fraction(25), SOUND)
        info = probe(tmp_path / "v.mp4")
        assert info.n_frames == n
        assert abs(len(read_audio(tmp_path / "v.mp4", info)) - len(SOUND)) <= 1024


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"what stood here before")

    def failing():
        yield paint(0)
        raise RuntimeError("out of pictures")

    with pytest.raises(RuntimeError, match="out of pictures"):
        write_video(path, failing(), Fraction(25), SOUND)
    assert path.read_bytes() == b"what stood here before"
    assert os.listdir(tmp_path) == ["v.mp4"]


def test_wrong_input_is_refused(tmp_path: Path) -> None:
    path, one = tmp_path / "v.mp4", paint(0)
    for frames in ([], [one.astype(np.float32)], [one[..., 0]], [one, one[:64]]):
        with pytest.raises(LikenessError):
            write_video(path, frames, Fraction(25))
    for sound, rate_hz in ((SOUND / 2.0, 16_000), (np.stack([SOUND, SOUND]), 16_000), (SOUND, 12_345)):
        with pytest.raises(LikenessError):
            write_video(path, [one], Fraction(25), sound, rate_hz)
    assert os.listdir(tmp_path) == []
