"""What a build would do, and why: for each operator and shard, whether its column is there and still right.

A committed shard of a column is right while the operator's digest names its folder and the inputs its ledger names (digests of
other columns' tars; for ingest of the source files) are the present ones.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.storage.atomic import write_whole
from infra.storage.ledger import Commit, read_commit, read_ledger
from infra.storage.manifest import Column, ColumnShard, Manifest, column_files
from pipelines.dataset.graph import Graph, Node, Toolbox
from pipelines.dataset.shard import StoredShard
from pipelines.dataset.sources import NOT_LISTED, Source, content_digest, given_digest
from pipelines.dataset.stored import stored_manifests
from pipelines.dataset.unit import Segment, Step, Unit
from preprocessing.fields import GIVEN


@dataclass(frozen=True)
class Task:
    """One operator for one shard: done before (`entry`), or to run for the reason `why`.

    Attributes:
        revision: of the files that are there, or that will be written.
        base: revision whose rows may be copied where their inputs are the same.
    """

    revision: int
    why: str = ""
    base: int | None = None
    entry: ColumnShard | None = None


@dataclass(frozen=True)
class Plan:
    """Tasks by (column, shard); `shards` are the sources of each, `left_out` those in none.

    Attributes:
        ingested: commit of the ingest column by shard, None where there is none.
    """

    root: Path
    graph: Graph
    head: Manifest | None
    shard_sources: int
    shards: list[tuple[Source, ...]]
    left_out: list[Source]
    tasks: dict[tuple[str, int], Task]
    ingested: list[Commit | None]
    retry: bool

    def units(self, toolbox: Toolbox) -> list[Unit]:
        """Work for the runners: the first unit of each shard with anything to do."""
        units = []
        graph = self.graph.segments()
        for shard, sources in enumerate(self.shards):
            tasks = {node.column: self.tasks[node.column, shard] for node in self.graph.nodes}
            segments = []
            for pool, nodes in graph:
                stale = [(node, tasks[node.column]) for node in nodes if tasks[node.column].entry is None]
                if stale:
                    segments.append(Segment(pool, tuple(Step(node, task.revision, task.base) for node, task in stale)))
            stored = tuple((node, tasks[node.column].revision) for node in self.graph.nodes if tasks[node.column].entry)
            if segments:
                units.append(Unit(self.root, shard, sources, self.graph.nodes[0], segments[0], tuple(segments[1:]), stored,
                                  len(segments), toolbox.open_clip, self.retry))  # fmt: skip
        return units

    def reasons(self, node: Node) -> Counter[str]:
        """Why the operator runs: reason -> number of shards."""
        tasks = (self.tasks[node.column, shard] for shard in range(len(self.shards)))
        return Counter(task.why for task in tasks if task.entry is None)


class Hashes:
    """sha256 of source files by size and time of change: `DATASET/hashes.json`, a cache that can be lost."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self.known: dict[str, list] = json.loads((root / "hashes.json").read_text())
        except (OSError, ValueError):
            self.known = {}

    def current(self, source: Source, recorded: str) -> str:
        """The file's digest now; `recorded` where the file is gone, "" where it can't be read."""
        if source.refusal or source.bytes < 0:
            return "" if source.refusal else recorded
        size, mtime, sha256 = self.known.get(source.path, (-1, 0, ""))
        if (size, mtime) != (source.bytes, source.mtime_ns):
            try:
                sha256 = source.sha256()
            except OSError:
                return ""
            self.known[source.path] = [source.bytes, source.mtime_ns, sha256]
        return sha256

    def save(self) -> None:
        write_whole(self.root, self.root / "hashes.json", json.dumps(self.known).encode())


