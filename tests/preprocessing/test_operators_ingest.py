"""Ingest decides which rows exist: what comes in, what is refused and why, and what a row holds. And the clip it opens to."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from astronaut_clips import burst_audio, swaying, write_clip
from PIL import Image

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.clip import Clip, open_clip
from preprocessing.codecs import encode
from preprocessing.fields import AUDIO, SOURCE, TIMELINE
from preprocessing.media.mux import write_video
from preprocessing.media.probe import MediaProblem, probe
from preprocessing.operator import Refused


def rows_of(path: Path, **settings):
    known = {"path": path.name, "sha256": "0" * 64, "bytes": path.stat().st_size, "person": "a", "split": "train", "tags": {}}
    return catalogue.ingest({"ingest": settings})(path, known)


def test_a_row_holds_its_frames_sound_and_source(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 25, burst_audio(25, range(25)))
    ((segment, row),) = rows_of(path)
    assert segment == 0
    source = row[SOURCE]
    assert source["person"] == "a"
    assert {k: source[k] for k in ("segment", "start", "n_frames", "fps", "rate_hz", "width", "height")} == {
        "segment": 0, "start": "0/1", "n_frames": 25, "fps": "25/1", "rate_hz": 16000, "width": 64, "height": 64,
    }  # fmt: skip
    assert row[TIMELINE].tolist() == list(range(25))
    assert row[AUDIO].shape == (25 * 640,)
    for field, value in row.items():
        assert encode(field, value) == encode(field, rows_of(path)[0][1][field])


def test_other_rates_are_retimed_to_25_fps(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 60, burst_audio(50, range(50)), fps=30)
    ((_, row),) = rows_of(path)
    assert row[SOURCE]["source_fps"] == "30/1"
    assert len(row[TIMELINE]) == 50
    assert np.abs(row[TIMELINE] - np.arange(50) * 1.2).max() <= 0.5
    assert len(row[AUDIO]) == 50 * 640


@pytest.mark.parametrize(("sound", "frames"), [(12, 12), (60, 30)])
def test_the_clip_is_what_picture_and_sound_share(tmp_path, sound, frames):
    ((_, row),) = rows_of(write_clip(tmp_path / "a.mp4", 30, burst_audio(sound, range(sound))))
    assert len(row[TIMELINE]) == pytest.approx(frames, abs=2)  # AAC comes in blocks of 1.6 frames
    assert len(row[AUDIO]) == 640 * len(row[TIMELINE])


def test_long_clips_are_cut_without_gaps(tmp_path):
    audio = burst_audio(80, range(80))
    path = write_clip(tmp_path / "a.mp4", 80, audio)
    rows = rows_of(path, max_clip_s=1)
    assert [segment for segment, _ in rows] == [0, 1, 2, 3]
    assert np.concatenate([row[TIMELINE] for _, row in rows]).tolist() == list(range(80))
    assert np.array_equal(np.concatenate([row[AUDIO] for _, row in rows]), rows_of(path)[0][1][AUDIO])
    assert [row[SOURCE]["start"] for _, row in rows] == ["0/1", "4/5", "8/5", "12/5"]
    assert {row[SOURCE]["n_frames"] for _, row in rows} == {20}


def test_silence_is_fine(tmp_path):
    ((_, row),) = rows_of(write_clip(tmp_path / "a.mp4", 25, np.zeros(16_000, np.int16)))
    assert not row[AUDIO].any()


def test_no_sound_is_refused_unless_told_otherwise(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 25)
    with pytest.raises(Refused, match=r"^no-audio-stream: a.mp4 has no sound"):
        rows_of(path)
    ((_, row),) = rows_of(path, sound="ignored")
    assert AUDIO not in row
    assert AUDIO not in catalogue.ingest({"ingest": {"sound": "ignored"}}).writes


def test_content_counts_not_the_name(tmp_path):
    video = write_clip(tmp_path / "a.mp4", 25, burst_audio(25, range(25)))
    renamed = shutil.copy(video, tmp_path / "a.jpg")
    assert len(rows_of(Path(renamed))) == 1
    picture = tmp_path / "picture.mp4"
    picture.write_bytes(cv2.imencode(".jpg", swaying(1)[0])[1].tobytes())
    with pytest.raises(Refused, match="^still-image: "):
        rows_of(picture)


def test_useless_files_are_refused_with_their_reason(tmp_path):
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.write_bytes(b"")
    text.write_text("no video " * 100)
    for path, reason in ((empty, "empty-file"), (text, "not-media")):
        with pytest.raises(Refused, match=f"^{reason}: "):
            rows_of(path)
    with pytest.raises(Refused, match="^too-short: 4 frames at 25 fps .*fewer than 5"):
        rows_of(write_clip(tmp_path / "short.mp4", 4, burst_audio(50, range(50))))


def test_a_damaged_file_raises(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 50, burst_audio(50, range(50)), small=False)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])  # the index stands first, so it opens and claims all frames
    with pytest.raises(MediaProblem, match="cut off") as caught:
        rows_of(path)
    assert caught.value.reason == "damaged"


def test_wrong_settings_are_named():
    with pytest.raises(LikenessError, match="operator ingest: unknown setting 'max_clip'; the nearest is max_clip_s"):
        catalogue.ingest({"ingest": {"max_clip": 3}})
    with pytest.raises(LikenessError, match="not a whole number of samples"):
        catalogue.ingest({"ingest": {"fps": 30}})


@pytest.fixture
def row(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, swaying(12), 10, burst_audio(30, range(30)))
    ((_, values),) = rows_of(path)
    return path, values[SOURCE], values[TIMELINE]


def test_a_clip_is_decoded_once_and_shared(row):
    clip = open_clip(*row)
    first, second = list(clip), list(clip)
    assert clip.decodes == 1
    assert len(first) == clip.n_frames == len(row[2])
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert first[0].shape == (288, 288, 3)
    assert row[2][0] == row[2][1]  # 10 fps shown at 25: frames repeat
    assert first[0] is first[1]
    with pytest.raises(ValueError, match="read-only"):
        first[0][0, 0] = 0


def test_a_clip_beyond_its_budget_is_decoded_again(row):
    clip = open_clip(*row, budget_bytes=1000)
    first, second = list(clip), list(clip)
    assert clip.decodes == 2
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, open_clip(*row), strict=True))


def test_a_broken_off_pass_is_not_kept(row):
    clip = open_clip(*row)
    next(iter(clip))
    assert len(list(clip)) == clip.n_frames
    assert clip.decodes == 2


def test_a_clip_of_damaged_frames_raises(row, monkeypatch):
    class Reader:
        corrupt_frames = [0, 1, 2]

        def frames(self, indices):
            return (np.zeros((4, 4, 3), np.uint8) for _ in indices)

    monkeypatch.setattr("preprocessing.clip.open_video", lambda path, info: Reader())
    clip = Clip(row[0], probe(row[0]), np.arange(30), 25)
    assert len(list(clip)) == 30
    assert np.flatnonzero(clip.damaged).tolist() == [0, 1, 2]
    with pytest.raises(MediaProblem, match="3 of 12 frames of a.mp4 are damaged"):
        list(Clip(row[0], probe(row[0]), np.arange(12), 25))


def test_a_photo_is_a_row_of_one_upright_frame(tmp_path):
    path = tmp_path / "a.jpg"
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 30:] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.fromarray(picture).save(path, exif=exif)
    with pytest.raises(Refused, match="still-image"):
        rows_of(path)
    ((segment, row),) = rows_of(path, photos=True)
    source = row[SOURCE]
    assert (segment, source["kind"], source["width"], source["height"], source["n_frames"]) == (0, "photo", 40, 60, 1)
    assert row[AUDIO] is None
    (frame,) = open_clip(path, source, row[TIMELINE])
    assert frame.shape == (60, 40, 3)
    assert frame[:20].mean() < 30 < frame[-20:].mean()
    with pytest.raises(Refused, match="too-small: 40 x 60"):
        rows_of(path, photos=True, min_side_px=50)


def test_a_cut_off_photo_is_damaged(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(MediaProblem) as caught:
        rows_of(path, photos=True)
    assert caught.value.reason in ("damaged", "cannot-open")


def test_kept_sound_may_be_missing(tmp_path):
    write_video(tmp_path / "silent.mp4", swaying(12), 25)
    loud = write_clip(tmp_path / "loud.mp4", 12, burst_audio(12, range(12)))
    ((_, row),) = rows_of(tmp_path / "silent.mp4", sound="kept")
    assert row[AUDIO] is None
    ((_, row),) = rows_of(loud, sound="kept")
    assert len(row[AUDIO]) == 640 * len(row[TIMELINE])
