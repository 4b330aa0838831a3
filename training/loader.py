"""From datasets to batches: pairs the columns a stage asks for, and gives each rank its part of every step.

The order of examples depends on the run seed and the example's global index alone: not on ranks, loader workers or on whether
the run was interrupted. Example `g` belongs to step `g // batch_size`, so the position of a run is its number of examples.
"""

from __future__ import annotations

import signal
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from infra.errors import LikenessError
from infra.storage.dataset import Dataset, Row
from preprocessing.codecs import decode
from preprocessing.fields import AnyOf, Field
from preprocessing.frame_sequence import FrameSequence
from training import distributed
from training.config import LoopConfig
from training.stage import Batch, Records, Skip, Source, Stage

ATTEMPTS = 50  # records tried for one example before the dataset is called unusable


class DatasetRecord:
    """One row: fields are read and decoded when asked for, and frame sequences only in the part asked for."""

    def __init__(self, dataset: Dataset, row: Row) -> None:
        self._dataset, self._row = dataset, row
        self.key, self.source = row.key, row.source

    def __contains__(self, field: Field | AnyOf) -> bool:
        option = _chosen(field, self._dataset)
        return option is not None and self._dataset.has(self._row, option.name)

    def __getitem__(self, field: Field | AnyOf) -> Any:
        option = _chosen(field, self._dataset)
        if option is None or not self._dataset.has(self._row, option.name):
            raise KeyError(f"{self.key} has no {field}")
        if option.codec in ("mjpeg", "mpng"):
            place = self._dataset.open_member(self._row, option.name)
            return FrameSequence.open(*place, field=option, read=self._dataset.read_part)
        return decode(option, self._dataset.read(self._row, option.name))


def _options(field: Field | AnyOf) -> tuple[Field, ...]:
    return field.options if isinstance(field, AnyOf) else (field,)


def _chosen(field: Field | AnyOf, dataset: Dataset) -> Field | None:
    """Of alternatives, the first that the dataset has: one for all rows, so that a batch never mixes kinds."""
    return next((option for option in _options(field) if option.name in dataset.fields), None)


