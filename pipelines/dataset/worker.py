"""Doing a unit: rows go through its operators one after the other.

A clip is decoded once for all operators, and only encoded values are kept. What an operator reads is always what a stored
column would give back (`decode(encode(value))`), so it makes no difference to the bytes whether operators run together or in
ten builds.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from infra import digest
from infra.digest import canonical_json
from infra.storage.atomic import temporary
from infra.storage.copies import local
from infra.storage.ledger import LedgerRow
from infra.storage.objects import is_object
from infra.storage.tombstones import TAKEN_DOWN, Tombstones
from pipelines.dataset.graph import VIDEO_PARTS, Node
from pipelines.dataset.outcome import (
    MACHINE_ERRORS,
    MISSING_INPUT,
    STOPS_THE_RUN,
    WORKER_DIED,
    Failure,
    Streaks,
    describe,
    machine_errors,
)
from pipelines.dataset.shard import ShardDraft, StoredShard, publish
from pipelines.dataset.sources import Source, content_digest, given_digest, row_key
from pipelines.dataset.timed_clip import TimedClip
from pipelines.dataset.unit import DECODING, Cost, Step, Unit, UnitResult, booked, clip_seconds
from preprocessing.codecs import EXTENSION, decode, encode
from preprocessing.fields import GIVEN, SOURCE, TIMELINE, VIDEO, Field
from preprocessing.operator import BatchOperator, Lazy, Refused, Sample

T = TypeVar("T")
Values = dict[str, bytes]
_VIDEO_PARTS = tuple(f.name for f in VIDEO_PARTS)


class Worker:
    """Does units one after the other; operators are set up once."""

    def __init__(self, failures_in_a_row: int) -> None:
        self.streaks = Streaks(failures_in_a_row)
        # Decoded frames of one clip; half of the machine's memory when every core has a worker.
        self.clip_budget_bytes = min(2 * 2**30, psutil.virtual_memory().total // 2 // (os.cpu_count() or 1))
        self._ready: dict[str, Any] = {}

    def operator(self, node: Node) -> Any:
        """The node's operator, set up; whatever goes wrong in that stops the run."""
        if node.digest not in self._ready:
            if hasattr(node.operator, "setup"):
                node.operator.setup()
            self._ready[node.digest] = node.operator
        return self._ready[node.digest]

    def run(self, unit: Unit, at: Callable[[float, str, str], None] = lambda done, key, operator: None) -> UnitResult:
        """Do the unit and commit its columns.

        Args:
            at: called before each operator with the part of the unit done (0 to 1), the row's key and the operator's name.

        Raises:
            LikenessError: too many failures in a row, an operator lacks something it needs (an asset), no disk space left.
            Exception: a programming error of an operator.
        """
        with machine_errors():
            for step in unit.steps:
                self.operator(step.node)
            run = _Run(self, unit, at)
            try:
                return run.whole()
            finally:
                run.close()


@dataclass
class _Row:
    """A row on its way: `values` are the stored bytes by field that later operators need, `done` the part of the unit."""

    key: str
    record: dict[str, Any]
    values: Values
    done: float


@dataclass(frozen=True)
class _Try:
    """An attempt to be made: its number, and the digest of what it reads."""

    number: int
    inputs: str


Done = tuple[LedgerRow, Values]


