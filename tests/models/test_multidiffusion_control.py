"""MultiDiffusion with ControlNets and with prompts along the canvas, over tiny bases and nets of random weights."""

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, MultiControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

from infra.errors import LikenessError
from models.diffusion.backbone import open_backbone
from models.diffusion.conditioning import Condition, encode_pairs
from models.diffusion.generation import to_pictures, torch_generator
from models.diffusion.schedulers import make_scheduler
from models.diffusion.tiny import tiny_backbone
from models.diffusion.windows import Window, grid
from models.multidiffusion.generate import Canvas, whole_cells
from models.multidiffusion.prompts import mixed, places_along
from models.registry import method_named
from preprocessing.clip import InMemory
from preprocessing.fields import PROMPT, SOURCE, VIDEO
from preprocessing.operator import Sample


@pytest.fixture(autouse=True)
def _quick():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Family -> (the base, folders of two ControlNets for it that do change something)."""
    found = {}

    def of(family):
        if family not in found:
            folder = tmp_path_factory.mktemp(family)
            base = open_backbone(tiny_backbone(family, folder / "base", width=8))
            for number in range(2):
                torch.manual_seed(number)
                net = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
                with torch.no_grad():
                    for name, weights in net.named_parameters():
                        if name.startswith("controlnet_") and "conv_in" not in name:
                            weights.normal_(std=0.2)
                net.save_pretrained(folder / f"net{number}")
            found[family] = base, [str(folder / f"net{number}") for number in range(2)]
        return found[family]

    return of


@pytest.fixture
def canvas(bases):
    """A generation with settings and so many nets; bases are shared."""

    def of(family="sd15", nets=1, **settings):
        base, folders = bases(family)
        small = {"steps": 2, "stride": 4, "backgrounds": 2, "scheduler": "ddim"}
        made = Canvas({}, Canvas.Config(base=str(base.folder), nets=tuple(folders[:nets]), **{**small, **settings}))
        made.__dict__["backbone"] = base
        return made

    return of


def words(text):
    return Sample("prompt", {PROMPT.name: text})


def picture(height, width, seed=0):
    """Coarse random blocks, as a control picture."""
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return blocks.repeat(16, 0).repeat(16, 1)[:height, :width]


def port(pixels):
    return Sample("control", {SOURCE.name: {"path": "control.png"}, VIDEO.name: InMemory(pixels[None])})


def draw(generation, seed=0, prompt="a photo of a beach", **inputs):
    (made,) = generation({"prompt": words(prompt), **inputs}, np.random.default_rng(seed)).frames
    return made.astype(int)


def latent(generation, **inputs):
    """What `draw` decodes, of a canvas that is decoded in one: on tiny bases prompts change it by less than a grey level."""
    base, found = generation.backbone, []
    decode = base.decode
    base.__dict__["decode"] = lambda given: found.append(given) or decode(given)
    try:
        draw(generation, **inputs)
    finally:
        del base.__dict__["decode"]
    (only,) = found
    return only


def close(ours, wanted):
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "nets"), [("sd15", 1), ("sd15", 2), ("sdxl", 1)])
def test_one_window_is_diffusers_controlnet_pipeline(bases, canvas, family, nets):
    """Same noise, nets and scales: the same picture, at most one grey level off."""
    base, folders = bases(family)
    pixels, scales = [picture(64, 64, seed) for seed in range(nets)], [1.3, 0.6][:nets]
    loaded = [ControlNetModel.from_pretrained(folder) for folder in folders[:nets]]
    parts = {name: getattr(base, name) for name in ("vae", "unet", *base.tokenizer_names, *base.text_encoder_names)}
    parts |= {"scheduler": make_scheduler(base, "ddim", 2), "controlnet": loaded[0] if nets == 1 else MultiControlNetModel(loaded)}
    if family == "sdxl":
        pipeline = StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False)
    else:
        pipeline = StableDiffusionControlNetPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    hints = [torch.from_numpy(each).permute(2, 0, 1)[None] / 255 for each in pixels]
    latent = pipeline(
        "a photo of a beach", image=hints[0] if nets == 1 else hints, negative_prompt="blurry", num_inference_steps=2,
        guidance_scale=7.5, controlnet_conditioning_scale=scales[0] if nets == 1 else scales, output_type="latent",
        latents=torch.randn(4, 8, 8, generator=torch_generator(np.random.default_rng(3)))[None],
    ).images  # fmt: skip
    theirs = to_pictures(base.decode(latent))[0].astype(int)
    inputs = {"control": [port(each) for each in pixels], "negative": words("blurry")}
    ours = draw(canvas(family, nets, net_scales=scales), 3, **inputs)
    assert np.abs(ours - theirs).max() <= 1
    without = draw(canvas(family, 0, height_px=64, width_px=64), 3, negative=words("blurry"))
    assert np.abs(ours - without).max() > 5


@pytest.mark.parametrize("circular", [False, True])
def test_a_scale_of_0_is_no_net_and_batches_do_not_matter(canvas, circular):
    """On a canvas of several windows whose size the control picture gives."""
    settings, controls = {"circular": circular, "steps": 1}, [port(picture(64, 128)), port(picture(64, 128, 1))]
    plain = draw(canvas(nets=0, height_px=64, width_px=128, **settings))
    assert np.array_equal(draw(canvas(nets=2, net_scales=(0, 0), **settings), control=controls), plain)
    one, all_at_once = (draw(canvas(batch_size=batch, **settings), control=controls[:1]) for batch in (1, 9))
    assert np.abs(one - all_at_once).max() <= 1
    assert np.abs(one - plain).max() > 5
    beside = draw(canvas(nets=2, net_scales=(1, 0), **settings), control=controls)
    assert np.array_equal(beside, draw(canvas(**settings), control=controls[:1]))


def seen_by(net):
    """A list that fills with the pictures and rows which a net is given, and the hook to remove."""
    seen = []

    def look(_, args, given):
        seen.extend(given["controlnet_cond"])

    return seen, net.register_forward_pre_hook(look, with_kwargs=True)


def test_each_window_sees_its_part_of_the_picture(canvas):
    """For both rows of guidance, over the end of a circle too; with regions, for every prompt alike."""
    pixels = picture(64, 128)
    made = canvas(circular=True, steps=1, batch_size=2, bootstrap=0)
    seen, hook = seen_by(made.nets[0])
    mask = np.zeros((64, 128, 3), np.uint8)
    mask[:, :50] = 255
    try:
        draw(made, control=[port(pixels)])
        plain = list(seen)
        seen.clear()
        draw(made, control=[port(pixels)], region=[port(mask)], region_prompt=[words("a red car")])
    finally:
        hook.remove()
    whole = torch.from_numpy(np.concatenate([pixels, pixels], 1)).permute(2, 0, 1) / 255
    parts = [whole[..., left : left + 64] for left in (0, 32, 64, 96)]
    wanted = [parts[n] for pair in ((0, 1), (2, 3)) for _ in range(2) for n in pair]  # negative rows, then positive ones
    torch.testing.assert_close(torch.stack(plain), torch.stack(wanted))
    torch.testing.assert_close(torch.stack(seen), torch.stack([parts[n] for n in range(4) for _ in range(4)]))


def test_regions_with_a_net(canvas):
    """A region of everything without bootstrapping is the panorama."""
    made = canvas(bootstrap=0, steps=1, decode_window=12)
    everything, control = port(np.full((64, 96, 3), 255, np.uint8)), [port(picture(64, 96))]
    wanted = latent(made, prompt="a red car", control=control)
    close(latent(made, region=[everything], region_prompt=[words("a red car")], control=control), wanted)
    assert (
        wanted - latent(canvas(nets=0, steps=1, decode_window=12, height_px=64, width_px=96), prompt="a red car")
    ).abs().max() > 0.01


@pytest.mark.parametrize("family", ["sd21", "sdxl"])
def test_nets_of_other_families_on_wide_canvases(canvas, family):
    settings = {"steps": 1, "sdxl_target": "canvas"}
    made = draw(canvas(family, net_scales=(3,), **settings), control=[port(picture(61, 93))])
    assert made.shape == (61, 93, 3)
    assert np.abs(made - draw(canvas(family, 0, height_px=61, width_px=93, **settings))).max() > 5


def test_pictures_of_another_size(canvas):
    """They are brought to the canvas's size where that keeps their proportions; cells that are cut off repeat the last pixels."""
    small = picture(32, 64)
    large = small.repeat(2, 0).repeat(2, 1)
    sized = {"height_px": 64, "width_px": 128, "steps": 1}
    assert np.array_equal(draw(canvas(**sized), control=[port(small)]), draw(canvas(**sized), control=[port(large)]))
    filled = whole_cells(torch.arange(9.0).expand(1, 3, 5, 9))
    assert filled.shape == (1, 3, 8, 16)
    assert filled[0, 0, 7].tolist() == [*range(9), *[8] * 7]


