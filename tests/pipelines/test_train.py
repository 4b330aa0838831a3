"""Training as a user types it: stages to registered versions, resume after kills, stops, wrong input."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from typed import LIKENESS, likeness

from models.wav2lip.network import Expert, Generator
from models.wav2lip.published import export_published

TINY = ("--preset", "tiny")


def rows(workspace: Path, stage: str) -> list[dict]:
    """The local metrics of the only run of a stage, without times."""
    (file,) = workspace.glob(f"runs/wav2lip-{stage}-*/metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory) -> tuple[Path, list[dict]]:
    workspace = tmp_path_factory.mktemp("trained")
    done = likeness("train", "wav2lip", "--data", dataset, *TINY, "--json", workspace=workspace)
    return workspace, json.loads(done.stdout)


def test_three_stages_are_registered_with_their_lineage(trained, dataset):
    workspace, results = trained
    assert [r["version"] for r in results] == [f"models:/wav2lip-{stage}/1" for stage in ("expert", "generator", "gan")]
    listed = json.loads(likeness("model", "list", "--json", workspace=workspace).stdout)
    by_name = {entry["uri"]: entry for entry in listed}
    assert by_name["models:/wav2lip/2"]["tags"]["component.generator"] == "models:/wav2lip-gan/1"
    assert all(entry["tags"]["reload"] == "passed" for entry in listed)
    lineage = json.loads(likeness("model", "lineage", "models:/wav2lip-gan@candidate", "--json", workspace=workspace).stdout)
    head = (dataset / "HEAD").read_text().strip()
    assert lineage["datasets"] == [{"name": "dataset", "digest": head}]
    assert lineage["params"]["quality_weight"] == "0.07"
    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    run = client.get_run(lineage["run"])
    assert run.data.tags["upstream.expert"] == "models:/wav2lip-expert/1"
    assert [m.step for m in client.get_metric_history(lineage["run"], "critic/real")] == [1, 2, 3, 4, 5, 6]
    assert {f.path for f in client.list_artifacts(lineage["run"])} >= {"config.json", "media", "model"}
    assert run.info.status == "FINISHED"


def test_same_command_again_computes_nothing(trained, dataset):
    workspace, results = trained
    again = json.loads(likeness("train", "wav2lip", "--data", dataset, *TINY, "--json", workspace=workspace).stdout)
    assert [r["version"] for r in again] == [r["version"] for r in results]
    assert all(r["already"] for r in again)


def test_promote_moves_the_champion(trained):
    workspace, _ = trained
    likeness("model", "promote", "wav2lip", "1", workspace=workspace)
    likeness("model", "promote", "wav2lip", "2", workspace=workspace)
    listed = json.loads(likeness("model", "list", "wav2lip", "--json", workspace=workspace).stdout)
    aliases = {entry["version"]: entry["aliases"] for entry in listed}
    assert "champion" in aliases[2]
    assert aliases[1] == ["previous"]


def start(dataset: Path, workspace: Path, *words: str) -> subprocess.Popen:
    environment = os.environ | {"LIKENESS_WORKSPACE": str(workspace)}
    command = [*LIKENESS, "train", "wav2lip", "--stage", "expert", "--data", str(dataset), *TINY, *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(workspace: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for file in workspace.glob("runs/*/metrics.jsonl"):
            if f'"step": {step}' in file.read_text():
                return
        time.sleep(0.02)
    raise AssertionError(f"never reached step {step}: {process.communicate()[1] if process.poll() is not None else 'timed out'}")


@pytest.mark.long
def test_sigkill_at_three_points_resumes_to_the_same_losses(dataset, tmp_path):
    """One unbroken run; another killed with SIGKILL three times. Same losses, same weights, each step once in MLflow."""
    words = ("loop.steps=24", "loop.save_every=4", "loop.validate_every=6")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    likeness("train", "wav2lip", "--stage", "expert", "--data", dataset, *TINY, *words, workspace=whole)
    points = sorted(random.Random(11).sample(range(3, 23), 3))
    for point in points:
        process = start(dataset, cut, *words)
        wait_for_step(cut, point, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    likeness("train", "wav2lip", "--stage", "expert", "--data", dataset, *TINY, *words, workspace=cut)
    assert rows(cut, "expert") == rows(whole, "expert")
    files = [next(place.glob("runs/*/artefact/expert.safetensors")).read_bytes() for place in (whole, cut)]
    assert files[0] == files[1]
    client = MlflowClient(f"sqlite:///{cut / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("wav2lip").experiment_id])
    history = client.get_metric_history(run.info.run_id, "expert/sync")
    assert sorted(m.step for m in history) == list(range(1, 25))


@pytest.mark.long
def test_sigterm_saves_first(dataset, tmp_path):
    process = start(dataset, tmp_path, "loop.steps=100000", "loop.save_every=100000", "loop.validate_every=0")
    wait_for_step(tmp_path, 5, process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - asked < 20  # stated in docs/training.md: one step, one save, one flush of the curves
    assert process.returncode == 143, told
    assert "its state is saved" in told
    assert len(list(tmp_path.glob("runs/*/checkpoints/0*"))) == 1


@pytest.mark.long
def test_two_workers_through_ray(dataset, tmp_path):
    words = ("train", "wav2lip", "--stage", "expert", "--data", dataset, *TINY, "--workers", "2", "loop.zero_stage=1", "--json")
    # a process of its own: the session's Ray has no core to spare for two ranks and their controller
    environment = os.environ | {"LIKENESS_WORKSPACE": str(tmp_path)}
    done = subprocess.run([*LIKENESS, *map(str, words)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert result["version"] == "models:/wav2lip-expert/1"
    assert [row["step"] for row in rows(tmp_path, "expert") if "expert/sync" in row] == [1, 2, 3, 4, 5, 6]


def test_starts_from_published_files_and_exports_back(dataset, tmp_path):
    torch.manual_seed(0)
    export_published(Expert().state_dict(), tmp_path / "lipsync_expert.pth")
    generator = Generator()
    export_published(generator.state_dict(), tmp_path / "wav2lip.pth")
    starts = ("--from", tmp_path / "lipsync_expert.pth", "--from", tmp_path / "wav2lip.pth")
    settings = ("width=1.0", "loop.steps=1", "loop.batch_size=1", "loop.validation_examples=1", "lr=0")
    words = ("train", "wav2lip", "--stage", "generator", "--data", dataset, *starts, *TINY, *settings)
    result = json.loads(likeness(*words, "--json", workspace=tmp_path).stdout)[0]
    assert result["step"] == 1
    out = tmp_path / "back.pth"
    likeness("model", "export", "models:/wav2lip-generator/1", out, "--published", workspace=tmp_path)
    back = torch.load(out, weights_only=True)["state_dict"]
    for key, value in generator.named_parameters():
        assert torch.equal(back[key], value)  # learning rate 0: what came in must come out


@pytest.mark.parametrize(("words", "says"), [
    (["wav2lipp"], "did you mean wav2lip"),
    (["wav2lip", "--stage", "exprt"], "no stage 'exprt'"),
    (["wav2lip", "--preset", "huge"], "no preset 'huge'"),
    (["wav2lip", "wdith=2", *TINY], "width"),
    (["wav2lip", "width=wide", *TINY], "width"),
    (["wav2lip", "gan.qualty_weight=2", *TINY], "quality_weight"),
    (["wav2lip", "--stage", "generator", *TINY], "--stage expert"),
    (["wav2lip", "--stage", "expert", "--workers", "3", *TINY], "batch_size"),
    (["wav2lip", "--from", "nowhere.pth", *TINY], "nowhere.pth"),
    (["wav2lip", "--flag", *TINY], "No such option"),
])  # fmt: skip
def test_wrong_words_get_one_line(dataset, tmp_path, words, says):
    told = likeness("train", *words, "--data", dataset, workspace=tmp_path, code=2).stderr
    assert says in told
    assert "Traceback" not in told
    assert len(told.strip().splitlines()) == 1


def test_dataset_without_a_field_says_which_command_adds_it(clips, tmp_path):
    (tmp_path / "sound.yaml").write_text("fields: [mel80]\n")
    likeness("data", "build", tmp_path / "small", "--source", clips, "--recipe", tmp_path / "sound.yaml", "--runner", "serial")
    told = likeness("train", "wav2lip", "--data", tmp_path / "small", *TINY, workspace=tmp_path, code=2).stderr
    assert f"likeness data add {tmp_path / 'small'}" in told
    assert "--field face_box_96" in told


def test_no_dataset_there(tmp_path):
    told = likeness("train", "wav2lip", "--data", tmp_path / "nothing", *TINY, workspace=tmp_path, code=2).stderr
    assert "likeness data build" in told


def test_dry_run_starts_nothing(dataset, tmp_path):
    told = likeness("train", "wav2lip", "--data", dataset, *TINY, "--dry-run", workspace=tmp_path).stdout
    assert "loop.steps = 6" in told
    assert not (tmp_path / "runs").exists()
