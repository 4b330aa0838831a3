"""Every command of `likeness data`, and training, with a dataset and its sources on S3: the same answers as in a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import dataset_toy as toy
import fit_toy
import numpy as np
import pytest
from test_dataset_law_kills import PARENT, Frames
from test_dataset_s3 import get_folder, put_folder
from typed import likeness

from infra.storage import open_dataset
from infra.storage.objects import ObjectPath
from models.wav2lip.stages import ExpertStage
from pipelines.dataset.build import build
from pipelines.dataset.expand import ExpandIngest, derived_datasets
from pipelines.dataset.fit import run_fit
from pipelines.dataset.request import Request
from pipelines.dataset.verify import verify
from preprocessing.fits.catalogue import fit
from preprocessing.media.mux import write_video
from training.config import LoopConfig
from training.loader import Loader

APART = ("wall_s", "costs", "path", "dataset", "cpu_s", "report", "bytes", "derived", "report_bytes", "operators")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with sound of three people, a text file, a file cut in half."""
    folder = tmp_path_factory.mktemp("data") / "clips"
    rng = np.random.default_rng(0)
    for n in range(3):
        (folder / f"person{n}").mkdir(parents=True)
        frames = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(12)]
        write_video(folder / f"person{n}" / "clip.mp4", frames, Fraction(25), rng.integers(-9000, 9000, 7680).astype(np.int16))
    (folder / "notes.txt").write_text("hello")
    whole = (folder / "person0" / "clip.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def answers(root: Path, source: Path, out: Path) -> list[Any]:
    """What the commands say, without times and places."""

    def ask(verb: str, *words: object) -> Any:
        done = likeness("data", verb, str(root), *map(str, words))
        said = json.loads(done.stdout) if "--json" in words else done.stdout.replace(str(root), "ROOT")
        if isinstance(said, dict) and isinstance(said.get("purged"), dict):
            said["purged"].pop("bytes")  # a file with two names in a folder is two objects
        return {k: v for k, v in said.items() if k not in APART} if isinstance(said, dict) else said

    serial = ("--workers", 1, "--json")
    first = ("--source", source, "--field", "voiced")
    said = [ask("plan", *first, "--json"), ask("build", *first, *serial)]
    key = open_dataset(root).rows()[0].key
    said += [
        ask("plan", "--json"), ask("build", *serial), ask("add", "--field", "measures", *serial), ask("show", "--json"),
        ask("show", key, "--json"), ask("show", "--rows"), ask("verify", "--json"), ask("verify", "--quick", "--json"),
        ask("select", "sharp", "--where", "measures.blur >= 0", "--json"), ask("select", "--list", "--json"),
        ask("split", "--by", "person", "--json"), ask("quarantine", "--json"), ask("retry", *serial), ask("card"),
        ask("report", "--json"),
        ask("export", out, "--field", "audio", "--json"), ask("fit", "--json"),
        [field["compared"] for field in ask("replay", key, "--op", "voiced", "--json")["fields"]],
        [field["compared"] for field in ask("replay", key, "--op", "measures", "--json")["fields"]],
        [field["compared"] for field in ask("replay", key, "--op", "ingest", "--json")["fields"]],
        ask("takedown", "--person", "clips/person1", "--json"), ask("show", "--json"), ask("takedown", "--purge", "--json"),
        ask("gc", "--keep", 1, "--json"), ask("verify", "--json"), ask("select", "sharp", "--remove", "--json"),
        {path.name: path.read_bytes() for path in sorted(out.iterdir())},
    ]  # fmt: skip
    return said


def test_commands_answer_the_same(media: Path, bucket: ObjectPath, tmp_path: Path) -> None:
    put_folder(media, bucket / "raw" / "clips")
    here = answers(tmp_path / "talks", media, tmp_path / "out")
    there = answers(bucket / "talks", bucket / "raw" / "clips", tmp_path / "out3")
    for one, other in zip(here, there, strict=True):
        assert one == other
    assert (bucket / "talks" / "HEAD").read_text() == (tmp_path / "talks" / "HEAD").read_text()
    files = {path.relative_to(bucket / "talks").as_posix() for path in (bucket / "talks").files()}
    assert files == {path.relative_to(tmp_path / "talks").as_posix() for path in (tmp_path / "talks").rglob("*")
                     if path.is_file() and path.name != "lock"}  # fmt: skip
    assert not list(Path.cwd().glob("s3:*"))


def test_what_can_only_be_written_here_says_so(bucket: ObjectPath) -> None:
    export = ("export", bucket / "set", bucket / "out", "--field", "audio")
    for words in (export, ("card", bucket / "set", "--out", bucket / "card.md")):
        done = likeness("data", *words, code=2)
        assert "is on object storage, and this is written to a folder of this machine; name a local path" in done.stderr
    assert "s3://" + bucket.bucket + "/set does not exist" in likeness("data", "show", bucket / "set", code=2).stderr


def test_fits_are_found_and_made_anew(bucket: ObjectPath, tmp_path: Path) -> None:
    made = []
    people = {"anna": (1, 1, 1), "bert": (2, 2), "nobody": (0,)}
    photos = fit_toy.write_photos(tmp_path / "photos", people)
    for root in (tmp_path / "set", bucket / "set"):
        fit_toy.make(root, photos)
        record = run_fit(root, fit("identity_clusters", ()))[0]
        fit_toy.make(root, fields=("identity_cluster",))
        made.append((record, open_dataset(root).digest, fit_toy.by_person(root, "identity_cluster")))
        assert verify(root).problems == []
    assert made[0] == made[1]


def children_of(parent: Path, settings: Any) -> ExpandIngest:
    return ExpandIngest(Frames(), open_dataset(parent), partial(toy.ToyClip, budget_bytes=0))


def test_children_of_a_dataset(bucket: ObjectPath, tmp_path: Path) -> None:
    toy.write_sources(tmp_path / "clips", 3)
    made = []
    for root in (tmp_path, bucket):
        parent, child = root / "parent", root / "child"
        build(parent, Request(roots={"clips": str(tmp_path / "clips")}, fields=["doubled"]), PARENT, runner="serial")
        tools = replace(toy.TOOLBOX, ingest=partial(children_of, parent))
        build(child, Request(parent=str(parent), expander="frames", fields=["shifted"]), tools, runner="serial")
        assert derived_datasets(parent) == [child]
        made.append((open_dataset(parent).digest, open_dataset(child).digest, [row.key for row in open_dataset(child).rows()]))
    assert made[0] == made[1]


def test_a_loader_gives_the_same_batches(dataset: Path, bucket: ObjectPath) -> None:
    put_folder(dataset, bucket / "talks")
    stage = ExpertStage(ExpertStage.Config(width=0.125))
    loop = LoopConfig(batch_size=4, validation_examples=4, seed=5, loader_workers=0)
    batches = []
    for root in (str(dataset), f"{bucket}/talks"):
        loader = Loader(stage, {"clips": open_dataset(root)}, loop)
        batches.append([*loader.validation()])
    for one, other in zip(*batches, strict=True):
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.long
def test_training_on_s3_gives_the_numbers_of_training_here(dataset: Path, bucket: ObjectPath, tmp_path: Path) -> None:
    put_folder(dataset, bucket / "talks")
    metrics = []
    for name, root in (("here", dataset), ("s3", bucket / "talks")):
        likeness("train", "wav2lip", "--stage", "expert", "--data", root, "--preset", "tiny", workspace=tmp_path / name)
        (file,) = (tmp_path / name).glob("runs/wav2lip-expert-*/metrics.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        metrics.append([{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines])
    assert metrics[0] == metrics[1]
    get_folder(bucket / "talks", tmp_path / "back")
    shutil.rmtree(tmp_path / "back")
