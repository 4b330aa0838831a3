"""A dataset with captions, latents and text embeddings, made from photos and a clip by networks that have learnt nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import tiny_models
import torch

from infra.storage import open_dataset
from pipelines.dataset.build import Report, build, plan_build
from pipelines.dataset.graph import resolve, standard
from pipelines.dataset.request import Request
from preprocessing import catalogue
from preprocessing.codecs import decode
from preprocessing.fields import by_name
from preprocessing.media.mux import write_video
from preprocessing.operator import Sample

FIELDS = [
    "key_frame", "image_64", "caption_given", "caption_blip", "caption_llava", "latent_sd15_64", "text_sdxl", "text_pooled_sdxl",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checksums are cached there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secret-place")
    tiny_models.blip(folder / "blip")
    tiny_models.llava(folder / "llava")
    tiny_models.text_encoders(tiny_models.autoencoder(folder / "sd"), double=True)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, of which two have captions, and a clip with one; four people."""
    folder = tmp_path_factory.mktemp("media")
    pictures = {"astronaut": skimage.data.astronaut()[:200, 80:380], "cat": skimage.data.chelsea(), "cup": skimage.data.coffee()}
    for name, picture in pictures.items():
        (folder / name).mkdir()
        cv2.imwrite(str(folder / name / "photo.png"), picture[..., ::-1])
        if name != "cup":
            (folder / name / "photo.txt").write_text(f"a photo of {name}\n")
    (folder / "sky").mkdir()
    write_video(folder / "sky" / "clip.mp4", np.stack([skimage.data.chelsea()[n : n + 96, :160] for n in range(7)]), Fraction(25))
    (folder / "sky" / "clip.txt").write_text("a clip of a cat")
    return folder


def request(sources: Path, weights: Path, **changed: dict[str, Any]) -> Request:
    operators: dict[str, dict[str, Any]] = {
        "ingest": {"photos": True, "sound": "kept"},
        "blip": {"model": str(weights / "blip"), "size_px": 64, "max_new_tokens": 8},
        "llava": {"model": str(weights / "llava"), "size_px": 64, "max_new_tokens": 8, "prompt": "a photo of {caption}"},
        "latents_sd15": {"model": str(weights / "sd")},
        "text_sdxl": {"model": str(weights / "sd")},
    }
    for name, settings in changed.items():
        operators[name] = {**operators[name], **settings}
    return Request(roots={"media": str(sources)}, fields=FIELDS, operators=operators)


def made(root: Path, wanted: Request) -> Report:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return build(root, wanted, standard(root), runner="serial")
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(sources: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    root = tmp_path_factory.mktemp("built") / "set"
    return root, made(root, request(sources, weights))


def values(root: Path, field: str) -> dict[str, Any]:
    """By the source's path, for the rows that have it."""
    found, kind = open_dataset(root), by_name(field)
    assert kind is not None
    rows = [row for row in found.rows() if found.has(row, field)]
    return {row.source["path"].partition("/")[2]: decode(kind, found.read(row.key, field)) for row in rows}


def test_every_row_has_every_field_or_a_reason(dataset: tuple[Path, Report]):
    root, report = dataset
    assert report.rows == 4
    assert report.sources == {"ingested": 4}
    assert {p["operator"] for p in report.problems} == {"given_caption", "llava"}
    assert {(p["status"], p["reason"]) for p in report.problems} == {("refused", "no caption was given")}
    assert report.starved == {"text_sdxl": 1}
    captions = values(root, "caption_given")
    assert captions == {
        "astronaut/photo.png": "a photo of astronaut", "cat/photo.png": "a photo of cat", "sky/clip.mp4": "a clip of a cat",
    }  # fmt: skip
    assert values(root, "text_sdxl").keys() == values(root, "text_pooled_sdxl").keys() == captions.keys()
    for field in ("key_frame", "image_64", "caption_blip", "latent_sd15_64"):
        assert len(values(root, field)) == 4, field
    assert values(root, "key_frame") == {"astronaut/photo.png": 0, "cat/photo.png": 0, "cup/photo.png": 0, "sky/clip.mp4": 3}
    assert values(root, "image_64")["sky/clip.mp4"].shape == (64, 107, 3)


def test_what_is_stored_is_what_the_operators_give(dataset: tuple[Path, Report], sources: Path, weights: Path):
    root, _ = dataset
    pictures, settings = values(root, "image_64"), request(sources, weights).operators
    for field in ("caption_blip", "latent_sd15_64"):
        operator = catalogue.producer(field, settings)
        operator.setup()
        for path, value in values(root, field).items():
            given = operator(Sample(path, {"image_64": pictures[path]}))[operator.writes[0]]
            assert np.array_equal(given, value)


def test_a_second_build_does_nothing_wherever_the_weights_lie(
    dataset: tuple[Path, Report], sources: Path, weights: Path, tmp_path: Path
):
    root, report = dataset
    again = made(root, request(sources, weights, blip={"batch_size": 4}))
    assert (again.units, again.attempts, again.digest) == (0, 0, report.digest)
    moved = made(root, request(sources, shutil.copytree(weights, tmp_path / "elsewhere")))
    assert (moved.units, moved.attempts, moved.digest) == (0, 0, report.digest)


def test_other_weights_make_their_own_columns_stale(dataset: tuple[Path, Report], sources: Path, weights: Path, tmp_path: Path):
    root, _ = dataset
    other = tiny_models.blip(tmp_path / "blip", seed=1)
    plan = plan_build(root, request(sources, weights, blip={"model": str(other)}), standard(root))
    stale = {step.node.name for unit in plan.units(standard(root)) for step in unit.steps}
    assert stale == {"blip"}
    longer = resolve(standard(root), FIELDS, request(sources, weights, blip={"max_new_tokens": 9}).operators)
    before = resolve(standard(root), FIELDS, request(sources, weights).operators)
    changed = {node.name for node in longer.nodes if node.digest not in {n.digest for n in before.nodes}}
    assert changed == {"blip"}


def test_batches_give_the_same(dataset: tuple[Path, Report], sources: Path, weights: Path, tmp_path: Path):
    """To the byte for captions; what was rounded differently in float32 may be one float16 apart."""
    batches = {name: {"batch_size": 3} for name in ("blip", "llava", "latents_sd15", "text_sdxl")}
    report = made(tmp_path / "set", request(sources, weights, **batches))
    assert report.starved == {"text_sdxl": 1}
    for field in FIELDS:
        for path, value in values(dataset[0], field).items():
            other = values(tmp_path / "set", field)[path]
            if field.startswith(("latent", "text")):
                assert np.abs(value.astype(float) - other).max() <= 1e-5 + 2**-10 * np.abs(value).max()
            else:
                assert np.array_equal(value, other)


def test_the_dataset_tells_no_machine_path(dataset: tuple[Path, Report]):
    root, report = dataset
    manifest = (root / "manifests" / f"{report.digest}.json").read_bytes()
    assert b"secret-place" not in manifest
    assert b'"model:local":' in manifest
    assert b'"model:local:text_encoder_2":' in manifest
    for file in root.glob("columns/**/*"):
        assert not file.is_file() or b"secret-place" not in file.read_bytes()
