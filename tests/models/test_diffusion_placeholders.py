"""Placeholders: trainable words that touch no other word and no published row."""

import gzip
import os
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from infra.errors import LikenessError
from models.diffusion.backbone import FAMILIES, open_backbone
from models.diffusion.conditioning import encode_pairs
from models.diffusion.placeholders import Placeholders
from models.diffusion.tiny import clip_tokenizer, tiny_backbone


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {family: tiny_backbone(family, root / family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_placeholders_teach_their_vectors_and_nothing_else(family, folders):
    backbone = open_backbone(folders[family])
    before = [{k: v.clone() for k, v in e.state_dict().items()} for e in backbone.text_encoders]
    words = Placeholders(backbone, {"<face>": 2, "<style>": 1}, start="face")
    optimiser = torch.optim.AdamW(words.parameters(), lr=0.1, weight_decay=0.1)
    started = {name: rows.detach().clone() for name, rows in words.vectors.items()}
    with words.inserted(backbone):
        positive, _ = encode_pairs(backbone, ["a photo of <face>", "a man"])
        (positive.context**2).mean().backward()
    optimiser.step()
    for name, rows in words.vectors.items():
        moved = (rows - started[name]).abs().amax(1)
        assert (rows.grad[:2].abs().amax(1) > 0).all()
        assert (moved[:2] > 0.05).all()
        assert rows.grad[2].abs().max() == 0  # "<style>" was in no prompt
    for encoder, state in zip(backbone.text_encoders, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())
        assert encoder._forward_pre_hooks == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_placeholder_with_the_vector_of_a_word_is_that_word(family, folders):
    """Also what is read at the end of the text: a number above the end token's must not be taken for it."""
    backbone = open_backbone(folders[family])
    plain, _ = encode_pairs(backbone, ["a photo of face smiling"])
    words = Placeholders(backbone, {"<v>": 1}, start="face")
    with words.inserted(backbone):
        ours, _ = encode_pairs(backbone, ["a photo of <v> smiling"])
        same, _ = encode_pairs(backbone, ["a photo of face smiling"])
    assert torch.equal(ours.context, plain.context)
    assert torch.equal(same.context, plain.context)
    if family == "sdxl":
        assert torch.equal(ours.pooled, plain.pooled)


def test_the_end_is_found_where_it_is_the_highest_number(folders):
    """Where the settings say eos_token_id 2, as of old, transformers takes the highest number of a text as its end."""
    backbone = open_backbone(folders["sdxl"])
    encoder = backbone.text_encoder_2
    ends = [module for module in encoder.modules() if getattr(module, "eos_token_id", None) == backbone.tokenizer.eos_token_id]
    assert ends
    for module in ends:
        module.eos_token_id = 2
    plain, _ = encode_pairs(backbone, ["a photo of face smiling"])
    words = Placeholders(backbone, {"<v>": 1}, start="face")
    with words.inserted(backbone):
        ours, _ = encode_pairs(backbone, ["a photo of <v> smiling"])
    assert torch.equal(ours.pooled, plain.pooled)


def test_vectors_of_its_own_for_each_prompt(folders):
    backbone = open_backbone(folders["sd15"])
    words = Placeholders(backbone, {"<v>": 2})
    own = torch.randn(2, 2, 48, requires_grad=True)
    with words.inserted(backbone, {"text_encoder": own}):
        both, _ = encode_pairs(backbone, ["<v> in the city", "<v> in the city"])
        with pytest.raises(LikenessError, match="vectors for 2 prompts"):
            encode_pairs(backbone, ["<v>"] * 3)
    for row in range(2):
        with words.inserted(backbone, {"text_encoder": own[row]}):
            alone, _ = encode_pairs(backbone, ["<v> in the city"])
        torch.testing.assert_close(alone.context[0], both.context[row], rtol=1e-5, atol=1e-5)
    assert (both.context[0] - both.context[1]).abs().max() > 0.1
    both.context[1].sum().backward()
    assert own.grad[0].abs().max() == 0
    assert own.grad[1].abs().amax(-1).min() > 0


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_published_files_load_in_diffusers(family, folders, tmp_path):
    backbone = open_backbone(folders[family])
    words = Placeholders(backbone, {"<face>": 3})
    with words.inserted(backbone):
        ours, _ = encode_pairs(backbone, ["a photo of <face> with a hat"])
    pipeline = DiffusionPipeline.from_pretrained(folders[family], local_files_only=True)
    for name, tensors in words.published().items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        tail = name.removeprefix("text_encoder")
        pipeline.load_textual_inversion(
            load_file(tmp_path / f"{name}.safetensors"), token="<face>",
            text_encoder=getattr(pipeline, name), tokenizer=getattr(pipeline, f"tokenizer{tail}"),
        )  # fmt: skip
    theirs = pipeline.encode_prompt("a photo of <face> with a hat", "cpu", 1, False) if family == "sd15" else (
        pipeline.encode_prompt("a photo of <face> with a hat")
    )  # fmt: skip
    torch.testing.assert_close(ours.context, theirs[0], rtol=1e-5, atol=1e-5)
    if family == "sdxl":
        torch.testing.assert_close(ours.pooled, theirs[2], rtol=1e-5, atol=1e-5)


def test_placeholders_that_are_refused(folders):
    backbone = open_backbone(folders["sd15"])
    for word in ("face", "face</w>", "<|endoftext|>"):
        with pytest.raises(LikenessError, match="is a word"):
            Placeholders(backbone, {word: 1})
    with pytest.raises(LikenessError, match="0 vectors"):
        Placeholders(backbone, {"<x>": 0})
    first = Placeholders(backbone, {"<x>": 1})
    assert Placeholders(backbone, {"<x>": 1}).ids == first.ids  # of one backbone, by name


def _published_merges() -> list[tuple[str, str]] | None:
    """OpenAI's file of merges, where the folder of assets has it."""
    file = Path(os.environ.get("LIKENESS_ASSETS", "")) / "bpe_simple_vocab_16e6.txt.gz"
    if not file.is_file():
        return None
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    return [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]


@pytest.mark.skipif(_published_merges() is None, reason="LIKENESS_ASSETS has no bpe_simple_vocab_16e6.txt.gz")
def test_placeholders_with_the_published_vocabulary(folders):
    tokenizer = clip_tokenizer(_published_merges())
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    backbone = open_backbone(folders["sd15"])
    backbone.__dict__["tokenizer"] = tokenizer
    backbone.text_encoder.resize_token_embeddings(49408, mean_resizing=False)
    before = tokenizer(["a face, smiling", "sks <", "v_1"]).input_ids
    words = Placeholders(backbone, {"<v>": 2, "<my-face>": 1}, start="person")
    assert words.ids["text_encoder"] == [49408, 49409, 49410]
    assert tokenizer("photo of <v>, <my-face>").input_ids == [49406, 1125, 539, 49408, 267, 49410, 49407]
    assert tokenizer(["a face, smiling", "sks <", "v_1"]).input_ids == before
    with words.inserted(backbone):
        assert encode_pairs(backbone, ["photo of <v>"])[0].context.isfinite().all()
    with pytest.raises(LikenessError, match="is a word"):
        Placeholders(backbone, {"sks": 1})
