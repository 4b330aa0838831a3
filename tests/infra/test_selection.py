"""Selections and tombstones on a dataset written by hand: rules, ledgers of rows, and what readers then give out."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import digest
from infra.errors import LikenessError
from infra.storage import Dataset, open_dataset
from infra.storage.columns import ColumnWriter
from infra.storage.dataset import split_reference
from infra.storage.ledger import Commit, LedgerRow, write_ledger
from infra.storage.manifest import Column, ColumnShard, FieldInfo, Manifest, ShardEntry, SourceEntry, column_files, commit_manifest
from infra.storage.selection import Rule, current, decide, read_selection, selection_file
from infra.storage.tombstones import Tombstone, Tombstones, anonymous, of_text

PEOPLE = {"a-0": "anna", "b-0": "bob", "c-0": "anna", "d-0": "7"}
MEASURES = {"a-0": {"blur": 80.5, "share": 1, "nan": None}, "b-0": {"blur": 20, "share": 0.5, "good": True},
            "c-0": {"blur": 50, "deep": {"er": 3}}}  # fmt: skip
AGES = {"a-0": 30, "b-0": 40, "c-0": 50, "d-0": 60}


def npy(value: float) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(value))
    return out.getvalue()


def write_column(root: Path, name: str, values: dict[str, tuple[str, str, bytes] | None]) -> Column:
    """One shard; a row without a value is quarantined."""
    tar, idx, ledger = column_files(root, name, of_text(name), 0, 0)
    tar.parent.mkdir(parents=True)
    writer = ColumnWriter(tar)
    lines = []
    for n, (key, value) in enumerate(values.items()):
        if value:
            writer.add(key, *value)
        source = json.dumps({"path": f"clips/{key}.mp4", "sha256": of_text(key), "segment": n}) if name == "ingest" else ""
        lines.append(LedgerRow(key, "written" if value else "quarantined", source=source))
    writer.close()
    idx.write_bytes(writer.index)
    write_ledger(ledger, lines, Commit(writer.size, writer.sha256, digest.of_file(idx), {}))
    entry = ColumnShard(
        written=sum(v is not None for v in values.values()), quarantined=sum(v is None for v in values.values()),
        bytes=writer.size, sha256=writer.sha256, idx_sha256=digest.of_file(idx), ledger_sha256=digest.of_file(ledger),
    )  # fmt: skip
    return Column(operator=name, version=1, digest=of_text(name), params={}, reads=(), shards=(entry,))


def info(name: str, codec: str, operator: str, shape: tuple[int | str, ...] = ()) -> FieldInfo:
    return FieldInfo(name=name, codec=codec, extension=codec, dtype="float32", shape=shape, rate="clip", meaning="",
                     operator=operator, version=1, digest=of_text(operator))  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four rows: d-0 has no measures; people anna, bob and 7."""
    root = tmp_path / "set"
    measured = {key: ("measures", "json", json.dumps(MEASURES[key]).encode()) if key in MEASURES else None for key in PEOPLE}
    columns = [
        write_column(root, "ingest", dict.fromkeys(PEOPLE, ("source", "json", b"{}"))),
        write_column(root, "measure", measured),
        write_column(root, "age", {key: ("age", "npy", npy(age)) for key, age in AGES.items()}),
    ]
    sources = tuple(
        SourceEntry(path=f"clips/{key}.mp4", bytes=1, sha256=of_text(key), person=person, split="train", status="ingested",
                    keys=(key,), tags={"consent": "yes"} if person == "anna" else {})
        for key, person in PEOPLE.items()
    )  # fmt: skip
    commit_manifest(root, Manifest(
        shard_sources=4, wanted=("measures",), ingest=f"ingest/{of_text('ingest')[:8]}", sources=sources,
        shards=(ShardEntry(sources=tuple(s.path for s in sources), rows=4),),
        fields={i.name: i for i in (info("source", "json", "ingest"), info("measures", "json", "measure"),
                                    info("age", "npy", "age"), info("mel", "npy", "age", ("frames",)))},
        columns={f"{c.operator}/{c.digest[:8]}": c for c in columns},
    ))  # fmt: skip
    return root


