"""The report and the card say what the dataset says, about any dataset, and show what there is to show."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import cv2
import dataset_toy as toy
import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typed import likeness

from infra.storage import Dataset, open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.request import load_request, save_request, updated
from pipelines.report.card import make_card, text
from pipelines.report.facts import Facts, read_facts
from pipelines.report.graph import lineage_svg
from pipelines.report.page import make_page
from pipelines.report.preview import MAX_CLIP_BYTES, PREVIEW_FRAMES, Previews, window
from pipelines.report.svg import histogram
from pipelines.report.thumbnails import MOST_BYTES, SIDE_PX, palette, thumbnails
from preprocessing.codecs import decode
from preprocessing.fields import AUDIO, LANDMARKS_68, LANDMARKS_478, by_name

NASTY = "<img src=x onerror=alert(1)> & 'so' \"on\".jpg"
SCRIPT = "</script><script>alert(2)</script>"


class Page(HTMLParser):
    """What a browser would make of the page: elements with their attributes, and the text inside each kind."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.setdefault(tag, []).append("")
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open][-1] += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and all(a.get(name.rstrip("_")) == value for name, value in wanted.items())]

    @property
    def data(self) -> dict[str, Any]:
        place = next(n for n, a in enumerate(self.all("script")) if a.get("type") == "application/json")
        return json.loads(self.texts["script"][place])


@pytest.fixture(scope="module")
def facts(dataset: Path) -> Facts:
    return read_facts(open_dataset(dataset))


@pytest.fixture(scope="module")
def html(facts: Facts) -> str:
    return make_page(facts, 4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of two people, one with a name, a person and a caption that are little programs; three files that give no rows."""
    folder = tmp_path_factory.mktemp("photos") / "pictures"
    folder.mkdir()
    picture = skimage.data.astronaut()[:300, 50:400, ::-1]
    cv2.imwrite(str(folder / "plain.png"), picture)
    (folder / NASTY).write_bytes(cv2.imencode(".jpg", picture[:, ::-1])[1].tobytes())
    (folder / "cut.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes()[:9000])
    (folder / "empty<b>.jpg").write_bytes(b"")
    (folder / "words.txt").write_text("nothing to see")
    rows = [
        ("path", "person", "licence", "consent", "caption"), ("plain.png", "eileen", "CC0", "signed", "an astronaut"),
        (NASTY, SCRIPT, "a|b *c*", "", f"</template>{SCRIPT}"), ("cut.jpg", "eileen", "CC0", "", ""),
        ("empty<b>.jpg", "nobody", "", "", ""), ("words.txt", "nobody", "", "", ""),
    ]  # fmt: skip
    listed = folder.parent / "list.tsv"
    with open(listed, "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    root = folder.parent / "dataset"
    likeness("data", "build", root, "--source", folder, "--list", listed, "--field", "landmarks_5", "--field", "image_128",
             "--field", "measures", "--set", "ingest.photos=true", "--set", "ingest.sound=ignored", "--val-fraction", "0.5",
             "--runner", "serial")  # fmt: skip
    return root


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """A dataset of toys: refused and quarantined sources, quarantined values, rows that lack an input."""
    folder = tmp_path / "clips"
    folder.mkdir()
    toy.write_sources(folder)
    (folder / "bad.mp4").write_text("1 13 2\n5 6")
    (folder / "silent.mp4").write_text("4 5 6")
    root = tmp_path / "dataset"
    build(root, updated(None, sources=[str(folder)], fields=["summed", "fragile"]), toy.TOOLBOX, runner="serial")
    return root


# what it says


def test_counts_are_the_datasets(dataset: Path, facts: Facts, html: str) -> None:
    """Tiles, cards, filters and the rows known to the script, against the dataset itself."""
    page, opened = Page(html), open_dataset(dataset)
    rows = opened.rows()
    assert page.texts["dd"][:2] == [str(len(rows)), str(len({r.source["person"] for r in rows}))]
    assert len(page.all("article", class_="card")) == 4 == len(page.data["samples"])
    assert Counter(page.data["split"]) == Counter(r.source["split"] for r in rows)
    assert {b["data-value"] for b in page.all("button", **{"data-filter": "split"})} == {r.source["split"] for r in rows}
    assert len(page.all("option")) == 1 + len({r.source["person"] for r in rows}) + 1
    blur = [json.loads(opened.read(r, "measures"))["blur"] for r in rows]
    assert page.data["numbers"]["measures.blur"] == pytest.approx(blur, rel=1e-5)
    for field in opened.manifest.wanted:
        assert page.all("span", id=f"field-{field}")
    assert len(page.all("tr", id=f"column-{opened.fields['measures'].column.replace('/', '-')}")) == 1


def test_nothing_from_outside(html: str) -> None:
    """One file: no address is loaded, and its policy would not let one be; its one script is the one the policy names."""
    page = Page(html)
    for tag, attributes in page.elements:
        for name in ("src", "poster", "href", "data", "action", "srcset"):
            assert not attributes.get(name) or attributes[name].startswith(("data:", "#")), (tag, attributes)
    assert not page.all("link")
    assert "url(" not in html
    assert "@import" not in html
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = page.texts["script"][-1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_everything_has_a_name(html: str) -> None:
    """For people who can't see the page: pictures, charts, buttons and inputs say what they are."""
    page = Page(html)
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("video"))
    assert all(a.get("aria-label") for a in page.all("svg"))
    labels = re.findall(r"<label[^>]*>(?:(?!</label>).)*<(?:input|select)(?:(?!</label>).)*</label>", html, re.S)
    assert len(labels) == len(page.all("input")) + len(page.all("select"))
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta", name="viewport")


