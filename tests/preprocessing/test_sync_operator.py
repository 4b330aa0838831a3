"""The sync operator: crops against the published padding, tracks, refusals, and scores end to end with an untrained judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.signal
import torch

from infra.errors import LikenessError
from models.perception.syncnet import SyncNet, SyncScore, sync_curve
from preprocessing.audio_features import mfcc13
from preprocessing.codecs import encode
from preprocessing.fields import AUDIO, AUDIO_REALIGNED, FACE_BOX, FACE_VALID, REALIGNMENT, SYNC, SYNC_REALIGNED, VIDEO
from preprocessing.operator import Refused, Sample
from preprocessing.operators.realign import Realign, delayed
from preprocessing.operators.sync import RealignedSyncScores, SyncScores, cut, longest_track


class Toy:
    """Frames of noise, smooth enough to survive resizing."""

    def __init__(self, n_frames: int, fps: float = 25.0, seed: int = 0) -> None:
        self.n_frames, self.fps = n_frames, fps
        coarse = np.random.default_rng(seed).integers(0, 256, (n_frames, 6, 8, 3), dtype=np.uint8)
        self.frames = [cv2.resize(frame, (160, 120)) for frame in coarse]
        self.passes = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from self.frames
        self.passes += 1


def clip(n_frames: int, seed: int = 0) -> Sample:
    """A face that walks to the right, reaching over the left and lower edge at first."""
    rng = np.random.default_rng(seed)
    steps = np.arange(n_frames, dtype=np.float32)[:, None]
    boxes = np.array([[-8.5, 60, 40.25, 118.5]], np.float32) + steps * [1.3, 0.2, 1.3, 0.2] + rng.normal(0, 0.7, (n_frames, 4))
    sample = Sample("toy")
    sample[VIDEO] = Toy(n_frames, seed=seed)
    sample[FACE_BOX], sample[FACE_VALID] = boxes.astype(np.float32), np.ones(n_frames, bool)
    sample[AUDIO] = rng.integers(-8000, 8000, n_frames * 640, dtype=np.int16)
    return sample


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of assets with a SyncNet that has learnt nothing, and one thread to run it."""
    folder = tmp_path_factory.mktemp("assets")
    torch.manual_seed(0)
    torch.save(SyncNet().state_dict(), folder / "syncnet_v2.model")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKENESS_ASSETS", str(folder))
        yield folder
    torch.set_num_threads(threads)


def ready(protocol: str = "track") -> SyncScores:
    operator = SyncScores(SyncScores.Params(protocol=protocol))
    operator.setup()
    return operator


def published_crop(frame: np.ndarray, x: float, y: float, s: float) -> np.ndarray:
    """By the card: pad the whole frame with grey, then cut."""
    pad = int(s * 1.8)
    padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), constant_values=110)
    return padded[int(y + pad - s) : int(y + pad + s * 1.8), int(x + pad - s * 1.4) : int(x + pad + s * 1.4)]


@pytest.mark.parametrize("seed", range(40))
def test_crops_are_those_of_the_padded_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 90, 2)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    x, y, half = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(2, 80)
    assert np.array_equal(cut(frame, x, y, half), published_crop(frame, x, y, half))


def test_track_fills_holes_and_smooths() -> None:
    n = 40
    boxes = np.zeros((n, 4), np.float32)
    boxes[:] = [10, 20, 50, 70]
    boxes[:, [0, 2]] += np.arange(n)[:, None]
    valid = np.ones(n, bool)
    valid[[0, 1, 15, 16, 17, 39]] = False
    whole = boxes[2:39].copy()
    boxes[~valid] = 0
    track = longest_track(boxes, valid)
    assert track is not None
    assert track.first == 2
    assert track.places.shape == (37, 3)
    assert np.allclose(track.places[:, 0], scipy.signal.medfilt((whole[:, 0] + whole[:, 2]) / 2, 13))
    assert np.allclose(track.places[6:-6], np.stack([30.0 + np.arange(8, 33), np.full(25, 45.0), np.full(25, 25.0)], 1))


def test_one_wild_box_does_not_move_the_crop() -> None:
    boxes = np.tile(np.array([10, 20, 50, 70], np.float32), (40, 1))
    boxes[20] += [4, -3, 9, 2]
    track = longest_track(boxes, np.ones(40, bool))
    assert track is not None
    assert np.array_equal(track.places[20], [30, 45, 25])


def test_the_longest_track_counts() -> None:
    boxes = np.tile(np.array([10, 20, 50, 70], np.float32), (100, 1))
    valid = np.ones(100, bool)
    valid[20:45] = False  # sightings 26 frames apart: another track
    track = longest_track(boxes, valid)
    assert track is not None
    assert (track.first, len(track.places)) == (45, 55)
    valid[44] = True  # 25 apart: the same
    track = longest_track(boxes, valid)
    assert track is not None
    assert (track.first, len(track.places)) == (0, 100)
    boxes[60:] += 30  # somebody else
    track = longest_track(boxes, valid)
    assert track is not None
    assert (track.first, len(track.places)) == (0, 60)
    assert longest_track(boxes, np.zeros(100, bool)) is None


def test_scores_of_a_clip(judge: Path) -> None:
    sample = clip(20)
    operator = ready()
    sync = operator(sample)[SYNC]
    assert sample[VIDEO].passes == 1
    assert sync["n_windows"] == 15
    assert encode(SYNC, sync) == encode(SYNC, ready()(sample)[SYNC])

    track = longest_track(sample[FACE_BOX], sample[FACE_VALID])
    assert track is not None
    crops = [published_crop(frame, *place) for frame, place in zip(sample[VIDEO], track.places, strict=True)]
    pictures = np.stack([cv2.resize(crop, (224, 224))[..., ::-1] for crop in crops])
    network = SyncNet().eval()
    network.load_state_dict(torch.load(judge / "syncnet_v2.model"))
    visual, audio = network.embed_clip(torch.from_numpy(pictures), torch.from_numpy(mfcc13(sample[AUDIO])), 20 * 640)
    score = SyncScore.from_curve(sync_curve(visual, audio))
    assert sync["min_distance"] == pytest.approx(score.min_distance, rel=1e-5)
    assert sync["confidence"] == pytest.approx(score.confidence, rel=1e-3, abs=1e-5)
    assert sync["offset_frames"] == score.offset_frames


