"""How fast operators ran on this machine, to say what a build would take.

Kept in `rates.json` of the cache folder (`~/.cache/likeness`, or where LIKENESS_CACHE points), by host and operator. Losing the
file costs only the estimates.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.cache import cache_folder
from pipelines.dataset.folders import PHOTO_ENDINGS
from pipelines.dataset.plan import Plan
from pipelines.dataset.unit import DECODING, PER_PHOTO, Cost
from preprocessing.fields import VIDEO

BYTES_PER_S = 1e6


def load_rates() -> dict[str, Cost]:
    """Cost by operator name, as measured on this machine; empty when nothing was."""
    try:
        return {name: Cost(**cost) for name, cost in _read()[socket.gethostname()].items()}
    except (KeyError, TypeError, AttributeError):
        return {}


def record_rates(costs: dict[str, Cost]) -> None:
    """Add a build's costs; what was measured before counts half, so that the file follows the machine."""
    rates = load_rates()
    for name, cost in costs.items():
        if cost.clip_s <= 0:
            continue
        old = rates.get(name, Cost())
        rates[name] = Cost(*(value / 2 for value in asdict(old).values()))
        rates[name].add(cost)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f"rates-{os.getpid()}.json"
        everything = _read() | {socket.gethostname(): {name: asdict(cost) for name, cost in rates.items()}}
        scratch.write_text(json.dumps(everything, indent=1))
        os.replace(scratch, folder / "rates.json")
    except OSError:
        return  # a read-only home must not fail a finished build


def _read() -> dict:
    try:
        everything = json.loads((cache_folder() / "rates.json").read_text())
        return everything if isinstance(everything, dict) else {}
    except (OSError, ValueError):
        return {}


def forecast(plan: Plan, rates: dict[str, Cost]) -> list[dict[str, Any]]:
    """A line per operator that has anything to do or to show: what is there, what runs and why, and what that takes.

    `cpu_s` and `bytes` are None where this machine has not measured the operator, or can't tell the length of new sources.
    Decoding has a line of its own.
    """
    lines = []
    decoded: set[int] = set()
    lengths = [_lengths(plan, shard, rates) for shard in range(len(plan.shards))]
    for node in plan.graph.nodes:
        runs = [shard for shard in range(len(plan.shards)) if plan.tasks[node.column, shard].entry is None]
        if VIDEO in node.reads:
            decoded |= set(runs)
        lines.append({"operator": node.name, "version": node.operator.version, "column": node.column,
                      "fields": [f.name for f in node.writes], "shards": len(plan.shards), "to_run": len(runs), "runs": runs,
                      "why": dict(plan.reasons(node)),
                      **_estimate([lengths[shard] for shard in runs], rates, node.name)})  # fmt: skip
    if decoded:
        lines.append({"operator": DECODING, "fields": [], "shards": len(plan.shards), "to_run": len(decoded), "why": {},
                      **_estimate([lengths[shard] for shard in sorted(decoded)], rates, DECODING)})  # fmt: skip
    return lines


def shard_weights(plan: Plan, rates: dict[str, Cost]) -> dict[int, float]:
    """How long each shard's work will take, for progress and order: seconds where this machine has measured the operators."""
    weights = {}
    for shard in range(len(plan.shards)):
        stale = [node for node in plan.graph.nodes if plan.tasks[node.column, shard].entry is None]
        if not stale:
            weights[shard] = 0.0
            continue
        lengths = [_lengths(plan, shard, rates)]
        names = [node.name for node in stale] + ([DECODING] if any(VIDEO in node.reads for node in stale) else [])
        known = [_estimate(lengths, rates, name)["cpu_s"] for name in names]
        size = sum(max(source.bytes, 0) for source in plan.shards[shard])
        # Nothing measured yet: bytes, at a rate that only has to be the same for all.
        weights[shard] = sum(s for s in known if s is not None) or size / BYTES_PER_S or 1e-3
    return weights


def _estimate(lengths: list[tuple[float | None, int]], rates: dict[str, Cost], operator: str) -> dict[str, float | None]:
    """CPU seconds and bytes for shards of these `_lengths`: so much per second of clips, and so much per photo."""
    photos = sum(count for _, count in lengths)
    known = [s for s, _ in lengths if s is not None]
    clip_s = sum(known) if len(known) == len(lengths) else None
    cpu_s = stored = 0.0
    for name, amount in ((operator, clip_s), (operator + PER_PHOTO, float(photos))):
        rate = rates.get(name)
        if amount is None or (amount and rate is None):
            return {"clip_s": clip_s, "photos": photos, "cpu_s": None, "bytes": None}
        if rate and amount:
            cpu_s += rate.cpu_s / rate.clip_s * amount
            stored += rate.bytes / rate.clip_s * amount
    return {"clip_s": clip_s, "photos": photos, "cpu_s": cpu_s, "bytes": stored}


def _lengths(plan: Plan, shard: int, rates: dict[str, Cost]) -> tuple[float | None, int]:
    """Seconds of a shard's clips, known once ingested, before that by the size of its files; and the number of its photos."""
    photos = {source.path for source in plan.shards[shard] if Path(source.path).suffix.lower() in PHOTO_ENDINGS}
    if commit := plan.ingested[shard]:
        records = [record for record in commit.sources if record["status"] == "ingested"]
        seconds = sum(record["seconds"] for record in records if record["path"] not in photos)
        return seconds, sum(record["path"] in photos for record in records)
    rate = rates.get(plan.graph.nodes[0].name)
    size = sum(max(source.bytes, 0) for source in plan.shards[shard] if source.path not in photos)
    if not size:
        return 0.0, len(photos)
    return (rate.clip_s / rate.source_bytes * size if rate and rate.source_bytes else None), len(photos)
