"""Building a dataset: lock, find sources, plan, run what is stale, check the laws, move HEAD.

Rerunning is resuming: what an earlier run committed is found by the plan, wherever that run was stopped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import LikenessError
from infra.storage.atomic import move_into_place, sweep, temporary
from infra.storage.fits import outdated_fits, used_fits
from infra.storage.ledger import read_commit, read_ledger
from infra.storage.lock import build_lock
from infra.storage.manifest import (
    Column,
    ColumnShard,
    FieldInfo,
    Manifest,
    ShardEntry,
    SourceEntry,
    column_files,
    commit_manifest,
    head_digest,
    read_manifest,
)  # fmt: skip
from infra.storage.objects import as_path, listed
from infra.storage.tombstones import Tombstones
from pipelines.dataset.expand import child_sources, note_derived
from pipelines.dataset.graph import Graph, Toolbox, resolve
from pipelines.dataset.outcome import FAILURES_IN_A_ROW, MISSING_INPUT, machine_errors
from pipelines.dataset.plan import Hashes, Plan, make_plan
from pipelines.dataset.rates import load_rates, record_rates, shard_weights
from pipelines.dataset.request import Request, save_request
from pipelines.dataset.runners import run_ray, run_serial
from pipelines.dataset.select import refresh
from pipelines.dataset.sources import Source, as_taken_down, assign_splits, find_sources
from pipelines.dataset.unit import Cost, Unit, UnitResult
from preprocessing.codecs import EXTENSION
from preprocessing.fields import VIDEO

Runner = Literal["serial", "ray"]
Progress = Callable[[float, float, str], None]
"""Called with work done, all work (both in seconds, by estimate), and what is being worked on."""
_NOT_KEPT = {"stored", "pixels", "classes"}  # facts of a field for those who show it; manifests and their digests do without


@dataclass
class Report:
    """What a build came to.

    Attributes:
        digest: of the manifest HEAD names now.
        changed: whether HEAD moved.
        units, attempts: shards worked on, operator calls made; both 0 when everything was there.
        sources: number of source files by status; rows: of the dataset.
        problems: a line per source without rows and per row that lacks a value: name, operator, status, reason.
        starved: rows that lack a value because an input of theirs does, by operator.
    """

    digest: str
    changed: bool
    units: int
    attempts: int
    rows: int
    sources: dict[str, int]
    problems: list[dict[str, str]]
    starved: dict[str, int]
    notices: list[str]
    wall_s: float
    costs: dict[str, Cost] = field(default_factory=dict)

    @property
    def quarantined(self) -> int:
        """Sources and values that failed, apart from those understood and refused."""
        return sum(problem["status"] == "quarantined" for problem in self.problems)


def plan_build(root: Path, request: Request, toolbox: Toolbox, retry: bool = False, hashes: Hashes | None = None) -> Plan:
    """What `build` would do; writes nothing.

    Raises:
        LikenessError: about fields, settings, sources or the source list.
    """
    root = as_path(root).absolute()  # workers may run elsewhere
    name = head_digest(root)
    head = read_manifest(root, name) if name else None
    graph = resolve(toolbox, request.fields, request.operators, head)
    placed = {path for shard in head.shards for path in shard.sources} if head else set()
    known = [entry for entry in head.sources if entry.path in placed] if head else []
    sources = child_sources(request) if request.parent else find_sources(root, request, known)
    sources = as_taken_down(sources, known, Tombstones.over(root))
    if not any(not source.refusal for source in sources):
        places = ", ".join(request.roots.values()) or request.parent
        raise LikenessError(f"no files to ingest below {places}", fix="name a folder with clips: --source FOLDER")
    with listed(root):
        plan = make_plan(root, graph, sources, head, hashes or Hashes(root), retry)
    _check_roots(plan, request)
    for node in graph.nodes:
        if node.absent and plan.reasons(node):
            raise node.absent
    return plan


def _check_roots(plan: Plan, request: Request) -> None:
    """A root that is gone is no obstacle while nothing has to be read from it.

    Raises:
        LikenessError: something has.
    """
    gone = {label: where for label, where in request.roots.items() if not as_path(where).exists()}
    for shard, sources in enumerate(plan.shards if gone else []):
        labels = gone.keys() & {source.path.partition("/")[0] for source in sources if not source.refusal}
        reads = [node for node in plan.graph.nodes if node is plan.graph.nodes[0] or VIDEO in node.reads]
        for node in reads if labels else []:
            if plan.tasks[node.column, shard].entry is None:
                label = min(labels)
                raise LikenessError(f"source {label}: {gone[label]} is gone, and {node.name} reads its files",
                                    fix=f"if it was moved, pass --source {label}=NEW_PLACE")


def build(
    root: Path,
    request: Request,
    toolbox: Toolbox,
    *,
    runner: Runner | None = None,
    workers: int = 1,
    retry: bool = False,
    failures_in_a_row: int = FAILURES_IN_A_ROW,
    progress: Progress = lambda done, total, what: None,
) -> Report:
    """Bring the dataset at `root` to what `request` asks for.

    Args:
        runner: None for Ray where there is work for several workers, else serial.
        retry: try quarantined sources and rows again.
        failures_in_a_row: of one operator, after which the run stops.

    Raises:
        LikenessError: wrong input, another build running, too many failures in a row, or no disk space left.
        Exception: a programming error of an operator.
    """
    start = time.monotonic()
    root = as_path(root).absolute()
    if not root.exists():
        plan_build(root, request, toolbox)  # a mistake must not leave a folder behind
    with machine_errors(), build_lock(root) as notice:
        sweep(root)
        hashes = Hashes(root)
        plan = plan_build(root, request, toolbox, retry, hashes)
        save_request(root, request)
        if request.parent:
            note_derived(as_path(request.parent), root)
        units = plan.units(toolbox)
        runner = runner or ("ray" if min(workers, len(units)) > 1 else "serial")
        weights = shard_weights(plan, load_rates())
        if runner == "ray":
            units.sort(key=lambda unit: -weights[unit.shard])  # the largest first: small ones fill up the end
        results = _run(units, weights, runner, workers, failures_in_a_row, progress, hashes)
        manifest = _manifest(plan, results, request.val_fraction)
        check_laws(manifest, len(plan.left_out) + sum(map(len, plan.shards)))
        before = head_digest(root)
        digest = commit_manifest(root, manifest)
        write_sources_table(root, manifest)
        selections = refresh(root)
        costs: dict[str, Cost] = {}
        for result in results.values():
            for name, cost in result.costs.items():
                costs.setdefault(name, Cost()).add(cost)
        record_rates(costs)
        sweep(root)
        problems, starved = find_problems(root, manifest)
        return Report(
            digest, digest != before, len(units), sum(r.attempts for r in results.values()), _rows(manifest),
            dict(Counter(entry.status for entry in manifest.sources)), problems, starved,
            _notices(notice, plan, manifest) + selections, time.monotonic() - start, costs,
        )  # fmt: skip


def _run(
    units: list[Unit], weights: Mapping[int, float], runner: Runner, workers: int, failures: int, progress: Progress, hashes: Hashes
) -> dict[int, UnitResult]:
    parts = {unit.shard: 0.0 for unit in units}
    total = sum(weights[shard] for shard in parts)

    def at(shard: int, done: float, what: str) -> None:
        parts[shard] = max(parts[shard], done)
        progress(sum(part * weights[s] for s, part in parts.items()), total, what)

    results: dict[int, UnitResult] = {}
    saved = time.monotonic()
    try:
        for result in _results(units, runner, workers, failures, at):
            if result.shard in results:
                results[result.shard].add(result)
            else:
                results[result.shard] = result
            hashes.known |= {path: list(stat) for path, stat in result.hashed.items()}
            if time.monotonic() - saved > 10:
                hashes.save()
                saved = time.monotonic()
    finally:
        hashes.save()
    return results


def _results(
    units: list[Unit], runner: Runner, workers: int, failures: int, at: Callable[[int, float, str], None]
) -> Iterator[UnitResult]:
    if not units:
        return iter(())
    return run_serial(units, failures, at) if runner == "serial" else run_ray(units, workers, failures, at)


def _manifest(plan: Plan, results: Mapping[int, UnitResult], val_fraction: float) -> Manifest:
    columns: dict[str, list[ColumnShard]] = {}
    for node in plan.graph.nodes:
        for shard in range(len(plan.shards)):
            entry = plan.tasks[node.column, shard].entry or results[shard].entries[node.column]
            columns.setdefault(node.column, []).append(entry)
    ingest = plan.graph.nodes[0]
    records: dict[str, dict] = {s.path: {"status": "refused", "reason": s.refusal} for s in plan.left_out}
    shards = []
    for shard, members in enumerate(plan.shards):
        files = column_files(plan.root, ingest.name, ingest.digest, shard, columns[ingest.column][shard].revision)
        commit = read_commit(files[2])
        assert commit, f"{files[2]} was committed by this build"
        records |= {record["path"]: record for record in commit.sources}
        shards.append(ShardEntry(sources=tuple(s.path for s in members), rows=sum(len(r["keys"]) for r in commit.sources)))
    sources = sorted([*plan.left_out, *(s for members in plan.shards for s in members)], key=lambda s: s.path)
    ingested = {path for path, record in records.items() if record["status"] == "ingested"}
    splits = assign_splits(sources, ingested, val_fraction)
    entries = tuple(_source_entry(source, splits, records[source.path]) for source in sources)
    return Manifest(
        shard_sources=plan.shard_sources, wanted=plan.graph.wanted, ingest=ingest.column,
        sources=entries, shards=tuple(shards), fields=_fields(plan.graph),
        columns={
            node.column: Column(
                operator=node.name, version=node.operator.version, digest=node.digest, params=node.params,
                assets=dict(node.assets), reads=tuple(f.name for f in node.reads), shards=tuple(columns[node.column]),
            )
            for node in plan.graph.nodes
        },
        fits=used_fits(plan.root, {name: sha256 for node in plan.graph.nodes for name, sha256 in node.assets.items()}),
    )  # fmt: skip


def _source_entry(source: Source, splits: Mapping[str, str], record: Mapping[str, Any]) -> SourceEntry:
    return SourceEntry(
        path=source.path, bytes=record.get("bytes", max(source.bytes, 0)), sha256=record.get("sha256", ""),
        person=source.person, split=splits.get(source.person, ""), tags=dict(source.tags), caption=source.caption,
        status=record["status"], reason=record["reason"], keys=tuple(record.get("keys", ())),
    )  # fmt: skip


def _fields(graph: Graph) -> dict[str, FieldInfo]:
    infos = {}
    for node in graph.nodes:
        for f in node.writes:
            facts = {k: v for k, v in asdict(f).items() if k not in _NOT_KEPT}
            infos[f.name] = FieldInfo(**facts, extension=EXTENSION[f.codec], operator=node.name, version=node.operator.version,
                                      digest=node.digest)  # fmt: skip
    return infos


def _rows(manifest: Manifest) -> int:
    return sum(shard.rows for shard in manifest.shards)


def check_laws(manifest: Manifest, found: int) -> None:
    """Every file has one outcome, every row of every column has one. A breach is a bug, so it is no LikenessError."""
    keys = [key for entry in manifest.sources for key in entry.keys]
    if len(manifest.sources) != found or len(keys) != len(set(keys)) or len(keys) != _rows(manifest):
        raise RuntimeError(f"conservation of files broken: {found} files, {len(manifest.sources)} outcomes, {len(keys)} rows")
    for name, column in manifest.columns.items():
        for shard, entry in enumerate(column.shards):
            rows = manifest.shards[shard].rows
            if entry.written + entry.quarantined != rows:
                raise RuntimeError(f"conservation of rows broken in {name}, shard {shard}: {entry}, {rows} rows")


def write_sources_table(root: Path, manifest: Manifest) -> None:
    """`sources.parquet`, the manifest's sources for people's tools; readers of the dataset don't use it."""
    scratch = temporary(root, ".parquet")
    lines = [entry.model_dump(mode="json") | {"tags": list(entry.tags.items())} for entry in manifest.sources]
    schema = pa.schema([
        *((name, pa.string()) for name in ("path", "status", "reason", "person", "split", "sha256")),
        ("bytes", pa.int64()), ("keys", pa.list_(pa.string())), ("tags", pa.map_(pa.string(), pa.string())),
    ])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(lines, schema=schema), scratch, compression="none")
    move_into_place(scratch, root / "sources.parquet")


