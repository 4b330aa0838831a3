"""Reading joined columns against one wide tar read by plain webdataset; prints Markdown.

    python benchmarks/read.py FOLDER [--rows 400] [--repeats 5] [--fields pictures numbers] [--loader-workers 0]

A small dataset is built from the clips and its rows are tiled to --rows (`benchmarks/tiled.py`); then four fields, which lie in
four columns, are exported as one wide WebDataset that holds nothing else but the source facts (`likeness data export`; about as
many tars as the dataset has shards). Read are all four values of every row, by a process of its own with one thread, imports done,
files in the page cache:

- in order: `open_dataset` and `Dataset.read`, against iterating `webdataset.WebDataset` without decoding;
- shuffled: one permutation of all rows, against webdataset's shuffle of tars and of a buffer of 1000 samples;
- examples: what a training reads, decoded and in batches: `training.loader.Loader` (a permutation of all rows; of a frame sequence
  only the wanted frames are read) against `webdataset` with the same decoding, shuffled as above, in torch's DataLoader. An example
  is a window of five frames, and the first columns or frames of the others.

"first" counts opening, that is the manifest, the ledgers with the rows, and the indexes; "again" is a second pass in the same
process. Ratios are ours over webdataset's samples per second. All bytes of both sides are compared in another run: equal.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401  (pyarrow imports it with the first table)
import torch
import webdataset
from common import LABEL, Facts, copied, leave, measured, scratch_folder, spread
from tiled import tiled

from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.export import export
from pipelines.dataset.graph import standard
from pipelines.dataset.request import updated
from pipelines.dataset.threads import one_thread
from preprocessing.codecs import EXTENSION, decode
from preprocessing.fields import FACE_VALID, HEAD_POSE, LANDMARKS_68, MEASURES, MEL80, VOICED, Field, face_crop
from preprocessing.frame_sequence import FrameSequence
from training.config import LoopConfig
from training.loader import Loader
from training.stage import Source, Stage

FIELDS: dict[str, tuple[Field, ...]] = {
    "pictures": (face_crop(96, "box"), MEL80, LANDMARKS_68, MEASURES), "numbers": (HEAD_POSE, VOICED, FACE_VALID, MEASURES)
}  # fmt: skip
SHUFFLED = 1000  # samples of webdataset's buffer
WINDOW = 5  # frames of an example
BATCH = 16
PADDING_BYTES = 8192  # of a sample in a wide tar: headers, filling, source facts
WAYS = ("in order", "shuffled", "examples")


def example(values: Any, fields: Iterable[Field], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What one training example takes of a row, a mapping by field."""
    out: dict[str, np.ndarray] = {}
    for field in fields:
        value = values[field]
        if isinstance(value, FrameSequence):
            first = int(rng.integers(len(value) - WINDOW + 1))
            out[field.name] = value[first : first + WINDOW]
        elif isinstance(value, dict):
            out[field.name] = np.array(sorted(float(number) for number in value.values()))
        else:
            out[field.name] = np.ascontiguousarray(value[:, :WINDOW] if field == MEL80 else value[:WINDOW])
    return out


# A pass over all rows, as a function that can be called again; each yields samples.


