"""MultiDiffusion's generation over tiny bases: one window is the plain pipeline, masks say what goes where, memory is bounded."""

from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from infra.errors import LikenessError
from models.diffusion.backbone import open_backbone
from models.diffusion.conditioning import encode_pairs, predict
from models.diffusion.generation import to_pictures, torch_generator
from models.diffusion.schedulers import SCHEDULERS, Name, make_scheduler
from models.diffusion.tiny import tiny_backbone
from models.diffusion.windows import grid
from models.multidiffusion.generate import Canvas, foreground, resized
from models.multidiffusion.sampler import panorama
from preprocessing.clip import InMemory
from preprocessing.fields import PROMPT, SOURCE, VIDEO
from preprocessing.operator import Sample

PROMPT_TEXT, NEGATIVE = "a photo of a beach", "blurry"


@pytest.fixture(autouse=True)
def _quick():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Family -> its base, loaded once."""
    found = {}

    def of(family):
        if family not in found:
            found[family] = open_backbone(tiny_backbone(family, tmp_path_factory.mktemp("tiny") / family, width=8))
        return found[family]

    return of


@pytest.fixture(scope="module")
def canvas(bases):
    """A generation with settings; its base is shared."""

    def of(family="sd15", **settings):
        small = {"height_px": 64, "width_px": 64, "steps": 2, "backgrounds": 2}
        made = Canvas({}, Canvas.Config(base=str(bases(family).folder), **{**small, **settings}))
        made.__dict__["backbone"] = bases(family)
        return made

    return of


def words(text):
    return Sample("prompt", {PROMPT.name: text})


def mask(*boxes, size=(64, 64)):
    """A white box, or several (top, bottom, left, right), on black."""
    picture = np.zeros((1, *size, 3), np.uint8)
    for top, bottom, left, right in boxes:
        picture[:, top:bottom, left:right] = 255
    return Sample("mask", {SOURCE.name: {"path": "mask.png"}, VIDEO.name: InMemory(picture)})


def draw(generation, seed=0, **inputs):
    inputs = {"prompt": words(PROMPT_TEXT), **inputs}
    output = generation(inputs, np.random.default_rng(seed))
    (picture,) = output.frames
    assert output.n_frames == 1
    return picture


@pytest.fixture(scope="module")
def pipelines(bases):
    """Family -> diffusers' own pipeline over the same networks, made once."""
    found = {}

    def of(family):
        if family not in found:
            base = bases(family)
            parts = {name: getattr(base, name) for name in ("vae", "unet", *base.tokenizer_names, *base.text_encoder_names)}
            parts["scheduler"] = make_scheduler(base, "ddim", 1)
            if family == "sdxl":
                found[family] = StableDiffusionXLPipeline(**parts, add_watermarker=False)
            else:
                checks = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
                found[family] = StableDiffusionPipeline(**parts, **checks)
            found[family].set_progress_bar_config(disable=True)
        return found[family]

    return of


def plainly(pipeline, scheduler, steps, seed, **settings):
    """What diffusers draws with the noise that a canvas of one window draws."""
    pipeline.scheduler = scheduler
    generator = torch_generator(np.random.default_rng(seed))
    noise = torch.randn(4, 8, 8, generator=generator)[None]
    made = pipeline(
        PROMPT_TEXT, negative_prompt=NEGATIVE, num_inference_steps=steps, guidance_scale=7.5, latents=noise, generator=generator,
        output_type="np", **settings,
    ).images[0]  # fmt: skip
    return np.rint(made * 255).astype(int)


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_one_window_is_the_plain_pipeline(bases, pipelines, canvas, family):
    sizes = {"height": 64, "width": 64} if family == "sdxl" else {}
    theirs = plainly(pipelines(family), make_scheduler(bases(family), "ddim", 2), 2, 5, **sizes)
    ours = draw(canvas(family), 5, negative=words(NEGATIVE))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("kind", get_args(Name))
