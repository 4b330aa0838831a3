"""InstantID from photos to pictures: trained as a user types it, resumed, on two ranks, exported, used from the exported files."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from typed import likeness

from infra.storage import open_dataset
from models.registry import method_named
from pipelines.train.plan import make_plan, resolve_settings
from training import distributed
from training.loader import Loader
from training.loop import Observer, train

TINY = ("--preset", "tiny")


@pytest.fixture(scope="module")
def trained(portraits, tmp_path_factory) -> tuple[Path, dict]:
    workspace = tmp_path_factory.mktemp("instantid")
    done = likeness("train", "instantid", "--data", portraits, *TINY, "--json", workspace=workspace)
    return workspace, json.loads(done.stdout)[0]


class Rows(Observer):
    """Everything that was logged, by step."""

    def __init__(self) -> None:
        self.logged_at: dict[int, float] = {}
        self.metrics: dict[int, dict[str, float]] = {}

    def logged(self, step: int, values: Any) -> None:
        self.logged_at[step] = values["model/loss"]

    def validated(self, step: int, evaluation: Any) -> None:
        self.metrics[step] = evaluation.metrics


def run(portraits: Path, folder: Path, *words: str, stop: Any = lambda: False) -> tuple[Rows, dict[str, torch.Tensor]]:
    """Trains in this process, on the rank that it is; what was logged, and the adapter's weights."""
    method = method_named("instantid")
    kind = method.stage("identity")
    settings: Any = resolve_settings(method, kind, "tiny", [*words, "samples=0"])
    stage, rows = kind(settings), Rows()
    loader = Loader(stage, {"people": open_dataset(portraits)}, settings.loop)
    _, loop = train(stage, {}, loader, settings.loop, folder, rows, stop)
    return rows, {name: value.detach().clone() for name, value in loop.stage.adapter.state_dict().items()}  # type: ignore[attr-defined]


def test_it_is_registered_with_its_base_and_a_sheet_to_look_at(trained, portraits):
    workspace, result = trained
    assert result["version"] == "models:/instantid-identity/1"
    assert {"loss", "loss_base", "mirrored_margin", "swapped_margin"} <= result["metrics"].keys()
    (run_folder,) = workspace.glob("runs/instantid-identity-*")
    facts = json.loads((run_folder / "artefact" / "artefact.json").read_text())
    assert facts["base"]["reference"] == "tiny-sdxl"
    assert len(facts["base"]["sha256"]) == 64
    sheets = sorted(run_folder.glob("media/**/*samples*"))
    assert sheets
    with Image.open(sheets[-1]) as sheet:
        assert sheet.size == (3 * 64, 2 * 64)
    again = likeness("train", "instantid", "--data", portraits, *TINY, "--json", workspace=workspace)
    assert json.loads(again.stdout)[0]["already"]


