"""Text embeddings: hidden states as the pipelines of diffusers hand them to cross-attention."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.codecs import decode, encode
from preprocessing.fields import CAPTION_BLIP, CAPTION_GIVEN, TEXT_POOLED_SDXL, text_embedding
from preprocessing.operator import BatchOperator, Sample

CAPTIONS = ("a cat", "A photo of a Man, who speaks & smiles", "", "x" * 400, "a  cat")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text_encoders")
    for encoder in ("sd15", "sd21", "sdxl"):
        tiny_models.text_encoders(folder / encoder, double=encoder == "sdxl")
    return folder


def ready(weights: Path, encoder: str, **settings: Any) -> BatchOperator:
    operator = catalogue.producer(f"text_{encoder}", {f"text_{encoder}": {"model": str(weights / encoder), **settings}})
    operator.setup()
    assert isinstance(operator, BatchOperator)
    return operator


def rows(field=CAPTION_GIVEN) -> list[Sample]:
    return [Sample(f"row{n}", {field.name: caption}) for n, caption in enumerate(CAPTIONS)]


def encoded(folder: Path, tail: str, caption: str) -> Any:
    """By hand: pad or cut to 77 tokens, no mask."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{tail}")
    tokens = tokenizer(caption, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    kind = CLIPTextModelWithProjection if tail else CLIPTextModel
    with torch.no_grad():
        return kind.from_pretrained(folder / f"text_encoder{tail}").eval()(tokens, output_hidden_states=True)


@pytest.mark.parametrize("encoder", ["sd15", "sd21"])
def test_one_encoder_gives_its_last_hidden_states(weights: Path, encoder: str):
    operator = ready(weights, encoder)
    field = text_embedding(encoder)
    for caption, row in zip(CAPTIONS, operator.call_many(rows()), strict=True):
        want = encoded(weights / encoder, "", caption).last_hidden_state[0].numpy()
        assert row[field].shape == (77, 16)
        assert np.abs(row[field] - want).max() < 5e-3
        assert np.array_equal(decode(field, encode(field, row[field])), row[field])


def test_two_encoders_give_the_states_before_their_last_layers_and_a_pooled_one(weights: Path):
    operator = ready(weights, "sdxl")
    assert operator.writes == (text_embedding("sdxl"), TEXT_POOLED_SDXL)
    assert catalogue.producer("text_pooled_sdxl").name == operator.name
    for caption, row in zip(CAPTIONS, operator.call_many(rows()), strict=True):
        first, second = (encoded(weights / "sdxl", tail, caption) for tail in ("", "_2"))
        want = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], 2)[0].numpy()
        assert row[text_embedding("sdxl")].shape == (77, 16 + 24)
        assert np.abs(row[text_embedding("sdxl")] - want).max() < 5e-3
        assert row[TEXT_POOLED_SDXL].shape == (20,)
        assert np.abs(row[TEXT_POOLED_SDXL] - second.text_embeds[0].numpy()).max() < 5e-3
        for field in operator.writes:
            encode(field, row[field])


@pytest.mark.parametrize("encoder", ["sd15", "sdxl"])
def test_the_rows_beside_make_no_difference(weights: Path, encoder: str):
    alone, together = ready(weights, encoder), ready(weights, encoder, batch_size=3)
    found = together.call_many(rows())
    for row, beside in zip(rows(), found, strict=True):
        for field, value in alone(row).items():
            assert np.abs(value.astype(float) - beside[field]).max() <= 1e-5 + 2**-10 * np.abs(value).max()
    words = alone.writes[0]
    assert np.array_equal(found[0][words], found[4][words]), "white space"
    assert not np.array_equal(found[0][words], found[1][words])


def test_any_field_of_text_may_be_embedded(weights: Path):
    operator = ready(weights, "sd15", caption="caption_blip")
    assert operator.reads == (CAPTION_BLIP,)
    given = ready(weights, "sd15").call_many(rows())
    for left, right in zip(operator.call_many(rows(CAPTION_BLIP)), given, strict=True):
        assert np.array_equal(left[operator.writes[0]], right[operator.writes[0]])
    for wrong in ("audio", "nothing"):
        with pytest.raises(LikenessError, match="a field of text, such as caption_given"):
            catalogue.producer("text_sd15", {"text_sd15": {"caption": wrong}})


def test_only_what_is_used_is_an_asset():
    root = "model:stabilityai/stable-diffusion-xl-base-1.0:"
    parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    assert catalogue.producer("text_sdxl").assets == tuple(root + part for part in parts)
    assert catalogue.producer("text_sd15", {"text_sd15": {"model": "/x", "revision": "v1"}}).assets == (
        "model:/x@v1:tokenizer", "model:/x@v1:text_encoder",
    )  # fmt: skip


def test_a_model_with_one_encoder_is_no_sdxl(weights: Path):
    with pytest.raises(LikenessError, match="has no tokenizer_2"):
        ready(weights, "sdxl", model=str(weights / "sd15"))
    broken = catalogue.producer("text_sdxl", {"text_sdxl": {"model": str(weights / "sdxl")}})
    broken.asset_paths[broken.assets[3]] = weights / "sd15" / "text_encoder"
    with pytest.raises(LikenessError, match=r"lacks .* weights of CLIPTextModelWithProjection"):
        broken.setup()


def test_weights_in_the_layout_of_older_publications(weights: Path, tmp_path: Path):
    """Names of transformers 4 in a pickled state dict, with positions that nobody needs any more."""
    folder = shutil.copytree(weights / "sd15", tmp_path / "sd15")
    tensors = load_file(folder / "text_encoder" / "model.safetensors")
    older = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()}
    older["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(older, folder / "text_encoder" / "pytorch_model.bin")
    (folder / "text_encoder" / "model.safetensors").unlink()
    field = text_embedding("sd15")
    for left, right in zip(ready(tmp_path, "sd15").call_many(rows()), ready(weights, "sd15").call_many(rows()), strict=True):
        assert np.array_equal(left[field], right[field])


def test_one_published_model_is_not_taken_for_another(tmp_path: Path):
    tiny_models.text_encoders(tmp_path / "sd15", double=False, hidden_size=768, num_hidden_layers=1)
    ready(tmp_path, "sd15")
    with pytest.raises(LikenessError, match=r"gives 768 dims, as sd15 does; allowed: 1024 for sd21; ask for text_sd15"):
        ready(tmp_path, "sd21", model=str(tmp_path / "sd15"))


def vocabulary() -> Path | None:
    """CLIP's published merges, from a folder of $LIKENESS_ASSETS."""
    places = [Path(part) / "bpe_simple_vocab_16e6.txt.gz" for part in os.environ.get("LIKENESS_ASSETS", "").split(os.pathsep)]
    return next((place for place in places if place.is_file()), None)


@pytest.mark.skipif(vocabulary() is None, reason="LIKENESS_ASSETS holds no bpe_simple_vocab_16e6.txt.gz")
def test_the_installed_tokenizer_reads_files_of_published_models(tmp_path: Path):
    """In their layout (vocab.json, merges.txt), a sentence has the tokens that OpenAI's code gives it."""
    from transformers import CLIPTokenizer

    place = vocabulary()
    assert place is not None
    merges = gzip.decompress(place.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(c) for c in visible] + [chr(256 + n) for n in range(256 - len(visible))]
    words = [*letters, *(c + "</w>" for c in letters), *("".join(m.split()) for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(tokenizer("a cat", padding="max_length", max_length=tokenizer.model_max_length).input_ids) == 77
