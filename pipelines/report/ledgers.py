"""What became of every source and of every value: read once from the ledgers of a dataset, for report and card."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infra.errors import LikenessError
from infra.storage import Dataset, Row
from infra.storage.ledger import LedgerRow, read_commit, read_ledger
from infra.storage.manifest import SourceEntry
from pipelines.dataset.outcome import MISSING_INPUT
from preprocessing.operator import Refused

Status = Literal["complete", "starved", "refused", "quarantined"]
STATUSES: tuple[Status, ...] = ("complete", "starved", "refused", "quarantined")  # from good to bad


@dataclass(frozen=True)
class Problem:
    """A source without rows, or a value that was not written.

    Attributes:
        name: the source's path, or the row's key.
        column: `OPERATOR/DIGEST8`.
        status: "refused" for a reason the operator understands, "quarantined" for a failure.
        error, reason, trace, tries: as the ledger has them.
        of_source: whether it is about a source.
    """

    name: str
    operator: str
    column: str
    status: Literal["refused", "quarantined"]
    error: str
    reason: str
    trace: str
    tries: int
    of_source: bool = False

    @property
    def kind(self) -> str:
        """The reason without its particulars, to count by: `too-short`, `ValueError`, `cannot-open`."""
        head, colon, _ = self.reason.partition(":")
        return head if colon and " " not in head else (self.error or self.reason)


@dataclass
class Outcomes:
    """All outcomes of a dataset.

    Attributes:
        sources: entries of the manifest, without those taken down.
        source_problems, value_problems: what came to nothing, in the order of the manifest.
        rows: status of every row by its key: the worst over its columns; "starved" where the source lacks an input.
        values: field -> Counter of "written", "absent" (the source has none), "starved", "refused", "quarantined".
        by_row: row key -> its problems, wanted or not.
    """

    sources: list[SourceEntry]
    source_problems: list[Problem] = field(default_factory=list)
    value_problems: list[Problem] = field(default_factory=list)
    rows: dict[str, Status] = field(default_factory=dict)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    by_row: dict[str, list[Problem]] = field(default_factory=dict)


def read_outcomes(dataset: Dataset) -> Outcomes:
    """Read every ledger of the dataset.

    Raises:
        LikenessError: a ledger is missing or damaged.
    """
    manifest, rows = dataset.manifest, dataset.rows()
    outcomes = Outcomes(visible_sources(dataset))
    outcomes.source_problems = _source_problems(dataset, outcomes.sources)
    outcomes.rows = {row.key: "complete" for row in rows}
    outcomes.values = {name: Counter() for name in manifest.fields}
    by_shard: dict[int, list[Row]] = {}
    for row in rows:
        by_shard.setdefault(row.shard, []).append(row)
    for name, column in manifest.columns.items():
        fields = [info.name for info in manifest.fields.values() if info.column == name]
        for shard, members in by_shard.items():
            lines = {line.key: line for line in _lines(column.files(dataset.root, shard)[2], dataset.root)}
            for row in members:
                status = _status(lines[row.key])
                outcomes.rows[row.key] = max(outcomes.rows[row.key], status, key=STATUSES.index)
                for f in fields:
                    outcome = status if status != "complete" else "written" if dataset.has(row, f) else "absent"
                    outcomes.values[f][outcome] += 1
                if status in ("refused", "quarantined"):
                    problem = _problem(lines[row.key], column.operator, name)
                    outcomes.value_problems.append(problem)
                    outcomes.by_row.setdefault(row.key, []).append(problem)
    return outcomes


def visible_sources(dataset: Dataset) -> list[SourceEntry]:
    """The manifest's sources without those taken down, which must not be named again."""
    down = dataset.tombstones
    left = {row.key for row in dataset.rows()}
    return [entry for entry in dataset.manifest.sources
            if not (down and down.covers_source(entry.path, entry.person, entry.sha256))
            and (not entry.keys or left.intersection(entry.keys))]


def _source_problems(dataset: Dataset, entries: list[SourceEntry]) -> list[Problem]:
    manifest = dataset.manifest
    ingest = manifest.columns[manifest.ingest]
    records: dict[str, dict[str, Any]] = {}
    for shard in range(len(manifest.shards)):
        commit = read_commit(ingest.files(dataset.root, shard)[2])
        records |= {record["path"]: record for record in (commit.sources if commit else [])}
    problems = []
    for entry in entries:
        record = records.get(entry.path, {})
        if entry.status != "ingested":
            problems.append(Problem(
                entry.path, ingest.operator, manifest.ingest, entry.status, record.get("error", ""), entry.reason,
                record.get("trace", ""), record.get("tries", 0), of_source=True,
            ))  # fmt: skip
    return problems


def _problem(line: LedgerRow, operator: str, column: str) -> Problem:
    refused = line.error == Refused.__name__
    reason = line.message if refused else f"{line.error}: {line.message}"
    status: Literal["refused", "quarantined"] = "refused" if refused else "quarantined"
    return Problem(line.key, operator, column, status, "" if refused else line.error, reason, line.trace, line.tries)


def _status(line: LedgerRow) -> Status:
    if line.status == "written":
        return "complete"
    return {MISSING_INPUT: "starved", Refused.__name__: "refused"}.get(line.error, "quarantined")  # type: ignore[return-value]


def _lines(path: Path, root: Path) -> list[LedgerRow]:
    try:
        return read_ledger(path)
    except Exception as error:
        raise LikenessError(f"{path} can't be read: {error}", fix=f"find all damage with: likeness data verify {root}") from error
