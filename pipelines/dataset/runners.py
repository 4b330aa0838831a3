"""Two ways to run units, with the same worker code: one after the other here, or on Ray actors.

Both yield results as units finish. A unit commits by itself, so whatever ends a run leaves the finished units finished.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.cluster import connect
from infra.errors import LikenessError
from infra.storage.atomic import TEMPORARY
from pipelines.dataset.threads import ONE_THREAD, one_thread
from pipelines.dataset.unit import Unit, UnitResult
from pipelines.dataset.worker import Worker
from preprocessing.operator import Resources

Progress = Callable[[int, float, str], None]  # shard, part of it done, what is being worked on

QUEUED_PER_WORKER = 2  # one running, one ready: more would only make a dying worker take more units with it
DEATHS_PER_SAMPLE = 2
DEATHS_WITHOUT_WORK = 5
OBJECT_STORE_BYTES = 128 * 2**20  # only unit descriptors and results pass through it
_POLL_S = 0.5


def run_serial(units: Sequence[Unit], failures_in_a_row: int, progress: Progress) -> Iterator[UnitResult]:
    """One unit after the other in this process."""
    worker = Worker(failures_in_a_row)
    with one_thread():
        for unit in units:

            def at(done: float, key: str, operator: str, shard: int = unit.shard) -> None:
                progress(shard, done, f"{operator} {key}")

            yield worker.run(unit, at)


def run_ray(units: Sequence[Unit], workers: int, failures_in_a_row: int, progress: Progress) -> Iterator[UnitResult]:
    """Units on `workers` Ray actors: of the Ray this process is connected to, of RAY_ADDRESS, or of one started for the run.

    A unit whose worker dies (out of memory, a crash in a decoder) runs again; a sample that was being worked on at
    two deaths is quarantined.

    Raises:
        LikenessError: from an operator or too many failures, or workers die without any work having begun.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        # Quiet: Ray's messages and the workers' output would break into the progress bar.
        cpus = math.ceil(workers * _cpus(units))
        connect(num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES, logging_level=logging.ERROR, log_to_driver=False)
    pool = _Pool(list(units), min(workers, len(units)), failures_in_a_row, progress)
    try:
        yield from pool.results()
    finally:
        pool.close()
        if started:
            ray.shutdown()


class _Actor:
    """A worker in a process of its own; what it is working on stands in a file, for progress and for autopsies."""

    def __init__(self, failures_in_a_row: int) -> None:
        self.worker = Worker(failures_in_a_row)

    def run(self, unit: Unit) -> UnitResult:
        note = _note(unit)
        note.parent.mkdir(parents=True, exist_ok=True)

        def at(done: float, key: str, operator: str) -> None:
            note.write_text(f"{done}\n{key}\n{operator}")

        return self.worker.run(unit, at)


def _note(unit: Unit) -> Path:
    return unit.root / TEMPORARY / f"at-{unit.shard:06d}"


def _read_note(unit: Unit) -> tuple[float, str, str] | None:
    """Part done, row key or source path, operator; None where no work has begun."""
    try:
        done, key, operator = _note(unit).read_text().split("\n")
        return float(done), key, operator
    except (OSError, ValueError):
        return None  # not there, or read while it was being written


def _resources(units: Sequence[Unit]) -> Iterator[Resources]:
    return (step.node.operator.resources for unit in units for step in unit.steps)


def _cpus(units: Sequence[Unit]) -> float:
    """Cores of one worker: its operators take turns, so as many as the hungriest needs."""
    return max(resources.cpus for resources in _resources(units))


class _Pool:
    def __init__(self, units: list[Unit], workers: int, failures_in_a_row: int, progress: Progress) -> None:
        self.waiting, self.failures_in_a_row, self.progress = units[::-1], failures_in_a_row, progress
        self.cpus, self.gpus = _cpus(units), max(resources.gpus for resources in _resources(units))
        self.running: dict[Any, tuple[Unit, int]] = {}  # future -> unit, number of its actor
        self.actors = [self._actor() for _ in range(workers)]
        self.deaths: Counter[tuple[str, str]] = Counter()
        self.idle_deaths = 0

    def _actor(self) -> Any:
        import ray

        return ray.remote(_Actor).options(
            num_cpus=self.cpus, num_gpus=self.gpus, runtime_env={"env_vars": ONE_THREAD}
        ).remote(self.failures_in_a_row)  # fmt: skip

    def results(self) -> Iterator[UnitResult]:
        import ray

        while self.waiting or self.running:
            self._feed()
            ready, _ = ray.wait(list(self.running), timeout=_POLL_S)
            for future in ready:
                if future not in self.running:
                    continue  # its actor died, and was dealt with through another unit
                unit, number = self.running[future]
                try:
                    result = ray.get(future)
                except ray.exceptions.RayTaskError as error:
                    raise _cause(error) from error
                except ray.exceptions.RayActorError:
                    self._bury(number)
                    continue
                del self.running[future]
                self.idle_deaths = 0
                yield result
            for unit, _ in self.running.values():
                done, key, operator = _read_note(unit) or (0.0, "", "waiting for a free worker")
                self.progress(unit.shard, done, f"{operator} {key}")

    def _feed(self) -> None:
        for _ in range(QUEUED_PER_WORKER):
            load = Counter(number for _, number in self.running.values())
            for number, actor in enumerate(self.actors):
                if self.waiting and load[number] < QUEUED_PER_WORKER:
                    unit = self.waiting.pop()
                    self.running[actor.run.remote(unit)] = unit, number
                    load[number] += 1

    def _bury(self, number: int) -> None:
        """Put a dead actor's units back, and note what it died on."""
        units = [unit for unit, where in self.running.values() if where == number]
        self.running = {future: place for future, place in self.running.items() if place[1] != number}
        self.idle_deaths += 1
        for unit in units:
            if note := _read_note(unit):
                self.idle_deaths = 0
                self.deaths[note[1:]] += 1
                _note(unit).unlink(missing_ok=True)
        poisoned = frozenset(place for place, count in self.deaths.items() if count >= DEATHS_PER_SAMPLE)
        if self.idle_deaths >= DEATHS_WITHOUT_WORK or len(poisoned) >= self.failures_in_a_row:
            last = ", ".join(f"{operator} on {key}" for key, operator in self.deaths) or "before any work"
            raise LikenessError(f"workers keep dying; the last work was {last[-300:]}",
                                fix="check memory (fewer --workers) and `dmesg`; --runner serial shows a crash directly")
        self.waiting += [replace(unit, poisoned=unit.poisoned | poisoned) for unit in reversed(units)]
        self.actors[number] = self._actor()

    def close(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)


def _cause(error: Any) -> BaseException:
    """The exception an operator raised in a worker; Ray's own carries the worker's traceback."""
    return error.cause if isinstance(error.cause, BaseException) else error