def test_only_the_frames_from_the_first_to_the_last_sighting_count(judge: Path) -> None:
    operator = ready()
    late, cut_clip = clip(20), Sample("cut")
    late[FACE_VALID][:4] = False
    for field in (FACE_BOX, FACE_VALID):
        cut_clip[field] = late[field][4:]
    cut_clip[VIDEO], cut_clip[AUDIO] = Toy(20), late[AUDIO][4 * 640 :]
    cut_clip[VIDEO].frames, cut_clip[VIDEO].n_frames = late[VIDEO].frames[4:], 16
    assert operator(late) == operator(cut_clip)


def test_resize_stretches_the_whole_picture_and_needs_no_face(judge: Path) -> None:
    operator = ready("resize")
    assert operator.reads == (VIDEO, AUDIO)
    sample = Sample("toy", {"video": Toy(20), "audio": clip(20)[AUDIO][: 15 * 640 + 639]})
    sync = operator(sample)[SYNC]
    assert sync["n_windows"] == 10  # the sound is the shorter one
    whole = clip(20)
    whole[AUDIO] = sample[AUDIO]
    assert sync["min_distance"] != ready()(whole)[SYNC]["min_distance"]


class Meter(SyncNet):
    """A judge that can be reasoned about: brightness of the pictures against loudness of the sound, frame by frame, both around
    zero, since sound beyond the clip counts as zero."""

    def visual(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.mean((1, 3, 4)) - 130

    def audio(self, mfcc: torch.Tensor) -> torch.Tensor:
        return 10 * mfcc[:, 0, 0].unflatten(1, (5, 4)).mean(2) - 170  # coefficient 0 is the log energy


def metered(late: int, first: int = 3) -> Sample:
    """80 frames as bright as the sound is loud, the sound `late` by so many frames; the face is seen from frame `first` on."""
    rng = np.random.default_rng(3)
    loudness = rng.uniform(3, 8, 80)
    sound = rng.standard_normal(80 * 640) * np.repeat(np.exp(np.roll(loudness, late)), 640)
    sample = Sample("meter", {"audio": np.rint(sound).astype(np.int16), "video": Toy(80)})
    bright = np.rint(20 * loudness + 20).astype(np.uint8)
    sample[VIDEO].frames = [np.full((100, 100, 3), value, np.uint8) for value in bright]
    sample[FACE_BOX] = np.tile(np.array([35, 35, 65, 65], np.float32), (80, 1))
    sample[FACE_VALID] = np.arange(80) >= first
    return sample


@pytest.mark.parametrize("protocol", ["track", "resize"])
@pytest.mark.parametrize("late", [-9, -1, 0, 4, 15])
def test_sound_that_comes_later_by_k_frames_lowers_the_offset_by_k(judge: Path, protocol: str, late: int) -> None:
    sample = metered(late)
    operator = ready(protocol)
    operator._network = Meter().eval()
    sync = operator(sample)[SYNC]
    assert sync["offset_frames"] == -late
    assert sync["confidence"] > 10


@pytest.mark.parametrize("late", [-6, -2, 0, 1, 5])
def test_shifted_sound_is_measured_moved_back_and_measured_again(judge: Path, late: int) -> None:
    before, after = ready(), RealignedSyncScores()
    after.setup()
    before._network = after._network = Meter().eval()
    assert after.reads == (VIDEO, AUDIO_REALIGNED, FACE_BOX, FACE_VALID)
    sample = metered(0)
    original, in_sync = sample[AUDIO], before(sample)[SYNC]
    sample[AUDIO] = delayed(original, 640 * late)
    sample[SYNC] = before(sample)[SYNC]
    assert sample[SYNC]["offset_frames"] == in_sync["offset_frames"] - late == -late
    for field, value in Realign()(sample).items():
        sample[field] = value
    assert sample[REALIGNMENT] == {"shift_frames": -late, "trusted": 1}
    kept = slice(max(0, -640 * late), len(original) - max(0, 640 * late))
    assert np.array_equal(sample[AUDIO_REALIGNED][kept], original[kept])
    again = after(sample)[SYNC_REALIGNED]
    assert again["offset_frames"] == 0
    assert again["confidence"] > 10
    assert again == in_sync or late != 0


def test_what_can_not_be_scored_is_refused_with_the_reason(judge: Path) -> None:
    operator = ready()
    with pytest.raises(Refused, match="too-short: 12 frames with a face and sound, fewer than 13"):
        operator(clip(12))
    sample = clip(20)
    sample[AUDIO] = sample[AUDIO][: 12 * 640 + 639]
    with pytest.raises(Refused, match="too-short: 12 frames"):
        operator(sample)
    sample = clip(20)
    sample[FACE_VALID][:] = False
    with pytest.raises(Refused, match="no-face"):
        operator(sample)
    sample[VIDEO] = Toy(20, fps=50)
    with pytest.raises(Refused, match="wrong-rate: 50"):
        operator(sample)


def test_without_the_weights_the_error_says_what_to_place_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path / "none"))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    with pytest.raises(LikenessError, match=r"syncnet_v2 is not here.*place syncnet_v2\.model.*LIKENESS_ASSETS"):
        ready()
