"""From wanted fields to the operators that make them, in the order they run, each with its digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import ValidationError

from infra import digest
from infra.errors import LikenessError
from infra.model_files import public_name
from infra.storage.manifest import Manifest, column_name
from preprocessing.fields import GIVEN, SOURCE, TIMELINE, VIDEO, Field, by_name, known_names
from preprocessing.operator import Operator, OperatorParams, Resources


class Ingest(Protocol):
    """The first operator: one source in, its rows out."""

    resources: ClassVar[Resources]

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def params(self) -> OperatorParams: ...

    @property
    def writes(self) -> tuple[Field, ...]: ...

    def __call__(self, path: Path, source: Mapping[str, Any]) -> Sequence[tuple[int | str, dict[Field, Any]]]:
        """Segments of the source as (number or end of the row key, values).

        Raises:
            Refused: for a source understood to be of no use.
        """
        ...


@dataclass(frozen=True)
class Toolbox:
    """Where fields, operators and decoded frames come from; tests put toys here.

    Attributes:
        field: name -> field, or None.
        names: field names to offer when one is not known.
        producer: field name, settings by operator name -> the operator that writes the field.
        ingest: settings by operator name -> ingest.
        open_clip: file, SOURCE record, TIMELINE -> the value of VIDEO; travels to the workers, so it must be importable there.
        clip_version: raised when the same file gives other frames.
        asset: name of an asset (see `Operator.assets`) -> where it lies, and its checksum.
    """

    field: Callable[[str], Field | None]
    names: Callable[[], list[str]]
    producer: Callable[[str, Mapping[str, Mapping[str, Any]]], Operator]
    ingest: Callable[[Mapping[str, Mapping[str, Any]]], Ingest]
    open_clip: Callable[..., Any]
    clip_version: int
    asset: Callable[[str], tuple[Path, str]]


def standard(root: Path | None = None) -> Toolbox:
    """The project's own operators, for the dataset at `root`, whose fits are then among the assets."""
    from preprocessing import catalogue, clip

    return Toolbox(
        by_name, known_names, catalogue.producer, catalogue.ingest, clip.open_clip, clip.VERSION, partial(find_asset, root)
    )


def find_asset(root: Path | None, name: str) -> tuple[Path, str]:
    """Where an asset of the dataset at `root` lies, and its checksum; `name` as in `Operator.assets`.

    Raises:
        LikenessError: absent, or not the published file; says what to place where.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind == "fit" and root is not None:
        from infra.storage.fits import find_fit

        return find_fit(root, rest)
    if colon and kind == "model":
        from infra.model_files import find_model

        return find_model(rest)
    from infra import assets

    return assets.find(name), assets.checksum(name)


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        operator: an `Operator`; for the first node the `Ingest`.
        digest: of name, version, settings, assets and where its inputs come from; not of the sources.
        column: `OPERATOR/DIGEST8`.
        inputs: columns it reads from; VIDEO counts as ingest's, GIVEN as none.
        assets: checksums by name (see `public_asset`).
        absent: what is wrong with an asset that is not here; its checksum is then the one that the dataset's column names, so that
            what was made with it stays right. Running the operator raises it.
    """

    operator: Any
    digest: str
    reads: tuple[Field, ...]
    writes: tuple[Field, ...]
    inputs: tuple[str, ...]
    assets: Mapping[str, str]
    absent: LikenessError | None = None

    @property
    def name(self) -> str:
        return self.operator.name

    @property
    def column(self) -> str:
        return column_name(self.name, self.digest)

    @property
    def params(self) -> dict[str, Any]:
        return self.operator.params.model_dump(mode="json")

    @property
    def reads_given(self) -> bool:
        """Whether it depends on what was given with the sources (see `preprocessing.fields.GIVEN`)."""
        return GIVEN in self.reads


