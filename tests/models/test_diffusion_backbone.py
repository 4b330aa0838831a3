"""Backbones: the tiny ones are built alike everywhere, open as diffusers opens them, and parts load one by one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline

from infra.errors import LikenessError
from models.diffusion.backbone import FAMILIES, family_of, open_backbone
from models.diffusion.schedules import scaled_linear
from models.diffusion.tiny import WORDS, tiny_backbone

PREDICTED = {"sd15": "epsilon", "sd21": "v_prediction", "sdxl": "epsilon"}


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {family: tiny_backbone(family, root / family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_same_bytes_each_time_and_torch_left_as_it_was(family, folders, tmp_path):
    before = torch.random.get_rng_state()
    again = tiny_backbone(family, tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), before)
    files = sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert len(files) > 8
    for file in files:
        assert (again / file).read_bytes() == (folders[family] / file).read_bytes(), file
    other = tiny_backbone(family, tmp_path / "other", seed=1)
    assert open_backbone(other).checksum != open_backbone(again).checksum
    assert open_backbone(again).checksum == open_backbone(folders[family]).checksum


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_opens_and_runs_it(family, folders):
    pipeline = DiffusionPipeline.from_pretrained(folders[family], local_files_only=True)
    assert type(pipeline).__name__ == ("StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline")
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a photo of a face", num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0))
    side = 8 * pipeline.unet.config.sample_size
    assert picture.images.shape == (1, side, side, 3)
    assert np.isfinite(picture.images).all()
    assert picture.images.std() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_family_is(family, folders):
    backbone = open_backbone(folders[family])
    assert (backbone.family, backbone.prediction) == (family, PREDICTED[family])
    assert backbone.scaling == (0.13025 if family == "sdxl" else 0.18215)
    assert torch.equal(backbone.alpha_bar, scaled_linear())
    assert isinstance(backbone.scheduler(), DDPMScheduler)
    ddim = backbone.scheduler(DDIMScheduler, set_alpha_to_one=False)
    assert isinstance(ddim, DDIMScheduler)
    assert ddim.config.prediction_type == PREDICTED[family]
    assert backbone.latent_size(512, 768) == (4, 64, 96)
    for height, width in ((512, 100), (0, 8)):
        with pytest.raises(LikenessError, match="multiples of 8"):
            backbone.latent_size(height, width)
    with pytest.raises(LikenessError, match=f"of the family {family}"):
        open_backbone(folders[family], "sd15" if family != "sd15" else "sdxl")


def test_published_settings_are_told_apart():
    """The settings that the published UNets carry (Hugging Face hub), as far as families differ by them."""
    kind = {"_class_name": "UNet2DConditionModel", "in_channels": 4}
    assert family_of({**kind, "cross_attention_dim": 768}) == "sd15"
    assert family_of({**kind, "cross_attention_dim": 1024, "use_linear_projection": True}) == "sd21"
    assert family_of({**kind, "use_linear_projection": True, "addition_embed_type": "text_time"}) == "sdxl"
    with pytest.raises(LikenessError, match="9 input channels"):
        family_of({**kind, "in_channels": 9})


def test_words_are_one_token_and_the_rest_is_spelled(folders):
    tokenizer = open_backbone(folders["sd15"]).tokenizer
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert all(len(ids) == 3 for ids in tokenizer(list(WORDS)).input_ids)
    ids = tokenizer("a photo of Zoë's face, 3D").input_ids
    assert (ids[0], ids[-1]) == (start, end)
    assert end not in ids[1:-1]
    assert tokenizer.decode(ids[1:-1]).replace(" ", "") == "aphotoofzoë'sface,3d"
    assert (open_backbone(folders["sd21"]).tokenizer.pad_token, tokenizer.pad_token) == ("!", "<|endoftext|>")
    both = open_backbone(folders["sdxl"]).tokenizers
    assert [t.pad_token for t in both] == ["<|endoftext|>", "!"]


def test_residuals_of_the_tiny_sdxl_are_nine(folders):
    unet = open_backbone(folders["sdxl"]).unet
    assert len(unet.down_blocks) == 3
    assert 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in unet.down_blocks) == 9


def test_parts_load_one_by_one(folders, tmp_path):
    """A folder with a UNet and settings is enough for training on columns; what is absent is named when it is wanted."""
    for part in ("unet", "scheduler"):
        shutil.copytree(folders["sd15"] / part, tmp_path / part)
    (tmp_path / "vae").mkdir()
    shutil.copy(folders["sd15"] / "vae" / "config.json", tmp_path / "vae")
    backbone = open_backbone(tmp_path)
    moments = torch.randn(2, 8, 4, 4)
    assert backbone.latents(moments, torch.randn(2, 4, 4, 4)).shape == (2, 4, 4, 4)
    assert backbone.unet(torch.randn(1, 4, 8, 8), 5, torch.randn(1, 77, 48)).sample.shape == (1, 4, 8, 8)
    assert not any(p.requires_grad for p in backbone.unet.parameters())
    assert not backbone.unet.training
    with pytest.raises(LikenessError, match="vae of .* does not load"):
        _ = backbone.vae
    with pytest.raises(LikenessError, match="no tokenizer"):
        _ = backbone.tokenizer


def test_half_a_network_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders["sd15"], tmp_path / "cut")
    file = tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.bias"]
    save_file(weights, file)
    with pytest.raises(LikenessError, match=r"lacks 1 weights, conv_out\.bias"):
        _ = open_backbone(tmp_path / "cut").unet


def test_an_absent_hub_id_says_how_to_get_it():
    with pytest.raises(LikenessError, match="hf download nobody/nothing-here"):
        open_backbone("nobody/nothing-here")


def test_pictures_to_latents_and_back(folders):
    backbone = open_backbone(folders["sd15"])
    pictures = torch.rand(2, 3, 32, 48) * 2 - 1
    posterior = backbone.vae.encode(pictures).latent_dist
    torch.testing.assert_close(backbone.encode(pictures), posterior.mode() * 0.18215)
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    drawn = backbone.encode(pictures, noise)
    torch.testing.assert_close(drawn, posterior.sample(torch.Generator().manual_seed(3)) * 0.18215)
    column = torch.cat([posterior.mean, posterior.logvar], 1)  # as datasets keep it
    torch.testing.assert_close(backbone.latents(column, noise), drawn)
    torch.testing.assert_close(backbone.decode(drawn), backbone.vae.decode(drawn / 0.18215).sample)
    assert backbone.decode(drawn).shape == pictures.shape


@pytest.mark.parametrize(("mended", "wanted"), [(False, torch.float32), (True, torch.bfloat16)])
def test_sdxl_autoencoder_keeps_float32_unless_mended(folders, tmp_path, mended, wanted):
    folder = shutil.copytree(folders["sdxl"], tmp_path / "sdxl")
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"force_upcast": not mended}))
    backbone = open_backbone(folder, dtype=torch.bfloat16)
    assert (backbone.vae.dtype, backbone.unet.dtype) == (wanted, torch.bfloat16)
    latents = backbone.encode(torch.rand(1, 3, 16, 16))
    assert latents.dtype == torch.bfloat16
    assert backbone.decode(latents).dtype == torch.float32


def test_what_tiny_refuses(tmp_path):
    with pytest.raises(LikenessError, match="family 'sd3'"):
        tiny_backbone("sd3", tmp_path)
    with pytest.raises(LikenessError, match="multiples of 8"):
        tiny_backbone("sd15", tmp_path, width=12)
