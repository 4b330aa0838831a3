"""Where every column comes from: operators, settings, assets and inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra import assets
from infra.errors import LikenessError
from infra.storage import Dataset
from infra.storage.manifest import Manifest, read_manifest
from pipelines.report.words import plural
from preprocessing.fields import VIDEO

MOST_MANIFESTS = 30


@dataclass(frozen=True)
class Made:
    """One column: `inputs` are the columns it reads from, `depth` its distance from ingest, `fields` name -> wanted."""

    column: str
    operator: str
    version: int
    digest: str
    params: Mapping[str, Any]
    assets: Mapping[str, str]
    licences: Mapping[str, str]
    reads: tuple[str, ...]
    fields: Mapping[str, bool]
    inputs: tuple[str, ...]
    depth: int
    written: int
    quarantined: int
    bytes: int

    @property
    def anchor(self) -> str:
        return "column-" + self.column.replace("/", "-")


def read_lineage(manifest: Manifest) -> list[Made]:
    """The columns, each after its inputs."""
    inputs = {}
    for name, column in manifest.columns.items():
        read = [manifest.ingest if field == VIDEO.name else manifest.fields[field].column
                for field in column.reads if field == VIDEO.name or field in manifest.fields]
        inputs[name] = tuple(dict.fromkeys(source for source in read if source != name))
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = 1 + max(map(depth, inputs[name]), default=-1)
        return depths[name]

    made = []
    for name, column in sorted(manifest.columns.items(), key=lambda item: (depth(item[0]), item[0])):
        fields = {info.name: info.name in manifest.wanted for info in manifest.fields.values() if info.column == name}
        made.append(Made(
            name, column.operator, column.version, column.digest, column.params, column.assets,
            {asset: licence_of(asset) for asset in column.assets}, column.reads, fields, inputs[name], depth(name),
            sum(s.written for s in column.shards), sum(s.quarantined for s in column.shards), sum(s.bytes for s in column.shards),
        ))  # fmt: skip
    return made


def licence_of(asset: str) -> str:
    """Of a declared asset; "" for a model folder or a fit, whose licence this project can't know."""
    try:
        return assets.get(asset).licence
    except LikenessError:
        return ""


def read_history(dataset: Dataset) -> list[dict[str, Any]]:
    """The manifests HEAD has named, oldest first, without their times: digest, rows, files, and what changed at each step.

    Manifests removed since are named by digest only.
    """
    try:
        lines = [json.loads(line) for line in (dataset.root / "history.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        lines = []
    chain = [str(line.get("to", "")) for line in lines] or [dataset.digest]
    steps: list[dict[str, Any]] = []
    before: Manifest | None = None
    for digest in chain[-MOST_MANIFESTS:]:
        try:
            now: Manifest | None = read_manifest(dataset.root, digest)
        except LikenessError:
            now = None
        step = {"digest": digest, "head": digest == dataset.digest, "changes": _changes(before, now)}
        if now:
            step |= {"files": len(now.sources), "rows": sum(s.rows for s in now.shards), "columns": len(now.columns)}
        steps.append(step)
        before = now or before
    return steps


def _changes(before: Manifest | None, now: Manifest | None) -> list[str]:
    if now is None:
        return ["no longer kept"]
    if before is None:
        return ["first build"]
    said = []
    old, new = ({f: info.column for f, info in m.fields.items()} for m in (before, now))
    for verb, names in (("added", new.keys() - old.keys()), ("dropped", old.keys() - new.keys())):
        said += [f"{verb} {', '.join(sorted(names))}"] if names else []
    moved = sorted({now.fields[f].operator for f in old.keys() & new.keys() if old[f] != new[f]})
    said += [f"made anew by another {', '.join(moved)}"] if moved else []
    files = {s.path for s in now.sources} - {s.path for s in before.sources}
    gone = {s.path for s in before.sources} - {s.path for s in now.sources}
    said += [f"{plural(len(files), 'file')} more"] if files else []
    said += [f"{plural(len(gone), 'file')} fewer"] if gone else []
    splits = ({s.path: s.split for s in m.sources if s.path not in files | gone} for m in (before, now))
    if next(splits) != next(splits):
        said.append("splits changed")
    return said or ["contents of columns changed"]