def test_same_bytes(facts: Facts, html: str, dataset: Path) -> None:
    assert make_page(facts, 4) == html
    assert make_card(read_facts(open_dataset(dataset))) == make_card(facts)
    for place in (str(dataset), "/tmp", str(load_request(dataset).roots)):  # type: ignore[union-attr]
        assert place not in html


def test_json_and_files(dataset: Path, tmp_path: Path) -> None:
    """The command writes the page where it is told to, and prints what the page shows."""
    out = tmp_path / "new" / "page.html"
    said = json.loads(likeness("data", "report", dataset, "--out", out, "--samples", "1", "--json").stdout)
    assert said["rows"] == len(open_dataset(dataset).rows())
    assert said["report_bytes"] == out.stat().st_size
    assert [p.name for p in out.parent.iterdir()] == ["page.html"]
    assert len(Page(out.read_text()).all("article")) == 1
    likeness("data", "card", dataset, "--out", tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text().startswith("# dataset\n")


def test_problems(toys: Path) -> None:
    """Every refused and quarantined source and value is listed, with its trace and a command; the funnel adds up."""
    facts = read_facts(open_dataset(toys))
    summary, html = facts.summary(), make_page(facts, 6)
    assert summary["files"] == sum(summary["sources"].values()) == 14
    assert summary["sources"] == {"ingested": 12, "refused": 1, "quarantined": 1}
    assert sum(summary["row_status"].values()) == summary["rows"] == len(facts.rows)
    # 13 is too much for one operator; the silent clip lacks the input of two others.
    assert summary["row_status"]["quarantined"] == 1
    assert summary["row_status"]["starved"] == 1
    for line in summary["values"]:
        assert line["written"] + line["absent"] + line["starved"] + line["refused"] + line["quarantined"] == summary["rows"]
    fragile = next(line for line in summary["values"] if line["field"] == "fragile")
    assert (fragile["written"], fragile["reasons"]) == (summary["rows"] - 1, {"ValueError": 1})
    bad = next(p for p in facts.outcomes.value_problems if p.operator == "fragile")
    assert "dataset_toy.py" in bad.trace
    assert bad.trace.replace("<", "&lt;") in html
    assert f"likeness data replay DATASET {bad.name} --op fragile" in html
    assert "likeness data retry DATASET" in html
    assert {p.name for p in facts.outcomes.source_problems} == {"clips/empty.mp4", "clips/words.mp4"}
    assert "summed.frames" in facts.numbers.names
    assert html.count('class="nothing"') == 6  # text files have no pictures


def test_selection_in_the_funnel(toys: Path) -> None:
    likeness("data", "select", toys, "large", "--where", "summed.frames > 30", "--where", "source.split == train")
    shown = read_facts(open_dataset(toys)).summary()["selections"]
    assert [s["name"] for s in shown] == ["large"]
    assert shown[0]["kept"] + shown[0]["dropped"] + shown[0]["missing"] == len(open_dataset(toys).rows())
    assert {r["rule"] for r in shown[0]["rules"]} == {"summed.frames > 30", "source.split == train"}
    assert [r["fails"] for r in shown[0]["rules"]] == sorted((r["fails"] for r in shown[0]["rules"]), reverse=True)
    (toys / "selections" / "broken.json").write_text("{}")
    damaged = read_facts(open_dataset(toys)).selections[0]
    assert damaged["name"] == "broken"
    assert "damaged" in damaged["error"]
    assert "broken" in make_page(read_facts(open_dataset(toys)), 0)


def test_taken_down_is_not_shown(toys: Path) -> None:
    """Whoever is taken down is neither shown nor named nor counted."""
    before = read_facts(open_dataset(toys))
    person = before.rows[0].source["person"]
    assert person in make_page(before, 30)
    likeness("data", "takedown", toys, "--person", person)
    after = read_facts(open_dataset(toys))
    assert len(after.rows) == sum(r.source["person"] != person for r in before.rows)
    assert after.summary()["taken_down"] == len(before.rows) - len(after.rows)
    for written in (make_page(after, 30), make_card(after)):
        assert person not in written
        assert all(row.key not in written for row in before.rows if row.source["person"] == person)


def test_history(toys: Path) -> None:
    """What each manifest changed, as long as it is there; no times."""
    build(toys, updated(load_request(toys), fields=["doubled"]), toy.TOOLBOX, runner="serial")
    request = load_request(toys)
    assert request
    (Path(request.roots["clips"]) / "more.mp4").write_text("1 2")
    build(toys, request, toy.TOOLBOX, runner="serial")
    steps = read_facts(open_dataset(toys)).history
    assert [step["head"] for step in steps] == [False, False, True]
    assert steps[0]["changes"] == ["first build"]
    assert steps[2]["changes"] == ["1 file more"]
    (toys / "manifests" / f"{steps[0]['digest']}.json").unlink()
    assert read_facts(open_dataset(toys)).history[0]["changes"] == ["no longer kept"]


def test_lineage_names_every_column(facts: Facts) -> None:
    graph = lineage_svg(facts.lineage)
    assert next(c.operator for c in facts.lineage) == "ingest"
    assert graph.count("<rect") == len(facts.dataset.manifest.columns)
    depth = {c.column: c.depth for c in facts.lineage}
    assert all(depth[i] < c.depth for c in facts.lineage for i in c.inputs)
    measures = next(c for c in facts.lineage if c.operator == "measures")
    assert set(measures.inputs) <= set(facts.dataset.manifest.columns)
    assert set(measures.reads) >= {"face_valid", "face_box"}


def test_empty_dataset(tmp_path: Path) -> None:
    """All files refused: the page says so."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_text("")
    build(tmp_path / "d", updated(None, sources=[str(folder)], fields=["summed"]), toy.TOOLBOX, runner="serial")
    facts = read_facts(open_dataset(tmp_path / "d"))
    page = Page(make_page(facts, 8))
    assert page.texts["dd"][0] == "0"
    assert "1 file refused" in make_card(facts)


# hostile names


def test_texts_stay_texts(photos: Path) -> None:
    """A file name, a person and a caption that are tags change nothing in the page's structure, and are shown as they are."""
    html = make_page(read_facts(open_dataset(photos)), 8)
    page = Page(html)
    assert len(page.all("script")) == 2
    assert len(page.all("template")) == len(page.all("article")) == 2
    assert not page.all("img", src="x")
    assert not page.all("b", **{".jpg": ""})
    assert "<b>.jpg" not in html
    assert any(NASTY in title for title in page.texts["h3"])
    assert SCRIPT in page.data["person"]
    assert {a["value"] for a in page.all("option")} >= {f"={SCRIPT}", "=eileen"}


def test_card_of_photos(photos: Path) -> None:
    """Licences and consent are counted as stated, and what is not stated too; nothing breaks a table."""
    card = make_card(read_facts(open_dataset(photos)))
    assert "| CC0 | 1 | 1 |" in card
    assert r"| a\|b \*c\* | 1 | 1 |" in card
    assert "| signed | 1 | 1 |" in card
    assert "| not stated | 1 | 1 |" in card
    assert "**1 of 2 files state no consent.**" in card
    assert "1 file quarantined" in card
    assert "2 files refused" in card
    for block in re.findall(r"(?:^\|.*\n)+", card, re.M):
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
        assert len(set(cells)) == 1, block
    assert "By faces this was not judged" in card
    assert "--field landmarks_5" in card
    assert str(photos.parent) not in card


@given(st.text())
def test_markdown_text_is_one_plain_line(words: str) -> None:
    shown = text(words)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[`*_\[\]<>|#]", shown)


# pictures and sound


def test_clips_play(dataset: Path, tmp_path: Path) -> None:
    """A preview is the wanted stretch of the source: its frames, its sound, its landmarks."""
    opened = open_dataset(dataset)
    row = opened.rows()[0]
    preview = Previews(opened, tmp_path).of(row)
    assert preview.origin == "source"
    assert len(preview.clip) <= MAX_CLIP_BYTES
    n_frames = min(row.source["n_frames"], PREVIEW_FRAMES)
    with av.open(io.BytesIO(preview.clip)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert container.streams.audio
    assert len(frames) == n_frames
    poster = cv2.imdecode(np.frombuffer(preview.poster, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert poster.shape[:2] == (preview.height, preview.width)
    still = cv2.resize(frames[preview.tracks["still"]], (preview.width, preview.height)).astype(float)
    assert np.abs(still - poster).mean() < 8  # 8 of 255: the same picture, twice compressed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "field"), [("68", LANDMARKS_68), ("478", LANDMARKS_478)])
def test_landmarks_keep_their_places(dataset: Path, tmp_path: Path, name: str, field: Any) -> None:
    """What the page unpacks lies within a third of a source pixel of what is stored."""
    opened = open_dataset(dataset)
    row = opened.rows()[0]
    preview = Previews(opened, tmp_path).of(row)
    track = preview.tracks[name]
    kind = "<u1" if track["bits"] == 8 else "<u2"
    packed = np.frombuffer(base64.b64decode(track["data"]), kind).reshape(-1, track["n"], 2) / (2 ** track["bits"] - 1)
    size = np.array([row.source["width"], row.source["height"]])
    low, high = np.array(track["low"]), np.array(track["high"])
    start = round(preview.part[0] * row.source["n_frames"])
    seen = np.array(list(preview.tracks["seen"])) == "1"
    stored = decode(field, opened.read(row, field.name))[start::2][: len(packed), :, :2]
    assert seen.any()
    assert np.abs((low + packed * (high - low)) * size - stored)[seen].max() < 1 / 3


def test_without_the_sources(dataset: Path, tmp_path: Path) -> None:
    """Where the sources are gone or changed, the crops that the dataset holds are shown; the report never fails for it."""
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    request = load_request(copy)
    assert request
    save_request(copy, request.model_copy(update={"roots": dict.fromkeys(request.roots, "/gone"), "source_list": ""}))
    opened = open_dataset(copy)
    preview = Previews(opened, tmp_path).of(opened.rows()[0])
    assert preview.origin == "face_tube_256"
    assert preview.clip
    assert "68" not in preview.tracks  # they are places in the whole picture
    (copy / "request.json").unlink()
    assert len(Page(make_page(read_facts(opened), 2)).all("video")) == 2


def test_changed_source_is_not_shown(dataset: Path, tmp_path: Path) -> None:
    """A file with other bytes under the same name is somebody else's picture."""
    copy, moved = tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(dataset, copy)
    request = load_request(copy)
    assert request
    (label, place) = next(iter(request.roots.items()))
    shutil.copytree(place, moved)
    save_request(copy, request.model_copy(update={"roots": {label: str(moved)}, "source_list": ""}))
    opened = open_dataset(copy)
    row = opened.rows()[0]
    assert Previews(opened, tmp_path).of(row).origin == "source"
    with open(moved / row.source["path"].partition("/")[2], "ab") as file:
        file.write(b"more")
    assert Previews(opened, tmp_path).of(row).origin == "face_tube_256"


def test_photos_are_pictures(photos: Path, tmp_path: Path) -> None:
    opened = open_dataset(photos)
    preview = Previews(opened, tmp_path).of(opened.rows()[0])
    assert (preview.origin, preview.clip) == ("source", b"")
    assert preview.tracks["5"]["n"] == 5
    page = Page(make_page(read_facts(opened), 8))
    assert len(page.all("article")) == 2
    posters = [a for a in page.all("img") if not a.get("title")]
    assert [a["src"].partition(",")[0] for a in posters] == ["data:image/jpeg;base64"] * 2
    assert not page.all("video")


def test_stored_pictures_are_shown(photos: Path, tmp_path: Path) -> None:
    """Every field of pictures has its thumbnail: label maps in the fixed colours of their numbers, drawings in grey as stored."""
    likeness("data", "build", photos, "--field", "parsing_image_128", "--field", "canny_128", "--field", "canny_frames_128",
             "--field", "part_masks_image_128", "--runner", "serial")  # fmt: skip
    opened = open_dataset(photos)
    row = next(r for r in opened.rows() if r.source["path"].endswith("plain.png"))
    card = make_page(read_facts(opened), 8).partition("plain.png</h3>")[2].partition("<template>")[0]
    page = Page(card)
    shown = {a["title"]: a for a in page.all("img")}
    assert set(shown) >= {"parsing_image_128", "canny_128", "canny_frames_128", "part_masks_image_128", "image_128"}
    pictures = {name: Image.open(io.BytesIO(base64.b64decode(a["src"].partition(",")[2]))) for name, a in shown.items()}
    assert all(max(p.size) <= SIDE_PX and p.size == (int(shown[n]["width"]), int(shown[n]["height"])) for n, p in pictures.items())

    labels = decode(by_name("parsing_image_128"), opened.read(row, "parsing_image_128"))  # type: ignore[arg-type]
    seen = {colour for _, colour in pictures["parsing_image_128"].convert("RGB").getcolors(1 << 16) or ()}  # type: ignore[misc]
    assert seen >= {(0, 0, 0), (128, 0, 0)}  # VOC's colours of 0 and 1: background and skin
    assert seen <= {tuple(map(int, palette()[n])) for n in np.unique(labels)}
    legend = card.partition('title="parsing_image_128"')[2].partition("</li>")[0]
    told = dict(re.findall(r'background:(#\w{6})"></i>([^<]*)<', legend))
    assert told["#800000"] == "skin"
    assert told["#e0e0c0"] == "unknown"

    edges = decode(by_name("canny_128"), opened.read(row, "canny_128"))  # type: ignore[arg-type]
    drawn = pictures["canny_128"]
    assert drawn.mode == "L"
    assert np.abs(np.asarray(drawn, float) - cv2.resize(edges, drawn.size, interpolation=cv2.INTER_AREA)).mean() < 6  # of 255
    assert list(tmp_path.iterdir()) == []


def test_one_frame_of_a_sequence_is_shown(dataset: Path) -> None:
    opened = open_dataset(dataset)
    row = opened.rows()[0]
    shown, left_out = thumbnails(opened, row)
    one = next(t for t in shown if t.field.name == "face_tube_256")
    frames = decode(one.field, opened.read(row, "face_tube_256"))
    place = int(one.frame.split()[1]) - 1
    assert one.frame == f"frame {place + 1} of {len(frames)}"
    assert frames.present[place]
    if frames.present[(len(frames) - 1) // 2]:  # no key frame was asked for
        assert place == (len(frames) - 1) // 2
    stored = cv2.resize(frames[place], (one.width, one.height), interpolation=cv2.INTER_AREA)
    picture = cv2.imdecode(np.frombuffer(one.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(picture.astype(float) - stored).mean() < 4
    assert sum(len(t.data) for t in shown) <= MOST_BYTES
    assert left_out == []


# which rows, and their numbers


def test_samples_spread_and_stand_out(toys: Path) -> None:
    """Few samples of many rows: different people, one that failed, the ends of the measures; the same ones every time."""
    facts = read_facts(open_dataset(toys))
    data = Page(make_page(facts, 6)).data
    lines = [s["line"] for s in data["samples"]]
    assert len(set(lines)) == 6
    assert len({data["person"][n] for n in lines}) >= 3
    assert {data["status"][n] for n in lines} > {"complete"}
    sums = data["numbers"]["summed.frames"]
    known = [v for v in sums if v is not None]
    assert {min(known), max(known)} <= {sums[n] for n in lines}


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=40))
def test_histogram_counts_every_row(values: list[float]) -> None:
    splits = ["train" if n % 3 else "val" for n in range(len(values))]
    column = np.array(values, np.float64)
    chart = histogram("x", column, splits)
    known = int((~np.isnan(column)).sum())
    if chart is None:
        assert known == 0
    else:
        assert sum(int(c.sum()) for c in chart.counts.values()) == known == len(values) - chart.missing
        assert chart.edges[0] <= chart.quantiles[2] <= chart.edges[-1]


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300))
def test_window_lies_inside(n_frames: int, first: int, second: int) -> None:
    """The preview's stretch is in the clip, and where faces and speech are when they are short."""
    valid = np.zeros(n_frames, bool)
    valid[min(first, second) : max(first, second)] = True
    start, stop = window(n_frames, valid, None)
    assert 0 <= start < stop <= n_frames
    assert stop - start == min(n_frames, PREVIEW_FRAMES)
    assert valid[start:stop].sum() == min(valid.sum(), PREVIEW_FRAMES)


def test_sound_is_drawn_where_it_is(dataset: Path, html: str) -> None:
    """As many waveforms as shown rows have sound."""
    opened: Dataset = open_dataset(dataset)
    heard = sum(opened.has(row, AUDIO.name) for row in opened.rows())
    assert heard == len(opened.rows())
    assert len(Page(html).all("svg", class_="wave")) == 4


CORPUS = os.environ.get("LIKENESS_CORPUS", "")
ODD = (
    "img_real_exif6_face.jpg", "img_real_exif8_face.jpg", "img_real_16bit_alpha.png", "img_real_truncated.jpg",
    "made_bit_errors.mp4", "made_rotate90_metadata_face.mp4", "made_odd_241x177_yuv444.mp4", "made_four_frames_face.mp4",
    "real_5frames_5fps_street.mp4",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.skipif(not CORPUS, reason="set LIKENESS_CORPUS to a folder with real media")
def test_odd_files_are_shown_upright(tmp_path: Path) -> None:
    """Turned, cut, damaged and very short files: every row has a picture of the proportions that SOURCE states."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ODD:
        shutil.copy(Path(CORPUS) / "hard" / name, folder)
    likeness("data", "build", tmp_path / "d", "--source", folder, "--field", "landmarks_5", "--set", "ingest.photos=true",
             "--set", "ingest.sound=kept", "--set", "ingest.min_frames=1", "--runner", "serial")  # fmt: skip
    opened = open_dataset(tmp_path / "d")
    assert len(opened.rows()) == len(ODD) - 1  # the cut photo is quarantined
    (tmp_path / "scratch").mkdir()
    for row in opened.rows():
        preview = Previews(opened, tmp_path / "scratch").of(row)
        assert preview.origin == "source", row.key
        assert preview.width / preview.height == pytest.approx(row.source["width"] / row.source["height"], rel=0.03)
        assert bool(preview.clip) == (row.source["n_frames"] > 1)
    assert len(Page(make_page(read_facts(opened), 20)).all("article")) == len(opened.rows())
