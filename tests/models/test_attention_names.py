"""Names of attention layers: LDM's numbers, and the numbers of published adapters."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusion_nets import sdxl_unet, unet

from infra.errors import LikenessError
from models.diffusion.layer_names import attention_names, ldm_attention


@pytest.fixture(scope="module")
def sd15():
    """Stable Diffusion 1.5's layout without its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)


def test_ldm_blocks_have_the_widths_the_card_says(sd15):
    """Output blocks 3-5 have 1280 channels, 6-8 640, 9-11 320; input blocks 1, 2, 4, 5, 7, 8 attend and no other."""
    widths = {3: 1280, 4: 1280, 5: 1280, 6: 640, 7: 640, 8: 640, 9: 320, 10: 320, 11: 320}
    for index, width in widths.items():
        (name,) = ldm_attention(sd15, f"output_blocks.{index}")
        assert sd15.get_submodule(name).inner_dim == width
    assert ldm_attention(sd15, "output_blocks.7") == ["up_blocks.2.attentions.1.transformer_blocks.0.attn1"]
    for index, width in {1: 320, 2: 320, 4: 640, 5: 640, 7: 1280, 8: 1280}.items():
        (name,) = ldm_attention(sd15, f"input_blocks.{index}", "attn2")
        assert name.endswith("attn2")
        assert sd15.get_submodule(name).inner_dim == width
    assert ldm_attention(sd15, "middle_block") == ["mid_block.attentions.0.transformer_blocks.0.attn1"]
    for block in (
        "output_blocks.0",
        "output_blocks.2",
        "output_blocks.12",
        "input_blocks.0",
        "input_blocks.3",
        "input_blocks.10",
        "x",
    ):
        with pytest.raises(LikenessError, match=block):
            ldm_attention(sd15, block)


def test_ldm_numbers_agree_with_diffusers_own_conversion(sd15):
    """diffusers converts LDM checkpoints: a weight put at an LDM key comes out at the name we give."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    shapes = {f"{place}.{i}": j for place, i, j in [("output_blocks", 6, 1), ("output_blocks", 11, 1), ("input_blocks", 5, 1)]}
    for block, part in shapes.items():
        (name,) = ldm_attention(sd15, block)
        key = f"model.diffusion_model.{block}.{part}.transformer_blocks.0.attn1.to_q.weight"
        marked = {key: torch.ones(1)}
        for number in range(12):  # the converter counts the blocks that are there
            for place in ("input_blocks", "output_blocks"):
                marked[f"model.diffusion_model.{place}.{number}.0.in_layers.0.weight"] = torch.zeros(1)
        for rest in ("time_embed.0", "time_embed.2", "out.0", "out.2", "input_blocks.0.0"):
            marked |= {f"model.diffusion_model.{rest}.{kind}": torch.zeros(1) for kind in ("weight", "bias")}
        marked |= {f"model.diffusion_model.middle_block.{i}.x.weight": torch.zeros(1) for i in range(3)}
        converted = convert_ldm_unet_checkpoint(marked, dict(sd15.config))
        assert [each for each, value in converted.items() if value.sum() == 1] == [f"{name}.to_q.weight"]


def test_published_numbers(sd15):
    names = attention_names(sd15)
    assert names == [name.removesuffix(".processor") for name in sd15.attn_processors]
    assert len(names) == 32
    assert names[11].startswith("down_blocks.2")
    assert names[12].startswith("up_blocks.1")
    assert names[30:] == [f"mid_block.attentions.0.transformer_blocks.0.{kind}" for kind in ("attn1", "attn2")]
    for net in (unet(), sdxl_unet()):
        assert attention_names(net) == [name.removesuffix(".processor") for name in net.attn_processors]
    with pytest.raises(LikenessError, match="has none"):
        attention_names(torch.nn.Linear(1, 1))


def test_sdxl_numbers():
    with torch.device("meta"):
        sdxl = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048, attention_head_dim=(5, 10, 20), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
    names = attention_names(sdxl)
    assert len(names) == 140
    assert [names[i].split("_")[0] for i in (47, 48, 119, 120)] == ["down", "up", "up", "mid"]
    assert len(ldm_attention(sdxl, "output_blocks.0")) == 10
