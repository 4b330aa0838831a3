"""Facts about a dataset, and about one row of it, as plain values; `pipelines.cli.data` prints them."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from infra.errors import LikenessError
from infra.storage import Dataset, FieldInfo
from infra.storage.ledger import read_ledger
from pipelines.dataset.unit import clip_seconds
from preprocessing.codecs import decode
from preprocessing.fields import by_name


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Digest, rows, sources by status, splits, fields, and the funnel from files to values."""
    manifest = dataset.manifest
    rows = dataset.rows()
    splits: dict[str, dict[str, Any]] = defaultdict(lambda: {"rows": 0, "seconds": 0.0, "people": set()})
    for row in rows:
        split = splits[row.source.get("split", "")]
        split["rows"] += 1
        split["seconds"] += clip_seconds(row.source)
        split["people"].add(row.source.get("person", ""))
    fields = []
    for info in sorted(manifest.fields.values(), key=lambda f: list(manifest.columns).index(f.column)):
        shards = manifest.columns[info.column].shards
        fields.append({
            "name": info.name, "type": type_text(info), "operator": info.operator, "version": info.version,
            "digest": info.digest[:8], "wanted": info.name in manifest.wanted,
            "written": sum(s.written for s in shards), "quarantined": sum(s.quarantined for s in shards),
            "column_bytes": sum(s.bytes for s in shards),
        })  # fmt: skip
    sources = Counter(entry.status for entry in manifest.sources)
    return {
        "path": str(dataset.root), "digest": dataset.digest, "rows": len(rows), "shards": len(manifest.shards),
        "taken_down": dataset.taken_down,
        "seconds": sum(split["seconds"] for split in splits.values()),
        "bytes": sum(shard.bytes for column in manifest.columns.values() for shard in column.shards),
        "sources": {status: sources[status] for status in ("ingested", "refused", "quarantined")},
        "splits": {name: split | {"people": len(split["people"])} for name, split in sorted(splits.items())},
        "fields": fields,
        "funnel": [("files", len(manifest.sources)), ("ingested", sources["ingested"]), ("rows", len(rows)),
                   *((f["name"], f["written"]) for f in fields if f["wanted"])],
        "refused": [{"path": e.path, "status": e.status, "reason": e.reason} for e in manifest.sources if e.status != "ingested"],
    }  # fmt: skip


def row_facts(dataset: Dataset, key: str) -> dict[str, Any]:
    """One row: its SOURCE record, and for each field its value in short, or why there is none.

    Raises:
        LikenessError: no such row.
    """
    row = dataset.row(key)
    ledgers = {}
    for name, column in dataset.manifest.columns.items():
        ledgers[name] = next(line for line in read_ledger(column.files(dataset.root, row.shard)[2]) if line.key == key)
    fields = []
    for info in dataset.fields.values():
        line = ledgers[info.column]
        if dataset.has(row, info.name):
            data = dataset.read(row, info.name)
            facts = {"status": "written", "bytes": len(data), "value": _value_text(info, data)}
        elif line.status == "written":
            facts = {"status": "absent", "bytes": 0, "value": "the source has none"}
        else:
            facts = {"status": "quarantined", "bytes": 0, "value": f"{line.error}: {line.message}", "trace": line.trace,
                     "tries": line.tries}  # fmt: skip
        fields.append({"name": info.name, "type": type_text(info), "operator": info.operator, **facts})
    return {"key": row.key, "shard": row.shard, "source": dict(row.source), "fields": fields}


def type_text(info: FieldInfo) -> str:
    """`float32 frames x 5, px`."""
    shape = " x ".join(str(axis) for axis in info.shape)
    return f"{info.dtype} {shape}".strip() + (f", {info.unit}" if info.unit else "")


def _value_text(info: FieldInfo, data: bytes) -> str:
    field = by_name(info.name)
    if field is None:
        return "a field this version of likeness does not know"
    try:
        value = decode(field, data)
    except LikenessError as error:
        return str(error)
    if isinstance(value, np.ndarray):
        text = f"{value.dtype} {' x '.join(map(str, value.shape))}"
        if value.size == 0:
            return text
        numbers = value.astype(np.float64)
        return f"{text}, {numbers.min():.4g} to {numbers.max():.4g}, mean {numbers.mean():.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{len(value)} pictures" if hasattr(value, "__len__") and not isinstance(value, str) else str(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:80]
