"""Takedown: hidden at once, refused by builds, and after a purge no byte left, wherever it was interrupted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import dataset_toy as toy
import numpy as np
import purge_toy
import pytest
from dataset_toy import TOOLBOX
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from test_dataset_expand import N_FRAMES, sound, two_people
from typed import likeness

from infra.errors import LikenessError
from infra.storage import Dataset, open_dataset
from infra.storage.fits import find_fit, write_fit
from infra.storage.tombstones import FILE, Tombstones, anonymous, of_text
from pipelines.dataset.build import Report, build
from pipelines.dataset.request import load_request, updated
from pipelines.dataset.select import select
from pipelines.dataset.show import dataset_facts
from pipelines.dataset.takedown import find_impact, take_down
from pipelines.dataset.verify import verify
from preprocessing.media.mux import write_video

PERSON = "clips/zoltan"  # the default person of files in that folder


def write_sources(folder: Path) -> None:
    """As always, and two files of Zoltan with numbers that nobody else has; one of them twice, under a name of its own."""
    toy.write_sources(folder)
    (folder / "zoltan").mkdir()
    (folder / "zoltan" / "First.mp4").write_text("77 78 79\n177 178 179")
    (folder / "zoltan" / "Second.mp4").write_text("80 81 82")
    (folder / "speaker0" / "Copy.mp4").write_text("77 78 79\n177 178 179")


def make(root: Path, *sources: Path, fields: tuple[str, ...] = ("summed", "fragile"), **options) -> Report:
    request = updated(load_request(root), sources=[str(s) for s in sources], fields=list(fields))
    return build(root, request, TOOLBOX, runner="serial", **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sources and dataset, built in three steps so that there are older manifests and columns, with a selection and pages."""
    folder = tmp_path_factory.mktemp("takedown")
    write_sources(folder / "clips")
    root = folder / "set"
    make(root, folder / "clips", fields=("doubled",))
    make(root)
    (folder / "clips" / "zoltan" / "Third.mp4").write_text("83 84 85")
    make(root)
    select(root, "others", [f"source.person != {PERSON}", "summed.frames >= 0"])
    (root / "report.html").write_text(f"<p>{PERSON}")
    return folder / "clips", root