def find_problems(root: Path, manifest: Manifest) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Sources without rows and rows without values, with reasons; and rows that only lack an input, counted by operator."""
    problems = [
        {"name": entry.path, "operator": "ingest", "status": entry.status, "reason": entry.reason}
        for entry in manifest.sources if entry.status != "ingested"
    ]  # fmt: skip
    starved: Counter[str] = Counter()
    for column in manifest.columns.values():
        for shard, entry in enumerate(column.shards):
            for row in read_ledger(column.files(root, shard)[2]) if entry.quarantined else []:
                if row.status != "quarantined":
                    continue
                if row.error == MISSING_INPUT:
                    starved[column.operator] += 1
                else:
                    reason = row.message if row.error == "Refused" else f"{row.error}: {row.message}"
                    status = "refused" if row.error == "Refused" else "quarantined"
                    problems.append({"name": row.key, "operator": column.operator, "status": status, "reason": reason})
    return problems, dict(starved)


def _notices(lock: str, plan: Plan, manifest: Manifest) -> list[str]:
    notices = [lock] if lock else []
    if gone := [s.path for shard in plan.shards for s in shard if s.bytes < 0 and not s.refusal]:
        notices.append(f"{len(gone)} source files are gone, their rows stay: {', '.join(gone[:3])}" + " ..." * (len(gone) > 3))
    notices += outdated_fits(manifest)
    splits = Counter(entry.split for entry in manifest.sources if entry.status == "ingested")
    if splits and not splits["val"]:
        notices.append("no source of split val has rows: give splits with --list, or add people")
    return notices
