"""How near a dataset build comes to what the machine allows, and what a second worker brings; prints Markdown.

    python benchmarks/scaling.py FOLDER [--workers 2] [--repeats 3] [--copies 1]

`likeness data build` with the recipe `talking` on Ray actors, with one worker and with several, against the bare operators: the
script of `benchmarks/build.py` (each clip decoded once, values handed on as they are, every field encoded) that writes nothing.

- Physical limit: the bare operators' processor seconds over the number of workers, of one bare process that has the machine to
  itself, and of several at once, which share caches, memory and, on hyperthreads, execution units. A build cannot be faster than
  the second one by more than noise.
- Scaling: how much faster the build is with several workers, over the machine's own factor: as many independent bare processes at
  once, each doing all files, against one. 1 means that the build adds no loss of its own.

Runs take turns, each in processes of their own with one thread. Work is timed from a worker's first file (its operators are set up;
the mean over workers) to complete output, without Ray's shutdown. The last unit of a build leaves the other workers idle, and that
counts. After each turn all values of both builds are compared with the bare run's: equal bytes, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from build import Script, build_run, work_began
from common import Facts, compare, copied, finished, leave, measured, minutes, scratch_folder, spread, start, stored

from pipelines.dataset.threads import one_thread
from preprocessing.codecs import encode
from preprocessing.fields import SOURCE, Field
from preprocessing.operator import Sample

POLL_S = 0.02


class Bare(Script):
    """The script without its tar: encoded values stay in memory."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.members: dict[tuple[str, str], bytes] = {}

    def _keep(self, sample: Sample, values: dict[Field, Any]) -> None:
        for field, value in values.items():
            sample[field] = value
            self.members[sample.key, field.name] = encode(field, value)


def bare_run(clips: Path, out: Path) -> None:
    """Waits, set up, for OUT/go; leaves its values in OUT/members."""
    bare = Bare(out)
    (out / "ready").touch()
    while not (out / "go").exists():
        time.sleep(POLL_S)
    begun, processor = time.monotonic(), time.process_time()
    problems = [bare(path) for path in sorted(clips.iterdir())]
    facts = {"work_s": time.monotonic() - begun, "processor_s": time.process_time() - processor}
    bare.tar.close()
    print(*filter(None, problems), sep="\n")
    (out / "members").write_bytes(pickle.dumps(bare.members))
    leave(out, **facts)


def bare_at_once(clips: Path, scratch: Path, count: int) -> list[Facts]:
    """`count` bare processes that begin together, each over all files."""
    os.sync()
    places = [scratch / f"bare-{count}-{n}" for n in range(count)]
    running = [start(__file__, "bare", place, clips) for place in places]
    while not all((place / "ready").exists() or process.poll() for place, process in zip(places, running, strict=True)):
        time.sleep(POLL_S)
    for place in places:
        (place / "go").touch()
    return [finished(process, "bare", place) for place, process in zip(places, running, strict=True)]


def build_of(clips: Path, out: Path, workers: int) -> None:
    shutdown_s = build_run(clips, out, "ray", workers)
    leave(out, work_s=time.monotonic() - work_began(out) - shutdown_s)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--copies", type=int, default=1, help="of each file")
    options.add_argument("--run", choices=("bare", "build"), help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run:
        with one_thread():
            bare_run(chosen.folder, chosen.out) if chosen.run == "bare" else build_of(chosen.folder, chosen.out, chosen.workers)
        return
    with scratch_folder() as scratch:
        report(copied(chosen.folder, scratch / "clips", chosen.copies), scratch / "runs", chosen.workers, chosen.repeats)


def report(clips: Path, scratch: Path, many: int, repeats: int) -> None:
    """Runs in turns, and their table."""
    alone: list[Facts] = []
    together: list[list[Facts]] = []
    builds: dict[int, list[float]] = {1: [], many: []}
    for _ in range(repeats):
        scratch.mkdir()
        alone += bare_at_once(clips, scratch, 1)
        together.append(bare_at_once(clips, scratch, many))
        theirs = pickle.loads((scratch / "bare-1-0" / "members").read_bytes())
        for workers in builds:
            out = scratch / f"build-{workers}"
            builds[workers].append(measured(__file__, "build", out, clips, "--workers", workers)["work_s"])
            compare(stored(out / "dataset"), theirs, unhashed=SOURCE.name)
        length, keys = minutes(theirs), {key for key, _ in theirs}
        shutil.rmtree(scratch)
    mean = lambda runs, fact: statistics.mean(run[fact] for run in runs)
    print(f"{len(list(clips.iterdir()))} files, {len(keys)} clips, {length:.1f} minutes; runs of each: {repeats}; {len(theirs)} "
          "values of both builds compared with the bare run's after each turn, all equal.\n")  # fmt: skip
    print("| | seconds of work | processor seconds |\n|---|---|---|")
    bare = {"bare operators, one process": [[run] for run in alone],
            f"bare operators, {many} processes at once, each all files": together}  # fmt: skip
    for title, runs in bare.items():
        work, processor = (spread([mean(turn, fact) for turn in runs], ".1f") for fact in ("work_s", "processor_s"))
        print(f"| {title} | {work} | {processor} |")
    for workers, times in builds.items():
        print(f"| `likeness data build`, workers: {workers} | {spread(times, '.1f')} | |")
    turns = list(zip(alone, together, builds[1], builds[many], strict=True))
    rows = {
        f"limit over the build with {many} workers; limit: processor seconds of one process / {many}":
            [one["processor_s"] / many / last for one, _, _, last in turns],
        f"the same; limit: mean processor seconds of {many} at once / {many}":
            [mean(both, "processor_s") / many / last for _, both, _, last in turns],
        f"build, 1 -> {many} workers, times faster": [first / last for _, _, first, last in turns],
        f"the machine's factor: {many} bare processes at once against one":
            [many * one["work_s"] / mean(both, "work_s") for one, both, _, _ in turns],
        "build's factor over the machine's":
            [first / last / (many * one["work_s"] / mean(both, "work_s")) for one, both, first, last in turns],
    }  # fmt: skip
    print("\n| turn by turn | |\n|---|---|")
    for title, values in rows.items():
        print(f"| {title} | {spread(values, '.3f')} |")
    print(flush=True)


if __name__ == "__main__":
    main()
