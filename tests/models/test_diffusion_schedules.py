"""Schedules, losses and inversion: equal to diffusers' where it has them, and the algebra where it has not."""

import math

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr

from infra.errors import LikenessError
from models.diffusion.inversion import CLEAN, Move, convention_a, convention_b, convention_c, ddim_step, travel, walk
from models.diffusion.losses import BucketMeans, diffusion_loss, latent_mask, masked_error
from models.diffusion.schedules import (
    PREDICTIONS,
    add_noise,
    draw_times,
    min_snr_weight,
    noise_from,
    offset_noise,
    scaled_linear,
    snr,
    target,
    velocity,
    x0_from,
    zero_terminal_snr,
)

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ALPHA_BAR = scaled_linear()
T = torch.tensor([0, 17, 500, 999])


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def latents(*shape):
    return torch.randn(shape or (4, 4, 6, 5)), torch.randn(shape or (4, 4, 6, 5))


def test_equal_to_diffusers():
    scheduler = DDPMScheduler(**SD)
    x0, noise = latents()
    assert torch.equal(ALPHA_BAR, scheduler.alphas_cumprod)
    assert torch.equal(add_noise(x0, noise, T, ALPHA_BAR), scheduler.add_noise(x0, noise, T))
    assert torch.equal(velocity(x0, noise, T, ALPHA_BAR), scheduler.get_velocity(x0, noise, T))
    torch.testing.assert_close(snr(ALPHA_BAR, T), compute_snr(scheduler, T), rtol=1e-5, atol=0)
    rescaled = DDPMScheduler(**SD, rescale_betas_zero_snr=True)
    torch.testing.assert_close(zero_terminal_snr(ALPHA_BAR), rescaled.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert zero_terminal_snr(ALPHA_BAR)[-1] == 0
    assert zero_terminal_snr(ALPHA_BAR)[0] == pytest.approx(float(ALPHA_BAR[0]))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dims", [(4, 4, 6, 5), (4, 4, 3, 6, 5)])
def test_what_is_predicted_tells_picture_and_noise(prediction, dims):
    x0, noise = (value.double() for value in latents(*dims))
    alpha_bar = ALPHA_BAR.double()
    x_t = add_noise(x0, noise, T, alpha_bar)
    output = target(x0, noise, T, alpha_bar, prediction)
    torch.testing.assert_close(x0_from(output, x_t, T, alpha_bar, prediction), x0)
    torch.testing.assert_close(noise_from(output, x_t, T, alpha_bar, prediction), noise)


def test_bf16_latents_meet_coefficients_of_float32():
    x0, noise = (value.bfloat16() for value in latents())
    found = add_noise(x0, noise, T, ALPHA_BAR)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), add_noise(x0.float(), noise.float(), T, ALPHA_BAR), rtol=0.02, atol=0.02)


def test_min_snr_is_the_same_loss_whatever_is_predicted():
    """The error in x0 of a network that is off by a little, weighted, is one number for e, v and x0."""
    x0, noise = (value.double() for value in latents())
    alpha_bar = ALPHA_BAR.double()
    t = torch.tensor([5, 300, 600, 990])
    x_t, wrong = add_noise(x0, noise, t, alpha_bar), x0 + 0.01 * torch.randn_like(x0)
    losses = []
    for prediction in PREDICTIONS:
        kept = alpha_bar[t].sqrt().reshape(-1, 1, 1, 1)
        off = (x_t - kept * wrong) / (1 - kept**2).sqrt()  # the noise that goes with the wrong picture
        output = target(wrong, off, t, alpha_bar, prediction)
        error = ((output - target(x0, noise, t, alpha_bar, prediction)) ** 2).flatten(1).mean(1)
        losses.append(error * min_snr_weight(alpha_bar, t, prediction))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])
    assert (min_snr_weight(alpha_bar, t, "sample")[:1] == 5).all()


def test_min_snr_without_any_signal_left():
    weights = [min_snr_weight(zero_terminal_snr(ALPHA_BAR), torch.tensor([999]), kind).item() for kind in PREDICTIONS]
    assert weights == [1, 0, 0]


