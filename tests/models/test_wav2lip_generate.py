"""Wav2Lip's generation against the published procedure, and what it adds: feathering, frames without a face, streaming."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from infra.errors import LikenessError
from models.wav2lip import METHOD
from models.wav2lip import generate as lipsync
from models.wav2lip.generate import LipSync, feather, nearest, padded, paste_soft, ranges, smoothed, window_starts
from models.wav2lip.network import Generator
from preprocessing.audio_features import mel_chunks
from preprocessing.fields import AUDIO, FACE_BOX, FACE_VALID, MEL80, SOURCE, VIDEO
from preprocessing.operator import Sample
from preprocessing.operators.face_crops import FaceBoxCrops

HEIGHT, WIDTH = 120, 161


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)


class Stub(nn.Module):
    """A generator whose answer is known: the reference, lighter by the loudness of its own speech window."""

    def forward(self, audio: Tensor, faces: Tensor) -> Tensor:
        assert not faces[:, :3, 48:].any()
        assert torch.equal(faces[:, :3, :48], faces[:, 3:, :48])
        self.largest = max(getattr(self, "largest", 0), len(faces))
        return (faces[:, 3:] * 0.5 + (audio.mean((1, 2, 3)) + 4)[:, None, None, None] / 16).clamp(0, 1)


class Weights:
    """An artefact that gives the network above."""

    config = {"width": 0.125}

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def load(self, component: str, into: nn.Module) -> nn.Module:
        assert (component, type(into)) == ("generator", Generator)
        return self.network


class Frames:
    """A video that counts how many frames were asked of it."""

    def __init__(self, frames: np.ndarray, fps: float = 25.0) -> None:
        self.frames, self.n_frames, self.fps, self.given = frames, len(frames), fps, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.frames:
            self.given += 1
            yield frame


def talking(n: int, fps: str = "25/1", columns: int = 60, seed: int = 0) -> dict[str, Any]:
    """Inputs of n frames with a face that moves, and speech."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 12, 16, 3), np.uint8)
    frames = np.stack([cv2.resize(frame, (WIDTH, HEIGHT)) for frame in coarse])
    frames.flags.writeable = False
    corner = rng.uniform((-6, -6), (60, 30), (n, 2))
    boxes = np.hstack([corner, corner + rng.uniform(55, 104, (n, 2))]).astype(np.float32)
    source = {"fps": fps, "source_fps": fps}
    face = Sample("face", {
        VIDEO.name: Frames(frames), FACE_BOX.name: boxes, FACE_VALID.name: np.ones(n, bool), SOURCE.name: source,
    })  # fmt: skip
    mel = rng.uniform(-4, 4, (80, columns)).astype(np.float32)
    return {"face": face, "audio": Sample("audio", {MEL80.name: mel, AUDIO.name: np.arange(200 * columns, dtype=np.int16)})}


def make(inputs: dict[str, Any], network: nn.Module | None = None, **config: Any) -> tuple[Any, np.ndarray]:
    """The output and all its frames."""
    generation = LipSync({"generator": Weights(network or Stub())}, LipSync.Config(**config))
    output = generation(inputs, np.random.default_rng(0))
    return output, np.stack(list(output.frames))