def with_shared(wanted: Mapping[str, Source], datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The datasets by source, those that share another source's data included."""
    shared = {n: datasets[s.same_data] for n, s in wanted.items() if s.same_data in datasets and n not in datasets}
    return {**datasets, **shared}


def check_fields(stage: Stage, datasets: Mapping[str, Dataset]) -> None:
    """Refuse datasets that lack a source or a field, before anything starts.

    Raises:
        LikenessError: naming what is missing and the command that adds it.
    """
    wanted = stage.reads()
    datasets = with_shared(wanted, datasets)
    unknown = set(datasets) - set(wanted)
    if unknown:
        raise LikenessError(
            f"stage {stage.name} has no source {', '.join(sorted(unknown))!r}", allowed=", ".join(wanted),
            fix=f"pass --data {next(iter(wanted))}=DATASET",
        )
    for name, source in wanted.items():
        if name not in datasets:
            if source.optional:
                continue
            fix = f"pass --data {name}=DATASET"
            raise LikenessError(f"stage {stage.name} needs a dataset for its source {name!r}", fix=fix)
        missing = [f for f in source.fields if _chosen(f, datasets[name]) is None]
        if missing:
            adds = " ".join(f"--field {_options(f)[0].name}" for f in missing)
            raise LikenessError(
                f"dataset {datasets[name].root} lacks {', '.join(str(f) for f in missing)}, which stage {stage.name} reads",
                fix=f"run: likeness data add {datasets[name].root} {adds}",
            )


class Stream:
    """The records of one source in one split, drawn by global example index."""

    def __init__(self, name: str, source: Source, dataset: Dataset, split: str, seed: int) -> None:
        self.source, self.dataset = source, dataset
        self._seed = (seed, zlib.crc32(name.encode()))
        rows = [r for r in dataset.rows() if r.source["split"] == split]
        fields = [chosen.name for f in source.fields if (chosen := _chosen(f, dataset))]
        self.rows = [r for r in rows if all(dataset.has(r, field) for field in fields)]
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            key = row.key if source.group_by is None else str(row.source[source.group_by])
            groups.setdefault(key, []).append(row)
        self.groups = [groups[key] for key in sorted(groups)]
        self.buckets: dict[str, list[list[Row]]] = {}
        for group in self.groups if source.bucket_by else []:
            self.buckets.setdefault(str(group[0].source[source.bucket_by or ""]), []).append(group)

    def draw(self, index: int, attempt: int, batch: int) -> list[DatasetRecord]:
        """The records of example `index`; later attempts draw afresh. `batch` names the batch for `bucket_by`."""
        rng = np.random.default_rng((*self._seed, 1, index, attempt))
        if self.buckets:
            names = sorted(self.buckets)
            sizes = np.array([len(self.buckets[name]) for name in names], dtype=float)
            chosen = np.random.default_rng((*self._seed, 2, batch)).choice(len(names), p=sizes / sizes.sum())
            groups = self.buckets[names[chosen]]
            group = groups[rng.integers(len(groups))]
        elif attempt:
            group = self.groups[rng.integers(len(self.groups))]
        else:
            epoch, place = divmod(index, len(self.groups))
            group = self.groups[_order(self._seed, epoch, len(self.groups))[place]]
        if self.source.group_by is None and self.source.take > 1:  # every row is its own group: the others come from all rows
            others = [row for row in self.rows if row is not group[0]]
            picked = rng.permutation(len(others))[: self.source.take - 1]
            return [DatasetRecord(self.dataset, row) for row in (group[0], *(others[i] for i in picked))]
        take = min(self.source.take, len(group))
        rows = [group[i] for i in rng.permutation(len(group))[:take]]
        return [DatasetRecord(self.dataset, row) for row in rows]


@lru_cache(maxsize=8)
def _order(seed: tuple[int, ...], epoch: int, n: int) -> np.ndarray:
    """The shuffle of one pass over n groups."""
    return np.random.default_rng((*seed, 0, epoch)).permutation(n)


class Examples(TorchDataset):
    """Examples by global index; pickled to loader workers without the stage's networks."""

    def __init__(self, stage: Stage, streams: Mapping[str, Stream], seed: int, per_batch: int, training: bool) -> None:
        self.stage = type(stage)(stage.config)
        self.stage.given = stage.given
        self.streams, self.seed, self.per_batch, self.training = dict(streams), seed, per_batch, training

    def __getitem__(self, index: int) -> dict[str, Any]:
        make = self.stage.example if self.training else self.stage.validation_example
        reasons: list[str] = []
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng((self.seed, int(self.training), index, attempt))
            try:
                return make(self._records(index, attempt, rng), rng)
            except Skip as skip:
                reasons.append(str(skip))
        raise LikenessError(
            f"stage {self.stage.name} found no usable record in {ATTEMPTS} tries; the last one: {reasons[-1]}",
            fix="look at `likeness data show DATASET`, and select or add clips",
        )

    def _records(self, index: int, attempt: int, rng: np.random.Generator) -> Records:
        batch = index // self.per_batch
        if not self.stage.mixture:
            return {name: list(stream.draw(index, attempt, batch)) for name, stream in self.streams.items()}
        names = sorted(self.streams)
        weights = np.array([self.streams[name].source.weight for name in names])
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        return {name: list(self.streams[name].draw(index, attempt, batch))}


def open_examples(stage: Stage, datasets: Mapping[str, Dataset], config: LoopConfig, split: str) -> Examples:
    """The examples of one split, as a stage reads them: those of "train" drawn for training, others for validation.

    Tells the stage which fields its sources were given (`Stage.given`), and what those were made with (`Stage.made_with`).

    Raises:
        LikenessError: the datasets lack a source or a field.
    """
    check_fields(stage, datasets)
    wanted = stage.reads()
    datasets = with_shared(wanted, datasets)
    chosen = {name: [_chosen(f, dataset) for f in wanted[name].fields] for name, dataset in datasets.items()}
    stage.given = {name: tuple(f.name for f in fields if f) for name, fields in chosen.items()}
    stage.made_with = {(name, f): datasets[name].made_with(f) for name, fields in stage.given.items() for f in fields}
    streams = {name: Stream(name, wanted[name], dataset, split, config.seed) for name, dataset in datasets.items()}
    return Examples(stage, streams, config.seed, config.batch_size // config.accumulation, training=split == "train")


def check_rows(examples: Examples, split: str) -> None:
    """Raises:
    LikenessError: a source has no usable row in the split; tells which splits there are.
    """
    for stream in examples.streams.values():
        if not stream.groups:
            splits = ", ".join(sorted({str(row.source["split"]) for row in stream.dataset.rows()}))
            raise LikenessError(
                f"dataset {stream.dataset.root} has no row of split {split!r} with all of "
                f"{', '.join(str(f) for f in stream.source.fields)}",
                allowed=f"its splits: {splits}", fix=f"see: likeness data show {stream.dataset.root}",
            )  # fmt: skip


class Loader:
    """The batches of one run on this rank (the `Batches` the loop reads)."""

    def __init__(self, stage: Stage, datasets: Mapping[str, Dataset], config: LoopConfig) -> None:
        self.config = config
        world, self._rank = distributed.world_size(), distributed.rank()
        self._micro = config.micro_batch(world)
        self._world = world
        self._train = open_examples(stage, datasets, config, "train")
        check_rows(self._train, "train")
        self._validation = open_examples(stage, datasets, config, "val")
        self._cached: list[Batch] | None = None

    @property
    def has_validation(self) -> bool:
        """Whether every source has rows of split 'val'."""
        return all(stream.groups for stream in self._validation.streams.values())

    def _indices(self, first_step: int) -> Iterator[list[int]]:
        """This rank's micro-batches from a step on: consecutive slices of the step's examples."""
        for step in range(first_step, self.config.steps):
            for part in range(self.config.accumulation):
                start = step * self.config.batch_size + (part * self._world + self._rank) * self._micro
                yield list(range(start, start + self._micro))

    def training(self, first_step: int) -> Iterator[list[Batch]]:
        """For each step from `first_step` on, this rank's micro-batches."""
        workers = self.config.loader_workers
        stream = iter(
            DataLoader(
                self._train, batch_sampler=_Lazily(lambda: self._indices(first_step)), num_workers=workers,
                collate_fn=default_collate, worker_init_fn=_one_thread, prefetch_factor=2 if workers else None,
            )
        )
        while True:
            micro_batches = [batch for _, batch in zip(range(self.config.accumulation), stream, strict=False)]
            if not micro_batches:
                return
            yield micro_batches

    def validation(self) -> Iterable[Batch]:
        """The validation batches; the same examples every time, made once. Empty without rows of split 'val'."""
        if self._cached is None:
            n = self.config.validation_examples if self.has_validation else 0
            size = max(1, self.config.batch_size // self.config.accumulation)
            self._cached = list(in_batches(self._validation, n, size))
        return self._cached


def in_batches(examples: Examples, n: int, size: int) -> Iterator[Batch]:
    """The first `n` examples in order, `size` to a batch; the last batch may be smaller."""
    for start in range(0, n, size):
        yield default_collate([examples[i] for i in range(start, min(n, start + size))])


class _Lazily:
    """A batch sampler that makes its index lists as they are asked for."""

    def __init__(self, make: Callable[[], Iterator[list[int]]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[list[int]]:
        return self._make()


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        # sent to the whole process tree by Ray's job stop: the loop must still get its batch, and ends its workers itself
        signal.signal(number, signal.SIG_IGN)