@pytest.mark.parametrize(
    ("nets", "settings", "ports", "said"),
    [
        (0, {}, {"control": 1}, "1 control pictures for 0 ControlNets"),
        (2, {}, {"control": 1}, "1 control pictures for 2 ControlNets"),
        (1, {"net_scales": (1, 1)}, {"control": 1}, "2 net_scales for 1 ControlNets; allowed: none, or one each"),
        (1, {"width_px": 256}, {"control": 1}, "control 1 of 128 x 64 px would be distorted to 256 x 64 px.*width_px=128"),
        (0, {"width_px": 128}, {"window_prompt": 3}, "3 window_prompt along 128 px; allowed: at most 2"),
        (0, {"width_px": 32}, {"window_prompt": 2}, "2 window_prompt along 64 px; allowed: at most 1"),
        (0, {}, {"window_prompt": 1, "region": 1, "region_prompt": 1}, "window_prompt with regions"),
    ],
)
def test_wrong_inputs_are_told_at_once(canvas, nets, settings, ports, said):
    inputs = {name: [port(picture(64, 128)) if name in ("control", "region") else words("x")] * n for name, n in ports.items()}
    with pytest.raises(LikenessError, match=said):
        canvas(nets=nets, **{"height_px": 64, **settings})({"prompt": words("x"), **inputs}, np.random.default_rng(0))


