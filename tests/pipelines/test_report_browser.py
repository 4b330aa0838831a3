"""The report in a real browser: it loads nothing, filters, draws and plays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, find_browser

from infra.storage import open_dataset
from pipelines.report.facts import Facts, read_facts
from pipelines.report.page import make_page

pytestmark = [pytest.mark.long, pytest.mark.skipif(find_browser() is None, reason="needs Chromium on PATH")]
SHOWN = "[...document.querySelectorAll('.card')].filter(card => card.offsetParent).length"
PAINTED = (
    "(canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(v => v))"
    "(document.querySelector('{}'))"
)


@pytest.fixture(scope="module")
def facts(dataset: Path) -> Facts:
    return read_facts(open_dataset(dataset))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser, facts: Facts, tmp_path: Path) -> Browser:
    """The report of six clips of three people, one of them held out."""
    file = tmp_path / "report.html"
    file.write_text(make_page(facts, 24))
    browser.requests.clear()
    browser.open(file)
    assert browser.run(SHOWN) == len(facts.rows) == 6
    return browser


def test_loads_nothing_and_complains_of_nothing(page: Browser) -> None:
    assert [url.partition(":")[0] for url in page.requests] == ["file"]
    assert page.errors == []
    assert not page.run("document.documentElement.scrollWidth > innerWidth")


def test_clicking_a_split_filters(page: Browser, facts: Facts) -> None:
    held_out = sum(row.source["split"] == "val" for row in facts.rows)
    assert 0 < held_out < 6
    page.click("[data-filter=split][data-value=val]")
    assert page.run(SHOWN) == held_out
    assert page.run("document.getElementById('count').textContent") == str(held_out)
    assert f"{held_out} of 6 rows" in page.run("document.getElementById('rows-count').textContent")
    assert page.run("document.getElementById('rule').textContent").endswith('--where "source.split == val"')
    page.click("[data-filter=split][data-value=train]")  # either will do
    assert page.run(SHOWN) == 6
    page.click("#reset")
    assert page.run(SHOWN) == 6
    assert page.run("document.querySelectorAll('[aria-pressed=true]').length") == 0


def test_a_bar_and_the_sliders_filter_by_a_measure(page: Browser, facts: Facts) -> None:
    values = facts.numbers.column("measures.blur")
    figure = "figure[data-measure='measures.blur']"
    page.click(f"{figure} .bin[data-bin='23'] .hit")  # the bar of the highest
    high = sum(values >= values.max() - (values.max() - values.min()) / 24)
    assert page.run(SHOWN) == high
    drawn = f"[...document.querySelectorAll(\"{figure} .matches rect\")].filter(r => +r.getAttribute('height')).length"
    assert page.run(drawn) == 1
    page.run("(s => { s.value = 0; s.dispatchEvent(new Event('input')); })(document.getElementById('low'))")
    assert page.run(SHOWN) == 6
    page.run("(s => { s.value = 199; s.dispatchEvent(new Event('input')); })(document.getElementById('high'))")
    assert page.run(SHOWN) == sum(values <= values.min() + (values.max() - values.min()) * 199 / 200)
    assert "measures.blur <= " in page.run("document.getElementById('rule').textContent")


def test_people_and_words_filter(page: Browser, facts: Facts) -> None:
    row = facts.rows[0]
    page.run(
        f"(s => {{ s.value = '=' + {row.source['person']!r}; s.dispatchEvent(new Event('change')); }})"
        "(document.getElementById('person'))"
    )
    assert page.run(SHOWN) == sum(r.source["person"] == row.source["person"] for r in facts.rows)
    page.run(f"(s => {{ s.value = {row.key!r}; s.dispatchEvent(new Event('input')); }})(document.getElementById('text'))")
    assert page.run(SHOWN) == 1
    page.run("(s => { s.value = 'nobody'; s.dispatchEvent(new Event('input')); })(document.getElementById('text'))")
    assert page.run(SHOWN) == 0
    assert page.run("!document.getElementById('none').hidden")


def test_a_click_opens_a_clip_that_plays(page: Browser) -> None:
    """With sound, and with the landmarks drawn over it."""
    assert page.run(PAINTED.format(".card canvas"))
    page.click(".card .stage")
    assert page.run("document.getElementById('viewer').open")
    page.wait("document.querySelector('#large video').readyState >= 2")
    assert page.run("document.querySelector('#large video').duration") == pytest.approx(2.0, abs=0.2)
    page.wait("document.querySelector('#large video').currentTime > 0.1")
    assert page.run("document.querySelector('#large video').webkitAudioDecodedByteCount") > 0
    page.wait(PAINTED.format("#large canvas"))
    thumbnails = "[...document.querySelectorAll('{} .pictures img')].map(i => i.title)"
    shown = page.run(thumbnails.format("#details"))
    assert "face_tube_256" in shown
    assert shown == page.run(thumbnails.format(".card"))[: len(shown)]
    assert page.run("[...document.querySelectorAll('#details .pictures img')].every(i => i.complete && i.naturalWidth)")
    first = page.run("document.querySelector('#details h3').textContent")
    page.click("#after")
    assert page.run("document.querySelector('#details h3').textContent") != first
    page.click("#close")
    assert not page.run("document.getElementById('viewer').open")
    assert page.errors == []


def test_nothing_drawn_when_nothing_is_ticked(page: Browser) -> None:
    for box in ("box", "5", "68"):
        page.click(f"#filters input[name=draw][value='{box}']")
    assert not page.run(PAINTED.format(".card canvas"))
    page.click("#filters input[name=draw][value='478']")
    assert page.run(PAINTED.format(".card canvas"))


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone(page: Browser, dark: bool) -> None:
    """Nothing sticks out sideways, and the colours are those of the scheme."""
    page.look(390, 800, dark)
    try:
        assert page.run("document.documentElement.scrollWidth") == 390
        shade = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (shade < 60) == dark
    finally:
        page.look(1280, 900, False)
