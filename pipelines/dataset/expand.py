"""Derived datasets: rows made from another dataset's rows by an expander (see `preprocessing.expander`).

A derived dataset is built like any other; only its ingest differs. Its sources are the files its parent has rows of, and each
parent row becomes rows whose keys begin with the parent's. The digests of the parent's columns that were read stand among the
settings of its ingest, so whatever makes those columns anew makes the children anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from infra.errors import LikenessError
from infra.settings import merge
from infra.storage import Dataset, open_dataset
from infra.storage.atomic import write_whole
from infra.storage.manifest import SourceEntry
from infra.storage.objects import as_path
from pipelines.dataset.graph import Toolbox, standard
from pipelines.dataset.request import Request, load_request
from pipelines.dataset.sources import Source, find_sources
from preprocessing.codecs import decode
from preprocessing.expander import EXPANDERS, Child, Expander
from preprocessing.fields import AUDIO, SOURCE, TIMELINE, VIDEO, Field
from preprocessing.operator import OperatorParams, Refused, Resources, Sample


class ExpandIngest:
    """Ingest of a derived dataset: a source's rows are the children of its parent's rows."""

    name: str
    version: int
    resources: ClassVar[Resources] = Resources()

    class Params(OperatorParams):
        """`expander`: its settings; `parent`: digests of the parent's columns that are read, by field."""

        expander: dict[str, Any]
        parent: dict[str, str]

    def __init__(self, expander: Expander, parent: Dataset, open_clip: Any) -> None:
        self.expander, self.parent, self.open_clip = expander, parent, open_clip
        self.name, self.version = expander.name, expander.version
        stored = (SOURCE, TIMELINE, *((AUDIO,) if AUDIO.name in parent.fields else ()))
        self._stored = (*stored, *(f for f in expander.reads if f.stored))
        digests = {f.name: parent.field(f.name).digest for f in self._stored}
        self.params = self.Params(expander=expander.params.model_dump(mode="json"), parent=digests)
        self.writes: tuple[Field, ...] = (*stored, *expander.writes)

    def __call__(self, path: Path, source: Mapping[str, Any]) -> list[tuple[str, dict[Field, Any]]]:
        """Children of all rows of one file, as (end of the key, fields).

        Raises:
            Refused: no parent row has children.
            LikenessError: the file is not the one that the parent was built from.
        """
        entry = next(e for e in self.parent.manifest.sources if e.path == source["path"])
        if entry.sha256 != source["sha256"]:
            raise LikenessError(f"{source['path']} changed since its dataset {self.parent.root} was built",
                                fix=f"first run: likeness data build {self.parent.root}")
        made = [pair for key in entry.keys for pair in self._of_row(path, key, source)]
        if not made:
            raise Refused(f"no-children: {self.name} finds nothing in it to make rows of")
        return made

    def _of_row(self, path: Path, key: str, source: Mapping[str, Any]) -> list[tuple[str, dict[Field, Any]]]:
        sample = Sample(key)
        missing = [f.name for f in self.expander.reads if f.stored and not self.parent.has(key, f.name)]
        if missing:
            return []
        for f in self._stored:
            if self.parent.has(key, f.name):
                sample[f] = decode(f, self.parent.read(key, f.name))
        sample[VIDEO] = self.open_clip(path, sample[SOURCE], sample[TIMELINE])
        segment = key.rpartition("-")[2]
        return [(f"{segment}-{child.name}", self._values(child, sample, source)) for child in self.expander(sample)]

    def _values(self, child: Child, parent: Sample, source: Mapping[str, Any]) -> dict[Field, Any]:
        record = parent[SOURCE]
        fps = Fraction(record["fps"])
        begin = Fraction(record["start"]) + child.start / fps
        facts = {"parent": parent.key, "start": f"{begin.numerator}/{begin.denominator}", "n_frames": child.stop - child.start}
        values: dict[Field, Any] = {SOURCE: {**record, **source, **facts, **child.facts}}
        values[TIMELINE] = parent[TIMELINE][child.start : child.stop]
        if AUDIO in self.writes:
            per_frame = record.get("rate_hz", 0) / fps
            cut = slice(int(child.start * per_frame), int(child.stop * per_frame))
            values[AUDIO] = parent[AUDIO][cut] if AUDIO in parent else None
        return values | child.values


def derived(request: Request | None, parent: Path, name: str, root: Path) -> Request:
    """The request of the dataset at `root`, derived from `parent`.

    Raises:
        LikenessError: no such parent or expander, or the dataset is there already and not derived from it.
    """
    place = open_dataset(parent).root.resolve()
    expander(name)
    if request and (request.parent, request.expander) != (str(place), name):
        made = f"derived from {request.parent} by {request.expander}" if request.parent else "not a derived one"
        raise LikenessError(f"{root} is a dataset already, {made}", fix="name another folder")
    return request or Request(parent=str(place), expander=name)


def note_derived(parent: Path, root: Path) -> None:
    """Let the parent know of a dataset derived from it, so that what is taken down there can be followed."""
    known = derived_datasets(parent)
    if root not in known:
        places = [str(place) for place in sorted([*known, root])]
        write_whole(parent, parent / "derived.json", json.dumps(places, indent=1).encode())


def derived_datasets(parent: Path) -> list[Path]:
    """Where datasets derived from the one at `parent` were last built."""
    try:
        return [as_path(place) for place in json.loads((parent / "derived.json").read_text())]
    except (OSError, ValueError):
        return []


def toolbox_of(root: Path, request: Request) -> Toolbox:
    """The toolbox for the dataset at `root`: with an expander for its ingest where it is derived.

    Raises:
        LikenessError: the parent is no dataset, or lacks a field that the expander reads; or a wrong setting.
    """
    toolbox = standard(root)
    return replace(toolbox, ingest=partial(_expand_ingest, request, toolbox.open_clip)) if request.parent else toolbox


def _expand_ingest(request: Request, open_clip: Any, settings: Mapping[str, Mapping[str, Any]]) -> ExpandIngest:
    kind = expander(request.expander)
    parent = open_dataset(request.parent)
    return ExpandIngest(kind(merge(kind.Params(), settings.get(kind.name, {}))), parent, open_clip)


def expander(name: str) -> type[Expander]:
    """Raises:
    LikenessError: there is none of this name.
    """
    if name not in EXPANDERS:
        raise LikenessError(f"unknown expander {name!r}", allowed=", ".join(EXPANDERS))
    return EXPANDERS[name]


def child_sources(request: Request) -> list[Source]:
    """The sources of a derived dataset: those its parent has rows of, with the people, splits and captions they have there."""
    parent = open_dataset(request.parent)
    above = load_request(parent.root)
    if above is None:
        raise LikenessError(f"{parent.root} has no request.json: where its files lie is not known",
                            fix=f"run: likeness data build {parent.root} --source FOLDER")
    entries = {entry.path: entry for entry in parent.manifest.sources if entry.status == "ingested"}
    found = child_sources(above) if above.parent else find_sources(parent.root, above, parent.manifest.sources)
    return [_as_parent(source, entries[source.path]) for source in found if source.path in entries]


def _as_parent(source: Source, entry: SourceEntry) -> Source:
    return replace(source, person=entry.person, split=entry.split, tags=entry.tags, caption=entry.caption)
