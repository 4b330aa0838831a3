"""The unit of scheduling, retry and commit: one shard of one segment, that is of operators which run together (see
`Graph.segments`). `worker` carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from infra.storage.manifest import ColumnShard
from pipelines.dataset.graph import Node
from pipelines.dataset.sources import Source

DECODING = "decoding"
PER_PHOTO = " per photo"  # end of an operator's name where what it took for photos is booked


@dataclass(frozen=True)
class Step:
    """One operator to run: its column gets `revision`; rows of revision `base` are copied where their inputs are the same."""

    node: Node
    revision: int
    base: int | None


@dataclass(frozen=True)
class Segment:
    """Stale operators that run together, in the graph's order, in a worker of `pool`."""

    pool: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Unit:
    """Work on one shard; small, and picklable.

    Attributes:
        sources: of the shard, whether or not ingest is among the steps.
        ingest: the graph's first node.
        segment: what to do now.
        later: what to do in units that follow.
        stored: the columns that are there, with their revisions.
        n_segments: of the shard, those done already among them.
        open_clip: see `graph.Toolbox`.
        retry: whether quarantined rows are tried again.
        poisoned: (row key or source path, operator) pairs that killed a worker more than once.
        careful: rows one by one, never in batches: a worker died on the unit, and it must be seen on which row.
    """

    root: Path
    shard: int
    sources: tuple[Source, ...]
    ingest: Node
    segment: Segment
    later: tuple[Segment, ...]
    stored: tuple[tuple[Node, int], ...]
    n_segments: int
    open_clip: Callable[..., Any]
    retry: bool = False
    poisoned: frozenset[tuple[str, str]] = frozenset()
    careful: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.segment.steps

    @property
    def title(self) -> str:
        """What Ray's dashboard calls it: dataset, shard, operators."""
        names = [step.node.name for step in self.steps]
        more = f" and {len(names) - 4} more" * (len(names) > 5)
        return f"{self.root.name} {self.shard:06d} {', '.join(names[:4] if more else names)}{more}"

    @property
    def read(self) -> tuple[tuple[Node, int], ...]:
        """Of the stored columns those that the steps read."""
        wanted = {self.ingest.column} | {column for step in self.steps for column in step.node.inputs}
        return tuple((node, revision) for node, revision in self.stored if node.column in wanted)

    def part(self, done: float) -> float:
        """`done` of this unit as a part of all of the shard's work."""
        return (self.n_segments - len(self.later) - 1 + done) / self.n_segments

    def following(self, result: UnitResult) -> Unit | None:
        """The shard's next unit, this one being done."""
        if not self.later:
            return None
        written = tuple((step.node, result.entries[step.node.column].revision) for step in self.steps)
        return replace(self, segment=self.later[0], later=self.later[1:], stored=self.stored + written)


@dataclass
class Cost:
    """What an operator took: CPU seconds (of one that wants a GPU, seconds by the clock) and bytes stored, for `clip_s` seconds of
    clips, or that many photos (made from `source_bytes`)."""

    cpu_s: float = 0.0
    clip_s: float = 0.0
    bytes: int = 0
    source_bytes: int = 0

    def add(self, other: Cost) -> None:
        self.cpu_s += other.cpu_s
        self.clip_s += other.clip_s
        self.bytes += other.bytes
        self.source_bytes += other.source_bytes


@dataclass
class UnitResult:
    """What a unit did.

    Attributes:
        entries: lines of the manifest by column.
        costs: by operator name, of what was computed rather than copied; decoding has a line of its own, DECODING, and photos are
            booked apart, under the name with PER_PHOTO.
        hashed: source path -> bytes, mtime_ns, sha256 of the source files read.
        attempts: operator calls made; 0 when everything was copied.
    """

    shard: int
    entries: dict[str, ColumnShard] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    hashed: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    attempts: int = 0

    def add(self, other: UnitResult) -> None:
        """Take in what a later unit of the shard did."""
        self.entries |= other.entries
        self.hashed |= other.hashed
        self.attempts += other.attempts
        for name, cost in other.costs.items():
            self.costs.setdefault(name, Cost()).add(cost)


def booked(operator: str, record: Mapping[str, Any], cpu_s: float, stored: int = 0, source_bytes: int = 0) -> tuple[str, Cost]:
    """Under which name, and as what, the work of an operator on a row is booked."""
    if record.get("kind") == "photo":
        return operator + PER_PHOTO, Cost(cpu_s, 1.0, stored, source_bytes)
    return operator, Cost(cpu_s, clip_seconds(record), stored, source_bytes)


def clip_seconds(record: Mapping[str, Any]) -> float:
    """Length of a row by its SOURCE record."""
    return float(record["n_frames"] / Fraction(str(record["fps"])))