@pytest.fixture
def copied(built: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(built[0].parent, tmp_path / "all")
    root = tmp_path / "all" / "set"
    request = json.loads((root / "request.json").read_text())
    request["roots"] = {"clips": str(tmp_path / "all" / "clips")}
    (root / "request.json").write_text(json.dumps(request))
    return tmp_path / "all" / "clips", root


def values(data: Dataset) -> dict[tuple[str, str], bytes]:
    return {(row.key, name): data.read(row, name) for row in data.rows() for name in data.fields if data.has(row, name)}


def of_zoltan(data: Dataset) -> dict[str, set[bytes]]:
    """Row key -> its stored bytes, of Zoltan's rows and of those of the same file under another name."""
    rows = [row for row in data.rows() if row.source["person"] == PERSON or "/Copy" in row.source["path"]]
    return {row.key: {data.read(row, name) for name in data.fields if data.has(row, name)} for row in rows}


def test_hidden_at_once_and_everywhere(copied: tuple[Path, Path]) -> None:
    root = copied[1]
    data, files = open_dataset(root), {p: p.read_bytes() for p in (root / "columns").rglob("*") if p.is_file()}
    before, lost = values(data), of_zoltan(data)
    assert len(lost) == 6
    told = likeness("data", "takedown", root, "--person", PERSON, "--reason", "asked us to", "--dry-run").stdout
    assert "6 rows: " in told
    assert "4 sources: clips/speaker0/Copy.mp4, clips/zoltan/First.mp4" in told
    assert "3 manifests name them" in told
    assert not (root / FILE).exists()
    likeness("data", "takedown", root, "--person", PERSON, "--reason", "asked us to")
    (stone,) = Tombstones.load(root).entries
    assert (stone.kind, stone.value, stone.sha256, stone.reason) == ("person", PERSON, of_text(PERSON), "asked us to")
    after = open_dataset(root)
    assert after.digest == data.digest
    assert values(after) == {place: value for place, value in before.items() if place[0] not in lost}
    assert {p: p.read_bytes() for p in (root / "columns").rglob("*") if p.is_file()} == files
    for manifest in (root / "manifests").iterdir():
        assert not {row.key for row in open_dataset(root, manifest.stem).rows()} & lost.keys()
    assert dataset_facts(after)["rows"] == len(after.rows()) == len(data.rows()) - 6
    assert "6 more rows are taken down" in likeness("data", "show", root).stdout
    assert len(open_dataset(root, selection="others").rows()) == len(after.rows())
    assert not (root / "report.html").exists()
    verdict = verify(root)
    assert (verdict.problems, verdict.taken_down) == ([], 6)
    assert "6 rows taken down" in likeness("data", "verify", root).stdout


def test_a_build_leaves_them_out_and_refuses_them_again(copied: tuple[Path, Path]) -> None:
    source, root = copied
    lost = of_zoltan(open_dataset(root))
    take_down(root, find_impact(root, people=[PERSON]))
    shutil.copy(source / "zoltan" / "Second.mp4", source / "innocent.mp4")
    (source / "zoltan" / "Fourth.mp4").write_text("86 87 88")
    report = make(root)
    data = open_dataset(root)
    reasons = {entry.path: entry.reason for entry in data.manifest.sources if entry.status != "ingested"}
    assert {path for path, reason in reasons.items() if reason == "taken down"} == {
        "clips/innocent.mp4", "clips/speaker0/Copy.mp4", *(f"clips/zoltan/{n}.mp4" for n in ("First", "Second", "Third", "Fourth"))}
    assert data.taken_down == 0  # gone from the manifest itself
    assert report.rows == len(data.rows())
    assert not {row.key for row in data.rows()} & lost.keys()
    assert make(root).units == 0


def leftovers(root: Path, lost: dict[str, set[bytes]]) -> list[str]:
    """Files in which a byte of them is left: a name, a key, or a stored value."""
    words = {b"zoltan", b"Zoltan", b"Copy.mp4", b"Second", *(key.encode() for key in lost)}
    words |= {value for found in lost.values() for value in found}
    files = [path for path in root.rglob("*") if path.is_file()]
    return [f"{path}: {word!r}" for path in files for word in words if word in path.read_bytes() or word in str(path).encode()]


def check_purged(root: Path, before: dict[tuple[str, str], bytes], lost: dict[str, set[bytes]]) -> None:
    assert leftovers(root, lost) == []
    data = open_dataset(root)
    assert values(data) == {place: value for place, value in before.items() if place[0] not in lost}
    gone = [entry for entry in data.manifest.sources if entry.reason == "taken down"]
    assert {entry.path for entry in gone} == {anonymous(f"clips/{n}.mp4") for n in
                                              ("zoltan/First", "zoltan/Second", "zoltan/Third", "speaker0/Copy")}  # fmt: skip
    assert all((entry.status, entry.person, entry.sha256, entry.keys) == ("refused", "", "", ()) for entry in gone)
    assert len(open_dataset(root, selection="others").rows()) == len(data.rows())
    verdict = verify(root)
    assert (verdict.problems, verdict.others, verdict.taken_down, verdict.purged) == ([], (0, 0), 0, 6)
    assert not (root / "tmp").exists()


@pytest.mark.parametrize("sources_at_hand", [True, False])
def test_purge_leaves_no_byte_and_nothing_to_compute(copied: tuple[Path, Path], sources_at_hand: bool) -> None:
    source, root = copied
    data = open_dataset(root)
    before, lost = values(data), of_zoltan(data)
    assert leftovers(root, lost)
    if not sources_at_hand:
        shutil.move(source, source.with_name("elsewhere"))
    told = likeness("data", "takedown", root, "--person", PERSON, "--reason", f"{PERSON} wrote", "--purge").stdout
    assert "purged: 6 rows, 3 manifests and" in told
    assert "still have" not in told
    check_purged(root, before, lost)
    assert "no byte of the 6 purged rows" in likeness("data", "verify", root).stdout
    toy.calls.clear()
    after = make(root)
    assert (after.units, after.attempts, toy.calls) == (0, 0, [])
    assert (after.changed, after.digest) == (False, open_dataset(root).digest)
    assert leftovers(root, lost) == []
    if sources_at_hand:
        shutil.copy(source / "zoltan" / "First.mp4", source / "new name.mp4")
        make(root)
        assert {e.path: e.reason for e in open_dataset(root).manifest.sources}["clips/new name.mp4"] == "taken down"
        assert leftovers(root, lost) == []
        make(root, fields=("doubled",), retry=True)
        assert leftovers(root, lost) == []


def test_no_picture_is_left_of_real_clips(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "set")
    root = tmp_path / "set"
    data = open_dataset(root)
    person = next(row.source["person"] for row in data.rows() if row.source["split"] == "train")
    lost = {row.key: {data.read(row, f) for f in data.fields if data.has(row, f)} for row in data.rows()
            if row.source["person"] == person}  # fmt: skip
    pictures = set()
    for key in lost:
        frames = data.read(key, "face_box_96")
        pictures |= {b"\xff\xd8" + part for part in frames.split(b"\xff\xd8")[1:6]}  # single JPEGs of the sequence
    others = {value for place, value in values(data).items() if place[0] not in lost}  # a time line, for one, may be the same
    words = {value for found in lost.values() for value in found} - others
    words |= pictures | {person.encode(), *(key.encode() for key in lost)}

    def holding() -> set[str]:
        files = [path for path in root.rglob("*") if path.is_file()]
        return {path.name for path in files for data in [path.read_bytes()] if any(word in data for word in words)}

    assert len(pictures) >= 10
    assert len(holding()) > 5
    told = likeness("data", "takedown", root, "--person", person, "--purge").stdout
    assert "purged: 2 rows" in told
    assert holding() == set()
    assert verify(root).problems == []
    report = json.loads(likeness("data", "build", root, "--runner", "serial", "--json").stdout)
    assert (report["units"], report["attempts"], report["changed"]) == (0, 0, False)


def test_purge_of_one_row_keeps_its_source(copied: tuple[Path, Path]) -> None:
    source, root = copied
    data = open_dataset(root)
    before = values(data)
    (row,) = [r for r in data.rows() if r.source["path"] == "clips/zoltan/First.mp4" and r.source["segment"] == 1]
    twin = next(r.key for r in data.rows() if "/Copy" in r.source["path"] and r.source["segment"] == 1)
    take_down(root, find_impact(root, keys=[row.key]), purged=True)
    after = open_dataset(root)
    assert values(after) == {place: value for place, value in before.items() if place[0] not in (row.key, twin)}
    entry = next(e for e in after.manifest.sources if e.path == "clips/zoltan/First.mp4")
    assert (entry.status, len(entry.keys)) == ("ingested", 1)
    names = [f"{path}" for path in root.rglob("*") if path.is_file() and {row.key.encode(), twin.encode()} & {
        word for word in (row.key.encode(), twin.encode()) if word in path.read_bytes()}]
    assert names == []
    assert verify(root).problems == []
    assert make(root).units == 0
    (source / "zoltan" / "Second.mp4").write_text("1 2 3")  # has that shard ingested again
    make(root)
    assert row.key not in {r.key for r in open_dataset(root).rows()}
    assert len(next(e for e in open_dataset(root).manifest.sources if e.path == "clips/zoltan/First.mp4").keys) == 1


def test_purge_of_a_source_without_rows_leaves_its_shard_s_columns_alone(copied: tuple[Path, Path]) -> None:
    root = copied[1]
    before = {p: p.stat().st_ino for p in (root / "columns").rglob("*.tar") if p.parents[1].name != "ingest"}
    take_down(root, find_impact(root, sources=["clips/words.mp4"]), purged=True)
    assert {p: p.stat().st_ino for p in (root / "columns").rglob("*.tar") if p.parents[1].name != "ingest"} == before
    assert not [p for p in root.rglob("*") if p.is_file() and b"words" in p.read_bytes()]
    verdict = verify(root)
    assert (verdict.problems, verdict.others) == ([], (0, 0))
    assert make(root).units == 0


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(picked=st.data())
def test_any_takedown_leaves_all_others_as_they_were(built: tuple[Path, Path], picked: st.DataObject, tmp_path: Path) -> None:
    """Sources, people and rows in any mixture and order, in two goes, with or without a build between."""
    root = tmp_path / "set"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(built[1], root)
    data = open_dataset(root)
    before = values(data)
    rows = {row.key: row.source for row in data.rows()}
    names = [("key", key) for key in rows] + [("source", s.path) for s in data.manifest.sources]
    names += [("person", person) for person in sorted({source["person"] for source in rows.values()})[1:]]
    lost: set[str] = set()
    for purged in (picked.draw(st.booleans()), True):
        chosen = picked.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        impact = find_impact(root, *([name for kind, name in chosen if kind == k] for k in ("source", "person", "key")))
        take_down(root, impact, purged)
        lost |= {key for key, source in rows.items() for kind, name in chosen
                 if name in (source["path"] if kind == "source" else source["person"] if kind == "person" else key,)}  # fmt: skip
        twins = {(rows[key]["sha256"], rows[key]["segment"]) for key in lost}
        lost |= {key for key, source in rows.items() if (source["sha256"], source["segment"]) in twins}
        assert values(open_dataset(root)) == {place: value for place, value in before.items() if place[0] not in lost}
        names = [pair for pair in names if pair not in chosen and pair[1] not in lost]
        if picked.draw(st.booleans()) and len(lost) < len(rows):
            make(root)
        assert verify(root).problems == []
    assert not [path for path in root.rglob("*") if path.is_file() and any(key.encode() in path.read_bytes() for key in lost)]
    if len(lost) < len(rows):
        assert make(root).attempts == 0
        assert values(open_dataset(root)) == {place: value for place, value in before.items() if place[0] not in lost}
        assert verify(root).problems == []


def test_captions_that_came_with_others_are_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for n, name in enumerate(("ann", "ben", "cleo")):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), np.full((64, 64, 3), 50 * n, np.uint8))
        (tmp_path / "photos" / f"{name}.txt").write_text(f"a grey picture of {name}")
    root = tmp_path / "set"
    flags = ("--set", "ingest.photos=true", "--set", "ingest.sound=ignored", "--set", "ingest.min_frames=1", "--runner", "serial")
    likeness("data", "build", root, "--source", tmp_path / "photos", "--field", "caption_given", *flags)
    likeness("data", "takedown", root, "--source", "photos/cleo.png", "--purge")
    assert not [path for path in root.rglob("*") if path.is_file() and b"cleo" in path.read_bytes()]
    report = json.loads(likeness("data", "build", root, "--runner", "serial", "--json").stdout)
    assert (report["units"], report["changed"]) == (0, False)
    data = open_dataset(root)
    assert [data.read(row, "caption_given") for row in data.rows()] == [b"a grey picture of ann", b"a grey picture of ben"]


