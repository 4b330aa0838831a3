"""Every plain number that a dataset holds about its rows: what selections decide by, as one table."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from infra.storage import Dataset
from pipelines.dataset.unit import clip_seconds
from preprocessing.fields import DUPLICATE, IDENTITY_CLUSTER, SOURCE

LABELS = (f"{IDENTITY_CLUSTER.name}.cluster", f"{DUPLICATE.name}.group")  # numbers in name only: nothing is more or less
DIGITS = 6  # significant; more would only make the page larger


@dataclass(frozen=True)
class Numbers:
    """`values[i, j]`: number `names[j]` of row i, NaN where it has none; those with a dot as a selection's rules name them."""

    names: tuple[str, ...]
    values: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return self.values[:, self.names.index(name)]

    def of_row(self, place: int) -> dict[str, float]:
        """Name -> number, of those that the row has."""
        return {name: float(v) for name, v in zip(self.names, self.values[place], strict=True) if not math.isnan(v)}


def read_numbers(dataset: Dataset) -> Numbers:
    """Numbers of SOURCE (size, rate, length), of every JSON field and of every field that is one number, row by row.

    A value that does not decode counts as absent: `data verify` is the tool that finds damage.
    """
    fields = [info.name for info in dataset.fields.values()
              if info.name != SOURCE.name and (info.codec == "json" or (info.codec == "npy" and info.shape == ()))]
    lines = []
    for row in dataset.rows():
        line = source_numbers(row.source)
        for name in fields:
            if dataset.has(row, name):
                data = dataset.read(row, name)
                with suppress(ValueError):
                    is_json = dataset.fields[name].codec == "json"
                    line |= _flat(name, json.loads(data) if is_json else np.load(io.BytesIO(data), allow_pickle=False))
        lines.append(line)
    names = {name: n for n, name in enumerate(dict.fromkeys(name for line in lines for name in line if name not in LABELS))}
    values = np.full((len(lines), len(names)), np.nan)
    for place, line in enumerate(lines):
        for name in names.keys() & line.keys():
            values[place, names[name]] = float(f"{line[name]:.{DIGITS}g}")
    return Numbers(tuple(names), values)


def source_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a SOURCE record."""
    found = {"duration_s": clip_seconds(record)} if record.get("kind") != "photo" else {}
    if record.get("source_fps") is not None:
        found["source_fps"] = float(Fraction(str(record["source_fps"])))
    return found | {f"source.{name}": float(record[name]) for name in ("width", "height", "n_frames") if name in record}


def _flat(name: str, value: Any) -> dict[str, float]:
    """`{"measures.blur": 120.0}`; of nested objects too."""
    if isinstance(value, Mapping):
        return {key: number for inner, part in value.items() for key, number in _flat(f"{name}.{inner}", part).items()}
    if isinstance(value, (bool, int, float, np.number)) or (isinstance(value, np.ndarray) and value.shape == ()):
        number = float(value)
        return {name: number} if math.isfinite(number) else {}
    return {}