def test_every_scheduler_is_diffusers_own(bases, pipelines, canvas, kind):
    theirs = plainly(pipelines("sd15"), make_scheduler(bases("sd15"), kind, 3), 3, 7)
    ours = draw(canvas(scheduler=kind, steps=3), 7, negative=words(NEGATIVE))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert SCHEDULERS.keys() == set(get_args(Name))


@pytest.mark.parametrize("kind", ["euler-ancestral", "dpmpp-2m-sde", "ddim", "heun"])
def test_a_wide_canvas_does_not_depend_on_batches(canvas, kind):
    """Schedulers that add noise draw one canvas of it, however the windows are grouped."""
    settings = {"scheduler": kind, "width_px": 112, "stride": 4, "eta": 0.5 if kind == "ddim" else 0}
    one, all_at_once = (draw(canvas(batch_size=batch, **settings), 3).astype(int) for batch in (1, 9))
    assert np.abs(one - all_at_once).max() <= 1


def test_eta_is_fresh_noise(canvas):
    plain, noisy, again = (draw(canvas(eta=eta), 3) for eta in (0, 1, 1))
    assert np.array_equal(noisy, again)
    assert not np.array_equal(plain, noisy)
    with pytest.raises(LikenessError, match="eta with scheduler=euler"):
        draw(canvas(eta=1, scheduler="euler"))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (61, 131), (20, 90), (9, 8), (100, 70)])
@pytest.mark.parametrize("circular", [False, True])
def test_any_size_is_covered(canvas, height, width, circular):
    made = canvas(height_px=height, width_px=width, circular=circular, stride=3, steps=1)
    assert draw(made).shape == (height, width, 3)


def test_memory_is_bounded(canvas):
    """However wide the canvas is, the UNet sees `batch_size` windows at once, twice for guidance, and the decoder one window."""
    made = canvas(width_px=208, stride=4, batch_size=3, steps=1)
    rows, cells = [], []
    hooks = [
        made.backbone.unet.register_forward_pre_hook(lambda _, args: rows.append(tuple(args[0].shape))),
        made.backbone.vae.decoder.register_forward_pre_hook(lambda _, args: cells.append(tuple(args[0].shape))),
    ]
    try:
        draw(made)
    finally:
        for hook in hooks:
            hook.remove()
    assert rows == [(6, 4, 8, 8)] * 2  # 6 windows
    assert set(cells) == {(1, 4, 8, 8)}


def test_a_region_of_everything_without_bootstrapping_is_the_panorama(canvas):
    settings = {"bootstrap": 0, "width_px": 96, "stride": 4}
    wanted = draw(canvas(**settings), 2, prompt=words("a red car"))
    whole = mask((0, 64, 0, 96), size=(64, 96))
    ours = draw(canvas(**settings), 2, region=[whole], region_prompt=[words("a red car")])
    assert np.abs(ours.astype(int) - wanted).max() <= 1


def test_each_region_is_drawn_from_its_own_prompt(canvas, bases):
    """One step over one window: the canvas is pieced together from what each prompt alone gives, where its mask is white."""
    backbone, prompts = bases("sd15"), [PROMPT_TEXT, "a red car", "a man in a black coat"]
    noise = torch.randn(4, 8, 8, generator=torch_generator(np.random.default_rng(4)))
    with torch.no_grad():
        positive, negative = encode_pairs(backbone, prompts, ["", "blurry", "dark"])
        alone = []
        for n in range(3):
            network = lambda crops, time, _, n=n: predict(backbone.unet, crops, time, positive.rows([n]), negative.rows([n]), 7.5)
            alone += panorama(network, noise, grid([8, 8], 8, 8), make_scheduler(backbone, "ddim", 1))
        latent = alone[0].clone()
        latent[:, :4, :2], latent[:, 5:, 3:] = alone[1][:, :4, :2], alone[2][:, 5:, 3:]
        wanted = to_pictures(backbone.decode(latent[None]))[0]
    ours = draw(
        canvas(steps=1, bootstrap=0), 4, region=[mask((0, 32, 0, 16)), mask((40, 64, 24, 64))],
        region_prompt=[words(text) for text in prompts[1:]], region_negative=[words("blurry"), words("dark")],
    )  # fmt: skip
    assert np.abs(ours.astype(int) - wanted).max() <= 1