def published(inputs: dict[str, Any], fps: float, pads=(0, 10, 0, 0), smooth=True, static=False) -> np.ndarray:
    """`inference.py` step by step, all in memory, in BGR."""
    frames = [frame[..., ::-1].copy() for frame in inputs["face"][VIDEO].frames]
    mel, network = inputs["audio"][MEL80], Stub()
    chunks, i = [], 0
    while True:
        start = int(i * (80.0 / fps))
        if start + 16 > mel.shape[1]:
            chunks.append(mel[:, mel.shape[1] - 16 :])
            break
        chunks.append(mel[:, start : start + 16])
        i += 1
    frames = frames[: len(chunks)]
    results = []
    for image, rect in zip(frames[:1] if static else frames, inputs["face"][FACE_BOX], strict=False):
        x1, y1, x2, y2 = map(int, np.clip(rect, 0, None))
        results.append([
            max(0, x1 - pads[2]), max(0, y1 - pads[0]), min(image.shape[1], x2 + pads[3]), min(image.shape[0], y2 + pads[1])
        ])  # fmt: skip
    boxes = np.array(results)
    if smooth:
        for i in range(len(boxes)):
            window = boxes[len(boxes) - 5 :] if i + 5 > len(boxes) else boxes[i : i + 5]
            boxes[i] = np.mean(window, axis=0)
    out = []
    for i, chunk in enumerate(chunks):
        place = 0 if static else i % len(frames)
        image, (x1, y1, x2, y2) = frames[place].copy(), boxes[place]
        face = cv2.resize(image[y1:y2, x1:x2], (96, 96))
        masked = face.copy()
        masked[48:] = 0
        joined = np.concatenate((masked, face), axis=2) / 255.0
        with torch.no_grad():
            drawn = network(
                torch.FloatTensor(chunk[None, None].astype(np.float64)), torch.FloatTensor(joined[None].transpose(0, 3, 1, 2))
            )
        drawn = drawn.numpy()[0].transpose(1, 2, 0) * 255.0
        image[y1:y2, x1:x2] = cv2.resize(drawn.astype(np.uint8), (x2 - x1, y2 - y1))
        out.append(image[..., ::-1])
    return np.stack(out)


@pytest.mark.parametrize(
    ("frames", "fps", "columns", "config"),
    [
        (30, 25.0, 60, {}),  # more picture than sound: cut
        (9, 30.0, 70, {}),  # more sound than picture: begins again
        (7, 30000 / 1001, 100, {"pads": (4, 20, 3, 9)}),
        (8, 25.0, 60, {"smooth": False}),
        (8, 25.0, 60, {"static": True}),
        (3, 25.0, 40, {}),  # fewer frames than the smoothing window
    ],
)
def test_hard_paste_is_the_published_picture_byte_for_byte(frames, fps, columns, config):
    inputs = talking(frames, str(Fraction(fps).limit_denominator(1001)), columns)
    output, made = make(inputs, blend="hard", batch_size=4, **config)
    wanted = published(inputs, fps, **config)
    assert output.n_frames == len(made) == len(wanted)
    assert output.fps == Fraction(fps).limit_denominator(1001)
    assert np.array_equal(made, wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(0, 10_000))
def test_smoothing_is_the_published_loop(n, seed):
    boxes = np.random.default_rng(seed).integers(0, 500, (n, 4))
    wanted = [list(box) for box in boxes]
    for i in range(n):  # in place and in plain Python; a slice from before the beginning counts from the end
        window = wanted[n - 5 :] if i + 5 > n else wanted[i : i + 5]
        wanted[i] = [int(sum(int(box[side]) for box in window) / len(window)) for side in range(4)]
    before = boxes.copy()
    assert np.array_equal(smoothed(boxes), wanted)
    assert np.array_equal(boxes, before)


def test_smoothing_uses_its_own_averages_at_the_end():
    assert smoothed(np.array([[0], [0], [0], [0], [10], [21]])).tolist() == [[2], [6], [7], [8], [10], [10]]


def test_padding_is_clipped_to_the_picture():
    boxes = np.array([[-3.7, 5.9, 40.9, 50.2], [10, 10, 170, 119]], np.float32)
    assert padded(boxes, (0, 10, 0, 0), (120, 161, 3)).tolist() == [[0, 5, 40, 60], [10, 10, 161, 120]]
    assert padded(boxes, (8, 0, 5, 5), (120, 161, 3)).tolist() == [[0, 0, 45, 50], [5, 2, 161, 119]]


def test_unpadded_and_unsmoothed_crops_are_those_of_the_dataset():
    inputs = talking(4)
    crops: list[np.ndarray] = []
    original, lipsync.crop = lipsync.crop, lambda frame, box: crops.append(original(frame, box)) or crops[-1]
    try:
        make(inputs, pads=(0, 0, 0, 0), smooth=False, static=False)
    finally:
        lipsync.crop = original
    face = inputs["face"]
    cut = FaceBoxCrops.Params(size=96)
    stored = FaceBoxCrops(cut)._cut(face[VIDEO], face[FACE_BOX], face[FACE_VALID])
    for used, kept in zip(crops, stored, strict=False):
        assert np.array_equal(used, kept)


