"""MultiDiffusion's samplers over a tiny UNet: the exact checks that need a model."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from diffusers import StableDiffusionPipeline as Pipeline

from infra.errors import LikenessError
from models.diffusion.backbone import open_backbone
from models.diffusion.conditioning import Condition, encode_pairs, predict
from models.diffusion.tiny import tiny_backbone
from models.diffusion.windows import fuse, gaussian, grid
from models.multidiffusion.sampler import panorama, prompt_masks, regions, window_time_ids

PROMPTS = ["a photo of a beach", "a red car", "a man in a black coat"]
SCALE = 7.5


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return open_backbone(tiny_backbone("sd15", tmp_path_factory.mktemp("tiny") / "sd15", width=8))


@pytest.fixture(scope="module")
def network(backbone):
    """Guided UNet; crop n is drawn with prompt n modulo 3, or all with the first."""
    with torch.no_grad():
        positive, negative = encode_pairs(backbone, PROMPTS)

    def of(prompts):
        def run(crops, time, numbers):
            rows = [n % prompts for n in numbers]
            return predict(backbone.unet, crops, time, positive.rows(rows), negative.rows(rows), SCALE)

        return run

    return of


def scheduler(backbone, kind=DDIMScheduler, steps=3, **changes):
    made = backbone.scheduler(kind, **changes)
    made.set_timesteps(steps)
    return made


def last(canvases):
    return list(canvases)[-1]


KINDS = [DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler]


@pytest.mark.parametrize("kind", KINDS)
def test_one_window_is_the_plain_pipeline(backbone, network, kind):
    """Same noise, scheduler and guidance: diffusers' own pipeline gives the same latent, also with a memory or fresh noise."""
    pipeline = Pipeline(
        vae=backbone.vae, text_encoder=backbone.text_encoder, tokenizer=backbone.tokenizer, unet=backbone.unet,
        scheduler=scheduler(backbone, kind), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(4, 8, 8)
    theirs = pipeline(
        PROMPTS[0], num_inference_steps=3, guidance_scale=SCALE, latents=noise[None].clone(), output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images[0]  # fmt: skip
    ours = last(
        panorama(network(1), noise, grid([8, 8], 8, 4), scheduler(backbone, kind), generator=torch.Generator().manual_seed(5))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_one_window_is_the_plain_pipeline_of_other_families(family, tmp_path):
    """Velocity instead of noise; a second text encoder and sizes."""
    other = open_backbone(tiny_backbone(family, tmp_path / family, width=8))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / family, scheduler=scheduler(other), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise, windows = torch.randn(4, 8, 8), grid([8, 8], 8, 4)
    theirs = pipeline(
        PROMPTS[0], num_inference_steps=3, guidance_scale=SCALE, latents=noise[None].clone(), output_type="latent"
    ).images[0]
    sizes = window_time_ids(windows, noise)
    if family == "sdxl":
        assert sizes.tolist() == [[64, 64, 0, 0, 64, 64]]
    positive, negative = (Condition(c.context, c.pooled, sizes) for c in encode_pairs(other, PROMPTS[:1]))

    def network(crops, time, numbers):
        return predict(other.unet, crops, time, positive.rows(numbers), negative.rows(numbers), SCALE)

    ours = last(panorama(network, noise, windows, scheduler(other)))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_sizes_of_windows():
    windows = grid([16, 24], 16, 8)
    assert window_time_ids(windows, torch.zeros(4, 16, 24)).tolist() == [[128, 192, 0, x, 128, 128] for x in (0, 64)]
    assert window_time_ids(windows, torch.zeros(4, 16, 24), "canvas")[1].tolist() == [128, 192, 0, 64, 128, 192]


def test_joined_before_or_after_the_step_is_the_same(backbone, network):
    """The published order: each window steps by itself, and the results are averaged."""
    noise, windows = torch.randn(4, 8, 20), grid([8, 20], 8, 4)
    ddim = scheduler(backbone)
    canvas = noise
    for time in ddim.timesteps:

        def step(crops, numbers, time=time):
            return torch.cat([ddim.step(network(1)(c[None], time, [0]), time, c[None]).prev_sample for c in crops])

        canvas = fuse(step, canvas, windows)
    ours = last(panorama(network(1), noise, windows, scheduler(backbone)))
    torch.testing.assert_close(ours, canvas, rtol=1e-4, atol=1e-4)


def test_rolled_noise_rolls_a_circular_panorama(backbone, network):
    noise = torch.randn(4, 8, 16)
    windows = grid([8, 16], 8, 4, ("flush", "circular"))
    straight, rolled = (last(panorama(network(1), start, windows, scheduler(backbone))) for start in (noise, noise.roll(8, -1)))
    torch.testing.assert_close(rolled, straight.roll(8, -1), rtol=1e-4, atol=1e-4)
    flat = last(panorama(network(1), noise, grid([8, 16], 8, 4), scheduler(backbone)))
    assert (flat - straight).abs().max() > 0.01


def test_sizes_that_fit_no_stride_and_weights(backbone, network):
    noise = torch.randn(4, 10, 13)
    windows = grid([10, 13], 8, 4)
    even = last(panorama(network(1), noise, windows, scheduler(backbone)))
    belled = last(panorama(network(1), noise, windows, scheduler(backbone), gaussian([8, 8]), batch=3))
    assert even.shape == belled.shape == noise.shape
    assert torch.isfinite(even).all()
    assert (even - belled).abs().max() > 1e-3


def test_noise_of_stochastic_schedulers_keeps_its_size(backbone):
    """One canvas of noise: where windows overlap most, it is as strong as at the corners no other window reaches."""
    ancestral = scheduler(backbone, EulerAncestralDiscreteScheduler, 2)
    windows = grid([24, 24], 16, 2)
    canvases = panorama(lambda crops, t, n: torch.zeros_like(crops), torch.randn(4, 24, 24), windows, ancestral,
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    first = next(iter(canvases))
    inner, corner = first[:, 10:14, 10:14].std(), torch.cat([first[:, :2, :2], first[:, -2:, -2:]]).std()
    assert 0.6 < inner / corner < 1.6  # of 25 averaged windows it would be 0.2


def test_one_region_that_is_everything_is_a_panorama(backbone, network):
    noise, windows = torch.randn(4, 8, 14), grid([8, 14], 8, 4)
    whole = prompt_masks(torch.zeros(0, 1, 8, 14))
    assert torch.equal(whole, torch.ones(1, 1, 8, 14))
    found = last(regions(network(1), noise, windows, whole, scheduler(backbone)))
    torch.testing.assert_close(found, last(panorama(network(1), noise, windows, scheduler(backbone))), rtol=1e-5, atol=1e-5)


def test_every_region_is_drawn_by_its_own_prompt(backbone, network):
    """One window, one step: within its mask each prompt's own result, to the last digit of the step."""
    foregrounds = torch.zeros(2, 1, 8, 8)
    foregrounds[0, :, 1:5, 1:4], foregrounds[1, :, 3:, 4:] = 1, 1
    masks = prompt_masks(foregrounds)
    assert torch.equal(masks.sum(0), torch.ones(1, 8, 8))
    noise, windows = torch.randn(4, 8, 8), grid([8, 8], 8, 8)
    found = next(regions(network(3), noise, windows, masks, scheduler(backbone)))
    ddim = scheduler(backbone)
    for prompt in range(3):
        output = network(3)(noise[None], ddim.timesteps[0], [prompt])
        alone = ddim.step(output, ddim.timesteps[0], noise[None]).prev_sample[0]
        inside = masks[prompt].expand_as(alone) == 1
        torch.testing.assert_close(found[inside], alone[inside], rtol=1e-5, atol=1e-5)


def test_regions_that_overlap_are_averaged():
    foregrounds = torch.zeros(2, 1, 4, 4)
    foregrounds[:, :, :2] = 1
    masks = prompt_masks(foregrounds)
    assert masks[0, 0, :, 0].tolist() == [0, 0, 1, 1]  # not -1 where two foregrounds meet


def test_bootstrapping_shows_plain_backgrounds_outside_the_masks(backbone, network):
    foregrounds = torch.zeros(2, 1, 8, 12)
    foregrounds[0, :, :4, :4], foregrounds[1, :, 4:, 6:] = 1, 1
    masks, noise, windows = prompt_masks(foregrounds), torch.randn(4, 8, 12), grid([8, 12], 8, 4)
    plains, ddim, seen = torch.randn(5, 4, 8, 8), scheduler(backbone), {}

    def watched(crops, time, numbers):
        seen.update({(int(time), n): crop for crop, n in zip(crops, numbers, strict=True)})
        return network(3)(crops, time, numbers)

    chosen = np.array([[4, 1], [0, 2]])
    asked = []
    steps = regions(watched, noise, windows, masks, ddim, plains, 2, lambda shape: asked.append(shape) or chosen, batch=4)
    first, second, _ = steps
    assert asked == [(2, 2)] * 2
    for time, canvas in zip(ddim.timesteps, (noise, first, second), strict=True):
        for n in range(6):
            window, prompt = windows[n // 3], n % 3
            wanted, mask = window.crop(canvas), window.crop(masks[prompt])
            if prompt and time > ddim.timesteps[2]:
                plain = plains[chosen[n // 3, prompt - 1]]
                noised = ddim.add_noise(plain[None], window.crop(noise)[None], time[None])[0]
                wanted = wanted * mask + noised * (1 - mask)
            torch.testing.assert_close(seen[int(time), n], wanted, rtol=1e-5, atol=1e-5)
    again = [last(regions(network(3), noise, windows, masks, scheduler(backbone), plains, 2, batch=b)) for b in (1, 6)]
    torch.testing.assert_close(*again, rtol=1e-4, atol=1e-4)


def test_soft_masks_in_the_published_order(backbone, network):
    """Every window and prompt steps by itself, results are averaged: with soft masks, the changed latents count too."""
    masks = torch.rand(3, 1, 8, 12)
    noise, windows, plains = torch.randn(4, 8, 12), grid([8, 12], 8, 4), torch.randn(2, 4, 8, 8)
    chosen, ddim, canvas = np.array([[1, 0], [0, 1]]), scheduler(backbone), noise
    for time in ddim.timesteps:

        def step(crops, numbers, time=time):
            stepped = []
            for crop, n in zip(crops, numbers, strict=True):
                window, mask = windows[n // 3], windows[n // 3].crop(masks[n % 3])
                if n % 3 and time > ddim.timesteps[1]:
                    plain = ddim.add_noise(plains[chosen[n // 3, n % 3 - 1]][None], window.crop(noise)[None], time[None])[0]
                    crop = crop * mask + plain * (1 - mask)
                stepped.append(ddim.step(network(3)(crop[None], time, [n]), time, crop[None]).prev_sample[0])
            return torch.stack(stepped)

        items = [window for window in windows for _ in range(3)]
        canvas = fuse(step, canvas, items, lambda n: windows[n // 3].crop(masks[n % 3]))
    ours = last(regions(network(3), noise, windows, masks, scheduler(backbone), plains, 1, lambda _: chosen))
    torch.testing.assert_close(ours, canvas, rtol=1e-4, atol=1e-4)


def test_masks_of_another_size_are_refused(backbone, network):
    with pytest.raises(LikenessError, match="masks"):
        next(regions(network(1), torch.randn(4, 8, 8), grid([8, 8], 8, 8), torch.ones(1, 1, 8, 9), scheduler(backbone)))