def ours(root: Path, way: str, fields: tuple[Field, ...], workers: int) -> Callable[[], Iterator[Any]]:
    opened: list[Any] = []

    def rows() -> Iterator[dict[str, bytes]]:
        if not opened:
            opened.append(open_dataset(root))
        dataset = opened[0]
        found = dataset.rows()
        order = np.random.default_rng(0).permutation(len(found)) if way == "shuffled" else range(len(found))
        for place in order:
            yield {field.name: dataset.read(found[place], field.name) for field in fields}

    def examples() -> Iterator[Any]:
        if not opened:
            dataset = open_dataset(root)
            config = LoopConfig(steps=len(dataset) // BATCH, batch_size=BATCH, loader_workers=workers)
            opened.append(Loader(reading_stage(fields), {"clips": dataset}, config))
        for batches in opened[0].training(0):
            for batch in batches:
                yield from range(len(next(iter(batch.values()))))

    return examples if way == "examples" else rows


def reading_stage(fields: tuple[Field, ...]) -> Any:
    """A stage that trains nothing; its examples are those of `example`."""
    class Reading(Stage):
        name = "reading"
        sources = {"clips": Source(fields)}
        roles = {}

        def build(self, upstream: Any) -> dict[str, Any]:
            return {}

        def example(self, records: Any, rng: np.random.Generator) -> dict[str, Any]:
            return example(records["clips"][0], fields, rng)

        def step(self, batch: Any, ctx: Any) -> Iterator[Any]:
            yield from ()

    return Reading()


def theirs(tars: Path, way: str, fields: tuple[Field, ...], workers: int) -> Callable[[], Iterator[Any]]:
    urls = sorted(map(str, tars.glob("*.tar")))
    if way == "in order":
        return lambda: iter(webdataset.WebDataset(urls, shardshuffle=False))
    shuffled = lambda: webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(SHUFFLED)
    if way == "shuffled":
        return lambda: iter(shuffled())

    def decoded(sample: Mapping[str, Any]) -> dict[str, np.ndarray]:
        values = {field: decode(field, sample[f"{field.name}.{EXTENSION[field.codec]}"]) for field in fields}
        return example(values, fields, np.random.default_rng(0))

    def batches() -> Iterator[Any]:
        samples = shuffled().map(decoded).batched(BATCH, collation_fn=torch.utils.data.default_collate)
        for batch in torch.utils.data.DataLoader(samples, batch_size=None, num_workers=workers):
            yield from range(len(next(iter(batch.values()))))

    return batches


def pass_run(which: str, base: Path, out: Path, way: str, fields: tuple[Field, ...], workers: int) -> None:
    torch.set_num_threads(1)
    place = base / ("dataset" if which == "ours" else "wide")
    one_pass = (ours if which == "ours" else theirs)(place, way, fields, workers)
    facts: dict[str, Any] = {}
    for name in ("first", "again"):
        begun = time.monotonic()
        facts[f"{name}_samples"] = sum(1 for _ in one_pass())
        facts[f"{name}_s"] = time.monotonic() - begun
    leave(out, **facts)


def digests(base: Path, fields: tuple[Field, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Row key -> digest of its values, of both sides."""
    dataset = open_dataset(base / "dataset")
    digest = lambda parts: hashlib.sha256(b"".join(parts)).hexdigest()
    one = {row.key: digest([dataset.read(row, field.name) for field in fields]) for row in dataset.rows()}
    urls = sorted(map(str, (base / "wide").glob("*.tar")))
    other = {sample["__key__"]: digest([sample[f"{field.name}.{EXTENSION[field.codec]}"] for field in fields])
             for sample in webdataset.WebDataset(urls, shardshuffle=False)}  # fmt: skip
    return one, other


def series(clips: Path, scratch: Path, title: str, rows: int, repeats: int, workers: int) -> None:
    fields = FIELDS[title]
    names = [field.name for field in fields]
    small = scratch / f"small-{title}"
    build(small, updated(None, sources=[f"{LABEL}={clips}"], fields=names), standard(), runner="serial")
    base = scratch / title
    tiled(small, base, rows, names)
    dataset = open_dataset(base / "dataset")
    columns = {dataset.field(name).column for name in names}
    size = sum(dataset.open_member(row, name)[2] for row in dataset.rows() for name in names)
    shards = len(dataset.manifest.shards)
    export(base / "dataset", base / "wide", names, shard_bytes=(size + rows * PADDING_BYTES) // shards)
    one, other = digests(base, fields)
    if one != other or len(one) != rows:
        raise SystemExit(f"{len(one)} rows and {len(other)} samples of {rows}, or their values differ")
    tars = len(list((base / "wide").glob("*.tar")))
    print(f"### {title}: {', '.join(f'`{name}`' for name in names)}\n\n{rows} rows in {len(columns)} columns of {shards} shards, "
          f"{size / 1e6:.0f} MB; wide: {tars} tars. Runs of each: {repeats}.\n")  # fmt: skip
    print("| | pass | columns, samples/s | wide, webdataset, samples/s | columns over wide, pair by pair |\n|---|---|---|---|---|")
    for way in WAYS:
        runs: dict[str, list[Facts]] = {"ours": [], "theirs": []}
        for _ in range(repeats):
            for which, found in runs.items():
                out = scratch / "run"
                found.append(measured(__file__, which, out, base, "--way", way, "--fields", title, "--loader-workers", workers))
                shutil.rmtree(out)
        for name in ("first", "again"):
            rates = {which: [run[f"{name}_samples"] / run[f"{name}_s"] for run in found] for which, found in runs.items()}
            ratio = spread([a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True)], ".2f")
            print(f"| {way} | {name} | {spread(rates['ours'], '.0f')} | {spread(rates['theirs'], '.0f')} | {ratio} |", flush=True)
    print()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--rows", type=int, default=400)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--fields", nargs="+", choices=list(FIELDS), default=list(FIELDS))
    options.add_argument("--loader-workers", type=int, default=0, help="of the loaders; 0: in the process itself")
    options.add_argument("--run", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run:
        pass_run(chosen.run, chosen.folder, chosen.out, chosen.way, FIELDS[chosen.fields[0]], chosen.loader_workers)
        return
    with scratch_folder() as scratch, one_thread():
        clips = copied(chosen.folder, scratch / "clips", 1)
        for title in chosen.fields:
            series(clips, scratch, title, chosen.rows, chosen.repeats, chosen.loader_workers)


if __name__ == "__main__":
    main()