@pytest.mark.parametrize("fps", [25.0, 30.0, 24000 / 1001, 60.0, 12.5])
def test_speech_windows_start_at_their_frame(fps):
    mel = np.tile(np.arange(401, dtype=np.float32), (80, 1))
    starts = window_starts(mel, fps)
    assert np.array_equal(starts, mel_chunks(mel, fps)[:, 0, 0])
    late = window_starts(mel, fps, lead=1)
    assert np.array_equal(late[1:-1], starts[:-2])
    assert late[0] == 0


def test_ten_seconds_give_the_published_count():
    output, _ = make(talking(5, columns=801))
    assert output.n_frames == 247
    assert (output.rate_hz, len(output.audio), output.sound_of) == (16_000, 801 * 200, "audio")


@pytest.mark.parametrize("n", [9, 1])
def test_feather_changes_nothing_outside_the_box_or_in_the_upper_third(n):
    inputs = talking(n, columns=70)
    _, made = make(inputs)
    filmed = inputs["face"][VIDEO].frames
    boxes = smoothed(padded(inputs["face"][FACE_BOX], (0, 10, 0, 0), filmed.shape[1:]))
    for k, frame in enumerate(made):
        x0, y0, x1, y1 = boxes[k % n]
        changed = (frame != filmed[k % n]).any(-1)
        assert changed[y0:y1, x0:x1].mean() > 0.3
        changed[int(np.ceil(y0 + 0.35 * (y1 - y0))) : y1, x0:x1] = False
        assert not changed.any()


def test_feather_is_whole_around_the_mouth_and_gone_at_the_edges():
    mask = feather(200, 160)[..., 0]
    assert mask.shape == (200, 160)
    assert (mask[104:180, 24:136] == 1).all()
    assert mask[:70].max() == 0
    assert mask[:, [0, -1]].max() < 0.01
    assert mask[-1].max() < 0.01
    frame, face = np.full((50, 60, 3), 90, np.uint8), np.full((96, 96, 3), 200, np.uint8)
    soft = paste_soft(frame, np.array([10, 5, 50, 45]), face)
    assert soft[30, 30, 0] == 200
    assert (frame == 90).all()


def test_a_still_speaks_for_as_long_as_the_speech():
    inputs = talking(1, columns=70)
    assert make(inputs, still_fps=30)[0].fps == 25  # a video of one frame
    del inputs["face"][SOURCE]["source_fps"]
    output, made = make(inputs, still_fps=30)
    assert output.fps == 30
    assert len(made) == len(window_starts(np.zeros((80, 70)), 30.0))


def test_a_frame_without_a_face_is_an_error_that_names_it():
    inputs = talking(12)
    inputs["face"][FACE_VALID][[2, 5, 6, 7]] = False
    with pytest.raises(LikenessError, match=r"no face in 4 of 12 frames: 2, 5 to 7 .*on_missing=keep"):
        make(inputs)
    inputs["face"][FACE_VALID][:] = False
    for policy in ("error", "nearest", "keep"):
        with pytest.raises(LikenessError, match="no face was found in any frame"):
            make(inputs, on_missing=policy)
    assert make(inputs, box=(10, 90, 20, 100))[1].shape == (16, HEIGHT, WIDTH, 3)


def test_frames_without_a_face_past_the_speech_do_not_matter():
    inputs = talking(30, columns=30)
    inputs["face"][FACE_VALID][10:] = False
    assert make(inputs)[0].n_frames == 6