@pytest.mark.long
def test_derived_datasets_are_named_and_follow(tmp_path: Path) -> None:
    for name in ("ann", "ben"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        write_video(tmp_path / "clips" / name / "two.mp4", two_people(4 * (name == "ann")), 25, sound(N_FRAMES))
    root, child = tmp_path / "parent", tmp_path / "child"
    likeness("data", "build", root, "--source", tmp_path / "clips", "--field", "face_detections", "--runner", "serial")
    flags = ("--field", "face_box", "--set", "face_tracks.min_frames=10", "--runner", "serial")
    likeness("data", "expand", root, child, *flags)
    assert len(open_dataset(child).rows()) == 4
    told = json.loads(likeness("data", "takedown", root, "--person", "clips/ann", "--purge", "--json").stdout)
    assert told["derived"] == [str(child)]
    likeness("data", "build", child, "--runner", "serial")  # without its parent's rows it loses its own
    keys = [row.key for row in open_dataset(child).rows()]
    assert len(keys) == 2
    assert all("ben" in key for key in keys)
    likeness("data", "takedown", child, "--person", "clips/ann", "--purge")
    assert not [path for path in child.rglob("*") if path.is_file() and b"clips/ann" in path.read_bytes()]
    likeness("data", "takedown", child, "--key", keys[0], "--purge")
    assert [row.key for row in open_dataset(child).rows()] == keys[1:]  # its sibling from the same piece stays
    assert verify(child).problems == []
    report = json.loads(likeness("data", "build", child, "--runner", "serial", "--json").stdout)
    assert (report["attempts"], report["changed"]) == (0, False)


def run_purge(root: Path, kill_at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, purge_toy.__file__, str(root), PERSON, str(kill_at)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def check_kill_and_rerun(root: Path, kill_at: int) -> None:
    data = open_dataset(root)
    before, lost = values(data), of_zoltan(data)
    killed = run_purge(root, kill_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    there = values(open_dataset(root))  # whatever was done: readers work, and nobody else's row is lost
    assert {p: v for p, v in there.items() if p[0] not in lost} == {p: v for p, v in before.items() if p[0] not in lost}
    take_down(root, find_impact(root, people=[PERSON]), purged=True)
    check_purged(root, before, lost)
    assert make(root).changed is False


STEPS = 100  # renames and deletions of that purge, more or less


@pytest.mark.parametrize("kill_at", sorted(random.Random(3).sample(range(2, STEPS), 4)))
def test_purge_killed_and_rerun_finishes(copied: tuple[Path, Path], kill_at: int) -> None:
    check_kill_and_rerun(copied[1], kill_at)


@pytest.mark.long
def test_purge_killed_at_every_point(built: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(built[1], tmp_path / "whole")
    steps = int(run_purge(tmp_path / "whole", 0).stdout)
    assert steps > STEPS
    for kill_at in range(1, steps + 1, toy.EVERY):
        root = tmp_path / f"set{kill_at}"
        shutil.copytree(built[1], root)
        check_kill_and_rerun(root, kill_at)
        shutil.rmtree(root)


def test_purge_alone_finishes_what_was_begun(copied: tuple[Path, Path]) -> None:
    root = copied[1]
    data = open_dataset(root)
    before, lost = values(data), of_zoltan(data)
    run_purge(root, 40)
    likeness("data", "takedown", root, "--purge")
    check_purged(root, before, lost)
    again = json.loads(likeness("data", "takedown", root, "--person", PERSON, "--purge", "--json").stdout)
    assert (again["rows"], again["purged"]["files"], again["purged"]["digest"]) == ([], 0, open_dataset(root).digest)
    check_purged(root, before, lost)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing named"),
        (["--person", "zoltan"], "has no person 'zoltan'"),
        (["--person", "clips/zolta"], "nearest: clips/zoltan"),
        (["--source", "clips/zoltan/Frist.mp4"], "nearest: clips/zoltan/First.mp4"),
        (["--key", "nobody-0000"], "has no row 'nobody-0000'"),
    ],
)
def test_mistakes_get_one_line(built: tuple[Path, Path], words: list[str], says: str) -> None:
    told = likeness("data", "takedown", built[1], *words, code=2).stderr
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert not (built[1] / FILE).exists()


def test_sources_are_named_by_their_file_too(copied: tuple[Path, Path]) -> None:
    source, root = copied
    impact = find_impact(root, sources=[str(source / "zoltan" / "Second.mp4")])
    assert impact.sources == ["clips/zoltan/Second.mp4"]
    with pytest.raises(LikenessError, match="has no source"):
        find_impact(root, sources=[str(source.parent / "nowhere.mp4")])


def test_registered_models_trained_on_them_are_named(copied: tuple[Path, Path]) -> None:
    root, digest = copied[1], open_dataset(copied[1]).digest
    impact = find_impact(root, people=[PERSON], models=[("models:/a/1", ["0" * 64]), ("models:/a/2", [digest])])
    assert impact.models == ["models:/a/2"]


def test_fits_learnt_from_them_are_named_and_do_not_outlive_a_purge(copied: tuple[Path, Path]) -> None:
    root, facts = copied[1], {"version": 1, "params": {}, "reads": {}, "rows": 4, "rows_sha256": "0" * 64}
    write_fit(root, "groups", {"a": np.zeros(3)}, open_dataset(root).digest, **facts)
    write_fit(root, "others", {"a": np.zeros(3)}, "0" * 64, **facts)
    impact = find_impact(root, people=[PERSON])
    assert impact.fits == ["groups"]
    take_down(root, impact)
    assert find_fit(root, "groups")[0].exists()
    take_down(root, impact, purged=True)
    assert not (root / "fits" / "groups").exists()  # no fit of that name can be made anew


@pytest.mark.long
def test_models_are_found_in_the_workspace(dataset: Path, tmp_path: Path) -> None:
    words = ("train", "wav2lip", "--stage", "expert", "--data", dataset, "--preset", "tiny", "loop.steps=1")
    likeness(*words, workspace=tmp_path)
    person = open_dataset(dataset).rows()[0].source["person"]
    words = ("data", "takedown", dataset, "--person", person, "--dry-run", "--json")
    assert json.loads(likeness(*words, workspace=tmp_path).stdout)["models"] == ["models:/wav2lip-expert/1"]
    assert json.loads(likeness(*words, workspace=tmp_path / "none").stdout)["models"] == []
    assert not (tmp_path / "none").exists()
    assert MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_registered_models()
    assert os.path.exists(tmp_path / "runs")
