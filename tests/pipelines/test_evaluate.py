"""Evaluation: videos scored or named with a reason, and a stage's held-out numbers, equal to those of its training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from click.testing import Result
from typer.testing import CliRunner

from infra.errors import LikenessError
from infra.registry import Registry
from infra.storage.dataset import open_dataset
from infra.workspace import Workspace
from models.perception.syncnet import SyncNet
from models.wav2lip.network import Expert, Generator
from models.wav2lip.published import export_published
from models.wav2lip.stages import FACE, ExpertStage
from pipelines.cli.evaluate import app
from pipelines.dataset.build import build
from pipelines.dataset.graph import Toolbox
from pipelines.dataset.request import updated
from pipelines.evaluate.stage import evaluate_stage
from preprocessing.fields import FACE_VALID, MEL80, SOURCE, TIMELINE, VOICED, Field, by_name, known_names
from preprocessing.frame_sequence import FrameSequence
from preprocessing.media.mux import write_video
from preprocessing.operator import Operator, OperatorParams, Resources, Sample
from training.artefact import StageArtefact, export
from training.config import LoopConfig
from training.loader import Loader

N_FRAMES = 24


def ask(*words: object) -> Result:
    """`likeness evaluate WORDS` in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


# videos


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SyncNet that has learnt nothing, found as the asset."""
    torch.manual_seed(0)
    (tmp_path / "assets").mkdir()
    torch.save(SyncNet().state_dict(), tmp_path / "assets" / "syncnet_v2.model")
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)


def write_clip(path: Path, picture: np.ndarray, n_frames: int = N_FRAMES) -> Path:
    """A still picture under noise."""
    audio = np.random.default_rng(len(path.name)).integers(-8000, 8000, n_frames * 640, dtype=np.int16)
    write_video(path, [picture] * n_frames, Fraction(25), audio)
    return path


def test_videos_are_scored_and_bad_files_named(judge: None, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    face = cv2.resize(skimage.data.astronaut()[:256, 96:352], (192, 192))
    write_clip(folder / "deep" / "face.mp4", face)
    write_clip(folder / "short.mp4", face, 9)
    write_clip(folder / "wall.mp4", np.full((128, 128, 3), 90, np.uint8))
    (folder / "notes.txt").write_text("not a video")
    (folder / ".hidden").write_text("")

    record = json.loads(ask("sync", folder, "--json").stdout)
    assert [Path(video["file"]).name for video in record["videos"]] == ["face.mp4"]
    assert record["videos"][0]["n_windows"] == N_FRAMES - 5
    reasons = {Path(failed["file"]).name: failed["reason"] for failed in record["failed"]}
    assert reasons.keys() == {"short.mp4", "wall.mp4", "notes.txt"}
    assert "too-short: 9 frames" in reasons["short.mp4"]
    assert "no-face" in reasons["wall.mp4"]
    assert "not-media" in reasons["notes.txt"]

    # As a face crop, any picture counts, and a set's score is the mean over videos.
    record = json.loads(ask("sync", folder, "--protocol", "resize", "--json").stdout)
    assert [Path(video["file"]).name for video in record["videos"]] == ["face.mp4", "wall.mp4"]
    for name in ("min_distance", "confidence"):
        assert record["mean"][name] == pytest.approx(np.mean([video[name] for video in record["videos"]]))
    shown = ask("sync", folder / "wall.mp4", folder / "notes.txt", "--protocol", "resize", "--strict")
    assert shown.exit_code == 3
    assert "mean of 1" in shown.stdout
    assert "not scored" in shown.stdout


def test_what_is_wrong_with_the_command_comes_out_first(judge: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mp4", np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(LikenessError, match="there is no file or folder"):
        raise ask("sync", clip, tmp_path / "absent").exception
    with pytest.raises(LikenessError, match="none of 1 files could be scored.*no-face"):
        raise ask("sync", clip).exception
    with pytest.raises(LikenessError, match="expert.*allowed: syncnet"):
        raise ask("sync", clip, "--judge", "models:/wav2lip-expert").exception
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path / "empty"))
    with pytest.raises(LikenessError, match=r"syncnet_v2 is not here.*place syncnet_v2\.model"):
        raise ask("sync", clip).exception


# stages


class Lines:
    """Ingest of text files: a row each."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1
    params = OperatorParams()
    resources = Resources()
    writes = (SOURCE, TIMELINE)

    def __call__(self, path: Path, source: Mapping[str, Any]) -> list[tuple[int, dict[Field, Any]]]:
        record = {**source, "n_frames": N_FRAMES, "fps": "25/1"}
        return [(0, {SOURCE: record, TIMELINE: np.arange(N_FRAMES)})]