class _Run:
    def __init__(self, worker: Worker, unit: Unit, at: Callable[[float, str, str], None]) -> None:
        self.worker, self.unit, self.at = worker, unit, at
        self.result = UnitResult(unit.shard)
        self.stored = {node.column: StoredShard(unit.root, node, unit.shard, revision) for node, revision in unit.read}
        self.bases: dict[str, StoredShard] = {}
        for step in unit.steps:
            if step.base is not None and (base := StoredShard(unit.root, step.node, unit.shard, step.base)).intact():
                self.bases[step.node.column] = base
        self.drafts = {step.node.column: ShardDraft(unit.root, step.node, unit.shard) for step in unit.steps}
        self.steps = [step for step in unit.steps if step.node.column != unit.ingest.column]
        needed = {f for step in self.steps for f in step.node.reads}
        self.needed = {f.name: f for f in (needed | set(VIDEO_PARTS) if VIDEO in needed else needed)}
        self.sources = {s.path: s for s in unit.sources}
        self.places = {str(s.file): s.path for s in unit.sources}
        self.places |= {str(unit.root): "DATASET", str(unit.root.resolve()): "DATASET"}
        self.tombstones = Tombstones.over(unit.root)
        self.records: list[dict[str, Any]] = []
        self.copies: dict[str, Path] = {}
        self.decode_s = 0.0

    def whole(self) -> UnitResult:
        rows = self._ingest() if self.unit.ingest.column in self.drafts else self._stored_rows()
        if len(self.unit.steps) == 1 and isinstance(self.unit.steps[0].node.operator, BatchOperator) and not self.unit.careful:
            self._in_batches(rows, self.steps[0], self.unit.steps[0].node.operator.batch_size)
        else:
            for row in rows:
                self._through_all(row)
        sources = content_digest(self.unit.sources, {r["path"]: r["sha256"] for r in self.records})
        tars = {column: stored.commit.tar_sha256 for column, stored in self.stored.items()}
        finished = []
        for step in self.unit.steps:
            node = step.node
            is_ingest = node.column == self.unit.ingest.column
            inputs = {"sources": sources} if is_ingest else {column: tars[column] for column in node.inputs}
            if node.reads_given:
                inputs[GIVEN.name] = given_digest(self.unit.sources)
            draft, base = self.drafts.pop(node.column), self.bases.get(node.column)
            shard = draft.finish(step.revision, base, inputs, self.records if is_ingest else [])
            finished.append(shard)
            self.result.entries[node.column], tars[node.column] = shard.entry, shard.entry.sha256
        publish(finished)
        return self.result

    def close(self) -> None:
        for draft in self.drafts.values():
            draft.discard()
        for shard in (*self.stored.values(), *self.bases.values()):
            shard.close()
        for copy in self.copies.values():
            shutil.rmtree(copy.parent, ignore_errors=True)

    # rows

    def _stored_rows(self) -> Iterator[_Row]:
        ingest = self.stored[self.unit.ingest.column]
        fields = [(self.stored[node.column], f) for node, _ in self.unit.read for f in node.writes if f.name in self.needed]
        for n, (key, line) in enumerate(ingest.rows.items()):
            found = {f.name: shard.read(key, f.name) for shard, f in fields}
            values = {name: value for name, value in found.items() if value is not None}
            yield _Row(key, json.loads(line.source), values, n / len(ingest.rows))

    def _ingest(self) -> Iterator[_Row]:
        """The rows of source after source, in the order of their keys."""
        node = self.unit.ingest
        base = self.bases.get(node.column)
        before = {record["path"]: record for record in base.commit.sources} if base else {}
        for n, source in enumerate(sorted(self.unit.sources, key=lambda s: s.key)):
            done = n / len(self.unit.sources)
            self.at(done, source.path, node.name)
            record, rows = self._ingest_source(source, before.get(source.path))
            self.records.append(record)
            for key, values in rows.items():
                text = values[SOURCE.name].decode()
                line = LedgerRow(key, "written", tries=record["tries"], source=text)
                self._draft(node, line, values)
                yield _Row(key, json.loads(text), values, done)

    def _ingest_source(self, source: Source, before: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Values]]:
        """A source's record for the ledger, and its rows: key -> bytes by field."""
        node = self.unit.ingest
        facts = {"path": source.path, "bytes": source.bytes, "sha256": ""}
        outcome = {"status": "refused", "reason": source.refusal, "error": "", "trace": "", "tries": 1, "keys": [], "seconds": 0.0}
        record = facts | outcome
        if source.refusal:
            return record, {}
        if before and source.bytes < 0:  # the file is gone: its rows stay
            return self._standing(before, self._rows_before(before))
        sha256 = record["sha256"] = facts["sha256"] = self._hash(source)
        if self.tombstones.covers_source("", "", sha256):
            return record | {"reason": TAKEN_DOWN}, {}
        if before and all(before[name] == fact for name, fact in facts.items()):
            if not (before["status"] == "quarantined" and self.unit.retry):
                return self._standing(before, self._rows_before(before))
            record["tries"] = before["tries"] + 1

        def work() -> dict[str, Values]:
            segments = self.worker.operator(node)(self._file(source), facts)
            if not segments:
                raise Refused("nothing usable in it")
            return {row_key(source.key, number): {f.name: encode(f, v) for f, v in values.items() if v is not None}
                    for number, values in sorted(segments, key=lambda segment: segment[0])}  # fmt: skip

        rows, cpu_s = self._attempt(node, source.path, work)
        if isinstance(rows, Failure):
            status = "refused" if rows.refused else "quarantined"
            return record | {"status": status, "reason": str(rows), "error": rows.error, "trace": rows.trace}, {}
        seconds = sum(clip_seconds(json.loads(values[SOURCE.name])) for values in rows.values())
        stored = sum(len(value) for values in rows.values() for value in values.values())
        first = json.loads(next(iter(rows.values()))[SOURCE.name])
        name, cost = booked(node.name, first, cpu_s, stored, source.bytes)
        if name == node.name:  # a video: all its rows
            cost.clip_s = seconds
        self._cost(name, cost)
        return self._standing(record | {"status": "ingested", "keys": list(rows), "seconds": round(seconds, 6)}, rows)

    def _standing(self, record: dict[str, Any], rows: dict[str, Values]) -> tuple[dict[str, Any], dict[str, Values]]:
        """Without rows that are taken down by themselves."""
        sources = {key: json.loads(values[SOURCE.name]) for key, values in rows.items()} if self.tombstones else {}
        down = {key: source for key, source in sources.items() if self.tombstones.covers_row(key, source)}
        if not down:
            return record, rows
        rest = {key: values for key, values in rows.items() if key not in down}
        return without_rows(record, down), rest

    def _rows_before(self, record: dict[str, Any]) -> dict[str, Values]:
        node, base = self.unit.ingest, self.bases[self.unit.ingest.column]
        return {key: _present({f.name: base.read(key, f.name) for f in node.writes}) for key in record["keys"]}

    def _hash(self, source: Source) -> str:
        try:
            sha256 = source.sha256()
        except OSError:
            return ""  # ingest fails on it too, and says why
        self.result.hashed[source.path] = (source.bytes, source.mtime_ns, sha256)
        return sha256

    def _file(self, source: Source) -> Path:
        """The source as a file of its own: what lies inside a tar or on object storage is copied for the time of the unit."""
        if source.part is None and not is_object(source.file):
            return source.file
        if source.path not in self.copies:
            folder = temporary(self.unit.root)
            folder.mkdir()
            self.copies[source.path] = copy = own_file(source, folder)
            self.places[str(copy)] = source.path
        return self.copies[source.path]

    # operators

    def _through_all(self, row: _Row) -> None:
        sample, before_s = self._sample(row), self.decode_s
        for step in self.steps:
            self.at(row.done, row.key, step.node.name)
            line, values = self._apply(step, row, sample)
            self._draft(step.node, line, values)
            for field in step.node.writes:
                if field.name in self.needed and field.name in values:
                    row.values[field.name] = values[field.name]
                    sample[field] = _lazy(field, values[field.name])
        self._book_decoding(row, before_s)

    def _sample(self, row: _Row) -> Sample:
        """What operators see of a row; decoded when they ask for it."""
        sample = Sample(row.key)

        def open_clip(_: bytes) -> TimedClip:
            file = self._file(self.sources[row.record["path"]])
            timeline = decode(TIMELINE, row.values[TIMELINE.name])
            clip = self.unit.open_clip(file, row.record, timeline, self.worker.clip_budget_bytes)
            return TimedClip(clip, self._decoded)

        sample[VIDEO] = Lazy(open_clip, b"")
        sample[GIVEN] = self.sources[row.record["path"]].given
        for name, field in self.needed.items():
            if name in row.values:
                sample[field] = _lazy(field, row.values[name])
        return sample

    def _book_decoding(self, row: _Row, before_s: float) -> None:
        if self.decode_s > before_s:
            self._cost(*booked(DECODING, row.record, self.decode_s - before_s))

    def _in_batches(self, rows: Iterator[_Row], step: Step, size: int) -> None:
        """Rows through one operator that takes several at a time; lines and values in the order of the rows all the same."""
        queue: list[tuple[_Row, Sample, _Try | Done]] = []
        for row in rows:
            queue.append((row, self._sample(row), self._try(step, row)))
            if sum(isinstance(todo, _Try) for *_, todo in queue) == size:
                self._flush(step, queue)
                queue = []
        self._flush(step, queue)

    def _flush(self, step: Step, queue: list[tuple[_Row, Sample, _Try | Done]]) -> None:
        node, operator = step.node, self.worker.operator(step.node)
        todo = [(row, sample) for row, sample, what in queue if isinstance(what, _Try)]
        outputs: dict[str, dict[Field, Any]] = {}
        each_s = 0.0
        if len(todo) > 1:
            self.at(todo[0][0].done, todo[0][0].key, node.name)
            start = self._clock(node)
            try:
                given = operator.call_many([sample for _, sample in todo])
                outputs = {row.key: values for (row, _), values in zip(todo, given, strict=True)}
            except STOPS_THE_RUN as error:
                error.add_note(f"operator {node.name} (version {node.operator.version}) was working on {todo[0][0].key}")
                raise
            except Exception:  # which of them it was is seen when each is tried alone
                outputs = {}
            each_s = (self._clock(node) - start) / len(todo)
        for row, sample, what in queue:
            if isinstance(what, _Try):
                self.at(row.done, row.key, node.name)
                work = functools.partial(call_operator, operator, sample)
                if outputs:
                    work = functools.partial(_encoded, operator, outputs[row.key])
                line, values = self._tried(node, row, what, work, each_s)
            else:
                line, values = what
            self._draft(node, line, values)

    def _apply(self, step: Step, row: _Row, sample: Sample) -> Done:
        """The row's line in the operator's ledger, and its values: copied where nothing changed, else computed."""
        what = self._try(step, row)
        if not isinstance(what, _Try):
            return what
        return self._tried(step.node, row, what, functools.partial(call_operator, self.worker.operator(step.node), sample))

    def _try(self, step: Step, row: _Row) -> _Try | Done:
        """What is known without work, or the attempt that has to be made."""
        node, base = step.node, self.bases.get(step.node.column)
        missing = [f.name for f in node.reads if f.stored and f.name not in row.values]
        if missing:
            return LedgerRow(row.key, "quarantined", MISSING_INPUT, f"input {missing[0]} missing", tries=0), {}
        inputs = self._inputs(node, row)
        before = base.rows.get(row.key) if base else None
        if base and before and before.inputs == inputs:
            if before.status == "written" or not self.unit.retry:
                return before, _present({f.name: base.read(row.key, f.name) for f in node.writes})
            return _Try(before.tries + 1, inputs)
        return _Try(1, inputs)

    def _tried(self, node: Node, row: _Row, attempt: _Try, work: Callable[[], Values], spent_s: float = 0.0) -> Done:
        values, cpu_s = self._attempt(node, row.key, work)
        if isinstance(values, Failure):
            line = LedgerRow(row.key, "quarantined", values.error, values.message, values.trace, attempt.number, attempt.inputs)
            return line, {}
        self._cost(*booked(node.name, row.record, cpu_s + spent_s, sum(map(len, values.values()))))
        return LedgerRow(row.key, "written", tries=attempt.number, inputs=attempt.inputs), values

    def _inputs(self, node: Node, row: _Row) -> str:
        """Digest of the bytes the operator would read; for frames their file's digest, in SOURCE, and TIMELINE."""
        given = canonical_json(self.sources[row.record["path"]].given)
        names = [name for f in node.reads for name in (_VIDEO_PARTS if f == VIDEO else (f.name,))]
        return digest.short(*(given if name == GIVEN.name else row.values[name] for name in names))

    def _attempt(self, node: Node, key: str, work: Callable[[], T]) -> tuple[T | Failure, float]:
        """Result or failure, and the seconds it took, without decoding."""
        start = self._clock(node) - self.decode_s
        result: T | Failure
        if (key, node.name) in self.unit.poisoned:
            result = Failure(WORKER_DIED, f"the worker process died, more than once, while {node.name} worked on it")
        else:
            self.result.attempts += 1
            try:
                result = work()
            except STOPS_THE_RUN as error:
                error.add_note(f"operator {node.name} (version {node.operator.version}) was working on {key}")
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
                    raise
                result = describe(error, self.places)
        self.worker.streaks.note(node.name, key, result if isinstance(result, Failure) else None)
        return result, self._clock(node) - self.decode_s - start

    def _clock(self, node: Node) -> float:
        return time.monotonic() if node.operator.resources.gpus > 0 else time.process_time()

    def _draft(self, node: Node, line: LedgerRow, values: Values) -> None:
        members = [(f.name, EXTENSION[f.codec], values[f.name]) for f in node.writes if f.name in values]
        self.drafts[node.column].add(line, members)

    def _decoded(self, cpu_s: float) -> None:
        self.decode_s += cpu_s

    def _cost(self, operator: str, cost: Cost) -> None:
        self.result.costs.setdefault(operator, Cost()).add(cost)


