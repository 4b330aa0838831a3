"""What failures do: quarantine, retries, stops, and rebuilding only what changed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dataset_toy as toy
import pytest
from dataset_toy import TOOLBOX

from infra.errors import LikenessError
from infra.storage import open_dataset
from infra.storage.ledger import read_ledger
from pipelines.dataset.build import Report, build, plan_build
from pipelines.dataset.request import load_request, updated
from pipelines.dataset.verify import verify
from preprocessing.operator import Resources


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    toy.write_sources(tmp_path / "clips", 6)
    return tmp_path / "clips"


@pytest.fixture(autouse=True)
def _operators_as_written() -> Iterator[None]:
    toy.calls.clear()
    yield
    toy.Fragile.mended, toy.Double.version = False, 1


def make(
    root: Path, source: Path | None = None, fields: list[str] | None = None, settings: list[str] | None = None, **options
) -> Report:
    sources = [str(source)] if source else []
    request = updated(load_request(root), sources=sources, fields=fields or [], settings=settings or [])
    return build(root, request, TOOLBOX, **options)


def reasons(root: Path) -> dict[str, dict[str, int]]:
    plan = plan_build(root, load_request(root) or updated(None), TOOLBOX)
    return {node.name: dict(plan.reasons(node)) for node in plan.graph.nodes if plan.reasons(node)}


def lines(root: Path, operator: str) -> dict[str, tuple[str, str, str, int]]:
    data = open_dataset(root)
    column = next(c for c in data.manifest.columns.values() if c.operator == operator)
    rows = [row for shard in range(len(column.shards)) for row in read_ledger(column.files(root, shard)[2])]
    return {row.key: (row.status, row.error, row.message, row.tries) for row in rows}


def test_a_failing_sample_is_quarantined_and_retried_alone(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (sources / "speaker1" / "Clip 1.mp4").write_text("1 13\n1 2")
    first = make(root, sources, ["fragile", "summed"])
    (problem,) = [p for p in first.problems if p["operator"] == "fragile"]
    bad = problem["name"]
    assert lines(root, "fragile")[bad] == ("quarantined", "ValueError", f"13 in {bad} <object at 0x>", 1)
    assert sum(status == "quarantined" for status, *_ in lines(root, "fragile").values()) == 1
    data = open_dataset(root)
    assert (data.has(bad, "fragile"), data.has(bad, "summed")) == (False, True)
    assert first.quarantined == 2  # and words.mp4

    toy.calls.clear()
    assert make(root).units == 0  # a plain rerun does not try again
    still = make(root, retry=True)
    assert still.changed  # the ledger counts the try
    assert lines(root, "fragile")[bad][3] == 2
    assert sorted(toy.calls) == [("fragile", bad), ("ingest", "clips/words.mp4")]

    toy.Fragile.mended = True
    (sources / "words.mp4").write_text("8 9")
    toy.calls.clear()
    mended = make(root, retry=True)
    assert mended.quarantined == 0
    assert lines(root, "fragile")[bad] == ("written", "", "", 3)
    assert ("fragile", bad) in toy.calls
    assert {key for name, key in toy.calls if key != bad and "words" not in key} == set()
    assert data.has(bad, "fragile") is False  # the reader opened before still sees its own manifest
    assert open_dataset(root).read(bad, "fragile")
    assert verify(root).problems == []


def test_killed_retry_gives_what_an_unbroken_one_gives(sources: Path, tmp_path: Path) -> None:
    (sources / "speaker1" / "Clip 1.mp4").write_text("1 13\n1 2")
    digests = []
    for name in ("unbroken", "killed"):
        root = tmp_path / name
        make(root, sources, ["fragile"])
        head = (root / "HEAD").read_text()
        digest = make(root, retry=True).digest
        if name == "killed":  # as if killed before HEAD moved
            (root / "HEAD").write_text(head)
            digest = make(root, retry=True).digest
        digests.append(digest)
    assert digests[0] == digests[1]


def test_what_needs_a_missing_input_says_so(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (sources / "silent.mp4").write_text("1 2 3")
    report = make(root, sources, ["summed"])
    key = next(row.key for row in open_dataset(root).rows() if "silent" in row.key)
    assert lines(root, "double")[key] == ("quarantined", "MissingInput", "input audio missing", 0)
    assert lines(root, "sum")[key] == ("quarantined", "MissingInput", "input shifted missing", 0)
    assert report.starved == {"double": 1, "shift": 1, "sum": 1}
    assert not open_dataset(root).has(key, "audio")


def test_programming_errors_stop_the_run(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="no_such_method") as caught:
        make(tmp_path / "set", sources, ["broken"])
    assert any("operator broken (version 1) was working on clips-" in note for note in caught.value.__notes__)
    assert not (tmp_path / "set" / "HEAD").exists()


def test_programming_errors_stop_the_run_on_ray(ray_session: None, sources: Path, tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="no_such_method"):
        make(tmp_path / "set", sources, ["broken"], runner="ray", workers=2)


def test_many_failures_in_a_row_stop_the_run(sources: Path, tmp_path: Path, ray_session: None) -> None:
    for n in range(6):
        (sources / f"speaker{n % 2}" / f"Clip {n}.mp4").write_text("13\n13")
    said = r"operator fragile failed on 5 samples in a row; the last, clips-.*ValueError: 13 in .*dataset_toy.py.*--max-failures"
    for runner in ("serial", "ray"):
        with pytest.raises(LikenessError, match=said):
            make(tmp_path / runner, sources, ["fragile"], failures_in_a_row=5, runner=runner, workers=1)
    report = make(tmp_path / "serial", failures_in_a_row=50)
    assert report.rows == 12
    assert report.quarantined == 13


def test_a_full_disk_stops_the_run(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipelines.dataset.shard.ColumnWriter.add", full)
    with pytest.raises(LikenessError, match="No space left on device; make room and run again"):
        make(tmp_path / "set", sources, ["shifted"], runner="serial")
    monkeypatch.undo()
    assert make(tmp_path / "set").rows == 9


def test_the_plan_says_why(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    request = updated(None, sources=[str(sources)], fields=["shifted"])
    plan = plan_build(root, request, TOOLBOX)
    assert [dict(plan.reasons(node)) for node in plan.graph.nodes] == [{"new": 2}] * 3
    assert not root.exists()

    make(root, sources, ["shifted"])
    assert reasons(root) == {}
    (sources / "more.mp4").write_text("1")
    (sources / "again.mp4").write_text("1")
    assert reasons(root) == {name: {"new sources: 2 files": 1} for name in ("ingest", "double", "shift")}
    make(root)

    toy.Double.version = 2
    assert reasons(root) == {"double": {"double version 1 -> 2": 3}, "shift": {"input changed: double": 3}}
    make(root)
    plan = plan_build(root, updated(load_request(root), settings=["shift.by=5"]), TOOLBOX)
    assert {node.name: dict(plan.reasons(node)) for node in plan.graph.nodes if plan.reasons(node)} == {
        "shift": {"params changed: by 1 -> 5": 3}
    }
    assert make(root, settings=["shift.by=5"]).units == 3

    (sources / "more.mp4").write_text("1 2 3 4")
    assert reasons(root)["ingest"] == {"sources changed: clips/more.mp4": 1}
    assert reasons(root)["shift"] == {"double runs": 1}
    toy.calls.clear()
    make(root)
    more = next(row.key for row in open_dataset(root).rows() if "more" in row.key)
    assert sorted(toy.calls) == [("double", more), ("ingest", "clips/more.mp4"), ("shift", more)]  # other rows are copied
    assert reasons(root) == {}


def test_damage_is_found_named_and_mended(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    first = make(root, sources, ["summed"])
    data = open_dataset(root)
    tar = data.open_member(data.rows()[0], "doubled")[0]
    idx, ledger = tar.with_suffix(".idx"), tar.with_name(tar.stem + ".ledger.parquet")
    assert verify(root).problems == []
    for file, damage in ((tar, 700), (idx, 30), (ledger, 200)):
        data_bytes = bytearray(file.read_bytes())
        data_bytes[damage] ^= 1
        file.write_bytes(data_bytes)
        (problem,) = verify(root).problems
        assert problem.path == file.relative_to(root).as_posix()
        assert "bytes changed" in problem.what
        assert problem.fix.endswith(f"likeness data build {root}")
        data_bytes[damage] ^= 1
        file.write_bytes(data_bytes)
    for file in (tar, idx, ledger):
        file.unlink()
    assert len(verify(root).problems) == 3
    toy.calls.clear()
    mended = make(root)
    assert {name for name, _ in toy.calls} == {"double"}  # what reads it is copied: its inputs are as they were
    assert (mended.digest, mended.changed) == (first.digest, False)
    assert verify(root).problems == []
    (root / "sources.parquet").unlink()
    (problem,) = verify(root).problems
    assert problem.path == "sources.parquet"
    make(root)
    assert verify(root).problems == []


def test_gone_sources_keep_their_rows(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    first = make(root, sources, ["shifted"])
    (sources / "speaker1" / "Clip 1.mp4").unlink()
    report = make(root)
    assert (report.digest, report.units) == (first.digest, 0)
    assert report.notices == ["1 source files are gone, their rows stay: clips/speaker1/Clip 1.mp4"]
    more = make(root, fields=["fragile"])
    assert {p["reason"][:17] for p in more.problems if p["operator"] == "fragile"} == {"FileNotFoundError"}


def test_a_moved_folder_keeps_its_keys(sources: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    first = make(root, sources, ["shifted"])
    (tmp_path / "new").mkdir()
    sources.rename(tmp_path / "new" / "clips")
    assert make(root).digest == first.digest  # nothing has to be read from it
    with pytest.raises(LikenessError, match=r"source clips: .* is gone, and fragile reads .*--source clips=NEW_PLACE"):
        make(root, fields=["fragile"])
    report = make(root, tmp_path / "new" / "clips")
    assert (report.digest, report.units) == (first.digest, 0)


def test_an_asset_that_is_gone_matters_only_when_something_must_be_made_with_it(sources: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(toy.Shift, "resources", Resources(assets=("weights",)))

    def gone(name: str) -> tuple[Path, str]:
        raise LikenessError(f"asset {name} is not here", fix="fetch it")

    root = tmp_path / "set"
    first = make(root, sources, ["shifted"])
    without = replace(TOOLBOX, asset=gone)
    again = build(root, updated(load_request(root)), without)
    assert (again.digest, again.units) == (first.digest, 0)
    more = build(root, updated(load_request(root), fields=["summed"]), without)  # reads what was made with it
    assert more.attempts > 0
    with pytest.raises(LikenessError, match="asset weights is not here"):
        build(root, updated(load_request(root), settings=["shift.by=5"]), without)
    with pytest.raises(LikenessError, match="asset weights is not here"):
        build(tmp_path / "other", updated(None, sources=[str(sources)], fields=["shifted"]), without)


def test_rows_that_had_no_value_may_go(sources: Path, tmp_path: Path) -> None:
    """What is made of a row without sound is nothing, with and without the row: the tars are the same, the ledgers are not."""
    root = tmp_path / "set"
    (sources / "silent.mp4").write_text("1 2\n3 4\n5")
    make(root, sources, ["shifted"])
    make(root, settings=["shift.by=2"])
    (sources / "silent.mp4").write_text("1 2")
    make(root)
    report = make(root, settings=["shift.by=1"])  # finds its old column
    assert report.rows == 9 + 1
    assert sum("silent" in key for key in lines(root, "shift")) == 1
    assert verify(root).problems == []
    assert make(root, settings=["shift.by=1"]).units == 0
