"""Toy sources and operators for the dataset tests: a "video" is a text file, a line of it a clip, a number a frame.

Run as a program it builds a dataset, and kills itself with SIGKILL at the n-th rename when told to: the moments at which a
build's state changes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from infra.cluster import connect
from infra.errors import LikenessError
from infra.storage.objects import as_path
from pipelines.dataset.build import build
from pipelines.dataset.graph import Toolbox
from pipelines.dataset.request import updated
from preprocessing.fields import AUDIO, SOURCE, TIMELINE, VIDEO, Field, by_name, known_names
from preprocessing.operator import BatchOperator, Operator, OperatorParams, Refused, Resources, Sample

DOUBLED = Field("doubled", "npy", "float32", ("frames",), "frame", "numbers times two")
SHIFTED = Field("shifted", "npy", "float32", ("frames",), "frame", "doubled numbers, shifted")
SUMMED = Field("summed", "json", "object", (), "clip", "sum of the frames and of the shifted numbers")
FRAGILE = Field("fragile", "npy", "float32", ("frames",), "frame", "numbers; 13 is one too many")
BROKEN = Field("broken", "npy", "float32", ("frames",), "frame", "an operator with a bug")
BATCHED = Field("batched", "json", "object", (), "clip", "sum, as if by a network")
AFTER = Field("after", "json", "object", (), "clip", "sum of the network's and of the shifted numbers")
DEADLY = Field("deadly", "npy", "float32", ("frames",), "frame", "an operator that crashes its process on 66")
TOYS = {f.name: f for f in (DOUBLED, SHIFTED, SUMMED, FRAGILE, BROKEN, BATCHED, AFTER, DEADLY)}

# Every n-th moment is tried by the tests that kill a process at every one; LIKENESS_EXHAUSTIVE=1 tries them all, and runs what is
# marked so (many minutes).
EVERY = 1 if os.environ.get("LIKENESS_EXHAUSTIVE") else 15

calls: list[tuple[str, str]] = []  # (operator, row or source) of this process
decodes: list[Path] = []


class ToyIngest:
    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources()

    class Params(OperatorParams):
        longest: int = 100

    def __init__(self, params: Params | None = None) -> None:
        self.params = params or self.Params()

    @property
    def writes(self) -> tuple[Field, ...]:
        return (SOURCE, TIMELINE, AUDIO)

    def __call__(self, path: Path, source: Mapping[str, Any]) -> list[tuple[int, dict[Field, Any]]]:
        calls.append((self.name, source["path"]))
        text = path.read_text()
        if not text.strip():
            raise Refused("empty file")
        rows = []
        for segment, line in enumerate(text.strip().split("\n")):
            numbers = [int(word) for word in line.split()]  # ValueError: quarantined
            record = {**source, "segment": segment, "n_frames": len(numbers), "fps": "25/1"}
            sound = None if "silent" in path.name else np.array(numbers, np.int16)
            rows.append((segment, {SOURCE: record, TIMELINE: np.arange(len(numbers)), AUDIO: sound}))
        return rows


class ToyClip:
    def __init__(self, path: Path, source: Mapping[str, Any], timeline: np.ndarray, budget_bytes: int) -> None:
        self.path, self.segment, self.n_frames, self.fps = path, source["segment"], len(timeline), 25.0
        self.held: list[np.ndarray] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        if not self.held:
            decodes.append(self.path)
            line = self.path.read_text().strip().split("\n")[self.segment]
            self.held = [np.full((1, 1, 3), int(word), np.uint8) for word in line.split()]
        yield from self.held


class _Toy(Operator):
    nap_s: ClassVar[float] = float(os.environ.get("TOY_NAP_S", "0"))

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        calls.append((self.name, sample.key))
        time.sleep(self.nap_s)
        return self.work(sample)

    def work(self, sample: Sample) -> dict[Field, Any]:
        raise NotImplementedError


class Double(_Toy):
    name, version = "double", 1
    reads, writes = (AUDIO,), (DOUBLED,)

    def work(self, sample: Sample) -> dict[Field, Any]:
        return {DOUBLED: sample[AUDIO].astype(np.float32) * 2}


class Shift(_Toy):
    name, version = "shift", 1
    reads, writes = (DOUBLED,), (SHIFTED,)

    class Params(OperatorParams):
        by: int = 1

    def work(self, sample: Sample) -> dict[Field, Any]:
        return {SHIFTED: sample[DOUBLED] + np.float32(self.params.by)}


class Sum(_Toy):
    name, version = "sum", 1
    reads, writes = (VIDEO, SHIFTED), (SUMMED,)

    def work(self, sample: Sample) -> dict[Field, Any]:
        return {SUMMED: {"frames": int(sum(frame.sum() for frame in sample[VIDEO])), "shifted": float(sample[SHIFTED].sum())}}


class Fragile(_Toy):
    name, version = "fragile", 1
    reads, writes = (VIDEO,), (FRAGILE,)
    mended: ClassVar[bool] = False

    def work(self, sample: Sample) -> dict[Field, Any]:
        numbers = np.array([frame[0, 0, 0] for frame in sample[VIDEO]], np.float32)
        if 13 in numbers and not self.mended:
            raise ValueError(f"13 in {sample.key} <object at 0x7f0123456789>")
        return {FRAGILE: numbers}


class Broken(_Toy):
    name, version = "broken", 1
    reads, writes = (DOUBLED,), (BROKEN,)

    def work(self, sample: Sample) -> dict[Field, Any]:
        return {BROKEN: sample[DOUBLED].no_such_method()}


class Deadly(_Toy):
    name, version = "deadly", 1
    reads, writes = (AUDIO,), (DEADLY,)

    def work(self, sample: Sample) -> dict[Field, Any]:
        if 66 in sample[AUDIO]:
            os.kill(os.getpid(), signal.SIGKILL)
        return {DEADLY: sample[AUDIO].astype(np.float32)}


class Batched(BatchOperator):
    """Stands for a network on a GPU: rows in batches, in a process of its own where there are GPUs."""

    name, version, batch_size = "batched", 1, 3
    reads, writes = (DOUBLED,), (BATCHED,)
    resources = Resources(gpus=0.5)

    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        calls.append((self.name, "+".join(sample.key for sample in samples)))
        log = Path(os.environ["TOY_LOG"]) if "TOY_LOG" in os.environ else None
        if log:
            with open(log, "a") as file:
                file.write(f"{os.getpid()} {len(samples)}\n")
        for sample in samples:
            if 26 in sample[DOUBLED]:
                raise ValueError("26 is too much")
            if 132 in sample[DOUBLED]:
                os.kill(os.getpid(), signal.SIGKILL)
        return [{BATCHED: {"sum": float(sample[DOUBLED].sum())}} for sample in samples]


class After(_Toy):
    """A CPU operator that waits for the one on the GPU."""

    name, version = "after", 1
    reads, writes = (BATCHED, SHIFTED), (AFTER,)

    def work(self, sample: Sample) -> dict[Field, Any]:
        return {AFTER: {"both": sample[BATCHED]["sum"] + float(sample[SHIFTED].sum())}}


OPERATORS: tuple[type[Operator], ...] = (Double, Shift, Sum, Fragile, Broken, Deadly, Batched, After)


def producer(field: str, settings: Mapping[str, Mapping[str, Any]]) -> Operator:
    for kind in OPERATORS:
        if field in {f.name for f in kind.writes}:
            return kind(kind.Params(**settings.get(kind.name, {})))
    raise LikenessError(f"no toy makes {field}")


def ingest(settings: Mapping[str, Mapping[str, Any]]) -> ToyIngest:
    return ToyIngest(ToyIngest.Params(**settings.get("ingest", {})))


def field(name: str) -> Field | None:
    return TOYS.get(name) or by_name(name)


def names() -> list[str]:
    return [*TOYS, *known_names()]


TOOLBOX = Toolbox(field, names, producer, ingest, ToyClip, 1, lambda name: (Path(name), "0" * 64))


def write_sources(folder: Path, count: int = 10) -> None:
    """`count` good files of 1 or 2 clips, two people; one file refused, one quarantined, one hidden."""
    for n in range(count):
        path = folder / f"speaker{n % 2}" / f"Clip {n}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(f"{n} {n + 1} {2 * n} {line}" for line in range(1 + n % 2)))
    (folder / "empty.mp4").write_text("")
    (folder / "words.mp4").write_text("no numbers")
    (folder / ".hidden").write_text("1")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=as_path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--runner", default="serial")
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--fields", nargs="+", default=["summed", "fragile"])
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    rename, done = os.replace, 0

    def counted(*places: Any) -> None:
        nonlocal done
        done += 1
        if done == args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*places)

    os.replace = counted
    if args.gpus:
        here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
        connect(num_cpus=2, num_gpus=args.gpus, object_store_memory=128 * 2**20, log_to_driver=False, runtime_env=here)
    request = updated(None, sources=[str(args.source)], fields=args.fields)
    report = build(args.dataset, request, TOOLBOX, runner=args.runner, workers=args.workers)
    print(report.digest, done)


if __name__ == "__main__":
    sys.exit(main())
