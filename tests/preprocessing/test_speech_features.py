"""Features of wav2vec 2.0: what goes in and what comes out, against transformers' own feature extractor and bare convolutions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.audio_features import speech_feature_count
from preprocessing.codecs import decode, encode
from preprocessing.fields import AUDIO, AUDIO_SILENT, W2V512, W2V1024, Field
from preprocessing.operator import BatchOperator, Refused, Sample

FIELDS = (W2V1024, W2V512)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.wav2vec2(tmp_path_factory.mktemp("wav2vec2") / "model")


def ready(model: Path, field: Field, **settings: Any) -> BatchOperator:
    operator = catalogue.producer(field.name, {field.name: {"model": str(model), **settings}})
    operator.setup()
    assert isinstance(operator, BatchOperator)
    return operator


def sound(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.standard_normal(samples) * 2000 * np.sin(np.arange(samples) / 900) + 150).astype(np.int16)


def row(audio: np.ndarray) -> Sample:
    return Sample("clip", {AUDIO.name: audio})


@pytest.mark.parametrize("samples", [400, 6400, 16_000])
def test_states_are_those_of_a_normalised_waveform(weights: Path, samples: int):
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    audio = sound(samples)
    wave = audio.astype(np.float64) / 32768
    given = Wav2Vec2FeatureExtractor(do_normalize=True)(wave, sampling_rate=16_000, return_tensors="pt").input_values.float()
    with torch.no_grad():
        want = Wav2Vec2Model.from_pretrained(weights).eval()(given).last_hidden_state[0].numpy()
    found = ready(weights, W2V1024)(row(audio))[W2V1024]
    assert found.shape == (speech_feature_count(samples), 1024)
    assert found.dtype == np.float16
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(found, want, atol=2e-3 * np.abs(want).max())
    assert np.array_equal(decode(W2V1024, encode(W2V1024, found)), found)


@pytest.mark.parametrize("peak", [0.35, 0.3])
def test_convolutions_are_bare(weights: Path, peak: float):
    """By hand from the weights: convolution, layer norm over channels, GELU, seven times; nothing after that."""
    audio = sound(16_000)
    wave = audio.astype(np.float64)
    steps = torch.from_numpy((wave / np.abs(wave).max() * peak).astype(np.float32))[None, None]
    state = load_file(weights / "model.safetensors")
    for layer, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
        name = f"wav2vec2.feature_extractor.conv_layers.{layer}"
        steps = F.conv1d(steps, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], stride)
        norm = state[f"{name}.layer_norm.weight"], state[f"{name}.layer_norm.bias"]
        steps = F.gelu(F.layer_norm(steps.transpose(1, 2), (steps.shape[1],), *norm).transpose(1, 2))
    want = steps[0].T.numpy()
    found = ready(weights, W2V512, peak=peak)(row(audio))[W2V512]
    assert found.shape == (49, 512)
    np.testing.assert_allclose(found, want, atol=2e-3 * np.abs(want).max())
    assert np.array_equal(decode(W2V512, encode(W2V512, found)), found)


@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_loudness_does_not_matter(weights: Path, field: Field):
    operator = ready(weights, field)
    loud, soft = (operator(row((sound(6400) // 4 * gain).astype(np.int16)))[field].astype(np.float32) for gain in (4, 1))
    assert np.abs(loud - soft).max() < 2e-2 * np.abs(loud).max()


def test_silence_is_heard_as_silence(weights: Path):
    for field in FIELDS:
        operator = ready(weights, field, sound="audio_silent")
        assert operator.reads == (AUDIO_SILENT,)
        found = operator(Sample("clip", {AUDIO_SILENT.name: np.zeros(16_000, np.int16)}))[field].astype(np.float32)
        assert np.isfinite(found).all()
        assert found.any()  # not the zero vectors that stand for no sound at all
    assert np.abs(found - found[0]).max() == 0  # every step of convolutions alone hears the same


def test_rows_together_are_rows_alone(weights: Path):
    rows = [row(sound(n, seed)) for seed, n in enumerate((6400, 3200, 6400, 400))]
    for field in FIELDS:
        alone = [ready(weights, field)(sample)[field] for sample in rows]
        for one, two in zip(alone, ready(weights, field, batch_size=2).call_many(rows), strict=True):
            np.testing.assert_allclose(one, two[field], atol=2e-3 * np.abs(one).max())
        for one, two in zip(alone, ready(weights, field).call_many(rows), strict=True):
            assert np.array_equal(one, two[field])


def test_names_of_the_published_files(weights: Path, tmp_path: Path):
    """The published weights were saved with torch's former names of weight norm; a misread one would be made up anew."""
    old = tmp_path / "old"
    shutil.copytree(weights, old)
    state = load_file(weights / "model.safetensors")
    plain = "wav2vec2.encoder.pos_conv_embed.conv"
    for now, then in (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")):
        value = state.pop(f"{plain}.{now}", None)
        state[f"{plain}.{then}"] = state.pop(f"{plain}.{then}") if value is None else value
    save_file(state, old / "model.safetensors", {"format": "pt"})
    audio = row(sound(6400))
    assert np.array_equal(ready(old, W2V1024)(audio)[W2V1024], ready(weights, W2V1024)(audio)[W2V1024])


def test_where_weights_lie_is_no_part_of_the_settings():
    for field in FIELDS:
        operator = catalogue.producer(field.name, {field.name: {"model": "/some/folder", "sound": "audio_realigned"}})
        assert not {"model", "sound", "batch_size"} & operator.params.model_dump().keys()
        assert operator.assets == ("model:/some/folder",)
    assert catalogue.producer("w2v512").params.model_dump()["peak"] == 0.35
    assert catalogue.producer("w2v1024").assets == ("model:jonatasgrosman/wav2vec2-large-xlsr-53-english",)


def test_what_can_not_be_used(weights: Path, tmp_path: Path):
    with pytest.raises(Refused, match="too-short: 399 samples"):
        ready(weights, W2V512)(row(sound(399)))
    narrow = tiny_models.wav2vec2(tmp_path / "narrow", hidden_size=64, conv_dim=(8,) * 7)
    with pytest.raises(LikenessError, match=r"gives 64 dims \(allowed: 1024 for w2v1024|gives 64 dims.*1024 for w2v1024"):
        ready(narrow, W2V1024)
    with pytest.raises(LikenessError, match="gives 8 dims.*512 for w2v512"):
        ready(narrow, W2V512)
    strides = tiny_models.wav2vec2(tmp_path / "strides", hidden_size=64, conv_stride=(5, 2, 2, 2, 2, 2, 1))
    with pytest.raises(LikenessError, match=r"convolutions of .*\[5, 2, 2, 2, 2, 2, 1\]"):
        ready(strides, W2V512)
    with pytest.raises(LikenessError, match="unknown setting 'peek'"):
        ready(weights, W2V512, peek=1)
    with pytest.raises(LikenessError, match="sound"):
        ready(weights, W2V512, sound="mel80")
    broken = tmp_path / "broken"
    shutil.copytree(weights, broken)
    state = load_file(weights / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "conv_layers.3" not in k}, broken / "model.safetensors", {"format": "pt"}
    )  # fmt: skip
    with pytest.raises(LikenessError, match="lacks 4 weights of Wav2Vec2Model"):
        ready(broken, W2V512)