CPU_POOL = "cpu"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each comes after its inputs, ingest first; `wanted` are the fields asked for."""

    nodes: tuple[Node, ...]
    wanted: tuple[str, ...]

    def producer(self, field: str) -> Node:
        return next(node for node in self.nodes if any(f.name == field for f in node.writes))

    def segments(self) -> list[tuple[str, tuple[Node, ...]]]:
        """(pool, nodes) in an order in which each reads only what those before it have written.

        CPU operators are fused, so that a clip is decoded once for all of them; an operator that wants a GPU is a segment of its
        own, in a pool of worker processes called after it.
        """
        places: dict[str, tuple[int, str]] = {}
        for node in self.nodes:
            gpu = node.operator.resources.gpus > 0
            before = [places[column] for column in node.inputs]
            step = max((level + (gpu or pool != CPU_POOL) for level, pool in before), default=0)
            places[node.column] = step, node.name if gpu else CPU_POOL
        order = sorted(set(places.values()))
        return [(pool, tuple(n for n in self.nodes if places[n.column] == (level, pool))) for level, pool in order]


def resolve(
    toolbox: Toolbox, wanted: Sequence[str], settings: Mapping[str, Mapping[str, Any]], head: Manifest | None = None
) -> Graph:
    """The graph that makes the fields called `wanted`.

    Args:
        head: of the dataset there is: what it was made with need not be here as long as nothing has to be made with it.

    Raises:
        LikenessError: an unknown field, operator or setting, with the nearest name; an asset that neither is here nor was used.
    """
    recorded: dict[tuple[str, str], str] = {}
    for column in head.columns.values() if head else ():
        recorded |= {(column.operator, name): sha256 for name, sha256 in column.assets.items()}
    return _Resolver(toolbox, settings, recorded).graph(wanted)


class _Resolver:
    def __init__(
        self, toolbox: Toolbox, settings: Mapping[str, Mapping[str, Any]], recorded: Mapping[tuple[str, str], str]
    ) -> None:
        self.toolbox, self.settings, self.recorded = toolbox, settings, recorded
        self.nodes: dict[str, Node] = {}  # by digest, in order
        self.by_field: dict[str, Node] = {}
        self.underway: list[str] = []
        self.ingest = self._add(_told(lambda: toolbox.ingest(settings)), ())

    def graph(self, wanted: Sequence[str]) -> Graph:
        for name in wanted:
            field = self.toolbox.field(name)
            if field is None:
                near = get_close_matches(name, self.toolbox.names(), n=1, cutoff=0.4)
                raise LikenessError(f"unknown field {name!r}" + (f" (nearest: {near[0]})" if near else ""),
                                    allowed=", ".join(self.toolbox.names()))
            if not field.stored:
                raise LikenessError(f"field {name} is never stored", fix="ask for a field made from it")
            self._producer(name)
        known = {node.name for node in self.nodes.values()}
        for operator in self.settings:
            if operator not in known:
                near = get_close_matches(operator, known, n=1, cutoff=0.4)
                raise LikenessError(f"settings for operator {operator!r}, which these fields don't need"
                                    + (f" (nearest: {near[0]})" if near else ""), allowed=", ".join(sorted(known)))
        return Graph(tuple(self.nodes.values()), tuple(sorted(set(wanted))))

    def _producer(self, name: str) -> Node:
        if name == VIDEO.name:
            return self.ingest
        if name not in self.by_field:
            if name in self.underway:
                raise LikenessError(f"fields need each other: {' -> '.join([*self.underway, name])}")
            self.underway.append(name)
            operator = _told(lambda: self.toolbox.producer(name, self.settings))
            node = self._add(operator, operator.reads)
            if name not in {f.name for f in node.writes}:
                raise TypeError(f"operator {node.name} was named for field {name}, but writes {node.writes}")
            self.underway.pop()
        return self.by_field[name]

    def _add(self, operator: Any, reads: tuple[Field, ...]) -> Node:
        makers = {field.name: self._producer(field.name) for field in reads if field != GIVEN}
        sums, absent = self._assets(operator)
        # Of models only the contents count: a dataset tells no machine path, and a copied folder makes nothing stale.
        content = {f"model:{n}" if name.startswith("model:") else name: sums[name] for n, name in enumerate(sums)}
        assets = {public_asset(name): sha256 for name, sha256 in sums.items()}
        inputs = {name: node.digest for name, node in makers.items()}
        if VIDEO.name in inputs:
            inputs[VIDEO.name] += f"/clip {self.toolbox.clip_version}"
        facts = {"name": operator.name, "version": operator.version, "params": operator.params.model_dump(mode="json"),
                 "assets": content, "inputs": inputs}
        columns = tuple(dict.fromkeys(node.column for node in makers.values()))
        node = Node(operator, digest.of_json(facts), tuple(reads), tuple(operator.writes), columns, assets, absent)
        node = self.nodes.setdefault(node.digest, node)
        for field in node.writes:
            if self.by_field.setdefault(field.name, node) is not node:
                raise TypeError(f"field {field.name} is written by {node.column} and by {self.by_field[field.name].column}")
        return node

    def _assets(self, operator: Any) -> tuple[dict[str, str], LikenessError | None]:
        """Checksums of an operator's assets by name, and what is wrong where one is not here; tells it where they lie."""
        sums: dict[str, str] = {}
        absent = None
        for name in getattr(operator, "assets", ()):
            try:
                operator.asset_paths[name], sums[name] = self.toolbox.asset(name)
            except LikenessError as error:
                used = self.recorded.get((operator.name, public_asset(name)))
                if used is None:
                    raise
                sums[name], absent = used, error
        return sums, absent


def public_asset(name: str) -> str:
    """An asset's name as a manifest tells it."""
    kind, _, ref = name.partition(":")
    return f"model:{public_name(ref)}" if kind == "model" else name


def _told(make: Callable[[], Any]) -> Any:
    """An operator, with pydantic's complaint about its settings in one line."""
    try:
        return make()
    except ValidationError as error:
        problem = error.errors()[0]
        setting = ".".join(map(str, problem["loc"]))
        raise LikenessError(f"setting {setting}={problem['input']!r} of operator {error.title}: {problem['msg']}") from None


# What VIDEO is made of, besides the source file itself: an operator that reads it depends on both.
VIDEO_PARTS = (SOURCE, TIMELINE)