def decided(root: Path, *rules: str) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Keys kept; dropped with the measure; missing with the measure."""
    data = open_dataset(root)
    made = decide(data, "one", [Rule.parse(rule) for rule in rules])
    lost = {line.key: line.measure for line in made.dropped}, {line.key: line.measure for line in made.missing}
    kept = [row.key for row in data.rows() if row.key not in lost[0] | lost[1]]
    assert digest.of_json(kept) == made.kept_sha256
    assert made.all == made.kept + len(made.dropped) + len(made.missing) == 4
    return kept, *lost


@pytest.mark.parametrize(
    ("rules", "kept", "dropped", "missing"),
    [
        (["measures.blur >= 50"], "ac", "b", "d"),
        (["measures.blur>50"], "a", "bc", "d"),
        (["measures.blur <= 20", "measures.share > 0.9"], "", "abc", "d"),
        (["measures.share > 0.4"], "ab", "", "cd"),
        (["measures.nan != 0"], "", "", "abcd"),
        (["measures.good == true"], "b", "", "acd"),
        (["measures.deep.er == 3"], "c", "", "abd"),
        (["age < 45"], "ab", "cd", ""),
        (["source.person != anna"], "bd", "ac", ""),
        (["source.person == 7"], "d", "abc", ""),
        (["source.person == '7'"], "d", "abc", ""),
        (["source.tags.consent == yes"], "ac", "", "bd"),
        ([f"source.person != sha256:{of_text('anna')}"], "bd", "ac", ""),
        ([], "abcd", "", ""),
    ],
)
def test_rules_keep_drop_and_miss(root: Path, rules: list[str], kept: str, dropped: str, missing: str) -> None:
    found = decided(root, *rules)
    assert [[key[0] for key in part] for part in found] == [list(kept), list(dropped), list(missing)]


def test_first_failing_rule_decides_and_every_rule_is_counted(root: Path) -> None:
    made = decide(open_dataset(root), "one", [Rule.parse("age <= 45"), Rule.parse("measures.blur > 60")])
    assert [(line.key, line.measure, line.value, line.threshold) for line in made.dropped] == [
        ("b-0", "measures.blur", 20, 60), ("c-0", "age", 50, 45), ("d-0", "age", 60, 45)]  # fmt: skip
    assert [(line.rule, line.fails, line.lacks) for line in made.per_rule] == [("age <= 45", 2, 0), ("measures.blur > 60", 2, 1)]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("measures.blurr > 1", r"no measure|nearest: measures.blur\)"),
        ("measurs.blur > 1", r"has no field 'measurs' \(nearest: measures\).*likeness data add"),
        ("measures > 1", "holds several numbers; allowed: measures.blur"),
        ("mel > 1", r"field mel \(npy\) is no number to select by"),
        ("source.tags.consnt == yes", r"nearest: source.tags.consent\)"),
        ("measures.blur", "FIELD.NAME OP VALUE"),
        ("measures.blur > sharp", "compares with 'sharp'; allowed: a number"),
        ("measures.blur > ", "FIELD.NAME OP VALUE"),
        ("measures.blur > nan", "compares with 'nan'"),
    ],
)
def test_mistakes_name_the_nearest(root: Path, rule: str, says: str) -> None:
    with pytest.raises(LikenessError, match=says):
        decided(root, rule)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["measures.a", "source.tags.x-y", "age"]), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
       st.floats(allow_nan=False, allow_infinity=False))  # fmt: skip
def test_rules_survive_their_own_text(measure: str, op: str, threshold: float) -> None:
    rule = Rule.parse(f"{measure}{op}{threshold!r}")
    assert Rule.parse(str(rule)) == rule
    assert rule.threshold == threshold


def store(root: Path, name: str, *rules: str) -> Dataset:
    made = decide(open_dataset(root), name, [Rule.parse(rule) for rule in rules])
    selection_file(root, name).parent.mkdir(exist_ok=True)
    selection_file(root, name).write_bytes(made.encoded())
    assert read_selection(root, name) == made
    return open_dataset(root, selection=name)


def test_reader_gives_out_only_what_the_selection_keeps(root: Path) -> None:
    data = store(root, "sharp", "measures.blur >= 50")
    assert [row.key for row in data.rows()] == ["a-0", "c-0"]
    assert len(data) == 2
    assert data.read("c-0", "age") == npy(50)  # places count all rows
    with pytest.raises(LikenessError, match="row b-0 of dataset .* is not in selection sharp"):
        data.row("b-0")
    again = pickle.loads(pickle.dumps(data))
    assert ([row.key for row in again.rows()], again.view) == (["a-0", "c-0"], data.view)
    assert data.view["selection"] == "sharp"
    assert open_dataset(root).view == {}
    assert data.view != store(root, "sharp", "measures.blur >= 60").view
    with pytest.raises(LikenessError, match="has no selection 'blurred'; allowed: sharp"):
        open_dataset(root, selection="blurred")


def test_damaged_selection_is_noticed(root: Path) -> None:
    store(root, "sharp", "measures.blur >= 50")
    file = selection_file(root, "sharp")
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(LikenessError, match="damaged.*decide again"):
            read_selection(root, "sharp")


def take_down(root: Path, *stones: Tombstone) -> None:
    Tombstones(stones).save(root)


@pytest.mark.parametrize(
    ("stone", "hidden"),
    [
        (Tombstone(kind="person", sha256=of_text("anna"), value="anna"), {"a-0", "c-0"}),
        (Tombstone(kind="source", sha256=of_text("clips/b-0.mp4"), paths=(of_text("clips/b-0.mp4"),)), {"b-0"}),
        (Tombstone(kind="source", sha256="0" * 64, contents=(of_text("c-0"),)), {"c-0"}),
        (Tombstone(kind="key", sha256=of_text("d-0"), rows=(of_text("d-0"),)), {"d-0"}),
        (Tombstone(kind="key", sha256="0" * 64, segments=(f"{of_text('b-0')}/1", f"{of_text('c-0')}/1")), {"b-0"}),
    ],
)
def test_what_is_taken_down_is_not_given_out(root: Path, stone: Tombstone, hidden: set[str]) -> None:
    before = open_dataset(root)
    rows = {row.key: row for row in before.rows()}
    old = store(root, "all", "age > 0")
    assert len(old) == 4
    take_down(root, stone)
    data = open_dataset(root)
    assert {row.key for row in data.rows()} == rows.keys() - hidden
    assert data.taken_down == len(hidden)
    assert data.view.keys() == {"rows"}
    for key, row in rows.items():
        assert data.has(row, "age") == (key not in hidden)
        if key in hidden:
            for refused in (data.row, lambda key: data.read(rows[key], "age")):
                with pytest.raises(LikenessError, match=f"row {key} .* is taken down"):
                    refused(key)
        else:
            assert data.read(key, "age") == npy(AGES[key])
    selected = open_dataset(root, selection="all")
    assert {row.key for row in selected.rows()} == rows.keys() - hidden
    assert current(data, read_selection(root, "all")).all == 4 - len(hidden)


def test_tombstones_refuse_by_name_bytes_and_person(root: Path) -> None:
    stones = Tombstones((
        Tombstone(kind="person", sha256=of_text("anna"), paths=(of_text("clips/a.mp4"),), contents=("f" * 64,), purged=True),
        Tombstone(kind="source", sha256=of_text("clips/b.mp4"), paths=(of_text("clips/b.mp4"),)),
    ))  # fmt: skip
    assert stones.refusal("clips/new.mp4", "anna") == stones.refusal("clips/a.mp4", "x") == "taken down"
    assert stones.refusal("copy.mp4", "x", "f" * 64) == stones.refusal("clips/b.mp4") == "taken down"
    assert stones.refusal("clips/c.mp4", "x", "e" * 64) == ""
    assert stones.refusal("clips/c.mp4") == ""
    assert stones.name("clips/a.mp4") == anonymous("clips/a.mp4") == f"taken-down/{of_text('clips/a.mp4')}"
    assert stones.name("clips/b.mp4") == "clips/b.mp4"
    assert anonymous(anonymous("clips/a.mp4")) == anonymous("clips/a.mp4")
    assert Tombstones().refusal("a", "", "") == ""


def test_damaged_tombstones_close_the_dataset(root: Path) -> None:
    take_down(root, Tombstone(kind="person", sha256=of_text("anna"), value="anna", reason="asked", date="2026-01-01"))
    file = root / "tombstones.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(LikenessError, match="damaged"):
            open_dataset(root)


def test_reference_names_a_selection(tmp_path: Path) -> None:
    assert split_reference("data/set:sharp") == ("data/set", "sharp")
    assert split_reference("data/set") == ("data/set", None)
    assert split_reference("C:/data") == ("C:/data", None)
    (tmp_path / "a:b").mkdir()
    assert split_reference(f"{tmp_path}/a:b") == (f"{tmp_path}/a:b", None)