class Talkers(Operator):
    """All that Wav2Lip's stages read, drawn at random from the row's key."""

    name, version = "talkers", 1
    reads, writes = (SOURCE,), (FACE, MEL80, FACE_VALID, VOICED)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        rng = np.random.default_rng(list(sample.key.encode()))
        coarse = rng.integers(0, 256, (N_FRAMES, 8, 8, 3), dtype=np.uint8)
        ones = np.ones(N_FRAMES, bool)
        mel = rng.uniform(-4, 4, (80, 80 * N_FRAMES // 25 + 1)).astype(np.float32)
        frames = FrameSequence.of((cv2.resize(frame, (96, 96)) for frame in coarse), 96, 96)
        return {FACE: frames, MEL80: mel, FACE_VALID: ones, VOICED: ones}


TOOLBOX = Toolbox(
    by_name, known_names, lambda field, settings: Talkers(), lambda settings: Lines(), None, 1, lambda name: (Path(name), name)
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("talkers")
    for n in range(6):
        (root / "files" / f"speaker{n}").mkdir(parents=True)
        (root / "files" / f"speaker{n}" / "clip.mp4").write_text(str(n))
    request = updated(None, sources=[str(root / "files")], fields=[f.name for f in Talkers.writes], val_fraction=0.4)
    build(root / "set", request, TOOLBOX, runner="serial")
    return root / "set"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One for all tests: making a store takes seconds."""
    folder, threads = tmp_path_factory.mktemp("space"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("LIKENESS_WORKSPACE", str(folder))
        yield Workspace(folder)
    torch.set_num_threads(threads)


LOOP = LoopConfig(batch_size=4, validation_examples=6, seed=5)


def make_artefact(folder: Path, stage: str, networks: Mapping[str, torch.nn.Module], **facts: Any) -> StageArtefact:
    """An artefact of untrained networks."""
    made = {"method": "wav2lip", "stage": stage, "stage_config": {"width": 0.125}, "loop_config": LOOP.model_dump(mode="json")}
    return export(folder, made | facts, {name: network.state_dict() for name, network in networks.items()})


@pytest.fixture
def expert(tmp_path: Path) -> StageArtefact:
    torch.manual_seed(1)
    return make_artefact(tmp_path / "expert", "expert", {"expert": Expert(0.125)})


def numbers(*words: object) -> dict[str, Any]:
    """What `likeness evaluate stage wav2lip WORDS --json` prints."""
    done = ask("stage", "wav2lip", *words, "--json")
    if done.exception:
        raise done.exception
    return json.loads(done.stdout)


def test_numbers_are_those_of_the_loader_and_the_stage(dataset: Path, expert: StageArtefact, space: Workspace) -> None:
    record = numbers("expert", "--data", dataset, "--model", expert.path)
    stage = ExpertStage(ExpertStage.Config(width=0.125))
    stage.expert = expert.load("expert", Expert(0.125)).eval()
    batches = Loader(stage, {"clips": open_dataset(dataset)}, LOOP).validation()
    with torch.no_grad():
        assert record["metrics"] == stage.validate(batches, None).metrics  # type: ignore[arg-type]
    assert record["weights"] == "folder:expert"
    assert record["metrics"]["examples"] == record["examples"] == 6
    assert record == numbers("expert", "--data", dataset, "--model", expert.path)
    assert numbers("expert", "--data", dataset, "--model", expert.path, "--split", "train")["metrics"] != record["metrics"]
    assert numbers("expert", "--data", dataset, "--model", expert.path, "--examples", 3)["metrics"]["examples"] == 3
    shown = ask("stage", "wav2lip", "expert", "--data", dataset, "--model", expert.path, "loop.seed=6")
    assert shown.exit_code == 0
    assert "pair_accuracy" in shown.stdout


def test_a_generator_is_measured_with_the_expert_it_had(
    dataset: Path, expert: StageArtefact, space: Workspace, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    generator = make_artefact(tmp_path / "generator", "generator", {"generator": Generator(0.125)})
    asked = ("generator", "--data", dataset, "--model", generator.path, "--examples", 2)
    with pytest.raises(LikenessError, match=r"measured with expert of stage 'expert'.*--from expert=models:/wav2lip-expert"):
        numbers(*asked)
    record = numbers(*asked, "--from", f"expert={expert.path}")
    assert record["upstream"] == {"expert": "folder:expert"}
    assert record["metrics"]["sync"] > 0
    for wrong, message in [
        (f"expert={generator.path}", "holds generator; allowed: weights of the expert"),
        (f"critic={expert.path}", "builds on no 'critic'"),
        (str(expert.path), "allowed: COMPONENT="),
        ("expert=absent.pth", "there is no file absent.pth"),
    ]:
        with pytest.raises(LikenessError, match=message):
            numbers(*asked, "--from", wrong)
    recorded = {"upstream": {"expert": "sha256:" + "0" * 64}}
    gone = make_artefact(tmp_path / "gone", "generator", {"generator": Generator(0.125)}, **recorded)
    with pytest.raises(LikenessError, match="is not imported here; pass --from COMPONENT=FILE"):
        numbers("generator", "--data", dataset, "--model", gone.path)


def test_a_published_file(dataset: Path, space: Workspace, tmp_path: Path) -> None:
    torch.manual_seed(3)
    export_published(Expert().state_dict(), tmp_path / "lipsync_expert.pth")
    asked = ("--data", dataset, "--weights", tmp_path / "lipsync_expert.pth", "loop.batch_size=2", "--examples", 2)
    record = numbers("expert", *asked)
    assert record["weights"].startswith("sha256:")
    assert record["metrics"]["examples"] == 2
    with pytest.raises(LikenessError, match="holds expert, and stage generator needs generator"):
        numbers("generator", *asked)


def test_what_cannot_be_measured_is_refused(dataset: Path, expert: StageArtefact, space: Workspace) -> None:
    asked = ("--data", dataset, "--model", expert.path)
    for words, message in [
        (("gan", *asked), "is of wav2lip expert, not of wav2lip gan; run: likeness evaluate stage wav2lip expert"),
        (("expert", *asked, "--split", "test"), "no row of split 'test'.*its splits: train, val"),
        (("expert", *asked, "loop.sed=1"), "unknown setting 'loop.sed'"),
        (("expert", *asked, "width=0.25"), "does not fit Expert"),
        (("expert", "--data", dataset.parent, "--model", expert.path), "is not a dataset"),
        (("expert", "--model", expert.path), "needs a dataset for its source 'clips'"),
        (("expert", *asked, "--weights", "x.pth"), "--model and --weights"),
        (("gan", "--data", dataset), "no model 'wav2lip-gan' is registered"),
        (("exper", *asked), "no stage 'exper'"),
    ]:
        with pytest.raises(LikenessError, match=message):
            numbers(*words)


@pytest.mark.long
def test_numbers_are_those_of_the_last_validation(dataset: Path, space: Workspace) -> None:
    from models.registry import method_named
    from pipelines.train.launch import run
    from pipelines.train.plan import make_plan

    method, registry = method_named("wav2lip"), Registry(space)
    words = ["loop.steps=2", "loop.ema_decay=0.5", "loop.validation_examples=4"]
    for stage in method.stages[:2]:
        plan = make_plan(method, stage, data=[str(dataset)], preset="tiny", overrides=words, starts=[], registry=registry)
        trained = run(plan, 1)
        for reference in [trained["version"], *(["models:/wav2lip@candidate"] if stage.name == "generator" else [])]:
            score = evaluate_stage(method, stage, reference, data=[str(dataset)], registry=registry)
            gates = {name for name in trained["metrics"] if name.startswith("gate_")}
            assert score.metrics == {name: value for name, value in trained["metrics"].items() if name not in gates}
        assert score.upstream == ({} if stage.name == "expert" else {"expert": "models:/wav2lip-expert/1"})