def make_plan(
    root: Path, graph: Graph, sources: list[Source], head: Manifest | None, hashes: Hashes, retry: bool = False
) -> Plan:
    """Compare what is wanted with what lies there. Reads ledgers, and source files that changed; writes nothing."""
    by_path = {source.path: source for source in sources}
    shards = [tuple(by_path[path] for path in shard.sources) for shard in head.shards] if head else []
    placed = {source.path for shard in shards for source in shard}
    new = [source for source in sources if source.path not in placed and not source.refusal]
    size = head.shard_sources if head else min(max(len(new) // 64, 4), 64)
    shards += [tuple(new[start : start + size]) for start in range(0, len(new), size)]
    left_out = [source for source in sources if source.path not in placed and source.refusal]
    return _Planner(root, graph, head, hashes, retry).plan(size, shards, left_out)


class _Planner:
    def __init__(self, root: Path, graph: Graph, head: Manifest | None, hashes: Hashes, retry: bool) -> None:
        self.root, self.graph, self.head, self.hashes, self.retry = root, graph, head, hashes, retry
        self.tasks: dict[tuple[str, int], Task] = {}
        self.ingested: list[Commit | None] = []
        self.rows: tuple[int, list[str] | None] = (-1, None)
        self.in_head = {entry.path: entry.sha256 for entry in head.sources if entry.sha256} if head else {}
        self.new_column = {node.column: _why_new_column(node, head) for node in graph.nodes}

    def plan(self, size: int, shards: list[tuple[Source, ...]], left_out: list[Source]) -> Plan:
        for shard, sources in enumerate(shards):
            self.ingested.append(None)
            for node in self.graph.nodes:
                self.tasks[node.column, shard] = self._task(node, shard, sources)
        return Plan(self.root, self.graph, self.head, size, shards, left_out, self.tasks, self.ingested, self.retry)

    def _task(self, node: Node, shard: int, sources: tuple[Source, ...]) -> Task:
        column = self._head_column(node)
        entry = column.shards[shard] if column and shard < len(column.shards) else None
        target = entry.revision + 1 if entry else 0
        inputs = {name: self.tasks[name, shard].entry for name in node.inputs}
        is_ingest = node is self.graph.nodes[0]
        kept = entry and not is_ingest and not node.reads_given and self._as_in_head(node, shard, entry, inputs)
        if entry and kept and not (self.retry and entry.quarantined):
            return Task(entry.revision, entry=entry)
        named = self._named(node, shard, target)
        while target in named:
            target += 1
        # An unfinished build may have left later ones than HEAD's; then there are HEAD's, and those of older manifests.
        there = named | ({entry.revision} if entry else set()) | {target}
        while self._begun(node, shard, max(there) + 1):
            there.add(max(there) + 1)
        revisions = sorted(there, reverse=True)
        commits = {revision: commit for revision in revisions if (commit := self._commit(node, shard, revision))}
        if entry and entry.revision not in commits:
            target = entry.revision  # its files are damaged: put them back
        if is_ingest:
            self.ingested[shard] = next(iter(commits.values()), None)
        why = ""
        if all(inputs.values()):
            for revision, commit in commits.items():
                changed = self._changed(node, commit, sources, inputs)
                if not (changed or is_ingest or self._keys(node, shard, revision) == self._rows(shard)):
                    changed = "rows changed"  # the tars it read are the same where those rows have nothing in them
                if not changed:
                    stored = entry if entry and entry.revision == revision else self._stored(node, shard, revision)
                    failed = stored.quarantined + sum(record["status"] == "quarantined" for record in commit.sources)
                    if self.retry and failed and (entry is None or entry.revision == revision):
                        return Task(target, f"retry {failed} quarantined", revision)
                    return Task(revision, entry=stored)
                why = why or changed
        elif commits:
            why = next(name.partition("/")[0] for name, input_entry in inputs.items() if input_entry is None) + " runs"
        base = next(iter(commits), None)
        if entry and entry.revision in commits and any(source.bytes < 0 for source in sources):
            base = entry.revision  # of sources that are gone HEAD's rows stay
        return Task(target, why or self._why_new(node, shard, sources), base)

    def _named(self, node: Node, shard: int, target: int) -> set[int]:
        """Revisions that manifests name, where there are files of revision `target`: their readers keep their bytes."""
        if not self._begun(node, shard, target):
            return set()
        columns = [manifest["columns"].get(node.column) for manifest in self._manifests]
        return {column["shards"][shard]["revision"] for column in columns
                if column and column["digest"] == node.digest and shard < len(column["shards"])}  # fmt: skip

    def _keys(self, node: Node, shard: int, revision: int) -> list[str]:
        return [row.key for row in read_ledger(column_files(self.root, node.name, node.digest, shard, revision)[2])]

    def _rows(self, shard: int) -> list[str] | None:
        """Keys of the shard's rows, None where ingest has yet to say; of the last shard asked for they are kept."""
        if self.rows[0] != shard:
            ingest = self.graph.nodes[0]
            entry = self.tasks[ingest.column, shard].entry
            self.rows = shard, self._keys(ingest, shard, entry.revision) if entry else None
        return self.rows[1]

    def _begun(self, node: Node, shard: int, revision: int) -> bool:
        return any(path.exists() for path in column_files(self.root, node.name, node.digest, shard, revision))

    @cached_property
    def _manifests(self) -> list[dict[str, Any]]:
        return [manifest for manifest in stored_manifests(self.root).values() if manifest]

    def _why_new(self, node: Node, shard: int, sources: tuple[Source, ...]) -> str:
        if self.head and shard >= len(self.head.shards):
            return f"new sources: {len(sources)} file{'s' * (len(sources) > 1)}"
        return self.new_column[node.column] or "files missing"

    def _head_column(self, node: Node) -> Column | None:
        column = self.head.columns.get(node.column) if self.head else None
        return column if column and column.digest == node.digest else None

    def _as_in_head(self, node: Node, shard: int, entry: ColumnShard, inputs: dict[str, ColumnShard | None]) -> bool:
        """Whether files and inputs are the very ones HEAD names: what HEAD was built on need not be checked again."""
        assert self.head
        for name, input_entry in inputs.items():
            if input_entry is None or input_entry != self.head.columns[name].shards[shard]:
                return False
        newer = column_files(self.root, node.name, node.digest, shard, entry.revision + 1)[2]
        return self._whole(node, shard, entry.revision, entry.bytes) and not newer.exists()

    def _whole(self, node: Node, shard: int, revision: int, size: int) -> bool:
        tar, idx, ledger = column_files(self.root, node.name, node.digest, shard, revision)
        return idx.exists() and ledger.exists() and tar.exists() and tar.stat().st_size == size

    def _commit(self, node: Node, shard: int, revision: int) -> Commit | None:
        commit = read_commit(column_files(self.root, node.name, node.digest, shard, revision)[2])
        return commit if commit and self._whole(node, shard, revision, commit.tar_bytes) else None

    def _stored(self, node: Node, shard: int, revision: int) -> ColumnShard:
        stored = StoredShard(self.root, node, shard, revision)
        stored.close()
        return stored.entry()

    def _changed(
        self, node: Node, commit: Commit, sources: tuple[Source, ...], inputs: dict[str, ColumnShard | None]
    ) -> str:
        """Which inputs are no longer those the commit was made from, "" when none."""
        if node is not self.graph.nodes[0]:
            changed = [name for name, entry in inputs.items() if entry and commit.inputs.get(name) != entry.sha256]
            if changed:
                return f"input changed: {', '.join(name.partition('/')[0] for name in changed)}"
            same = not node.reads_given or commit.inputs.get(GIVEN.name) == given_digest(sources)
            return "" if same else "given captions or tags changed"
        recorded = {record["path"]: record for record in commit.sources}
        known = {path: record["sha256"] for path, record in recorded.items()} | self.in_head
        now = {s.path: self.hashes.current(s, known.get(s.path, "")) for s in sources}
        if commit.inputs.get("sources") == content_digest(sources, now):
            return ""
        changed = [s.path for s in sources if _differs(recorded.get(s.path), s, now[s.path])]
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        return f"sources changed: {shown}"


def _differs(record: dict[str, Any] | None, source: Source, sha256: str) -> bool:
    if record is None:
        return True
    return (record["sha256"], record["reason"] == NOT_LISTED) != (sha256, source.refusal == NOT_LISTED)


def _why_new_column(node: Node, head: Manifest | None) -> str:
    """What sets the operator apart from the one whose column HEAD has for the same fields; "" where there is nothing."""
    if head is None:
        return "new"
    if node.column in head.columns:
        return ""
    info = next((head.fields[f.name] for f in node.writes if f.name in head.fields), None)
    old = head.columns.get(info.column) if info else None
    if old is None or old.operator != node.name:
        return "new"
    if old.version != node.operator.version:
        return f"{node.name} version {old.version} -> {node.operator.version}"
    if changed := _differences(old.params, node.params):
        return f"params changed: {changed}"
    if changed := _differences(old.assets, dict(node.assets)):
        return f"assets changed: {changed}"
    return f"input changed: {', '.join(name.partition('/')[0] for name in node.inputs if name not in head.columns)}"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    return ", ".join(f"{k} {old.get(k)} -> {new.get(k)}" for k in sorted(old | new) if old.get(k) != new.get(k))