def test_nets_that_do_not_fit_are_refused(canvas, bases):
    base, folders = bases("sd15")
    for ref, said in (
        (bases("sdxl")[1][0], r"made for another base: its block_out_channels is .*ControlNet of the family sd15"),
        (f"{base.folder}:unet", "holds a UNet2DConditionModel; allowed: a folder of a ControlNetModel"),
        (f"{folders[0]}/config.json", "has no config.json"),
        (f"{folders[0]}-absent", "no model at"),
    ):
        with pytest.raises(LikenessError, match=said):
            canvas(nets=0)._opened(ref)


def test_nets_as_they_are_typed():
    assert Canvas.Config(nets="a/b", net_scales=1.3).nets == ("a/b",)
    several = Canvas.Config(nets="a/b, c", net_scales="1.3,0")
    assert (several.nets, several.net_scales) == (("a/b", "c"), (1.3, 0.0))
    assert Canvas.Config(nets=["a", "b"], net_scales=[1, 2]).net_scales == (1.0, 2.0)


def test_the_preset_of_the_published_control_panorama():
    settings = method_named("multidiffusion").presets()["control"]["generate"]
    assert settings == {"steps": 30, "scheduler": "euler", "net_scales": [1.3]}


def along(texts):
    return [words(text) for text in texts]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_equal_window_prompts_are_one_prompt(canvas, family):
    made = canvas(family, nets=0, height_px=64, width_px=128, steps=1, decode_window=16)
    dark = {"negative": words("dark")}
    wanted = latent(made, prompt="a red car, a photo", **dark)
    close(latent(made, prompt="a photo", window_prompt=along(["a red car"] * 2), **dark), wanted)
    other = latent(made, prompt="a photo", window_prompt=along(["a red car", "a dog"]), **dark)
    assert (other - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("size_px", [(64, 128), (128, 64)])
def test_windows_side_by_side_are_drawn_from_their_own_prompt_alone(canvas, size_px):
    """Along the longer side, whichever it is: the first half is that of the first prompt everywhere, the second the second's."""
    made = canvas(nets=0, height_px=size_px[0], width_px=size_px[1], stride=8, decode_window=16)
    both = latent(made, prompt="a photo", window_prompt=along(["a red car", "a dog"]))
    alone = [latent(made, prompt=text) for text in ("a red car, a photo", "a dog, a photo")]
    axis = -1 if size_px[1] > size_px[0] else -2
    for half, single in enumerate(alone):
        close(both.narrow(axis, 8 * half, 8), single.narrow(axis, 8 * half, 8))
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def test_places_of_windows_among_prompts():
    windows = grid([8, 32], 8, 4)
    assert places_along(windows, (8, 32), 2).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert places_along(windows, (8, 32), 4).tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert places_along(windows, (8, 32), 1).tolist() == [0] * 7
    circle = grid([8, 32], 8, 4, ("flush", "circular"))
    assert places_along(circle, (8, 32), 2, True).tolist() == [1.75, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    tall = [Window((-2, -1), (top, 0), (8, 8)) for top in (0, 8)]
    assert places_along(tall, (16, 8), 2, True).tolist() == [0, 1]  # the circle is of the width


def test_mixes_of_prompts(bases):
    positive, _ = encode_pairs(bases("sdxl")[0], ["a dog", "a red car", "a city at night"])
    prompts = Condition(positive.context.detach(), positive.pooled.detach())
    found = mixed(prompts, torch.tensor([0, 2, 0.25, 2.5], dtype=torch.float64))
    for column in ("context", "pooled"):
        ours, (dog, car, city) = getattr(found, column), getattr(prompts, column)
        assert torch.equal(ours[:2], torch.stack([dog, city]))
        torch.testing.assert_close(ours[2:], torch.stack([0.75 * dog + 0.25 * car, (city + dog) / 2]))
    same = mixed(prompts.rows([1, 1, 1]), torch.tensor([0.3, 1.9]))
    assert torch.equal(same.context, prompts.rows([1, 1]).context)


def test_the_control_panorama_is_of_any_scheduler(bases, canvas):
    """Solvers that scale their input tell the net what the UNet sees."""
    base, _ = bases("sd15")
    control = [port(picture(64, 64))]
    made = canvas(scheduler="euler", steps=2)
    told = []
    hooks = [
        made.nets[0].register_forward_pre_hook(lambda _, args, given: told.append(given["sample"]), with_kwargs=True),
        base.unet.register_forward_pre_hook(lambda _, args: told.append(args[0])),
    ]
    try:
        draw(made, control=control)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(told) == 4
    assert all(torch.equal(*told[n : n + 2]) for n in (0, 2))
