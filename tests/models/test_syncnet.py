"""The SyncNet judge: scores from known embeddings, windows over a clip, weights from a file."""

import pytest
import torch

from infra.errors import LikenessError
from models.perception.syncnet import SyncNet, SyncScore, load_syncnet, sync_curve


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def late(features: torch.Tensor, frames: int) -> torch.Tensor:
    """Features that come `frames` later, zero vectors where nothing is known."""
    moved = torch.zeros_like(features)
    count = len(features) - abs(frames)
    moved[max(0, frames) :][:count] = features[max(0, -frames) :][:count]
    return moved


def test_curve_by_its_definition():
    visual, audio = torch.randn(7, 5), torch.randn(7, 5)
    curve = sync_curve(visual, audio, shift=15)
    assert curve.shape == (31,)
    for j, value in enumerate(curve):
        distances = []
        for i in range(7):
            k = i + j - 15
            sound = audio[k] if 0 <= k < 7 else torch.zeros(5)
            distances.append((visual[i] - sound + 1e-6).norm())
        assert torch.isclose(value, torch.stack(distances).mean(), atol=1e-6)


@pytest.mark.parametrize("delay", [-15, -7, -1, 0, 1, 6, 15])
def test_delaying_the_audio_lowers_the_offset(delay):
    visual = torch.randn(120, 16)
    score = SyncScore.from_curve(sync_curve(visual, late(visual, delay) + 0.1 * torch.randn(120, 16)))
    assert score.offset_frames == -delay
    assert score.confidence > 3


def test_scores_of_a_known_curve():
    curve = torch.arange(31.0).flip(0) + 2
    curve[12] = 1.5
    score = SyncScore.from_curve(curve)
    assert score == SyncScore(offset_frames=3, confidence=pytest.approx(curve.sort().values[15].item() - 1.5), min_distance=1.5)


def test_unrelated_streams_have_no_confidence():
    score = SyncScore.from_curve(sync_curve(torch.randn(400, 64), torch.randn(400, 64)))
    assert score.confidence < 0.5


def test_streams_that_do_not_pair_are_refused():
    for visual, audio in [
        (torch.zeros(3, 4), torch.zeros(4, 4)),
        (torch.zeros(0, 4), torch.zeros(0, 4)),
        (torch.zeros(4),) * 2,
    ]:
        with pytest.raises(LikenessError, match="do not pair"):
            sync_curve(visual, audio)
    with pytest.raises(LikenessError, match="NaN"):
        SyncScore.from_curve(torch.full((31,), float("nan")))


def test_windows_of_a_clip():
    network = SyncNet().eval()
    frames = torch.randint(0, 256, (8, 224, 224, 3), dtype=torch.uint8)
    mfcc = torch.randn(13, 32)
    visual, audio = network.embed_clip(frames, mfcc, samples=8 * 640, batch_size=2)
    assert visual.shape == audio.shape == (3, 1024)
    picture = frames[2:7].permute(3, 0, 1, 2)[None].float()
    assert torch.allclose(visual[2:], network.visual(picture), atol=1e-4, rtol=1e-4)
    assert torch.allclose(audio[2:], network.audio(mfcc[None, None, :, 8:28]), atol=1e-4, rtol=1e-4)
    shorter, _ = network.embed_clip(frames, mfcc, samples=6 * 640 + 639)
    assert len(shorter) == 1
    with pytest.raises(LikenessError, match="too short"):
        network.embed_clip(frames, mfcc, samples=5 * 640)


def test_published_weights(tmp_path):
    file = tmp_path / "syncnet_v2.model"
    state = {
        key: torch.tensor(3 + i if key.endswith("tracked") else 0.5 + i / 1000).expand(value.shape)
        for i, (key, value) in enumerate(SyncNet().state_dict().items())
    }
    torch.save(state, file, _use_new_zipfile_serialization=False)
    network = load_syncnet(file)
    assert not network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())

    torch.save({key: value for key, value in state.items() if not key.startswith("netfclip")}, file)
    with pytest.raises(LikenessError, match=r"does not fit SyncNet.*netfclip"):
        load_syncnet(file)
    for content in (b"", b"<html>", bytes(100)):
        file.write_bytes(content)
        with pytest.raises(LikenessError, match=r"syncnet_v2\.model"):
            load_syncnet(file)
    with pytest.raises(LikenessError, match="no weights at"):
        load_syncnet(tmp_path / "absent")
