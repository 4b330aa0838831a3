"""Everything a report and a card say about a dataset, as plain values."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from infra.errors import LikenessError
from infra.storage import Dataset, Row
from infra.storage.selection import current, read_selection, selection_names
from pipelines.dataset.leakage import leakage
from pipelines.dataset.request import load_request
from pipelines.dataset.source_list import SPLITS
from pipelines.dataset.unit import clip_seconds
from pipelines.report.ledgers import STATUSES, Outcomes, Problem, read_outcomes
from pipelines.report.lineage import Made, read_history, read_lineage
from pipelines.report.numbers import Numbers, read_numbers
from preprocessing.fields import IDENTITY_CLUSTER

IDENTITY = "identity_"
PLACEHOLDER = "DATASET"  # commands name the dataset so: a page moves between machines, its folder's path must not be in it


@dataclass(frozen=True)
class Facts:
    """A dataset read once. `name` is that of its folder; `numbers` has a line per row of `rows`."""

    name: str
    dataset: Dataset
    rows: list[Row]
    outcomes: Outcomes
    numbers: Numbers
    lineage: list[Made]
    history: list[dict[str, Any]]
    selections: list[dict[str, Any]]
    leakages: list[dict[str, Any]]

    @cached_property
    def source_captions(self) -> dict[str, str]:
        """Source path -> the caption that came with it."""
        return {entry.path: entry.caption for entry in self.outcomes.sources if entry.caption}

    def summary(self) -> dict[str, Any]:
        """Counts, splits, funnel and values as JSON: what `--json` prints and the page shows."""
        manifest, outcomes = self.dataset.manifest, self.outcomes
        sources, states = Counter(e.status for e in outcomes.sources), Counter(outcomes.rows.values())
        return {
            "name": self.name, "digest": self.dataset.digest, "files": len(outcomes.sources),
            "sources": {status: sources[status] for status in ("ingested", "refused", "quarantined")},
            "rows": len(self.rows), "people": len({r.source.get("person", "") for r in self.rows}),
            "photos": sum(r.source.get("kind") == "photo" for r in self.rows),
            "seconds": round(sum(clip_seconds(r.source) for r in self.rows if r.source.get("kind") != "photo"), 3),
            "bytes": sum(shard.bytes for column in manifest.columns.values() for shard in column.shards),
            "source_bytes": sum(e.bytes for e in outcomes.sources if e.status == "ingested"),
            "splits": self.splits(), "row_status": {status: states[status] for status in STATUSES},
            "reasons": self.reasons(), "values": self.values(), "selections": self.selections,
            "leakage": self.leakages, "taken_down": self.dataset.taken_down,
            "fields": len(manifest.fields), "wanted": list(manifest.wanted), "shards": len(manifest.shards),
        }  # fmt: skip

    def splits(self) -> dict[str, dict[str, Any]]:
        """Split -> rows, people and seconds, the usual splits first."""
        found = {str(r.source.get("split", "")) for r in self.rows}
        names = [s for s in SPLITS if s in found] + sorted(found - set(SPLITS))
        splits = {}
        for name in names:
            rows = [r.source for r in self.rows if str(r.source.get("split", "")) == name]
            seconds = sum(clip_seconds(source) for source in rows if source.get("kind") != "photo")
            people = {source.get("person", "") for source in rows}
            splits[name] = {"rows": len(rows), "people": len(people), "seconds": round(seconds, 3)}
        return splits

    def reasons(self) -> dict[str, dict[str, int]]:
        """"refused" and "quarantined" -> kind of reason -> files."""
        counts: dict[str, Counter[str]] = {"refused": Counter(), "quarantined": Counter()}
        for problem in self.outcomes.source_problems:
            counts[problem.status][problem.kind] += 1
        return {status: dict(count.most_common()) for status, count in counts.items()}

    def values(self) -> list[dict[str, Any]]:
        """A line per wanted field: how many rows have it, and what became of the others, with the commonest reasons."""
        manifest, lines = self.dataset.manifest, []
        for name in manifest.wanted:
            column, count = manifest.fields[name].column, self.outcomes.values[name]
            kinds = Counter(p.kind for p in self.outcomes.value_problems if p.column == column)
            outcomes = {outcome: count[outcome] for outcome in ("written", "absent", "starved", "refused", "quarantined")}
            by = manifest.fields[name].operator
            lines.append({"field": name, "operator": by, "reasons": dict(kinds.most_common(5)), **outcomes})
        return lines

    def request_command(self) -> str:
        """The command that builds it from its sources, folders left open."""
        request = load_request(self.dataset.root)
        if request is None:
            return f"likeness data build {PLACEHOLDER}"
        words = [f"likeness data build {PLACEHOLDER}", *(f"--source {label}=FOLDER" for label in request.roots)]
        if request.parent:
            words = [f"likeness data expand PARENT {PLACEHOLDER} --by {request.expander}"]
        words += ["--list LIST"] if request.source_list else []
        words += [f"--field {name}" for name in request.fields]
        words += [f"--set {shlex.quote(f'{operator}.{setting}={json.dumps(value)}')}"
                  for operator, settings in request.operators.items() for setting, value in settings.items()]
        return " ".join(words)


def read_facts(dataset: Dataset) -> Facts:
    """Read manifest, ledgers, numbers, history and selections.

    Raises:
        LikenessError: a file of the dataset is missing or damaged.
    """
    return Facts(
        dataset.root.resolve().name, dataset, dataset.rows(), read_outcomes(dataset), read_numbers(dataset),
        read_lineage(dataset.manifest), read_history(dataset), read_selections(dataset), read_leakages(dataset),
    )  # fmt: skip


def read_selections(dataset: Dataset) -> list[dict[str, Any]]:
    """The stored selections, decided for this dataset: rules, counts, and per rule how many rows fail it; damaged ones say so."""
    found = []
    for name in selection_names(dataset.root):
        try:
            now = current(dataset, read_selection(dataset.root, name))
        except LikenessError as error:
            found.append({"name": name, "error": error.what, "kept": 0, "dropped": 0, "missing": 0, "rules": []})
            continue
        rules = [{"rule": r.rule, "fails": r.fails, "lacks": r.lacks} for r in sorted(now.per_rule, key=lambda r: -r.fails)]
        found.append({"name": name, "kept": now.kept, "dropped": len(now.dropped), "missing": len(now.missing), "rules": rules})
    return found


def read_leakages(dataset: Dataset) -> list[dict[str, Any]]:
    """For each identity embedding, how many held-out rows look like somebody in train (see `pipelines.dataset.leakage`)."""
    fields = sorted(name for name in dataset.fields if name.startswith(IDENTITY) and name != IDENTITY_CLUSTER.name)
    return [leakage(dataset, name.removeprefix(IDENTITY)) for name in fields]


def leakage_sentence(found: dict[str, Any]) -> str:
    """The leakage figure in words."""
    how = f"By faces ({found['variant']}, cosine {found['min_cosine']:g} and above)"
    if found["share"] is None:
        return f"{how} it can't be judged: no faces on both sides of the split."
    unjudged = f"; {found['without_face']} rows without a face can't be judged" if found["without_face"] else ""
    return (f"{how}, {found['leaking']} of {found['rows']} held-out rows ({found['share']:.1%}) look like somebody "
            f"in train{unjudged}.")  # fmt: skip


def commands(problem: Problem) -> list[str]:
    """Commands that look into a failure, or try it again."""
    again = f"likeness data retry {PLACEHOLDER}"
    if problem.of_source:
        return [again] if problem.status == "quarantined" else []
    replay = f"likeness data replay {PLACEHOLDER} {shlex.quote(problem.name)} --op {shlex.quote(problem.operator)}"
    return [replay, again] if problem.status == "quarantined" else [replay]


def problem_facts(problem: Problem) -> dict[str, Any]:
    """As JSON."""
    return asdict(problem) | {"kind": problem.kind, "commands": commands(problem)}