def test_missing_frames_are_kept_or_drawn_at_the_nearest_place():
    inputs = talking(12)
    inputs["face"][FACE_VALID][[4, 5]] = False
    filmed, boxes = inputs["face"][VIDEO].frames, inputs["face"][FACE_BOX].copy()
    inputs["face"][FACE_BOX][[4, 5]] = 0
    kept = make(inputs, on_missing="keep", smooth=False, blend="hard")[1]
    drawn = make(inputs, on_missing="nearest", smooth=False, blend="hard")[1]
    assert np.array_equal(kept[4:6], filmed[4:6])
    assert np.array_equal(np.delete(kept, [4, 5], 0), np.delete(drawn, [4, 5], 0))
    inputs["face"][FACE_BOX][[4, 5]], inputs["face"][FACE_VALID][:] = boxes[[3, 6]], True
    assert np.array_equal(make(inputs, smooth=False, blend="hard")[1], drawn)


@given(st.lists(st.booleans(), min_size=1, max_size=20).filter(any))
def test_nearest_is_nearest(found):
    flags = np.array(found)
    for place, chosen in enumerate(nearest(flags)):
        assert flags[chosen]
        assert abs(chosen - place) == min(abs(k - place) for k in np.flatnonzero(flags))


def test_many_missing_frames_are_named_briefly():
    assert ranges(np.array([3])) == "3"
    assert ranges(np.arange(0, 40, 2)) == "0, 2, 4, 6, 8, 10 and 14 more ranges"


def test_no_more_frames_are_asked_for_than_the_speech_fills():
    inputs = talking(3, columns=70)
    for fps, static, frames in ((Fraction(25), False, 19), (Fraction(30000, 1001), False, 22), (Fraction(30), True, 1)):
        generation = LipSync({"generator": Weights(Stub())}, LipSync.Config(static=static))
        assert generation.frames_needed("face", fps, inputs) == frames
    assert len(make(inputs)[1]) == 19


def test_frames_are_made_while_they_are_taken():
    inputs, network = talking(200, columns=800), Stub()
    output = LipSync({"generator": Weights(network)}, LipSync.Config(batch_size=8))(inputs, np.random.default_rng(0))
    video = inputs["face"][VIDEO]
    assert video.given == 1  # its size
    assert len(list(islice(output.frames, 10))) == 10
    assert video.given == 1 + 16
    assert network.largest == 8


def test_memory_does_not_grow_with_the_length(monkeypatch):
    monkeypatch.setattr(lipsync, "BATCH_BYTES", 4 * HEIGHT * WIDTH * 3)
    peaks = []
    for columns in (100, 1600):
        output = LipSync({"generator": Weights(Stub())})(talking(40, columns=columns), np.random.default_rng(0))
        tracemalloc.start()
        count = sum(1 for _ in output.frames)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == output.n_frames
    assert peaks[1] < 1.2 * peaks[0] + 200_000


def test_the_batch_size_does_not_change_the_pictures_of_a_real_network():
    network = Generator(0.01).eval()
    inputs = talking(6, columns=40)
    one, many = (make(inputs, network, batch_size=size)[1].astype(int) for size in (1, 128))
    assert np.abs(one - many).max() <= 1


def test_silence_is_speech_too_and_nan_is_not():
    inputs = talking(3, columns=40)
    inputs["audio"][MEL80][:] = -4
    assert np.isfinite(make(inputs, Generator(0.01).eval())[1]).all()
    inputs["audio"][MEL80][3, 5] = np.nan
    with pytest.raises(LikenessError, match="NaN"):
        make(inputs)
    with pytest.raises(LikenessError, match="at least 16 columns"):
        make(talking(3, columns=15))


def test_a_fixed_box_is_checked_against_the_picture():
    with pytest.raises(LikenessError, match="within 120 rows and 161 columns"):
        make(talking(3), box=(0, 121, 0, 50))
    inputs = talking(3)
    made = make(inputs, box=(10, 90, 20, 100), blend="hard")[1]
    changed = (made[0] != inputs["face"][VIDEO].frames[0]).any(-1)
    assert changed[10:90, 20:100].all()
    changed[10:90, 20:100] = False
    assert not changed.any()


def test_the_network_is_frozen_and_its_ports_are_declared():
    generation = LipSync({"generator": Weights(Generator(0.01).train())})
    assert not generation.generator.training
    assert not any(p.requires_grad for p in generation.generator.parameters())
    assert set(LipSync.inputs) == {port.name for port in METHOD.inputs}