def test_bootstrapping_is_part_of_the_steps(canvas):
    region = {"region": [mask((8, 40, 8, 40))], "region_prompt": [words("a red car")]}
    shares = [draw(canvas(bootstrap=share, steps=3), 1, **region) for share in (0, 0.1, 0.5, 1)]
    assert np.array_equal(shares[0], shares[1])  # rounds to no step
    assert not np.array_equal(shares[0], shares[2])
    assert not np.array_equal(shares[2], shares[3])
    assert np.array_equal(shares[2], draw(canvas(bootstrap=0.5, steps=3), 1, **region))


@pytest.mark.parametrize("kind", ["heun", "dpm2-ancestral", "lms", "pndm", "unipc", "dpmpp-2m-sde", "euler"])
def test_regions_with_solvers_of_memory_and_several_calls(canvas, kind):
    """The backgrounds are noised to the level the solver is at: nothing runs away, and a repeated call gives the same."""
    region = {"region": [mask((8, 40, 8, 40))], "region_prompt": [words("a red car")]}
    settings = {"scheduler": kind, "width_px": 96, "stride": 4}
    first, again, alone = (draw(canvas(**settings, **more), 1, **region) for more in ({}, {}, {"bootstrap": 0}))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, alone)
    assert first.std() > 1


@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_regions_on_other_families(canvas, family):
    made = canvas(family, height_px=None, width_px=None, stride=4, sdxl_target="canvas")
    picture = draw(made, region=[mask((0, 64, 0, 40), size=(64, 96))], region_prompt=[words("a red car")])
    assert picture.shape == (64, 96, 3)  # the masks' size
    assert picture.std() > 1


def test_gaussian_weights_are_another_picture(canvas):
    even, bells = (draw(canvas(width_px=128, stride=4, weights=weights), 2) for weights in ("even", "gaussian"))
    assert not np.array_equal(even, bells)
    with pytest.raises(LikenessError, match="weights=gaussian with regions"):
        draw(canvas(weights="gaussian"), region=[mask((0, 9, 0, 9))], region_prompt=[words("a dog")])


def test_masks():
    grey = np.repeat(np.array([[0, 127, 128, 255]], np.uint8)[..., None], 3, 2)
    assert foreground(grey, 0.5).tolist() == [[False, False, True, True]]
    cells = resized(foreground(mask((0, 32, 16, 64))[VIDEO]._frames[0], 0.5), (8, 8))
    assert cells.shape == (1, 8, 8)
    assert cells[0, :4, 2:].eq(1).all()
    assert cells.sum() == 4 * 6


@pytest.mark.parametrize(
    ("inputs", "settings", "said"),
    [
        ({"region": [mask((0, 9, 0, 9))]}, {}, "1 regions and 0 prompts"),
        ({"region": [mask()], "region_prompt": [words("a dog")]}, {}, "region 1 is empty"),
        ({"region_prompt": [words("a dog")]}, {}, "0 regions and 1 prompts"),
        ({"region_negative": [words("a dog")]}, {}, "1 region_negative for 0 regions"),
        ({}, {"stride": 9, "width_px": 200}, "stride 9 leaves cells bare"),
    ],
)
def test_wrong_inputs_are_told_at_once(canvas, inputs, settings, said):
    with pytest.raises(LikenessError, match=said):
        canvas(**settings)({"prompt": words(PROMPT_TEXT), **inputs}, np.random.default_rng(0))
