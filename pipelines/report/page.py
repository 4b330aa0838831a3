"""The report: one HTML page that needs nothing besides itself.

Every text from the dataset passes the template's escaping, and the page's own policy lets nothing but its one script run and
nothing be loaded, so a file named like a script tag is only an odd name. No times and no machine paths: the same dataset, history
and sources give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines.cli.data_tables import duration, size
from pipelines.report.facts import Facts, commands, leakage_sentence
from pipelines.report.graph import lineage_svg
from pipelines.report.ledgers import STATUSES, Problem
from pipelines.report.samples import Shown, captions_of, data_uri, make_samples
from pipelines.report.svg import Histogram, histogram, histogram_svg
from pipelines.report.thumbnails import Thumbnail
from pipelines.report.words import number, plural
from preprocessing.fields import SOURCE

MOST_ROWS = 5000  # of a larger dataset the page knows the shown rows only
MOST_PROBLEMS = 1000
MOST_PAIRS = 50
COLOURS = {"train": "train", "val": "val", "test": "test"}


def make_page(facts: Facts, samples: int, progress: Callable[[int, int], None] = lambda done, total: None) -> str:
    """The page as text.

    Args:
        samples: rows on the sample sheet.
        progress: called with samples made and all samples.
    """
    shown = make_samples(facts, samples, progress)
    charts = _charts(facts)
    script, style = (_file(name) for name in ("page.js", "page.css"))
    problems = facts.outcomes.source_problems + facts.outcomes.value_problems
    summary = facts.summary()
    return _environment().get_template("page.html").render(
        summary=summary, facts=facts, samples=shown, charts=charts, groups=_groups(problems[:MOST_PROBLEMS]),
        problems_total=len(problems), problems_shown=min(len(problems), MOST_PROBLEMS), lineage=facts.lineage, colours=COLOURS,
        graph=lineage_svg(facts.lineage), history=facts.history, people=_people(facts), statuses=STATUSES,
        tops=_tops(facts), data=_json(_page_data(facts, shown)), script=Markup(script), style=Markup(style), policy=_policy(script),
        leakages=[(leakage_sentence(found), found["pairs"][:MOST_PAIRS]) for found in facts.leakages],
    )  # fmt: skip


def _page_data(facts: Facts, shown: Sequence[Shown]) -> dict[str, Any]:
    """What the script filters by: a line per row (see MOST_ROWS) in columns, and for each sample its line and its landmarks."""
    places = list(range(len(facts.rows))) if len(facts.rows) <= MOST_ROWS else [s.place for s in shown]
    line = {place: n for n, place in enumerate(places)}
    rows = [facts.rows[place] for place in places]
    text = [" ".join([r.key, str(r.source.get("path")), *captions_of(facts, r).values()]).lower() for r in rows]
    columns = {name: facts.numbers.column(name)[places].tolist() for name in facts.numbers.names}
    numbers = {name: [None if math.isnan(v) else v for v in column] for name, column in columns.items()}
    return {
        "split": [str(r.source.get("split", "")) for r in rows], "person": [str(r.source.get("person", "")) for r in rows],
        "status": [facts.outcomes.rows[r.key] for r in rows], "text": text, "numbers": numbers,
        "all": len(places) == len(facts.rows), "samples": [{"line": line[s.place], **s.preview.tracks} for s in shown],
    }  # fmt: skip


def _charts(facts: Facts) -> dict[str, list[tuple[Histogram, Markup]]]:
    """Field -> its charts; numbers that are the same for all rows come without a drawing."""
    splits = [str(r.source.get("split", "")) for r in facts.rows]
    colours = {split: COLOURS.get(split, "other") for split in splits}
    charts: dict[str, list[tuple[Histogram, Markup]]] = {}
    for name in facts.numbers.names:
        chart = histogram(name, facts.numbers.column(name), splits)
        if chart is not None:
            field = name.partition(".")[0] if "." in name else SOURCE.name
            drawing = Markup("") if chart.constant else histogram_svg(chart, colours)
            charts.setdefault("clips and files" if field == SOURCE.name else field, []).append((chart, drawing))
    return charts


def _groups(problems: Sequence[Problem]) -> list[tuple[str, list[tuple[Problem, list[str]]]]]:
    """Problems by operator and kind of reason, the commonest first."""
    groups: dict[str, list[tuple[Problem, list[str]]]] = {}
    for problem in problems:
        groups.setdefault(f"{problem.operator}: {problem.kind} ({problem.status})", []).append((problem, commands(problem)))
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def _people(facts: Facts) -> list[tuple[str, int]]:
    return sorted(Counter(str(r.source.get("person", "")) for r in facts.rows).items())


def _tops(facts: Facts) -> dict[str, list[tuple[str, int]]]:
    """Stream facts in words: how many rows have which."""
    tops = {}
    for title, name in (("kind", "kind"), ("video codec", "codec"), ("container", "container"), ("sound", "audio_codec")):
        count = Counter(str(r.source.get(name) or "none") for r in facts.rows)
        tops[title] = count.most_common(6)
    return tops


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _uri(picture: Thumbnail) -> str:
    return data_uri(picture.kind, picture.data)


def _json(value: Any) -> Markup:
    """JSON that can't end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": size, "duration": duration, "number": number, "plural": plural, "uri": _uri}
    return environment


def _file(name: str) -> str:
    return (resources.files("pipelines.report") / "templates" / name).read_text()
