"""Column tars, ledgers, manifests, the reader and the build lock, on datasets written by hand."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import webdataset

from infra import digest
from infra.errors import LikenessError
from infra.storage import open_dataset
from infra.storage.atomic import move_into_place, sweep, temporary
from infra.storage.columns import ColumnWriter, parse_index, walk_tar
from infra.storage.ledger import Commit, LedgerRow, read_commit, read_ledger, write_ledger
from infra.storage.lock import build_lock
from infra.storage.manifest import Column, ColumnShard, FieldInfo, Manifest, ShardEntry, column_files, commit_manifest

INGEST = "1" * 64
MEL = "2" * 64


def write_column(root: Path, operator: str, op_digest: str, shard: int, values: dict[str, dict[str, bytes]]) -> ColumnShard:
    """One column shard: row key -> field -> bytes; a row without fields is quarantined."""
    tar, idx, ledger = column_files(root, operator, op_digest, shard, 0)
    tar.parent.mkdir(parents=True, exist_ok=True)
    writer = ColumnWriter(tar)
    for key, fields in values.items():
        for name, data in fields.items():
            writer.add(key, name, "npy", data)
    writer.close()
    idx.write_bytes(writer.index)
    rows = [
        LedgerRow(key, "written" if fields else "quarantined", source=json.dumps({"split": "train", "key": key}))
        for key, fields in values.items()
    ]
    write_ledger(ledger, rows, Commit(writer.size, writer.sha256, digest.of_file(idx), {}))
    written = sum(bool(f) for f in values.values())
    return ColumnShard(
        written=written, quarantined=len(values) - written, bytes=writer.size, sha256=writer.sha256,
        idx_sha256=digest.of_file(idx), ledger_sha256=digest.of_file(ledger),
    )  # fmt: skip


def write_dataset(root: Path) -> None:
    """Two shards of two rows; the last row has no mel."""
    keys = [["a-0", "b-0"], ["c-0", "d-0"]]
    source = [
        write_column(root, "ingest", INGEST, i, {k: {"source": f"src {k}".encode()} for k in ks}) for i, ks in enumerate(keys)
    ]
    mel = [
        write_column(root, "mel", MEL, i, {k: {} if k == "d-0" else {"mel80": b"mel" * 300 + k.encode()} for k in ks})
        for i, ks in enumerate(keys)
    ]

    def info(name: str, op: str, op_digest: str) -> FieldInfo:
        return FieldInfo(name=name, codec="npy", extension="npy", dtype="float32", shape=(), rate="clip", meaning="", operator=op,
                         version=1, digest=op_digest)

    def column(op: str, op_digest: str, shards: list[ColumnShard]) -> Column:
        return Column(operator=op, version=1, digest=op_digest, params={}, reads=(), shards=tuple(shards))

    commit_manifest(root, Manifest(
        shard_sources=2, wanted=("mel80",), ingest="ingest/11111111", sources=(),
        shards=tuple(ShardEntry(sources=(), rows=2) for _ in keys),
        fields={"source": info("source", "ingest", INGEST), "mel80": info("mel80", "mel", MEL)},
        columns={"ingest/11111111": column("ingest", INGEST, source), "mel/22222222": column("mel", MEL, mel)},
    ))  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "set")
    return tmp_path / "set"


def test_tar_bytes_do_not_depend_on_time_or_place(tmp_path: Path) -> None:
    tars = []
    for name in ("one", "two"):
        writer = ColumnWriter(tmp_path / name)
        writer.add("k-1", "field", "npy", b"x" * 700)
        writer.add("k-1", "other", "json", b"")
        writer.close()
        assert writer.sha256 == digest.of_file(tmp_path / name)
        assert writer.size == (tmp_path / name).stat().st_size
        tars.append((tmp_path / name).read_bytes())
        time.sleep(0.01)
    assert tars[0] == tars[1]


def test_index_says_what_the_tar_says(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "x.tar")
    for i in range(5):
        writer.add(f"k-{i}", "field", "npy", bytes(i * 511))
        writer.add(f"k-{i}", "other", "json", b"{}")
    writer.close()
    assert list(parse_index(writer.index)) == list(walk_tar(tmp_path / "x.tar"))
    assert writer.index.startswith(b"v1.2 5\nfield.npy 512 0 k-0.field.npy other.json 1024 2 k-0.other.json\n")
    with pytest.raises(ValueError, match="cut short"):
        list(parse_index(writer.index[:-30]))
    with pytest.raises(ValueError, match="no dot"):
        ColumnWriter(tmp_path / "y.tar").add("k.1", "field", "npy", b"")


def test_webdataset_reads_one_column_alone(root: Path) -> None:
    tar = column_files(root, "mel", MEL, 0, 0)[0]
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [(s["__key__"], s["mel80.npy"][-3:]) for s in samples] == [("a-0", b"a-0"), ("b-0", b"b-0")]


def test_reader_seeks_rows_and_fields(root: Path) -> None:
    data = open_dataset(root)
    assert [row.key for row in data.rows()] == ["a-0", "b-0", "c-0", "d-0"]
    assert [(row.shard, row.place) for row in data.rows()] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert data.rows()[2].source == {"split": "train", "key": "c-0"}
    assert len(data) == 4
    assert data.read("c-0", "source") == b"src c-0"
    assert data.read(data.rows()[1], "mel80").endswith(b"mel" + b"b-0")
    path, offset, size = data.open_member("b-0", "mel80")
    assert path.read_bytes()[offset : offset + size] == data.read("b-0", "mel80")
    assert [data.has(row, "mel80") for row in data.rows()] == [True, True, True, False]
    with pytest.raises(LikenessError, match="row d-0 has no mel80"):
        data.read("d-0", "mel80")
    with pytest.raises(LikenessError, match=r"nearest: mel80\).*data add"):
        data.field("mel8")
    with pytest.raises(LikenessError, match="nearest: c-0"):
        data.row("c-00")


def test_reader_survives_forks_and_pickling(root: Path) -> None:
    data = open_dataset(root)
    data.read("a-0", "mel80")
    child = os.fork()
    if child == 0:
        os._exit(0 if data.read("b-0", "mel80").endswith(b"b-0") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert data.read("a-0", "mel80").endswith(b"a-0")
    again = pickle.loads(pickle.dumps(data))
    assert (again.digest, again.read("a-0", "source")) == (data.digest, b"src a-0")


def test_reader_names_what_is_wrong(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LikenessError, match=r"does not exist; build one with: likeness data build .* --source"):
        open_dataset(tmp_path / "none")
    with pytest.raises(LikenessError, match="is not a dataset"):
        open_dataset(tmp_path)
    data = open_dataset(root)
    tar = column_files(root, "mel", MEL, 0, 0)[0]
    os.truncate(tar, 1000)
    with pytest.raises(LikenessError, match=r"000000.tar is missing, or not of the size.*likeness data verify"):
        data.read("a-0", "mel80")
    manifest = next((root / "manifests").iterdir())
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(LikenessError, match="bytes changed"):
        open_dataset(root)


def test_manifest_digest_is_of_contents_only(root: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other")
    assert open_dataset(tmp_path / "other").digest == open_dataset(root).digest
    before = (root / "history.jsonl").read_text()
    commit_manifest(root, open_dataset(root).manifest)
    assert (root / "history.jsonl").read_text() == before


def test_ledger_round_trip_and_commit_mark(tmp_path: Path) -> None:
    rows = [LedgerRow("a", "written", inputs="ab"), LedgerRow("b", "quarantined", "ValueError", "no", "f.py:1", 2)]
    commit = Commit(10, "x", "y", {"ingest/1": "z"}, [{"path": "é"}])
    for name in ("one", "two"):
        write_ledger(tmp_path / name, rows, commit)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_ledger(tmp_path / "one") == rows
    assert read_commit(tmp_path / "one") == commit
    (tmp_path / "two").write_bytes((tmp_path / "one").read_bytes()[:-20])
    assert read_commit(tmp_path / "two") is None
    assert read_commit(tmp_path / "none") is None


def test_temporary_files_are_unique_and_swept(tmp_path: Path) -> None:
    first, second = temporary(tmp_path, ".tar"), temporary(tmp_path, ".tar")
    assert first != second
    first.write_text("kept")
    second.write_text("left by a killed build")
    move_into_place(first, tmp_path / "columns" / "x.tar")
    sweep(tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["x.tar"]


HOLD = "import sys, time; from pathlib import Path; from infra.storage.lock import build_lock\n" \
       "with build_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"  # fmt: skip


def test_lock_refuses_a_second_build_and_outlives_no_holder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LikenessError, match=f"another build .* running .process {holder.pid} on"), build_lock(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with build_lock(tmp_path) as notice:
        assert f"process {holder.pid}" in notice
        assert "died" in notice
    with build_lock(tmp_path) as notice:
        assert notice == ""
    (tmp_path / "lock").write_text('{"pid": 1, "host": "elsewhere"}')
    with pytest.raises(LikenessError, match=r"another host .process 1 on elsewhere.*delete .*lock"), build_lock(tmp_path):
        pass