def test_pictures_from_the_model_and_from_its_exported_files_are_the_same(trained, portraits, tmp_path):
    workspace, _ = trained
    face = next(portraits.parent.glob("photos/ann_0.png"))
    words = [f"face={face}", "prompt=photo of a man", *TINY]
    told = likeness("generate", "instantid", *words, "mask=true", "--out", tmp_path / "a.png", workspace=workspace).stdout
    assert "a.png (" in told
    likeness("model", "export", "models:/instantid-identity@candidate", tmp_path / "out", "--published", workspace=workspace)
    files = ("--weights", tmp_path / "out" / "ip-adapter.bin", "--weights", tmp_path / "out" / "ControlNetModel")
    likeness(
        "generate", "instantid", *words, "mask=true", "identity=coarse", *files, "--out", tmp_path / "b.png", workspace=workspace
    )
    pictures = [np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png")]
    assert np.array_equal(*pictures)
    record = json.loads((tmp_path / "b.png.json").read_text())
    assert record["base"]["reference"] == "tiny-sdxl"
    assert record["model"]["adapter"]["reference"].startswith("sha256:")
    other = next(portraits.parent.glob("photos/bob_0.png"))
    likeness("generate", "instantid", *words, f"pose={other}", "count=2", "--out", tmp_path / "c.png", workspace=workspace)
    assert (tmp_path / "c-2.png").is_file()


def test_what_is_missing_is_said(trained, portraits, tmp_path):
    workspace, _ = trained
    face = next(portraits.parent.glob("photos/ann_0.png"))
    told = likeness("train", "instantid", "--data", portraits, "--base", "tiny-sdxl", workspace=workspace, code=2).stderr
    assert "lacks" in told
    assert "likeness data add" in told
    told = likeness("train", "instantid", "--data", portraits, *TINY, "--base", "tiny-sd21", workspace=workspace, code=2).stderr
    assert "of the family sd21; allowed: sdxl, sd15" in told
    told = likeness(
        "generate", "instantid", f"face={face}", "prompt=x", f"control={face}", *TINY, workspace=workspace, code=2
    ).stderr
    assert "1 control pictures for 0 ControlNets" in told
    Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(tmp_path / "black.png")
    black = f"face={tmp_path / 'black.png'}"
    told = likeness("generate", "instantid", black, "prompt=x", *TINY, workspace=workspace, code=2).stderr
    assert "no face was found in face=" in told
    listed = likeness("methods", "instantid", "--data", portraits, workspace=workspace).stdout
    assert "image_512" in listed


def test_a_resumed_run_is_an_unbroken_one(portraits, tmp_path):
    rows, weights = run(portraits, tmp_path / "whole")
    calls = iter(range(100))
    run(portraits, tmp_path / "cut", stop=lambda: next(calls) >= 4)
    again, resumed = run(portraits, tmp_path / "cut")
    assert again.logged_at == {step: value for step, value in rows.logged_at.items() if step > 4}
    assert again.metrics[6] == rows.metrics[6]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_gradient_checkpointing_changes_no_gradient(portraits, tmp_path):
    plain, weights = run(portraits, tmp_path / "plain", "loop.steps=3")
    saved, same = run(portraits, tmp_path / "saved", "loop.steps=3", "loop.gradient_checkpointing=true")
    assert saved.logged_at == pytest.approx(plain.logged_at, rel=1e-5)
    moved = max(float((weights[name] - same[name]).abs().max()) for name in weights)
    assert moved < 1e-4  # Adam's first steps are of the learning rate, 1e-3, whatever the gradient


def _rank(rank: int, port: int, portraits: str, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    rows, _ = run(Path(portraits), Path(folder) / "run", "loop.steps=3", "loop.zero_stage=2")
    if distributed.rank() == 0:
        (Path(folder) / "rows.json").write_text(json.dumps(rows.logged_at))


@pytest.mark.long
def test_two_ranks_see_the_same_examples_and_losses(portraits, tmp_path):
    alone, _ = run(portraits, tmp_path / "alone", "loop.steps=3")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_rank, (port, str(portraits), str(tmp_path)), nprocs=2, start_method="spawn")
    both = {int(step): value for step, value in json.loads((tmp_path / "rows.json").read_text()).items()}
    assert both == pytest.approx(alone.logged_at, rel=1e-4)


def test_the_run_is_named_by_the_contents_of_its_base(portraits, tmp_path, trained):
    import shutil

    from infra.registry import Registry
    from infra.workspace import Workspace
    from models.diffusion.bases import base_folder

    copy = shutil.copytree(base_folder("tiny-sdxl"), tmp_path / "copy")
    method = method_named("instantid")
    registry = Registry(Workspace(trained[0]))

    def key(base: str) -> str:
        return make_plan(
            method, method.stage("identity"), data=[str(portraits)], preset="tiny", overrides=[f"base={base}"], starts=[],
            registry=registry,
        ).key  # fmt: skip

    assert key(str(copy)) == key("tiny-sdxl")
    config = Path(copy) / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("epsilon", "v_prediction"))
    assert key(str(copy)) != key("tiny-sdxl")