def test_offset_noise_shifts_whole_channels():
    noise = torch.randn(3, 4, 8, 8)
    assert offset_noise(noise, 0.0) is noise
    shift = offset_noise(noise, 0.1, torch.Generator().manual_seed(1)) - noise
    assert shift.flatten(2).std(-1).max() < 1e-6
    assert 0.03 < shift.mean((2, 3)).std() < 0.3
    assert torch.equal(offset_noise(noise, 0.1, torch.Generator().manual_seed(1)) - noise, shift)


def test_times_of_a_range():
    t = draw_times(2000, torch.Generator().manual_seed(0), low=700, high=703)
    assert t.unique().tolist() == [700, 701, 702]
    with pytest.raises(LikenessError, match="times from 5 to 5"):
        draw_times(1, low=5, high=5)


def test_loss_with_and_without_mask():
    x0, noise = latents()
    output = torch.randn_like(x0)
    plain = diffusion_loss(output, x0, noise, T, ALPHA_BAR, "epsilon")
    torch.testing.assert_close(plain, ((output - noise) ** 2).mean((1, 2, 3)))
    ones = torch.ones(4, 1, 6, 5)
    torch.testing.assert_close(diffusion_loss(output, x0, noise, T, ALPHA_BAR, "epsilon", ones), plain)
    half = ones.clone()
    half[..., 2:] = 0
    torch.testing.assert_close(masked_error(output, noise, half), ((output - noise)[..., :2] ** 2).mean((1, 2, 3)))
    torch.testing.assert_close(masked_error(output, noise, half, over="all"), (half * (output - noise) ** 2).mean((1, 2, 3)))
    weighted = diffusion_loss(output, x0, noise, T, ALPHA_BAR, "v_prediction", min_snr_gamma=5.0)
    by_hand = ((output - velocity(x0, noise, T, ALPHA_BAR)) ** 2).mean((1, 2, 3)) * min_snr_weight(ALPHA_BAR, T, "v_prediction")
    torch.testing.assert_close(weighted, by_hand)


def test_an_empty_mask_teaches_nothing():
    output = torch.randn(2, 4, 6, 5, requires_grad=True)
    mask = torch.ones(2, 1, 6, 5)
    mask[1] = 0
    losses = masked_error(output, torch.zeros_like(output), mask)
    losses.sum().backward()
    assert losses[1] == 0
    assert output.grad is not None
    assert output.grad[0].abs().min() > 0
    assert output.grad[1].abs().max() == 0
    with pytest.raises(LikenessError, match="mask"):
        masked_error(output, torch.zeros_like(output), torch.ones(2, 1, 3, 5))


def test_mask_at_latent_size_keeps_its_area():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 2:8] = 1
    small = latent_mask(mask, 2, 2)
    assert small.mean() == mask.mean()
    assert small[0, 0].tolist() == [[0.375, 0.0], [0.375, 0.0]]


def test_means_by_time():
    means = BucketMeans(buckets=3, steps=1000)
    means.add(torch.tensor([1.0, 3.0]), torch.tensor([0, 332]))
    means.add(torch.tensor([8.0]), torch.tensor([999]))
    assert means.means() == {"loss": 4.0, "loss_t000_332": 2.0, "loss_t666_999": 8.0}
    assert BucketMeans().means() == {}


def wave(x, time):
    """A network that does not look at the latent."""
    steps = torch.arange(x.numel(), dtype=x.dtype).reshape(x.shape)
    return torch.sin(steps + 0.01 * time)


def steady(x, time):
    return wave(x, 0)


