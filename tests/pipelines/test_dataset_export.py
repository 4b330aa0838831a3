"""`likeness data export`: what other tools read, rows that lack a field, kill and resume, same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dataset_toy as toy
import numpy as np
import pytest
import webdataset
from dataset_toy import TOOLBOX
from typed import likeness

from infra import digest
from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.export import export
from pipelines.dataset.request import updated
from pipelines.dataset.select import select


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 rows; two have no `fragile`, one has no sound."""
    folder = tmp_path_factory.mktemp("export")
    toy.write_sources(folder / "clips")
    (folder / "clips" / "speaker0" / "unlucky.mp4").write_text("1 13\n13")
    request = updated(None, sources=[str(folder / "clips")], fields=["fragile", "summed"])
    build(folder / "set", request, TOOLBOX, runner="serial")
    return folder / "set"


def read(out: Path) -> dict[str, dict]:
    """What webdataset itself makes of it."""
    tars = sorted(map(str, out.glob("*.tar")))
    return {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False).decode()}


def test_webdataset_reads_it_back(root: Path, tmp_path: Path) -> None:
    words = ("--field", "fragile", "--field", "summed", "--field", "audio", "--rename", "audio=wav", "--shard-mb", "0.01")
    told = likeness("data", "export", root, tmp_path / "out", *words).stdout
    assert "2 rows skipped, no fragile: quarantined: ValueError" in told
    assert "15 of 17 rows in" in told
    data, samples = open_dataset(root), read(tmp_path / "out")
    rows = [row for row in data.rows() if data.has(row, "fragile")]
    assert list(samples) == [row.key for row in rows]
    for row in rows:
        sample = samples[row.key]
        assert sample["summed.json"] == json.loads(data.read(row, "summed"))
        assert sample["wav"] == data.read(row, "audio")
        numbers = [int(word) for word in np.asarray(sample["fragile.npy"])]
        assert sum(numbers) * 3 == sample["summed.json"]["frames"]
        assert sample["json"] == {**row.source, "key": row.key}
        assert sample["json"]["person"].startswith("clips/speaker")
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["dataset"] == data.digest
    assert facts["skipped"] == {"fragile: quarantined: ValueError": 2}
    assert len(facts["tars"]) > 1
    for tar in facts["tars"]:
        path = tmp_path / "out" / tar["name"]
        assert (path.stat().st_size, digest.of_file(path)) == (tar["bytes"], tar["sha256"])
        assert tar["bytes"] <= 10_240


def test_selection_and_split(root: Path, tmp_path: Path) -> None:
    select(root, "large", ["summed.frames >= 60"])
    made = export(root, tmp_path / "a", ["summed"], selection="large")
    assert made.view["selection"] == "large"
    samples = read(tmp_path / "a").values()
    assert samples
    assert all(sample["summed.json"]["frames"] >= 60 for sample in samples)
    export(root, tmp_path / "b", ["summed"], split="val")
    assert {sample["json"]["split"] for sample in read(tmp_path / "b").values()} == {"val"}


def test_killed_export_goes_on_and_gives_the_same_bytes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = ["summed", "fragile", "audio"]
    export(root, tmp_path / "whole", fields, shard_bytes=10_000)
    sizes: list[int] = []

    def stop(done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(root, tmp_path / "cut", fields, shard_bytes=10_000, progress=stop)
    assert not (tmp_path / "cut").exists()
    part = tmp_path / ".cut.part"
    assert len(list(part.glob("*.tar"))) > 1
    export(root, tmp_path / "cut", fields, shard_bytes=10_000, progress=lambda done, total: sizes.append(done))
    assert sizes[0] > 1  # finished tars were not written again
    assert not part.exists()
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir()} == files
    assert len(files) > 3


def test_leftovers_of_another_request_are_not_used(root: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(root, tmp_path / "out", ["summed", "audio"], shard_bytes=5000, progress=stop)
    export(root, tmp_path / "out", ["summed"], shard_bytes=5000)
    assert {name for sample in read(tmp_path / "out").values() for name in sample if not name.startswith("__")} == {
        "json", "summed.json"}
    assert not [path for path in os.listdir(tmp_path) if path.startswith(".")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--field", "sumed"], "has no field 'sumed' (nearest: summed)"),
        ([], "no field named"),
        (["--field", "summed", "--rename", "summed=json"], "member name 'json' of field summed"),
        (["--field", "summed", "--field", "audio", "--rename", "summed=x", "--rename", "audio=x"], "member name 'x'"),
        (["--field", "summed", "--rename", "audio=wav"], "--rename audio; allowed: a field to export: summed"),
        (["--field", "summed", "--rename", "summed"], "allowed: FIELD=MEMBER"),
        (["--field", "summed", "--split", "test"], "no row of split 'test'; allowed: train, val"),
        (["--field", "summed", "--selection", "none"], "has no selection 'none'"),
    ],
)
def test_mistakes_get_one_line(root: Path, tmp_path: Path, words: list[str], says: str) -> None:
    told = likeness("data", "export", root, tmp_path / "out", *words, code=2).stderr
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    assert "exists" in likeness("data", "export", root, tmp_path / "out", "--field", "summed", code=2).stderr
