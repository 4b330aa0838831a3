"""Latents: what the autoencoders give for the whole picture, before any scaling."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_models
import torch
from astronaut_clips import portrait
from safetensors.torch import load_file

from infra import assets
from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.codecs import decode, encode
from preprocessing.fields import image, latent
from preprocessing.operator import BatchOperator, Sample
from preprocessing.operators.latents import cropped

SHAPES = ((48, 64), (64, 48), (48, 64), (50, 71), (48, 64))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoders")
    tiny_models.autoencoder(folder / "sd")
    tiny_models.autoencoder(folder / "mended", force_upcast=False)
    return folder


def rows() -> list[Sample]:
    pictures = [cv2.resize(portrait(40 * n - 80), shape[::-1], interpolation=cv2.INTER_AREA) for n, shape in enumerate(SHAPES)]
    return [Sample(f"row{n}", {image(48).name: picture}) for n, picture in enumerate(pictures)]


def ready(weights: Path, encoder: str = "sd15", **settings: Any) -> BatchOperator:
    operator = catalogue.producer(f"latent_{encoder}_48", {f"latents_{encoder}": {"model": str(weights / "sd"), **settings}})
    operator.setup()
    assert isinstance(operator, BatchOperator)
    return operator


def latents(operator: BatchOperator, samples: list[Sample]) -> list[np.ndarray]:
    return [row[operator.writes[0]] for row in operator.call_many(samples)]


@pytest.mark.parametrize("encoder", ["sd15", "sd21", "sdxl"])
def test_mean_and_log_variance_are_stored_before_scaling(weights: Path, encoder: str):
    from diffusers import AutoencoderKL

    network = AutoencoderKL.from_pretrained(weights / "sd" / "vae").eval()
    found = latents(ready(weights, encoder), rows())
    for row, value in zip(rows(), found, strict=True):
        picture = row[image(48)]
        height, width = (side // 8 for side in picture.shape[:2])
        assert value.shape == (8, height, width)
        shown = torch.from_numpy(cropped(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        assert -1 <= shown.min() < -0.5 < 0.5 < shown.max() <= 1
        with torch.no_grad():
            given = network.encode(shown).latent_dist
        assert np.abs(value[:4] - given.mean[0].numpy()).max() < 1e-3
        assert np.abs(value[4:] - given.logvar[0].numpy()).max() < 1e-3 * max(1, np.abs(value[4:]).max())
        field = latent(encoder, 48)  # type: ignore[arg-type]
        assert np.array_equal(decode(field, encode(field, value)), value)


def test_the_rows_beside_make_no_difference(weights: Path):
    alone, together = ready(weights), ready(weights, batch_size=3)
    one_by_one = [alone(row)[alone.writes[0]] for row in rows()]
    for left, right in zip(one_by_one, latents(together, rows()), strict=True):
        assert np.abs(left.astype(float) - right).max() <= 1e-5 + 2**-10 * np.abs(left).max()  # float16 rounds to 2^-11
    if not torch.cuda.is_available():
        assert [v.tobytes() for v in latents(alone, rows()[::-1])] == [v.tobytes() for v in one_by_one[::-1]]


def test_float32_where_float16_overflows(weights: Path):
    def dtype(encoder: str, model: str) -> torch.dtype:
        operator: Any = ready(weights, encoder, model=str(weights / model), dtype="bfloat16")
        assert np.isfinite(latents(operator, rows()[:1])[0]).all()
        return operator._network.dtype

    assert dtype("sd15", "sd") == torch.bfloat16
    assert dtype("sdxl", "sd") == torch.float32
    assert dtype("sdxl", "mended") == torch.bfloat16


def test_the_model_may_be_the_autoencoder_itself(weights: Path):
    itself = ready(weights, model=str(weights / "sd" / "vae"), subfolder="")
    assert itself.assets == (f"model:{weights / 'sd' / 'vae'}",)
    assert np.array_equal(latents(itself, rows())[0], latents(ready(weights), rows())[0])


def test_weights_in_the_layout_of_older_publications(weights: Path, tmp_path: Path):
    """Stable Diffusion 1.5's attention layers have names from before diffusers 0.15."""
    folder = shutil.copytree(weights / "sd", tmp_path / "sd")
    tensors = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, old in names.items():
        assert any(new in name for name in tensors)
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    torch.save(tensors, folder / "vae" / "diffusion_pytorch_model.bin")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert np.array_equal(latents(ready(tmp_path), rows())[0], latents(ready(weights), rows())[0])
    gone = {name: value for name, value in tensors.items() if name != "encoder.conv_in.weight"}
    torch.save(gone, folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(LikenessError, match=r"lacks 1 weights of AutoencoderKL, encoder\.conv_in\.weight"):
        ready(tmp_path)


def test_the_published_models_are_the_default():
    assert catalogue.producer("latent_sd15_512").assets == ("model:stable-diffusion-v1-5/stable-diffusion-v1-5:vae",)
    assert catalogue.producer("latent_sdxl_1024").assets == ("model:stabilityai/stable-diffusion-xl-base-1.0:vae",)
    assert catalogue.producer("latent_sd21_768").reads == (image(768),)
    with pytest.raises(LikenessError, match="dtype"):
        catalogue.producer("latent_sd15_512", {"latents_sd15": {"dtype": "auto"}})
    with pytest.raises(LikenessError, match="ask for another field instead"):
        catalogue.producer("latent_sd15_512", {"latents_sd15": {"size": 256}})


def test_operators_travel(weights: Path):
    given = {"latents_sd15": {"model": str(weights / "sd")}}
    operator = pickle.loads(pickle.dumps(catalogue.producer("latent_sd15_48", given)))
    operator.setup()
    assert np.array_equal(latents(operator, rows())[0], latents(ready(weights), rows())[0])


def test_cuts_are_in_the_middle():
    picture = np.arange(35 * 50).reshape(35, 50, 1).repeat(3, 2)
    assert cropped(picture).shape == (32, 48, 3)
    assert np.array_equal(cropped(picture), picture[1:33, 1:49])
    assert cropped(picture[:32, :48]).shape == (32, 48, 3)


# The tiny autoencoder.


def tiny_encoder(path: Path) -> tuple[Path, np.ndarray]:
    """The published one's inputs and outputs around a single layer, whose weights (32, 3, 8, 8) are given back."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32) / 8
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel"], ["latent"], strides=[8, 8])], "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["N", 32, "h", "w"])],
        [numpy_helper.from_array(kernel, "kernel")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, kernel


def test_the_tiny_encoder_is_shown_rgb_from_0_to_1(tmp_path: Path):
    path, kernel = tiny_encoder(tmp_path / "tiny.onnx")
    operator = catalogue.producer("latent_taef2_48")
    operator.asset_paths["taef2_encoder"] = path
    operator.setup()
    for row in rows():
        value = operator(row)[latent("taef2", 48)]
        picture = cropped(row[image(48)]) / 255
        blocks = picture.reshape(picture.shape[0] // 8, 8, picture.shape[1] // 8, 8, 3)
        want = np.einsum("aibjc,dcij->dab", blocks, kernel)
        assert value.dtype == np.float16
        assert np.abs(value - want).max() < 2e-3 * np.abs(want).max()


def test_without_the_asset_the_error_says_what_to_place_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    with pytest.raises(LikenessError, match=r"asset taef2_encoder is not here.*place taef2_encoder\.onnx from .*taesd"):
        catalogue.producer("latent_taef2_48").setup()


def _here(*names: str) -> bool:
    return all(assets.locate(assets.get(name)) for name in names)


def there_and_back(picture: np.ndarray, size: int) -> float:
    """PSNR in dB of a picture that went through the published pair."""
    import onnxruntime

    operator = catalogue.producer(f"latent_taef2_{size}")
    operator.setup()
    value = operator(Sample("row", {image(size).name: picture}))[latent("taef2", size)]
    decoder = onnxruntime.InferenceSession(str(assets.find("taef2_decoder")), providers=["CPUExecutionProvider"])
    (back,) = decoder.run(["image"], {"latent": value[None].astype(np.float32)})
    error = cropped(picture) / 255 - back[0].clip(0, 1).transpose(1, 2, 0)
    return float(-10 * np.log10((error**2).mean()))


@pytest.mark.skipif(not _here("taef2_encoder", "taef2_decoder"), reason="LIKENESS_ASSETS holds no taef2")
def test_the_published_pair_gives_the_picture_back():
    assert there_and_back(cv2.resize(portrait(), (256, 256), interpolation=cv2.INTER_AREA), 256) > 25


@pytest.mark.long
@pytest.mark.skipif(
    not _here("taef2_encoder", "taef2_decoder") or "LIKENESS_CORPUS" not in os.environ, reason="needs LIKENESS_CORPUS and taef2"
)
def test_the_published_pair_gives_real_photos_back():
    from preprocessing.operators.pictures import shrunk

    photos = sorted(Path(os.environ["LIKENESS_CORPUS"], "faces").glob("*.jpg"))[::10][:6]
    found = [there_and_back(shrunk(cv2.imread(str(photo))[..., ::-1], 256), 256) for photo in photos]
    assert min(found) > 23
    assert np.mean(found) > 26
