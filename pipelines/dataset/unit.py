"""The unit of scheduling, retry and commit: one shard, and all operators that are stale for it. `worker` carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from infra.storage.manifest import ColumnShard
from pipelines.dataset.graph import Node
from pipelines.dataset.sources import Source

DECODING = "decoding"


@dataclass(frozen=True)
class Step:
    """One operator to run: its column gets `revision`; rows of revision `base` are copied where their inputs are the same."""

    node: Node
    revision: int
    base: int | None


@dataclass(frozen=True)
class Unit:
    """Work on one shard; small, and picklable.

    Attributes:
        sources: of the shard, whether or not ingest is among the steps.
        ingest: the graph's first node.
        steps: stale operators, in the graph's order.
        stored: the columns that the steps read and no step writes, with their revisions.
        open_clip: see `graph.Toolbox`.
        retry: whether quarantined rows are tried again.
        poisoned: (row key or source path, operator) pairs that killed a worker more than once.
    """

    root: Path
    shard: int
    sources: tuple[Source, ...]
    ingest: Node
    steps: tuple[Step, ...]
    stored: tuple[tuple[Node, int], ...]
    open_clip: Callable[..., Any]
    retry: bool = False
    poisoned: frozenset[tuple[str, str]] = frozenset()


@dataclass
class Cost:
    """What an operator took: CPU seconds and bytes stored, for `clip_s` seconds of clips (made from `source_bytes`)."""

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
        costs: by operator name, of what was computed rather than copied; decoding has a line of its own, DECODING.
        hashed: source path -> bytes, mtime_ns, sha256 of the source files read.
        attempts: operator calls made; 0 when everything was copied.
    """

    shard: int
    entries: dict[str, ColumnShard] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    hashed: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    attempts: int = 0


def clip_seconds(record: Mapping[str, Any]) -> float:
    """Length of a row by its SOURCE record."""
    return float(record["n_frames"] / Fraction(str(record["fps"])))
