"""The dataset card: what is in it, whose it is, what it must not be used for, as a page of Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipelines.cli.data_tables import duration, size
from pipelines.dataset.show import type_text
from pipelines.report.facts import Facts, leakage_sentence
from pipelines.report.words import number, plural

TAGS = {"licence": ("licence", "license"), "consent": ("consent",)}  # tags of sources that speak about rights
NOT_STATED = "not stated"
MOST_VALUES = 50
PERSONAL = (
    "Faces and voices are personal data, in many places of the most protected kind, and embeddings and landmarks made from them "
    "are too. Keep copies few and safe, use the data only for what people agreed to, and honour requests to leave: "
    "`likeness data takedown DATASET --person NAME --purge` removes somebody from the data and names the models trained on them."
)
_SIGNS = re.compile(r"([\\`*_\[\]<>|#&~$])")


def make_card(facts: Facts) -> str:
    """The card as Markdown; the same dataset gives the same text."""
    summary = facts.summary()
    parts = [
        f"# {text(facts.name)}", f"Dataset `{facts.dataset.digest}`.", _contents(summary), _rights(facts), _people(facts, summary),
        _fields(facts), _numbers(facts), _limits(facts, summary), f"## Personal data\n\n{PERSONAL}", _rebuild(facts),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _contents(summary: dict[str, Any]) -> str:
    sources = summary["sources"]
    lines = [
        ("rows", summary["rows"]), ("length of the clips", duration(summary["seconds"])), ("photos", summary["photos"]),
        ("people, as named by the sources", summary["people"]), ("files found", summary["files"]),
        ("files ingested, refused, quarantined", f"{sources['ingested']}, {sources['refused']}, {sources['quarantined']}"),
        ("fields", summary["fields"]), ("stored", size(summary["bytes"])),
        ("size of the ingested files", size(summary["source_bytes"])),
    ]  # fmt: skip
    return "## Contents\n\n" + table(("what", "how much"), lines)


def _rights(facts: Facts) -> str:
    """Licences and consent as the source list states them, by files and rows."""
    entries = [entry for entry in facts.outcomes.sources if entry.status == "ingested"]
    left = {row.key for row in facts.rows}
    parts = ["## Licences and consent", "As the sources' tags state them; nobody has checked them here."]
    for title, names in TAGS.items():
        files: Counter[str] = Counter()
        rows: Counter[str] = Counter()
        for entry in entries:
            stated = next((entry.tags[name].strip() for name in names if entry.tags.get(name, "").strip()), NOT_STATED)
            files[stated] += 1
            rows[stated] += len(left.intersection(entry.keys))
        shown = files.most_common(MOST_VALUES)
        parts.append(table((title, "files", "rows"), [(value, count, rows[value]) for value, count in shown]))
        if len(files) > len(shown):
            parts.append(f"... and {len(files) - len(shown)} other values of {title}.")
        if files[NOT_STATED]:
            parts.append(f"**{files[NOT_STATED]} of {len(entries)} files state no {title}.**")
    return "\n\n".join(parts)


def _people(facts: Facts, summary: dict[str, Any]) -> str:
    parts = ["## Splits and leakage"]
    lines = [(name or "(none)", s["rows"], s["people"], duration(s["seconds"])) for name, s in summary["splits"].items()]
    parts.append(table(("split", "rows", "people", "clips"), lines))
    by_person: dict[str, set[str]] = {}
    for row in facts.rows:
        by_person.setdefault(str(row.source.get("person", "")), set()).add(str(row.source.get("split", "")))
    torn = sum(len(splits) > 1 for splits in by_person.values())
    parts.append(f"By the sources' names, {plural(torn, 'person') + ' stand' if torn else 'nobody stands'} in more than one split.")
    if not facts.leakages:
        parts.append("By faces this was not judged: the dataset has no identity embedding "
                     "(`likeness data add DATASET --field identity_mobileface`).")  # fmt: skip
    parts += [leakage_sentence(found) for found in facts.leakages]
    return "\n\n".join(parts)


def _fields(facts: Facts) -> str:
    manifest = facts.dataset.manifest
    made = {column.column: column for column in facts.lineage}
    lines = []
    for column in facts.lineage:
        for name, wanted in column.fields.items():
            info = manifest.fields[name]
            by = f"{info.operator} v{info.version} {info.digest[:8]}"
            shown = Code(name) if wanted else Code(f"({name})")
            lines.append((shown, type_text(info), Code(by), facts.outcomes.values[name]["written"], info.meaning))
    parts = ["## Fields", "In brackets: made on the way to others.", table(("field", "type", "operator", "rows", "meaning"), lines)]
    used = sorted({(asset, digest, column.licences[asset]) for column in made.values() for asset, digest in column.assets.items()})
    if used:
        users = {asset: ", ".join(c.operator for c in facts.lineage if asset in c.assets) for asset, _, _ in used}
        parts.append("Made with these files, whose licences may bind what is made with them:")
        rows = [(Code(asset), Code(digest[:16]), licence or NOT_STATED, users[asset]) for asset, digest, licence in used]
        parts.append(table(("file", "sha256", "licence", "used by"), rows))
    return "\n\n".join(parts)


def _numbers(facts: Facts) -> str:
    lines = []
    for name in facts.numbers.names:
        known = facts.numbers.column(name)
        known = known[~np.isnan(known)]
        low, middle, high = (number(float(q)) for q in np.quantile(known, (0.05, 0.5, 0.95)))
        lines.append((Code(name), len(known), low, middle, high))
    return "## Measured\n\n" + table(("number", "rows", "5 %", "median", "95 %"), lines)


def _limits(facts: Facts, summary: dict[str, Any]) -> str:
    said = []
    sources = summary["sources"]
    for status, meaning in (("refused", "understood to be of no use"), ("quarantined", "failed, can be tried again")):
        if sources[status]:
            reasons = ", ".join(f"{text(reason)} {count}" for reason, count in summary["reasons"][status].items())
            said.append(f"{plural(sources[status], 'file')} {status} ({meaning}): {reasons}.")
    states = summary["row_status"]
    if states["complete"] < summary["rows"]:
        lacking = f"{summary['rows'] - states['complete']} of {summary['rows']} rows lack a field"
        said.append(f"{lacking}: {states['quarantined']} quarantined, {states['refused']} refused, {states['starved']} "
                    "because the source lacks an input (no sound, mostly).")  # fmt: skip
    faces = facts.outcomes.values.get("measures", Counter())["written"]
    if "measures.valid_share" in facts.numbers.names and faces:
        share = facts.numbers.column("measures.valid_share")
        said.append(f"Of {faces} measured rows, {int((share < 0.5).sum())} have a face in less than half of their frames. "
                    "Detectors also report faces of cartoons and animals: select by `measures.face_score`.")  # fmt: skip
    for selection in summary["selections"]:
        said.append(f"Selection {text(selection['name'])} keeps {selection['kept']} rows, drops {selection['dropped']}, "
                    f"can't judge {selection['missing']}.")  # fmt: skip
    if summary["taken_down"]:
        said.append(f"{summary['taken_down']} rows are taken down and in none of these counts.")
    said.append("Who is in a clip is what its source list or folder says; measures and landmarks are estimates.")
    return "## Known limits\n\n" + "\n".join(f"- {line}" for line in said)


def _rebuild(facts: Facts) -> str:
    return ("## How to build it again\n\nWith the same files, the same assets and this version of the program it gives the same "
            f"bytes:\n\n```\n{facts.request_command()}\n```\n\nEvery file's sha256, person, split and outcome stand in "
            "`sources.parquet`; `report.html` shows samples and distributions.")  # fmt: skip


class Code(str):
    """A name of the program's own, shown as code."""


def text(value: object) -> str:
    """Any text so that Markdown shows it as it is, in one line."""
    if isinstance(value, Code):
        return f"`{value}`"
    return _SIGNS.sub(r"\\\1", " ".join(str(value).split()))


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped, numbers stand at the right."""
    rows = [list(line) for line in lines]
    marks = ["---:" if rows and all(isinstance(r[n], int) for r in rows) else "---" for n in range(len(head))]
    body = ["| " + " | ".join(text(cell) for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "|".join(marks) + "|", *body])
