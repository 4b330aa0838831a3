"""Finding sources: names, keys, people, splits, source lists; and requests with their mistakes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import dataset_toy as toy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_toy import TOOLBOX

from infra.errors import LikenessError
from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.graph import resolve
from pipelines.dataset.request import Request, load_recipe, updated
from pipelines.dataset.sources import Source, assign_splits, find_sources, source_key
from preprocessing.fields import by_name


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    toy.write_sources(tmp_path / "clips", 4)
    return tmp_path / "clips"


def found(tmp_path: Path, request: Request) -> dict[str, Source]:
    return {source.path: source for source in find_sources(tmp_path / "set", request, [])}


def test_keys_are_readable_unique_and_fit_for_tar_names() -> None:
    assert source_key("clips/Łódź Ñandú.mp4").startswith("clips-d-and-")
    assert source_key("clips/a.mp4") != source_key("clips/a.mov")
    key = source_key("clips/" + "x" * 300 + ".tar.gz")
    assert len(key) <= 55
    assert "." not in key
    assert "/" not in key


def test_hidden_files_the_dataset_and_the_list_are_no_sources(clips: Path) -> None:
    (clips / ".git").mkdir()
    (clips / ".git" / "x.mp4").write_text("1")
    (clips / "set").mkdir()
    (clips / "set" / "y.mp4").write_text("1")
    (clips / "list.tsv").write_text("path\tspeaker\nspeaker0/Clip 0.mp4\tanna\n")
    request = updated(None, sources=[str(clips)], source_list=str(clips / "list.tsv"), fields=["x"])
    sources = {s.path: s for s in find_sources(clips / "set", request, [])}
    assert len(sources) == 6
    assert {s.path for s in sources.values() if not s.refusal} == {"clips/speaker0/Clip 0.mp4"}
    assert sources["clips/speaker0/Clip 0.mp4"].person == "anna"
    assert sources["clips/empty.mp4"].refusal == "not in the source list"


def test_people_are_folders_or_else_files(tmp_path: Path, clips: Path) -> None:
    sources = found(tmp_path, updated(None, sources=[str(clips)], fields=["x"]))
    assert sources["clips/speaker1/Clip 1.mp4"].person == "clips/speaker1"
    assert sources["clips/words.mp4"].person == "clips/words"


def test_one_file_and_several_folders_of_one_name(tmp_path: Path, clips: Path) -> None:
    toy.write_sources(tmp_path / "more" / "clips", 1)
    request = updated(None, sources=[str(clips), str(tmp_path / "more" / "clips")], fields=["x"])
    assert list(request.roots) == ["clips", "clips-2"]
    assert "clips-2/speaker0/Clip 0.mp4" in found(tmp_path, request)
    (tmp_path / "one.mp4").write_text("1")
    assert list(found(tmp_path, updated(None, sources=[f"me={tmp_path / 'one.mp4'}"], fields=["x"]))) == ["me/one.mp4"]


def entries(*people: str, split: str = "") -> list[Source]:
    return [Source(f"r/{name}/{n}", Path(), 1, 0, name, split) for name in people for n in range(2)]


def test_splits_follow_people_and_stay() -> None:
    first = entries(*"abcdefghijklmnopqrst")
    splits = assign_splits(first, {s.path for s in first}, 0.1)
    assert sorted(splits.values()) == ["train"] * 18 + ["val"] * 2
    again = [Source(s.path, s.file, 1, 0, s.person, splits[s.person]) for s in first] + entries("new")
    assert assign_splits(again, {s.path for s in again}, 0.1) == splits | {"new": "val"}  # 21 people: 3 of them
    assert assign_splits(again, {s.path for s in again}, 0.05).items() >= splits.items()
    assert set(assign_splits(entries("alone"), {"r/alone/0"}, 0.5).values()) == {"train"}
    assert sorted(assign_splits(entries("a", "b", "broken"), {"r/a/0", "r/b/0"}, 0.1).values()) == ["train", "val"]
    assert set(assign_splits(first, {s.path for s in first}, 0).values()) == {"train"}


def test_the_list_rules_people_splits_and_tags(tmp_path: Path, clips: Path) -> None:
    table = tmp_path / "list.tsv"
    table.write_text(
        "path\tspeaker\tsplit\tlanguage\nspeaker0/Clip 0.mp4\tanna\ttest\tfr\n"
        f"{clips}/speaker1/Clip 1.mp4\tanna\t\t\nclips/speaker0/Clip 2.mp4\tben\ttrain\tde\nnot/there.mp4\tcleo\t\t\n"
    )
    request = updated(None, sources=[str(clips)], source_list=str(table), fields=["shifted"])
    build(tmp_path / "set", request, TOOLBOX)
    data = open_dataset(tmp_path / "set")
    by_path = {entry.path: entry for entry in data.manifest.sources}
    assert by_path["clips/not/there.mp4"].reason.startswith("in the source list, but no such file")
    assert by_path["clips/speaker1/Clip 3.mp4"].reason == "not in the source list"
    assert {(row.source["person"], row.source["split"]) for row in data.rows()} == {("anna", "test"), ("ben", "train")}
    assert data.rows()[0].source["tags"] == {"language": "fr"}
    tars = {f: f.read_bytes() for f in (tmp_path / "set" / "columns").rglob("*.tar")}

    table.write_text("path\tspeaker\tsplit\nspeaker0/Clip 0.mp4\tanna\tval\nspeaker0/Clip 2.mp4\tben\ttrain\n")
    toy.calls.clear()
    report = build(tmp_path / "set", request, TOOLBOX)  # another split: only the manifest changes; a file left out: its rows go
    data = open_dataset(tmp_path / "set")
    assert {(row.source["person"], row.source["split"]) for row in data.rows()} == {("anna", "val"), ("ben", "train")}
    assert report.rows == 2
    assert toy.calls == []
    assert all(f.read_bytes() == data_bytes for f, data_bytes in tars.items())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line has nothing"),
        ("file\tspeaker\na\tb\n", "first line has 'file', 'speaker'.*path"),
        ("path\tsplit\nspeaker0/Clip 0.mp4\ttrian\n", "line 2: split 'trian'; allowed: train, val, test"),
        ("path\nspeaker0/Clip 0.mp4\nspeaker0/Clip 0.mp4\n", "line 3: .* stands there twice"),
        ("path\nspeaker0/Clip 0.mp4\textra\n", "line 2: more cells than column names"),
        ("path\nnowhere.mp4\n", "none of its 1 paths is a file below the sources; the first is nowhere.mp4"),
        (
            "path\tspeaker\tsplit\nspeaker0/Clip 0.mp4\ta\ttrain\nspeaker0/Clip 2.mp4\ta\tval\n",
            "person a is in split train and in val",
        ),
    ],
)
def test_mistakes_in_the_list_are_named(tmp_path: Path, clips: Path, text: str, said: str) -> None:
    (tmp_path / "list.tsv").write_text(text)
    request = updated(None, sources=[str(clips)], source_list=str(tmp_path / "list.tsv"), fields=["x"])
    with pytest.raises(LikenessError, match=said):
        found(tmp_path, request)


def test_wrong_sources_are_named(tmp_path: Path, clips: Path) -> None:
    with pytest.raises(LikenessError, match="no such folder or file"):
        updated(None, sources=[str(tmp_path / "none")])
    with pytest.raises(LikenessError, match="has no sources; name a folder of clips or photos: --source"):
        found(tmp_path, updated(None, fields=["x"]))
    with pytest.raises(LikenessError, match="lies below --source"):
        found(tmp_path, updated(None, sources=[str(clips), str(clips / "speaker0")], fields=["x"]))
    (tmp_path / "bare").mkdir()
    with pytest.raises(LikenessError, match="no files to ingest below"):
        build(tmp_path / "set", updated(None, sources=[str(tmp_path / "bare")], fields=["shifted"]), TOOLBOX)


@pytest.mark.parametrize(
    ("fields", "settings", "said"),
    [
        (["shifed"], [], r"unknown field 'shifed' \(nearest: shifted\)"),
        (["video"], [], "video is never stored"),
        (["shifted"], ["shft.by=2"], r"operator 'shft', .* \(nearest: shift\); allowed: double, ingest, shift"),
        (["shifted"], ["shift.by=high"], "setting by='high' of operator Params"),
        (["shifted"], ["shift.b=2"], "setting b=2 of operator Params: Extra inputs"),
        (["shifted"], ["shift"], "--set shift; allowed: OPERATOR.SETTING=VALUE"),
    ],
)
def test_wrong_fields_and_settings_are_named(fields: list[str], settings: list[str], said: str) -> None:
    def asked() -> None:
        request = updated(None, fields=fields, settings=settings)
        resolve(TOOLBOX, request.fields, request.operators)

    with pytest.raises(LikenessError, match=said):
        asked()


def test_recipes_are_known_and_checked(tmp_path: Path) -> None:
    talking = load_recipe("talking")
    assert "face_box_96" in talking.fields
    assert all(by_name(name) for name in talking.fields)
    assert updated(None).fields == talking.fields
    assert updated(Request(fields=["mel80"]), fields=["voiced", "mel80"]).fields == ["mel80", "voiced"]
    with pytest.raises(LikenessError, match="unknown recipe 'walking'; allowed: portrait, talking"):
        load_recipe("walking")
    (tmp_path / "own.yaml").write_text("fields: [mel80]\nextra: 1\n")
    with pytest.raises(LikenessError, match=r"own.yaml: 1 validation error"):
        load_recipe(str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text("fields: [mel80]\noperators: {ingest: {max_clip_s: 4}}\n")
    assert updated(None, recipe=str(tmp_path / "own.yaml")).operators == {"ingest": {"max_clip_s": 4}}


def test_people_by_rule(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    (folder / "extra").mkdir(parents=True)
    for name in ("anna_1.jpg", "anna_2.jpg", "extra/ben_1.jpg", "plain.jpg"):
        (folder / name).write_text("1")

    def people(rule: str) -> dict[str, str]:
        request = updated(None, sources=[str(folder)], fields=["x"], people=rule)
        return {path.removeprefix("faces/"): source.person for path, source in found(tmp_path, request).items()}

    assert people("folder")["extra/ben_1.jpg"] == "faces/extra"
    assert people("file")["extra/ben_1.jpg"] == "faces/extra/ben_1"
    assert people(r"([a-z]+)_\d") == {
        "anna_1.jpg": "faces/anna", "anna_2.jpg": "faces/anna", "extra/ben_1.jpg": "faces/ben", "plain.jpg": "faces/plain",
    }  # fmt: skip
    with pytest.raises(LikenessError, match=r"--people \(: .*; allowed: folder, file, or a regular"):
        people("(")


def test_sidecars_speak_about_the_file_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.png", "c.jpg"):
        (folder / name).write_text("1")
    (folder / "a.txt").write_text("  a woman laughs\n")
    (folder / "a.json").write_text('{"licence": "CC-BY-4.0", "faces": 2, "caption": "not this one"}')
    (folder / "b.png.txt").write_text("a man")
    (folder / "c.json").write_text("[1, 2]")
    (folder / "notes.txt").write_text("nobody's sidecar")
    sources = found(tmp_path, updated(None, sources=[str(folder)], fields=["x"]))
    assert set(sources) == {"photos/a.jpg", "photos/b.png", "photos/c.jpg", "photos/notes.txt"}
    assert sources["photos/a.jpg"].given == {"caption": "a woman laughs", "tags": {"licence": "CC-BY-4.0", "faces": "2"}}
    assert sources["photos/b.png"].given == {"caption": "a man"}
    assert sources["photos/c.jpg"].tags == {"sidecar_error": ".json: not a JSON object"}


def test_lists_may_be_csv_or_parquet_and_carry_captions(tmp_path: Path, clips: Path) -> None:
    rows = [{"path": "speaker0/Clip 0.mp4", "person": "anna", "caption": "anna, smiling", "consent": "yes"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    (tmp_path / "list.csv").write_text('path,person,caption,consent\nspeaker0/Clip 0.mp4,anna,"anna, smiling",yes\n')
    for name in ("list.parquet", "list.csv"):
        sources = found(tmp_path, updated(None, sources=[str(clips)], source_list=str(tmp_path / name), fields=["x"]))
        source = sources["clips/speaker0/Clip 0.mp4"]
        assert (source.person, source.caption, source.tags) == ("anna", "anna, smiling", {"consent": "yes"})


def webdataset(path: Path, members: dict[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


def test_the_samples_of_a_webdataset_are_sources(tmp_path: Path) -> None:
    folder = tmp_path / "wds"
    webdataset(folder / "00.tar", {"k1.mp4": "1 2 3\n4 5", "k1.txt": "first", "k1.json": '{"licence": "MIT"}', "d/k2.mp4": "7 8 9"})
    webdataset(folder / "01.tar", {"k3.txt": "no clip to speak about"})
    (folder / "02.tar").write_bytes((folder / "00.tar").read_bytes()[:1300])
    request = updated(None, sources=[str(folder)], fields=["summed"])
    sources = found(tmp_path, request)
    assert set(sources) == {
        "wds/00.tar/k1.mp4", "wds/00.tar/d/k2.mp4", "wds/01.tar/k3.txt", "wds/02.tar", "wds/02.tar/k1.mp4",
    }  # fmt: skip
    assert sources["wds/00.tar/k1.mp4"].given == {"caption": "first", "tags": {"licence": "MIT"}}
    build(tmp_path / "set", request, TOOLBOX)
    data = open_dataset(tmp_path / "set")
    by_path = {entry.path: entry for entry in data.manifest.sources}
    assert by_path["wds/00.tar/k1.mp4"].sha256 == hashlib.sha256(b"1 2 3\n4 5").hexdigest()
    keys = [key for entry in by_path.values() for key in entry.keys if entry.path.startswith("wds/00")]
    assert [json.loads(data.read(key, "summed"))["frames"] for key in keys] == [72, 18, 27]  # 7 8 9; 1 2 3; 4 5
    before = {f: f.read_bytes() for f in (tmp_path / "set").rglob("*.tar")}
    webdataset(folder / "03.tar", {"k4.mp4": "1 1 1"})
    report = build(tmp_path / "set", request, TOOLBOX)
    assert report.units == 1
    assert {f: f.read_bytes() for f in before} == before
    assert not list((tmp_path / "set").glob("tmp/*"))
