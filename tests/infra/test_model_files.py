"""Models by reference: found offline, and the same wherever they lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from infra.errors import LikenessError
from infra.model_files import counted_files, find_model, locate_model, public_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "home"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache with one snapshot of owner/model: branch main, tag v1."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--owner--model"
    make_model(folder / "blobs-of-main")
    (folder / "snapshots").mkdir()
    os.symlink(folder / "blobs-of-main", folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    for name in ("main", "v1"):
        (folder / "refs" / name).write_text(COMMIT)
    return folder / "snapshots" / COMMIT


def make_model(folder: Path) -> Path:
    for name, text in {
        "config.json": "{}", "model.safetensors": "weights", "README.md": "for people", "vae/config.json": "[]",
        "vae/diffusion_pytorch_model.safetensors": "more weights",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def digest(ref: str | Path) -> str:
    return find_model(str(ref))[1]


def test_the_same_files_elsewhere_have_the_same_digest(tmp_path: Path, hub: Path):
    here = make_model(tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "there")
    assert digest(here) == digest(there) == digest("owner/model") == digest("owner/model@v1") == digest(f"owner/model@{COMMIT}")
    assert digest(f"{here}:vae") == digest(there / "vae") == digest("owner/model:vae") != digest(here)
    assert find_model("owner/model")[0] == hub
    assert find_model("owner/model@v1:vae")[0] == hub / "vae"


def test_what_nobody_loads_does_not_count(tmp_path: Path):
    folder = make_model(tmp_path / "model")
    before = digest(folder)
    for name in (
        "README.md", "tf_model.h5", "pytorch_model.bin", "pytorch_model.bin.index.json", "model.fp16.safetensors",
        "model.fp16-00001-of-00002.safetensors", "vae/diffusion_pytorch_model.bin", ".cache/huggingface/x.json", "picture.png",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("other")
        assert digest(folder) == before, name
    for name in ("config.json", "model.safetensors", "vae/config.json", "tokenizer.model", "unet/pytorch_model.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"other {name}")
        after = digest(folder)
        assert after != before, name
        before = after


def test_names_count(tmp_path: Path):
    folder = make_model(tmp_path / "model")
    before = digest(folder)
    (folder / "config.json").rename(folder / "settings.json")
    assert digest(folder) != before


def test_a_single_file(tmp_path: Path):
    (tmp_path / "net.onnx").write_bytes(b"abc")
    path, found = find_model(str(tmp_path / "net.onnx"))
    assert path == tmp_path / "net.onnx"
    assert found == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_relative_and_home_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_model(tmp_path / "home" / "model")
    monkeypatch.chdir(tmp_path / "home")
    assert locate_model("~/model") == locate_model("model") == tmp_path / "home" / "model"
    assert locate_model("model:vae") == tmp_path / "home" / "model" / "vae"
    assert public_name("model:vae") == public_name("~/model:vae") == "local:vae"


def test_a_path_may_hold_colons_and_at_signs(tmp_path: Path):
    folder = make_model(tmp_path / "a:b@c")
    assert locate_model(str(folder)) == folder
    assert locate_model(f"{folder}:vae") == folder / "vae"
    assert public_name(str(folder)) == "local"


def test_public_names_tell_no_path(tmp_path: Path):
    folder = make_model(tmp_path / "model")
    assert public_name(str(folder)) == "local"
    assert public_name(f"{folder}:vae") == "local:vae"
    assert public_name("owner/model@v1:vae") == "owner/model@v1:vae"


def test_absent_models_say_what_to_do(tmp_path: Path, hub: Path):
    with pytest.raises(LikenessError, match=r"owner/other is not in the local .*run: hf download owner/other; or set model"):
        find_model("owner/other")
    with pytest.raises(LikenessError, match=r"hf download owner/model --revision v2 --include 'vae/\*'"):
        find_model("owner/model@v2:vae")
    with pytest.raises(LikenessError, match=r"owner/model has no unet; run: hf download owner/model --include 'unet/\*'"):
        find_model("owner/model:unet")
    with pytest.raises(LikenessError, match="no model at '/no/such/folder'; allowed: a local folder"):
        find_model("/no/such/folder")
    with pytest.raises(LikenessError, match="no model at ''"):
        find_model("")
    with pytest.raises(LikenessError, match="has no unet"):
        find_model(f"{make_model(tmp_path / 'model')}:unet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LikenessError, match="holds no model files"):
        find_model(str(tmp_path / "empty"))
    assert counted_files(tmp_path / "empty") == []
