"""Large datasets out of few clips: real values, fields, columns and shards, the rows of a small dataset again and again.

For benchmarks whose cost is per row and per byte, where computing thousands of rows would take hours. `tiled` builds with the
project's own planner, runner, ledgers and codecs; only the operators are others: they give a row of the small dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from common import LABEL

from infra.storage import Dataset, open_dataset
from pipelines.dataset.build import Report, build
from pipelines.dataset.graph import Toolbox, standard
from pipelines.dataset.request import Request, load_request, updated
from preprocessing import catalogue
from preprocessing.codecs import decode
from preprocessing.fields import SOURCE, TIMELINE, Field, by_name
from preprocessing.operator import Operator, OperatorParams, Resources, Sample

SMALL = "small"  # the asset: the dataset whose rows are taken
ROW = "tiled_row"  # in the SOURCE record: key of the row in the small dataset


class TiledIngest:
    """A source is a text file with the key of a row of the small dataset."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources()
    params = OperatorParams()
    writes = (SOURCE, TIMELINE)

    def __init__(self, small: Path) -> None:
        self.small = small
        self._dataset: Dataset | None = None

    def __call__(self, path: Path, source: Mapping[str, Any]) -> list[tuple[int, dict[Field, Any]]]:
        self._dataset = self._dataset or open_dataset(self.small)
        key = path.read_text()
        record, timeline = (decode(field, self._dataset.read(key, field.name)) for field in (SOURCE, TIMELINE))
        return [(0, {SOURCE: {**record, **source, "segment": 0, ROW: key}, TIMELINE: timeline})]


class Tiled(Operator):
    """The fields of one column of the small dataset."""

    version = 1

    def __init__(self, operator: str, fields: tuple[Field, ...]) -> None:
        super().__init__()
        self.name, self.fields = f"tiled_{operator}", fields

    @property
    def assets(self) -> tuple[str, ...]:
        return (SMALL,)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (SOURCE,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return self.fields

    def setup(self) -> None:
        self._dataset = open_dataset(self.asset(SMALL))

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        key = sample[SOURCE][ROW]
        return {field: decode(field, self._dataset.read(key, field.name)) for field in self.fields}


def toolbox(small: Path) -> Toolbox:
    """Fields of the small dataset are taken from it, all others made by the project's own operators."""
    manifest, own = open_dataset(small).manifest, standard()

    def producer(name: str, settings: Mapping[str, Mapping[str, Any]]) -> Operator:
        info = manifest.fields.get(name)
        if info is None:
            return catalogue.producer(name, settings)
        names = [other.name for other in manifest.fields.values() if other.column == info.column]
        return Tiled(info.operator, tuple(field for name in names if (field := by_name(name))))

    def asset(name: str) -> tuple[Path, str]:
        return (small, "0" * 64) if name == SMALL else own.asset(name)

    return Toolbox(own.field, own.names, producer, lambda settings: TiledIngest(small), own.open_clip, own.clip_version, asset)


def tiled(small: Path, folder: Path, rows: int, fields: list[str]) -> Report:
    """`folder`/dataset of `rows` rows, from `folder`/sources, which is written too."""
    keys = [row.key for row in open_dataset(small).rows()]
    sources = folder / "sources"
    sources.mkdir(parents=True)
    for number in range(rows):
        (sources / f"{number:06d}.clip").write_text(keys[number % len(keys)])
    return build(folder / "dataset", request_of(folder, fields), toolbox(small), runner="serial")


def request_of(folder: Path, fields: list[str]) -> Request:
    """What `folder`/dataset is asked for, with these fields besides."""
    known = load_request(folder / "dataset")
    return updated(known, sources=[f"{LABEL}={folder / 'sources'}"], fields=fields, val_fraction=0.0)
