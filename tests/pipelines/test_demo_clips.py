"""The demo's clips: the truth they come with is the truth they show and sound."""

import json
from itertools import islice

import av
import mediapipe
import numpy as np
import pytest

from infra.errors import LikenessError
from pipelines.demo.clips import make_demo_clips, render_clip
from pipelines.demo.speech import FPS, synthesise_speech


def loudness(audio: np.ndarray, frames: int, rate_hz: int) -> np.ndarray:
    """(frames,) root mean square of the sound of 40 ms around each frame's time."""
    step = rate_hz // FPS
    padded = np.pad(audio.astype(float), step // 2)
    return np.sqrt((padded[: frames * step].reshape(frames, step) ** 2).mean(axis=1))


def test_loudness_follows_the_opening():
    for seed in range(5):
        speech = synthesise_speech(4.0, seed)
        assert speech.audio.dtype == np.int16
        assert len(speech.audio) == 64000
        assert len(speech.opening) == len(speech.voiced) == 100
        assert 0 <= speech.opening.min() < 0.02
        assert 0.6 < speech.opening.max() <= 1
        assert np.corrcoef(loudness(speech.audio, 100, speech.rate_hz), speech.opening)[0, 1] > 0.9


def test_a_shifted_mouth_is_another_mouth():
    """In nearly all moving windows of 5 frames, the opening 5 frames or more away looks different: sync can be learned."""
    same = total = 0
    for seed in range(5):
        windows = np.lib.stride_tricks.sliding_window_view(synthesise_speech(4.0, seed).opening, 5)
        moving = np.flatnonzero(np.ptp(windows, axis=1) > 0.15)
        apart = np.sqrt(((windows[moving, None] - windows[None]) ** 2).mean(axis=-1))
        far = np.abs(moving[:, None] - np.arange(len(windows))) >= 5
        same, total = same + (apart[far] < 0.12).sum(), total + far.sum()
    assert same / total < 0.1


def test_same_seed_same_clip_and_other_seed_another():
    first, again, other = (synthesise_speech(1.0, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.audio, again.audio)
    assert not np.array_equal(first.audio, other.audio)
    frames, repeated, swayed, stranger = (
        np.stack(list(islice(render_clip(speaker, first, seed=seed), 8))) for speaker, seed in ((1, 3), (1, 3), (1, 4), (2, 3))
    )
    assert frames.shape == (8, 256, 256, 3)
    assert np.array_equal(frames, repeated)
    assert not np.array_equal(frames, swayed)
    assert np.abs(frames.astype(int) - stranger).mean() > 10


def test_the_lips_in_the_video_follow_the_truth(tmp_path):
    made = make_demo_clips(tmp_path / "raw", speakers=2, clips_per_speaker=1, duration_s=2.0, held_out_speakers=1)
    assert made.sources.read_text().splitlines() == [
        "path\tspeaker\tsplit",
        "spk00/clip00.mp4\tspk00\ttrain",
        "spk01/clip00.mp4\tspk01\tval",
    ]
    assert sorted(file.name for file in (tmp_path / "raw").rglob("*") if file.is_file()) == ["clip00.mp4"] * 2 + ["sources.tsv"]
    truth = json.loads((made.truth / "spk01" / "clip00.json").read_text())
    with av.open(str(made.videos[1])) as container:
        assert container.streams.video[0].average_rate == FPS
        assert len(container.streams.audio) == 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == len(truth["opening"]) == len(truth["voiced"]) == 50
    lips = []
    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        for frame in frames:
            (face,) = mesh.process(frame).multi_face_landmarks
            at = {point: face.landmark[point].y for point in (10, 13, 14, 152)}
            lips.append((at[14] - at[13]) / (at[152] - at[10]))
    assert np.corrcoef(lips, truth["opening"])[0, 1] > 0.9


def test_running_again_writes_the_same_and_another_seed_differs(tmp_path):
    def made(name: str, seed: int) -> list[bytes]:
        clips = make_demo_clips(tmp_path / name, 1, 1, 0.6, seed=seed, held_out_speakers=0, size_px=128)
        return [clips.videos[0].read_bytes(), (clips.truth / "spk00" / "clip00.json").read_bytes()]

    first = made("a", 0)
    assert made("b", 0) == first
    assert made("c", 1)[1] != first[1]


@pytest.mark.parametrize(
    "wrong", [{"held_out_speakers": 8}, {"speakers": 0}, {"duration_s": 0.1}, {"size_px": 10}, {"clips_per_speaker": 0}]
)
def test_impossible_wishes_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(LikenessError, match="allowed"):
        make_demo_clips(tmp_path / "raw", **wrong)
    assert not any(tmp_path.rglob("*.mp4"))