def test_convention_a_is_diffusers():
    """Times, levels and numbers of DDIMInverseScheduler and DDIMScheduler."""
    settings = {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    for prediction in PREDICTIONS:
        inverse = DDIMInverseScheduler(**settings, prediction_type=prediction)
        forward = DDIMScheduler(**settings, prediction_type=prediction)
        inverse.set_timesteps(20)
        forward.set_timesteps(20)
        path = convention_a(20)
        assert [m.time for m in path.invert] == inverse.timesteps.tolist()
        assert [m.time for m in path.sample] == forward.timesteps.tolist()
        x = theirs = torch.randn(1, 4, 4, 4)
        for moves, scheduler in ((path.invert, inverse), (path.sample, forward)):
            latents = walk(lambda x, t: torch.tanh(x) + t / 1000, x, moves, ALPHA_BAR, prediction)
            for ours, t in zip(latents, scheduler.timesteps, strict=True):
                theirs = scheduler.step(torch.tanh(theirs) + t / 1000, t, theirs).prev_sample
                torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
            x = ours


@pytest.mark.parametrize(("steps", "offset"), [(50, 1), (20, 1), (10, 0), (7, 1)])
def test_convention_a_comes_back_exactly(steps, offset):
    path = convention_a(steps, offset)
    x, alpha_bar = torch.randn(1, 4, 4, 4, dtype=torch.float64), ALPHA_BAR.double()
    noise = travel(wave, x, path.invert, alpha_bar)
    assert (noise - x).abs().max() > 0.1
    torch.testing.assert_close(travel(wave, noise, path.sample, alpha_bar), x, rtol=1e-10, atol=1e-10)


def test_convention_b_of_the_card():
    path = convention_b(50)
    assert [m.time for m in path.invert] == list(range(1, 982, 20))
    assert all(m.time == m.start for m in (*path.invert, *path.sample))
    assert path.invert[-1] == Move(981, 981, 999)
    assert [m.end for m in path.invert[:-1]] == [m.time for m in path.invert[1:]]
    assert path.sample[0] == Move(981, 981, 961)
    assert path.sample[-1] == Move(1, 1, 0)
    assert len(path.sample[1:]) == 49
    assert path.sample[1].time == 961
    x, alpha_bar = torch.randn(1, 4, 4, 4, dtype=torch.float64), ALPHA_BAR.double()
    at_981 = list(walk(steady, x, path.invert, alpha_bar))[-2]
    torch.testing.assert_close(travel(steady, at_981, path.sample[:-1], alpha_bar), x, rtol=1e-10, atol=1e-10)


def test_convention_c_asks_the_lower_time_and_ends_clean():
    path = convention_c(5, last_time=500)
    assert path.invert == (Move(0, 0, 125), Move(125, 125, 250), Move(250, 250, 375), Move(375, 375, 500))
    assert path.sample[:2] == (Move(500, 500, 375), Move(375, 375, 250))
    assert path.sample[-1] == Move(0, 0, CLEAN)
    x, alpha_bar = torch.randn(1, 4, 4, 4, dtype=torch.float64), ALPHA_BAR.double()
    noise = travel(steady, x, path.invert, alpha_bar)
    torch.testing.assert_close(travel(steady, noise, path.sample[:-1], alpha_bar), x, rtol=1e-10, atol=1e-10)
    x0 = (x - (1 - alpha_bar[0]).sqrt() * steady(x, 0)) / alpha_bar[0].sqrt()
    torch.testing.assert_close(travel(steady, noise, path.sample, alpha_bar), x0, rtol=1e-10, atol=1e-10)


def test_v_prediction_moves_as_the_noise_it_stands_for():
    alpha_bar = ALPHA_BAR.double()
    x, start, end = torch.randn(1, 4, 4, 4, dtype=torch.float64), alpha_bar[700], alpha_bar[650]
    noise = wave(x, 3)
    x0 = (x - (1 - start).sqrt() * noise) / start.sqrt()
    v = start.sqrt() * noise - (1 - start).sqrt() * x0
    torch.testing.assert_close(ddim_step(v, x, start, end, "v_prediction"), ddim_step(noise, x, start, end))
    torch.testing.assert_close(ddim_step(x0, x, start, end, "sample"), ddim_step(noise, x, start, end))


def test_conventions_differ_and_refuse():
    x = torch.randn(1, 4, 4, 4)
    ends = [travel(lambda x, t: torch.tanh(x), x, path.invert, ALPHA_BAR) for path in (convention_a(50), convention_b(50))]
    assert (ends[0] - ends[1]).abs().max() > 1e-3
    for wrong in (lambda: convention_a(0), lambda: convention_b(1000), lambda: convention_c(1, 500), lambda: convention_c(5, 1000)):
        with pytest.raises(LikenessError, match="allowed"):
            wrong()
    with pytest.raises(LikenessError, match="prediction_type is 'eps'"):
        ddim_step(x, x, ALPHA_BAR[1], ALPHA_BAR[0], "eps")
    assert math.isclose(float(ALPHA_BAR[999]), 0.0046598, rel_tol=1e-3)
