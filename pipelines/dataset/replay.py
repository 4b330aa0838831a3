"""One operator on one stored row, to see what it does: on the stored inputs, with its full traceback."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import LikenessError
from infra.storage import open_dataset
from infra.storage.ledger import read_commit, read_ledger
from infra.storage.tombstones import Tombstones
from pipelines.dataset.expand import child_sources, toolbox_of
from pipelines.dataset.graph import Graph, Node, Toolbox, resolve
from pipelines.dataset.outcome import MISSING_INPUT
from pipelines.dataset.request import load_request, updated
from pipelines.dataset.sources import Source, find_sources, row_key
from pipelines.dataset.threads import one_thread
from pipelines.dataset.worker import call_operator, own_file
from preprocessing.codecs import EXTENSION, decode, encode
from preprocessing.fields import GIVEN, TIMELINE, VIDEO, Field
from preprocessing.media.mux import write_video
from preprocessing.operator import Lazy, Refused, Sample


@dataclass(frozen=True)
class Replayed:
    """What the operator gave.

    Attributes:
        wall_s, cpu_s: of the call alone, decoding included; loading models is not.
        fields: per field its name, bytes, and how it compares: "same" bytes as stored, "other" bytes, or "not stored" (by this
            operator with these settings).
        files: written to the folder asked for.
    """

    key: str
    operator: str
    wall_s: float
    cpu_s: float
    fields: list[dict[str, Any]]
    files: list[str]


class Replay:
    """One operator on one row, ready to run.

    Args:
        operator: its name, or a field that it writes where several go by one name.
        settings: `operator.setting=value` words, for this operator.

    Raises:
        LikenessError: no such row or operator, an input that is not stored as this operator would read it, no source file.
    """

    def __init__(self, root: Path, key: str, operator: str, settings: Sequence[str] = (), toolbox: Toolbox | None = None) -> None:
        self.dataset = open_dataset(root)
        self.row = self.dataset.row(key)
        known = load_request(root)
        if known is None:
            raise LikenessError(f"{root} has no request.json", fix=f"run: likeness data build {root} --source FOLDER")
        request = updated(known, settings=list(settings))
        self.toolbox = toolbox or toolbox_of(root, request)
        graph = resolve(self.toolbox, request.fields, request.operators, self.dataset.manifest)
        self.node = _node(graph, operator, root)
        if self.node.absent:
            raise self.node.absent
        self.is_ingest = self.node is graph.nodes[0]
        self.stored = {} if self.is_ingest else self._inputs({f.name: graph.producer(f.name) for f in self.node.reads if f.stored})
        reads = {VIDEO, GIVEN} & set(self.node.reads)
        self.source: Source | None = None
        if self.is_ingest or reads:
            path = self.row.source["path"]
            found = child_sources(request) if request.parent else find_sources(root, request, self.dataset.manifest.sources)
            self.source = next((source for source in found if source.path == path), None)
            if self.source is None or (self.source.bytes < 0 and (self.is_ingest or VIDEO in reads)):
                raise LikenessError(f"source {path} of row {key} is gone, and {operator} reads it",
                                    fix="if its folder was moved: likeness data build DATASET --source LABEL=NEW_PLACE")

    def _inputs(self, makers: dict[str, Node]) -> dict[str, bytes]:
        names = list(makers)
        if VIDEO in self.node.reads:
            names = list(dict.fromkeys([*names, TIMELINE.name]))
        for name, maker in makers.items():
            if self.dataset.field(name).digest != maker.digest:
                raise LikenessError(f"input {name} is stored by {self.dataset.field(name).operator} with other settings or version",
                                    fix=f"build it first: likeness data build {self.dataset.root}")
        return {name: self.dataset.read(self.row, name) for name in names}

    def run(self, out: Path | None = None) -> Replayed:
        """Run it.

        Args:
            out: folder to write the values to; frame sequences also as a video.

        Raises:
            Exception: whatever the operator raises, with its own traceback.
        """
        with self._ready() as work, one_thread():
            if hasattr(self.node.operator, "setup"):
                self.node.operator.setup()
            start = time.monotonic(), time.process_time()
            values = work()
            took = time.monotonic() - start[0], time.process_time() - start[1]
        fields = [{"field": name, "bytes": len(data), "compared": self._compared(name, data)} for name, data in values.items()]
        files = self._write(out, values) if out else []
        return Replayed(self.row.key, self.node.name, *took, fields, files)

    @contextmanager
    def _ready(self) -> Iterator[Any]:
        """The call to make; its source is a file of its own meanwhile."""
        with tempfile.TemporaryDirectory() as folder:
            if self.is_ingest:
                assert self.source
                yield functools.partial(self._ingest, own_file(self.source, Path(folder)), self.source)
                return
            fields = {f.name: f for f in self.node.reads} | {TIMELINE.name: TIMELINE}
            sample = Sample(self.row.key, {name: Lazy(functools.partial(decode, fields[name]), data)
                                           for name, data in self.stored.items()})
            if self.source:
                sample[GIVEN] = self.source.given
                sample[VIDEO] = Lazy(functools.partial(self._clip, own_file(self.source, Path(folder))), b"")
            yield functools.partial(call_operator, self.node.operator, sample)

    def _clip(self, file: Path, _: bytes) -> Any:
        timeline = decode(TIMELINE, self.stored[TIMELINE.name])
        return self.toolbox.open_clip(file, dict(self.row.source), timeline, 1 << 31)

    def _ingest(self, file: Path, source: Source) -> dict[str, bytes]:
        facts = {"path": source.path, "bytes": source.bytes, "sha256": source.sha256()}
        for number, values in self.node.operator(file, facts):
            if row_key(source.key, number) == self.row.key:
                return {f.name: encode(f, value) for f, value in values.items() if value is not None}
        raise LikenessError(f"{source.path} gives no row {self.row.key} any more", fix="bring the dataset up to date: data build")

    def _compared(self, name: str, data: bytes) -> str:
        info = self.dataset.fields.get(name)
        if info is None or info.digest != self.node.digest or not self.dataset.has(self.row, name):
            return "not stored"
        return "same" if self.dataset.read(self.row, name) == data else "other"

    def _write(self, out: Path, values: dict[str, bytes]) -> list[str]:
        out.mkdir(parents=True, exist_ok=True)
        fields: dict[str, Field] = {f.name: f for f in self.node.writes}
        files = []
        for name, data in values.items():
            path = out / f"{name}.{EXTENSION[fields[name].codec]}"
            path.write_bytes(data)
            files.append(str(path))
            if fields[name].codec in ("mjpeg", "mpng") and len(frames := decode(fields[name], data)):
                path = path.with_suffix(".mp4")
                every = (frames[i] for i in range(len(frames)))
                colour = (f if f.ndim == 3 else np.repeat(f[..., None], 3, 2) for f in every)
                write_video(path, colour, Fraction(str(self.row.source.get("fps", "25/1"))))
                files.append(str(path))
        return files


def quarantined(root: Path, operator: str = "") -> list[dict[str, Any]]:
    """Sources and rows that failed: name, operator, error, message, trace, tries. Not those refused, or only lacking an input.

    Args:
        operator: only those of this one.

    Raises:
        LikenessError: there is no finished dataset, or no such operator made it.
    """
    dataset = open_dataset(root)
    manifest, stones = dataset.manifest, Tombstones.load(dataset.root)
    names = {column.operator for column in manifest.columns.values()}
    if operator and operator not in names:
        near = get_close_matches(operator, names, n=1)
        raise LikenessError(f"dataset {root} has no operator {operator!r}" + (f" (nearest: {near[0]})" if near else ""),
                            allowed=", ".join(sorted(names)))
    standing = {row.key for row in dataset.standing_rows()}
    understood = (MISSING_INPUT, Refused.__name__)
    lines = []
    for name, column in manifest.columns.items():
        if operator and column.operator != operator:
            continue
        for shard in range(len(column.shards)):
            ledger = column.files(dataset.root, shard)[2]
            commit = read_commit(ledger) if name == manifest.ingest else None
            for record in commit.sources if commit else ():
                if record["status"] == "quarantined" and not stones.covers_source(record["path"], "", record["sha256"]):
                    message = record["reason"].removeprefix(f"{record['error']}: ")
                    lines.append({"name": record["path"], "operator": column.operator, "error": record["error"],
                                  "message": message, "trace": record["trace"], "tries": record["tries"]})  # fmt: skip
            for row in read_ledger(ledger) if column.shards[shard].quarantined else ():
                if row.status == "quarantined" and row.error not in understood and row.key in standing:
                    lines.append({"name": row.key, "operator": column.operator, "error": row.error, "message": row.message,
                                  "trace": row.trace, "tries": row.tries})  # fmt: skip
    return lines


def _node(graph: Graph, operator: str, root: Path) -> Node:
    """The node of an operator, named by itself or by one of its fields."""
    named = [node for node in graph.nodes if operator in (node.name, *(f.name for f in node.writes))]
    if len(named) > 1:
        fields = ", ".join(f.name for node in named for f in node.writes)
        raise LikenessError(f"{len(named)} operators of {root} are called {operator}", fix=f"name a field of it: {fields}")
    if not named:
        names = list(dict.fromkeys(node.name for node in graph.nodes))
        near = get_close_matches(operator, names, n=1)
        raise LikenessError(f"no operator {operator!r} makes a field of {root}" + (f" (nearest: {near[0]})" if near else ""),
                            allowed=", ".join(names), fix="add its field first: likeness data add")
    return named[0]
