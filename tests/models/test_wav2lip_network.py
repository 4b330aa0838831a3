"""Wav2Lip's networks: size, layout of calls, and the invariants training and inference lean on."""

import pytest
import torch

from models.wav2lip.network import Expert, Generator, QualityCritic, generator_input, lower_half_stack, mask_lower_half, scaled

WIDTH = 0.25


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("network", "millions"), [(Expert, 16.44), (Generator, 36.30), (QualityCritic, 14.11)])
def test_published_size(network, millions):
    with torch.device("meta"):
        built = network()
    assert round(sum(p.numel() for p in built.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("network", [Expert, Generator, QualityCritic])
def test_width_scales_every_hidden_channel_and_keeps_the_names(network):
    with torch.device("meta"):
        full, narrow, least = (network(width).state_dict() for width in (1.0, 0.5, 0.001))
    assert full.keys() == narrow.keys() == least.keys()
    for key in full:
        if key.endswith("conv_block.0.weight"):
            assert 2 * narrow[key].shape[0] == full[key].shape[0], key
            # Transposed convolutions come with their inputs first, and those are two features side by side.
            assert least[key].shape[0] == (16 if "face_decoder" in key and ".0.conv" in key and "blocks.0" not in key else 8), (
                key
            )
    assert [scaled(c, 1.0) for c in (16, 32, 384, 512)] == [16, 32, 384, 512]
    assert [scaled(c, 0.25) for c in (16, 32, 384, 512)] == [8, 8, 96, 128]


def test_expert_embeddings_are_unit_and_not_negative():
    expert = Expert(WIDTH).eval()
    for embedding in expert(torch.randn(4, 1, 80, 16), torch.rand(4, 15, 48, 96)):
        assert embedding.shape == (4, 128)
        assert torch.allclose(embedding.norm(dim=1), torch.ones(4), atol=1e-6)
        assert (embedding >= 0).all()


def test_expert_in_eval_mode_sees_each_item_alone():
    expert = Expert(WIDTH).eval()
    mel, faces = torch.randn(3, 1, 80, 16), torch.rand(3, 15, 48, 96)
    together, alone = expert(mel, faces), expert(mel[1:2], faces[1:2])
    for whole, one in zip(together, alone, strict=True):
        assert torch.allclose(whole[1:2], one, atol=1e-6)


def test_generator_call_with_time_equals_calls_without():
    generator = Generator(WIDTH).eval()
    audio, faces = torch.randn(2, 3, 1, 80, 16), torch.rand(2, 6, 3, 96, 96)
    clip = generator(audio, faces)
    assert clip.shape == (2, 3, 3, 96, 96)
    assert clip.min() >= 0
    assert clip.max() <= 1
    for t in range(3):
        assert torch.allclose(clip[:, :, t], generator(audio[:, t], faces[:, :, t]), atol=1e-6)
    assert torch.allclose(generator(audio[:, :1], faces[:, :, :1])[:, :, 0], generator(audio[:, 0], faces[:, :, 0]), atol=1e-6)


@pytest.mark.parametrize("time", [(), (2,)])
def test_masked_pixels_never_reach_the_generator(time):
    generator = Generator(WIDTH).eval()
    audio = torch.randn(1, *time, 1, 80, 16)
    target, reference = torch.rand(1, 3, *time, 96, 96), torch.rand(1, 3, *time, 96, 96)
    other = target.clone()
    other[..., 48:, :] = torch.rand_like(other[..., 48:, :])
    assert torch.equal(
        generator(audio, generator_input(target, reference)), generator(audio, generator_input(other, reference))
    )
    other[..., 47, 0] += 1  # the last visible row does reach it
    changed = generator(audio, generator_input(other, reference))
    assert not torch.equal(generator(audio, generator_input(target, reference)), changed)


def test_mask_and_input_layout():
    target, reference = torch.rand(2, 3, 5, 96, 96), torch.rand(2, 3, 5, 96, 96)
    kept = target.clone()
    stacked = generator_input(target, reference)
    assert torch.equal(target, kept), "the caller's frames are left as they are"
    assert torch.equal(stacked[:, :3], mask_lower_half(target))
    assert torch.equal(stacked[:, 3:], reference)
    assert torch.equal(stacked[:, :3, :, :48], target[:, :, :, :48])
    assert not stacked[:, :3, :, 48:].any()


def test_lower_half_stack_is_frame_major():
    frames = torch.rand(2, 3, 5, 96, 96)
    stack = lower_half_stack(frames)
    assert stack.shape == (2, 15, 48, 96)
    for t in range(5):
        for colour in range(3):
            assert torch.equal(stack[:, 3 * t + colour], frames[:, colour, t, 48:])


def test_critic_judges_single_frames_by_their_lower_halves():
    critic = QualityCritic(WIDTH).eval()
    frames = torch.rand(2, 3, 3, 96, 96)
    scores = critic(frames)
    assert scores.shape == (6, 1)
    assert ((scores > 0) & (scores < 1)).all()
    for t in range(3):
        for b in range(2):
            assert torch.allclose(scores[t * 2 + b], critic(frames[b : b + 1, :, t : t + 1])[0], atol=1e-6)
    frames[..., :48, :] = 0
    assert torch.equal(scores, critic(frames))


def test_sync_gradient_reaches_the_frames_through_a_frozen_expert():
    expert = Expert(WIDTH).eval().requires_grad_(False)
    with torch.enable_grad():
        frames = torch.rand(2, 3, 5, 96, 96, requires_grad=True)
        audio, face = expert(torch.randn(2, 1, 80, 16), lower_half_stack(frames))
        (audio * face).sum().backward()
    assert frames.grad is not None
    assert frames.grad[..., 48:, :].abs().sum() > 0
    assert not frames.grad[..., :48, :].any()