def without_rows(record: dict[str, Any], down: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A source's record of ingest's ledger when some of its rows (key -> SOURCE record) are taken down."""
    keys = [key for key in record["keys"] if key not in down]
    seconds = record["seconds"] - sum(clip_seconds(source) for source in down.values())
    rest = record | {"keys": keys, "seconds": round(seconds, 6)}
    return rest if keys else rest | {"status": "refused", "reason": TAKEN_DOWN}


def own_file(source: Source, folder: Path) -> Path:
    """The source as a file of its own: what lies inside a tar or on object storage is copied to `folder`, with its name."""
    copy = folder / source.path.rpartition("/")[2]
    if source.part is None and is_object(source.file):
        whole = local(source.file)
        try:
            os.link(whole, copy)  # it stays when the copy makes room for others
        except OSError:
            shutil.copyfile(whole, copy)
        return copy
    if source.part is None:
        return source.file
    with source.file.open("rb") as tar:
        copy.write_bytes(os.pread(tar.fileno(), source.part[1], source.part[0]))
    return copy


def call_operator(operator: Any, sample: Sample) -> Values:
    """An operator's values as bytes.

    Raises:
        TypeError: it gave other fields than it declares.
    """
    return _encoded(operator, operator(sample))


def _encoded(operator: Any, values: dict[Field, Any]) -> Values:
    if set(values) != set(operator.writes):
        given, want = (sorted(f.name for f in fields) for fields in (values, operator.writes))
        raise TypeError(f"operator {operator.name} gave {', '.join(given)}, declares {', '.join(want)}")
    return {f.name: encode(f, value) for f, value in values.items()}


def _lazy(field: Field, data: bytes) -> Lazy:
    return Lazy(functools.partial(decode, field), data)


def _present(values: dict[str, bytes | None]) -> Values:
    return {name: value for name, value in values.items() if value is not None}
