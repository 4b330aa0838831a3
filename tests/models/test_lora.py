"""LoRA: nothing at first, nothing at scale 0, merged as unmerged, and alpha comes back from the file."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusion_nets import gradients, inputs, unet
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel

from infra.errors import LikenessError
from models.diffusion.lora import FILE_NAME, TEXT_ATTENTION, add_lora, load_lora, merge_lora, remove_lora, save_lora, set_lora_scale


@pytest.fixture(autouse=True)
def _quick():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(1)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return CLIPTextModel(CLIPTextConfig(**size, vocab_size=50, max_position_embeddings=9, bos_token_id=48, eos_token_id=49)).eval()


@torch.no_grad()
def learn(model) -> None:
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights += 0.3 * torch.randn_like(weights)


@torch.no_grad()
def output(model) -> torch.Tensor:
    if isinstance(model, UNet2DConditionModel):
        return model(*inputs()).sample
    return model(torch.arange(9)[None]).last_hidden_state


MODELS = {"unet": (unet, ("to_q", "to_k", "to_v", "to_out.0")), "text_encoder": (text_encoder, TEXT_ATTENTION)}


@pytest.mark.parametrize("component", MODELS)
def test_the_life_of_an_adapter(component):
    made, targets = MODELS[component]
    model = made()
    plain, weights = output(model), {key: value.clone() for key, value in model.state_dict().items()}
    add_lora(model, rank=4, alpha=2, targets=targets)
    assert torch.equal(output(model), plain)
    assert all(("lora_" in name) == each.requires_grad for name, each in model.named_parameters())
    learn(model)
    adapted = output(model)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    set_lora_scale(model, 0.0)
    assert torch.equal(output(model), plain)
    set_lora_scale(model, 1.0)
    assert torch.equal(output(model), adapted)
    remove_lora(model)
    assert torch.equal(output(model), plain)
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], weights[key]) for key in weights)


@pytest.mark.parametrize("component", MODELS)
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_merged_as_unmerged(component, scale):
    made, targets = MODELS[component]
    model = made()
    add_lora(model, rank=4, alpha=2, targets=targets)
    learn(model)
    set_lora_scale(model, scale)
    adapted = output(model)
    merge_lora(model)
    assert model.state_dict().keys() == made().state_dict().keys()
    assert (output(model) - adapted).abs().max() <= 1e-5
    merged = output(model)
    add_lora(model, rank=2, targets=targets)
    assert torch.equal(output(model), merged)


@pytest.mark.parametrize("alpha", [1, 4, 12])
def test_alpha_comes_back(alpha, tmp_path):
    models = {name: made() for name, (made, _) in MODELS.items()}
    for name, model in models.items():
        add_lora(model, rank=4, alpha=alpha, targets=MODELS[name][1])
        learn(model)
    wanted = {name: output(model) for name, model in models.items()}
    file = save_lora(tmp_path, **models)
    assert file == tmp_path / FILE_NAME

    fresh = {name: made() for name, (made, _) in MODELS.items()}
    assert load_lora(tmp_path, **fresh) == dict.fromkeys(MODELS, alpha / 4)
    assert all(torch.equal(output(fresh[name]), wanted[name]) for name in MODELS)

    pipe = StableDiffusionXLPipeline(None, text_encoder(), None, None, None, unet(), None, add_watermarker=False)
    pipe.load_lora_weights(str(tmp_path))
    assert torch.equal(output(pipe.unet), wanted["unet"])
    assert torch.equal(output(pipe.text_encoder), wanted["text_encoder"])


def test_the_file(tmp_path):
    """diffusers' key names; the same adapter, the same bytes; no path of the machine it was made on."""
    model = unet()
    add_lora(model, rank=4, alpha=2)
    model.peft_config["default"].base_model_name_or_path = "/home/somebody/models/base"  # as transformers' models have it
    learn(model)
    first, *others = (save_lora(tmp_path / str(number), unet=model) for number in range(8))  # their order changed with every call
    assert {file.read_bytes() for file in others} == {first.read_bytes()}
    with safe_open(first, "pt") as file:
        keys, metadata = sorted(file.keys()), file.metadata()
    assert len(keys) == 2 * 8 * 4
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.up.weight" in keys
    settings = json.loads(metadata["lora_adapter_metadata"])
    assert settings["unet.lora_alpha"] == 2
    assert settings["unet.target_modules"] == sorted(settings["unet.target_modules"])
    assert b"somebody" not in first.read_bytes()


def test_several_adapters_and_a_file_without_settings(tmp_path):
    model = unet()
    add_lora(model, rank=4, alpha=4, name="one")
    learn(model)
    one = output(model)
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(model, adapter_name="one"))
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=state)
    other = unet()
    assert load_lora(tmp_path / FILE_NAME, "again", unet=other) == {"unet": 1.0}
    assert torch.equal(output(other), one)
    add_lora(model, rank=2, name="two", targets=("to_v",))
    remove_lora(model, "two")
    set_lora_scale(model, 1.0, "one")
    assert torch.equal(output(model), one)


def test_gradients_only_in_the_adapter():
    model = unet().train()
    model.enable_gradient_checkpointing()
    add_lora(model, rank=2)
    learn(model)
    model(*inputs()).sample.square().mean().backward()
    found = gradients(model)
    assert found.keys() == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert all(grad.abs().max() > 0 for grad in found.values())


def test_what_is_wrong_is_said(tmp_path):
    model = unet()
    with pytest.raises(LikenessError, match="no module to_x"):
        add_lora(model, rank=2, targets=("to_q", "to_x"))
    with pytest.raises(LikenessError, match=r"no adapter 'default'.*none"):
        set_lora_scale(model, 1.0)
    add_lora(model, rank=2)
    with pytest.raises(LikenessError, match="already has an adapter"):
        add_lora(model, rank=2)
    with pytest.raises(LikenessError, match="adapters of vae"):
        save_lora(tmp_path, vae=model)
    with pytest.raises(LikenessError, match="no adapter at"):
        load_lora(tmp_path, unet=unet())
    save_lora(tmp_path, unet=model)
    with pytest.raises(LikenessError, match="unet already has"):
        load_lora(tmp_path, unet=model)
    with pytest.raises(LikenessError, match="no adapter for text_encoder"):
        load_lora(tmp_path, text_encoder=text_encoder())
