"""Compare a dataset build with a script of the same operators; prints Markdown (docs/performance.md keeps one such report).

    python benchmarks/build.py FOLDER [--workers 2] [--repeats 5] [--copies 1] [--serial-copies 1] [--only ray|serial]

Two comparisons: `likeness data build` on Ray actors against `multiprocessing.Pool` over files, and the serial runner against a
plain loop over files. The script (`Script` below) is what one would write by hand: operators set up once per process, each clip
decoded once, values handed from operator to operator as they are, every field encoded as the dataset encodes it and appended to
a tar of the process. It has no ledger, no index, no checksums, no fsync, no order of rows, and no resuming.

Every run is a process of its own with one thread per worker and a fresh folder; the two take turns. Two times are taken:

- whole: from starting the process to its end, with imports, Ray and model loading;
- work: from a worker's first file (its operators are set up; the mean over workers) to complete output, without Ray's shutdown.

After each pair every value of every clip is compared: bytes must be equal (of `source` all but the checksum, which the script has
not computed), or the benchmark fails. --copies repeats the input files under other names until start-up matters little.
"""

import argparse
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import psutil
from common import LABEL, Members, compare, copied, minutes, spread, stored

from pipelines.dataset.graph import Node, Toolbox, resolve, standard
from pipelines.dataset.request import load_recipe, updated
from pipelines.dataset.sources import row_key, source_key
from pipelines.dataset.threads import ONE_THREAD, one_thread
from preprocessing.catalogue import Settings
from preprocessing.clip import open_clip
from preprocessing.codecs import EXTENSION, encode
from preprocessing.fields import SOURCE, TIMELINE, VIDEO, Field
from preprocessing.media.probe import MediaProblem
from preprocessing.operator import Refused, Sample
from preprocessing.operators.ingest import Ingest

PAIRS = {"ray": ("ray", "pool"), "serial": ("serial", "loop")}  # ours, the script
TITLES = {"ray": "`likeness data build`, Ray", "pool": "script, `multiprocessing.Pool`",
          "serial": "`likeness data build`, serial runner", "loop": "script, loop in one process"}  # fmt: skip


class NotedIngest(Ingest):
    """Ingest that notes when a process begins a file; both sides use it."""

    notes: Path

    def __call__(self, path: Path, source: Mapping[str, Any]) -> list[tuple[int, dict[Field, Any]]]:
        with open(self.notes, "a") as file:
            file.write(f"{os.getpid()} {time.monotonic()}\n")
        return super().__call__(path, source)


def noted_toolbox(notes: Path) -> Toolbox:
    """The project's own operators, with `NotedIngest`."""
    own = standard()

    def ingest(settings: Settings) -> NotedIngest:
        made = NotedIngest(own.ingest(settings).params)  # type: ignore[arg-type]
        made.notes = notes
        return made

    return Toolbox(own.field, own.names, own.producer, ingest, own.open_clip, own.clip_version, own.asset)


