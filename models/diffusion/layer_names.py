"""Where the attention of a Stable Diffusion UNet lies, as published methods count it."""

from typing import Any, Literal

from torch import nn

from infra.errors import LikenessError


def ldm_attention(unet: nn.Module, block: str, kind: Literal["attn1", "attn2"] = "attn1") -> list[str]:
    """The diffusers names of the attention that LDM's UNet has in a block.

    Args:
        unet: a UNet2DConditionModel.
        block: "input_blocks.4", "middle_block" or "output_blocks.9", counted as in LDM.
        kind: "attn1" self-attention, "attn2" attention to the context.

    Returns:
        One name per transformer block (SD 1.x and 2.x have one, SDXL several).

    Raises:
        LikenessError: there is no attention.
    """
    place, _, number = block.partition(".")
    per_level = unet.config.layers_per_block + 1  # type: ignore[union-attr,operator]
    index = int(number or 0)
    prefix = {
        # LDM counts the first convolution as input block 0 and a level's downsampling as its last block.
        "input_blocks": f"down_blocks.{(index - 1) // per_level}.attentions.{(index - 1) % per_level}",
        "middle_block": "mid_block.attentions.0",
        "output_blocks": f"up_blocks.{index // per_level}.attentions.{index % per_level}",
    }.get(place, "")
    found = [name for name, _ in unet.named_modules() if name.startswith(f"{prefix}.") and name.endswith(f".{kind}")]
    if not prefix or not found:
        raise LikenessError(f"there is no {kind} in {block} of this UNet", allowed="input_blocks.N, middle_block, output_blocks.N")
    return found


def attention_names(unet: nn.Module) -> list[str]:
    """Every attention layer in the order published adapters number them: down blocks, up blocks, then the middle.

    Motion modules of a video UNet are left out, as in diffusers' loader. Even places are self-attention, odd ones attend to text.
    """
    found = [name for name, module in unet.named_modules() if name.endswith((".attn1", ".attn2")) and "motion_modules" not in name]
    order = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
    found = sorted((name for name in found if name.split(".")[0] in order), key=lambda name: order[name.split(".")[0]])
    wrong = [name for place, name in enumerate(found) if name.endswith(".attn1") == bool(place % 2)]
    if wrong or not found:
        raise LikenessError(
            f"the attention of {type(unet).__name__} is not numbered as an IP-Adapter's: {wrong[0] if wrong else 'it has none'}",
            allowed="a Stable Diffusion UNet: self-attention, then attention to text, in every transformer block",
        )
    return found


def linear_of(layer: Any, part: str) -> Any:
    """The linear layer to_q, to_k, to_v or to_out of an attention layer, beneath low-rank adapters if it has any."""
    module = layer.to_out[0] if part == "to_out" else getattr(layer, part)
    return getattr(module, "base_layer", module)
