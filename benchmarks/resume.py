"""What resuming costs; prints Markdown.

    python benchmarks/resume.py FOLDER [--rows 1000] [--repeats 5] [--copies 1] [--workers 2] [--only nothing killed]

- nothing: `likeness data build` again, by command line, on a dataset where everything is done: the clips with the recipe `talking`,
  and the same rows tiled to --rows (`benchmarks/tiled.py`; there `build` is called in a process of its own). The whole process, and
  of it the build: finding the sources, checking ledgers and files against the manifest, writing what never changes.
- killed: a build of the clips on Ray actors, all its processes killed (SIGKILL) at a random moment of its work, then run again to
  its end. Lost is what both runs took together, less the unbroken build of the same turn: work begun and not committed, and a
  second start. "Start" is the time of a run before its first file (imports, Ray, planning, models).

The dataset that was resumed must have the digest of the unbroken one.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
from build import build_run, work_began
from common import Facts, copied, finished, leave, measured, scratch_folder, spread, start
from tiled import request_of, tiled, toolbox

from infra.storage import open_dataset
from infra.storage.manifest import head_digest
from pipelines.dataset.build import build
from pipelines.dataset.request import load_recipe
from pipelines.dataset.threads import one_thread

COMMAND = "from pipelines.cli.main import main; main()"


def built(clips: Path, out: Path, workers: int) -> None:
    """A build, or the rest of one; notes when each worker began."""
    (out / "began").unlink(missing_ok=True)
    shutdown_s = build_run(clips, out, "ray" if workers else "serial", workers)
    leave(out, shutdown_s=shutdown_s, done=time.monotonic())


def again(folder: Path, out: Path) -> None:
    """The tiled dataset, where everything is done."""
    begun = time.monotonic()
    report = build(folder / "dataset", request_of(folder, []), toolbox(folder.parent / "small" / "dataset"), runner="serial")
    leave(out, build_s=time.monotonic() - begun, units=report.units, changed=report.changed)


def nothing_to_do(clips: Path, scratch: Path, rows: int, repeats: int) -> None:
    """Its table."""
    measured(__file__, "built", scratch / "small", clips, "--workers", 0)
    small = scratch / "small" / "dataset"
    tiled(small, scratch / "large", rows, load_recipe("talking").fields)
    lines: dict[str, tuple[Path, list[float], list[float]]] = {
        "real clips": (small, [], []), "tiled rows": (scratch / "large" / "dataset", [], [])
    }  # fmt: skip
    for _ in range(repeats):
        for title, (root, whole, inner) in lines.items():
            before = head_digest(root)
            if title == "tiled rows":
                facts = measured(__file__, "again", scratch / "run", scratch / "large")
                if facts["units"] or facts["changed"]:
                    raise SystemExit(f"a finished dataset was worked on: {facts}")
                whole.append(facts["whole_s"])
                inner.append(facts["build_s"])
                shutil.rmtree(scratch / "run")
            else:
                begun = time.monotonic()
                subprocess.run([sys.executable, "-c", COMMAND, "data", "build", str(root)], check=True, capture_output=True)
                whole.append(time.monotonic() - begun)
            if head_digest(root) != before:
                raise SystemExit("a finished dataset changed")
    print(f"### Nothing to do\n\nRuns of each: {repeats}.\n")
    print("| | rows | columns | shards | whole process, s | build, s | build, s per 1000 rows |\n|---|---|---|---|---|---|---|")
    for title, (root, whole, inner) in lines.items():
        dataset = open_dataset(root)
        shape = f"{len(dataset)} | {len(dataset.manifest.columns)} | {len(dataset.manifest.shards)}"
        per = [spread(inner, ".2f"), spread([s / len(dataset) * 1000 for s in inner], ".2f")] if inner else ["", ""]
        print(f"| {title} | {shape} | {spread(whole, '.2f')} | {per[0]} | {per[1]} |")
    print(flush=True)


def killed(clips: Path, scratch: Path, workers: int, repeats: int) -> None:
    """Its table."""
    print(f"### Killed and run again\n\n{len(list(clips.iterdir()))} files; workers: {workers}.\n")
    print("| turn | unbroken, s | start, s | killed after, s | run again, s | lost, s | lost of the unbroken "
          "| lost beyond a start, s |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    lost: list[tuple[float, float, float]] = []
    for turn in range(repeats):
        whole, begun = unbroken(clips, scratch / "whole", workers)
        work_s = whole["whole_s"] - whole["shutdown_s"] - begun
        after_s = begun + work_s * random.Random(turn).uniform(0.05, 0.95)
        while not kill_after(clips, scratch / "broken", workers, after_s):
            shutil.rmtree(scratch / "broken")
            after_s *= 0.9
        rest = measured(__file__, "built", scratch / "broken", clips, "--workers", workers)
        digests = {head_digest(scratch / name / "dataset") for name in ("whole", "broken")}
        if len(digests) != 1:
            raise SystemExit(f"the resumed dataset is another one: {digests}")
        loss = after_s + rest["whole_s"] - whole["whole_s"]
        lost.append((loss, loss / whole["whole_s"], loss - begun))
        print(f"| {turn + 1} | {whole['whole_s']:.1f} | {begun:.1f} | {after_s:.1f} | {rest['whole_s']:.1f} | {loss:.1f} "
              f"| {loss / whole['whole_s']:.0%} | {loss - begun:.1f} |", flush=True)  # fmt: skip
        for name in ("whole", "broken"):
            shutil.rmtree(scratch / name)
    seconds, shares, beyond = zip(*lost, strict=True)
    print(f"| all | | | | | {spread(seconds, '.1f')} | {spread(shares, '.0%')} | {spread(beyond, '.1f')} |\n", flush=True)


def unbroken(clips: Path, out: Path, workers: int) -> tuple[Facts, float]:
    """A whole run's facts, and the seconds before its first file."""
    begun = time.monotonic()
    facts = measured(__file__, "built", out, clips, "--workers", workers)
    return facts, work_began(out) - begun


def kill_after(clips: Path, out: Path, workers: int, after_s: float) -> bool:
    """A build whose processes all end `after_s` after its start; False where it had finished by then."""
    os.sync()
    begun = time.monotonic()
    process = start(__file__, "built", out, clips, "--workers", workers)
    time.sleep(max(0.0, begun + after_s - time.monotonic()))
    if head_digest(out / "dataset") or process.poll() is not None:
        finished(process, "built", out)
        return False
    own = psutil.Process(process.pid)
    family = [*own.children(recursive=True), own]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)
    return True


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--rows", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--copies", type=int, default=1, help="of each file, for the build that is killed")
    options.add_argument("--workers", type=int, default=2, help="of the build that is killed")
    options.add_argument("--only", choices=("nothing", "killed"), help="one of the two")
    options.add_argument("--run", choices=("built", "again"), help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run:
        with one_thread():
            built(chosen.folder, chosen.out, chosen.workers) if chosen.run == "built" else again(chosen.folder, chosen.out)
        return
    with scratch_folder() as scratch:
        if chosen.only != "killed":
            nothing_to_do(copied(chosen.folder, scratch / "clips", 1), scratch, chosen.rows, chosen.repeats)
        if chosen.only != "nothing":
            killed(copied(chosen.folder, scratch / "more-clips", chosen.copies), scratch, chosen.workers, chosen.repeats)


if __name__ == "__main__":
    main()