class Script:
    """The hand-written script: files in, `PROCESS.tar` with members `KEY.FIELD.EXT` out."""

    def __init__(self, out: Path) -> None:
        recipe = load_recipe("talking")
        nodes: tuple[Node, ...] = resolve(noted_toolbox(out / "began"), recipe.fields, recipe.operators).nodes
        self.ingest, self.operators = nodes[0].operator, [node.operator for node in nodes[1:]]
        for operator in self.operators:
            operator.setup()
        self.budget_bytes = min(2 * 2**30, psutil.virtual_memory().total // 2 // (os.cpu_count() or 1))  # as the build's workers
        self.tar = tarfile.open(out / f"{os.getpid()}.tar", "w")  # noqa: SIM115  (closed by whoever made the script)

    def __call__(self, path: Path) -> str:
        """Do one file; what is wrong with it, or ""."""
        name = f"{LABEL}/{path.name}"
        try:
            for number, values in self.ingest(path, {"path": name, "bytes": path.stat().st_size, "sha256": ""}):
                self._clip(path, row_key(source_key(name), number), values)
        except (Refused, MediaProblem) as problem:
            return f"{name}: {problem}"
        return ""

    def _clip(self, path: Path, key: str, values: dict[Field, Any]) -> None:
        sample = Sample(key)
        sample[VIDEO] = open_clip(path, values[SOURCE], values[TIMELINE], self.budget_bytes)
        self._keep(sample, values)
        for operator in self.operators:
            self._keep(sample, operator(sample))

    def _keep(self, sample: Sample, values: dict[Field, Any]) -> None:
        for field, value in values.items():
            sample[field] = value
            data = encode(field, value)
            info = tarfile.TarInfo(f"{sample.key}.{field.name}.{EXTENSION[field.codec]}")
            info.size = len(data)
            self.tar.addfile(info, io.BytesIO(data))


_script: Script  # of this process of the pool


def _begin(out: Path) -> None:
    global _script
    _script = Script(out)
    Finalize(None, _script.tar.close, exitpriority=1)  # processes of a pool end without atexit


def _one(path: Path) -> str:
    return _script(path)


# One run, in a process of its own


def build_run(clips: Path, out: Path, runner: Any, workers: int) -> float:
    """`likeness data build`; seconds that Ray's shutdown took."""
    from pipelines.dataset.build import build

    request = updated(None, sources=[f"{LABEL}={clips}"], recipe="talking")
    took = _timed_shutdown() if runner == "ray" else [0.0]
    report = build(out / "dataset", request, noted_toolbox(out / "began"), runner=runner, workers=workers)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    return sum(took)


def _timed_shutdown() -> list[float]:
    import ray

    took: list[float] = []
    shutdown: Callable[[], None] = ray.shutdown

    def timed() -> None:
        start = time.monotonic()
        shutdown()
        took.append(time.monotonic() - start)

    ray.shutdown = timed
    return took


def script_run(clips: Path, out: Path, workers: int) -> float:
    """The script, in a pool of `workers`, or in this process for 0."""
    files = sorted(clips.iterdir())
    if workers:
        with multiprocessing.Pool(workers, _begin, (out,)) as pool:
            problems = list(pool.imap_unordered(_one, files))
            pool.close()
            pool.join()
    else:
        script = Script(out)
        problems = [script(path) for path in files]
        script.tar.close()
    for problem in filter(None, problems):
        print(problem, file=sys.stderr)
    return 0.0


def one_run(kind: str, clips: Path, out: Path, workers: int) -> None:
    with one_thread():
        if kind in ("ray", "serial"):
            shutdown_s = build_run(clips, out, kind, workers)
        else:
            shutdown_s = script_run(clips, out, workers if kind == "pool" else 0)
    facts = {"done": time.monotonic(), "shutdown_s": shutdown_s, "processor_s": time.process_time()}
    (out / "run.json").write_text(json.dumps(facts))


# All runs


@dataclass(frozen=True)
class Timing:
    """Seconds of one run; `processor_s` is that of the process itself, so all there is only where it has no workers."""

    whole_s: float
    work_s: float
    before_s: float
    processor_s: float


def measured(kind: str, clips: Path, out: Path, workers: int) -> Timing:
    out.mkdir()
    command = [sys.executable, __file__, str(clips), "--run", kind, "--out", str(out), "--workers", str(workers)]
    settings = os.environ | ONE_THREAD | {"LIKENESS_CACHE": str(out / "cache")}
    settings.pop("RAY_ADDRESS", None)
    os.sync()  # what earlier runs wrote is not written during this one
    start = time.monotonic()
    run = subprocess.run(command, env=settings, capture_output=True, text=True)
    whole_s = time.monotonic() - start
    if run.returncode:
        raise SystemExit(f"{kind} failed:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")
    facts = json.loads((out / "run.json").read_text())
    first = work_began(out)
    return Timing(whole_s, facts["done"] - first - facts["shutdown_s"], first - start, facts["processor_s"])


def work_began(out: Path) -> float:
    """When a worker took up its first file (by `time.monotonic`), the mean over workers."""
    began: dict[str, float] = {}
    for line in (out / "began").read_text().splitlines():
        process, moment = line.split()
        began.setdefault(process, float(moment))
    return statistics.mean(began.values())


def scripted(out: Path) -> Members:
    """What the script stored."""
    members = {}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                key, field, _ = info.name.split(".")
                members[key, field] = tar.extractfile(info).read()  # type: ignore[union-attr]
    return members


def series(name: str, clips: Path, scratch: Path, workers: int, repeats: int) -> None:
    """Runs in turns, and their table."""
    kinds = PAIRS[name]
    timings: dict[str, list[Timing]] = {kind: [] for kind in kinds}
    keys: set[str] = set()
    values, length = 0, 0.0
    for _ in range(repeats):
        for kind in kinds:
            timings[kind].append(measured(kind, clips, scratch / kind, workers))
        ours, theirs = stored(scratch / kinds[0] / "dataset"), scripted(scratch / kinds[1])
        compare(ours, theirs, unhashed=SOURCE.name)
        keys, values, length = {key for key, _ in ours}, len(ours), minutes(ours)
        for kind in kinds:
            shutil.rmtree(scratch / kind)
    workers = workers if name == "ray" else 1
    print(f"{len(list(clips.iterdir()))} files, {len(keys)} clips, {length:.1f} minutes; workers: {workers}; "
          f"runs of each: {repeats}; {values} values compared after each pair, all equal.\n")  # fmt: skip
    print("| | clips/s, whole | clips/s, work | seconds before work | processor seconds |\n|---|---|---|---|---|")
    for kind in kinds:
        runs = timings[kind]
        whole, work = ([len(keys) / value for value in times] for times in ([t.whole_s for t in runs], [t.work_s for t in runs]))
        processor = "" if name == "ray" else spread([t.processor_s for t in runs], ".1f")
        before = spread([t.before_s for t in runs], ".1f")
        print(f"| {TITLES[kind]} | {spread(whole, '.2f')} | {spread(work, '.2f')} | {before} | {processor} |")
    ratios = [spread(list(column), ".3f") for column in zip(*_ratios(timings[kinds[0]], timings[kinds[1]]), strict=True)]
    last = "" if name == "ray" else ratios[2]
    print(f"| the build's speed over the script's, pair by pair | {ratios[0]} | {ratios[1]} | | {last} |\n", flush=True)


def _ratios(ours: list[Timing], theirs: list[Timing]) -> Iterator[tuple[float, float, float]]:
    for one, other in zip(ours, theirs, strict=True):
        yield other.whole_s / one.whole_s, other.work_s / one.work_s, other.processor_s / one.processor_s


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--copies", type=int, default=1, help="of each file, for Ray against the pool")
    options.add_argument("--serial-copies", type=int, default=1, help="of each file, for the serial runner against the loop")
    options.add_argument("--only", choices=list(PAIRS), help="one of the two comparisons")
    options.add_argument("--run", choices=list(TITLES), help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run:
        one_run(chosen.run, chosen.folder, chosen.out, chosen.workers)
        return
    with tempfile.TemporaryDirectory(prefix="likeness-benchmark-") as folder:
        scratch = Path(folder)
        for name, copies in (("ray", chosen.copies), ("serial", chosen.serial_copies)):
            if chosen.only in (None, name):
                clips = copied(chosen.folder, scratch / f"clips-{name}", copies)
                print(f"### {TITLES[PAIRS[name][0]]}\n")
                series(name, clips, scratch, chosen.workers, chosen.repeats)


if __name__ == "__main__":
    main()
