"""Two ways to run units, with the same worker code: one after the other here, or on Ray actors.

Both yield results as units finish, and follow each unit by the shard's next one. A unit commits by itself, so whatever ends a
run leaves the finished units finished.

On Ray, CPU operators share a pool of workers. Where there are GPUs, each operator that wants one has a pool of its own, of as
many workers as its fraction of a GPU allows; where there are none, it takes turns with the others in the CPU pool. What goes
from one to the next lies on disk, as committed columns: a fast pool never fills anybody's memory, and at most two units wait at
each worker.

When a worker dies its units go back, and another takes them. A death by itself counts against the sample it was on, the loss of
its node does not. A replacement that finds no room waits, and the others go on.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.cluster import connect
from infra.errors import LikenessError
from infra.storage.objects import is_object
from pipelines.dataset import notes
from pipelines.dataset.graph import CPU_POOL
from pipelines.dataset.notes import Note
from pipelines.dataset.threads import ONE_THREAD, one_thread
from pipelines.dataset.unit import Segment, Unit, UnitResult
from pipelines.dataset.worker import Worker
from preprocessing.operator import BatchOperator

Progress = Callable[[int, float, str], None]  # shard, part of it done, what is being worked on

QUEUED_PER_WORKER = 2  # one running, one ready: more would only make a dying worker take more units with it
DEATHS_PER_SAMPLE = 2
ASK_AGAIN_S = 15  # of a worker that could not be reached
DEATHS_WITHOUT_WORK = 5
OBJECT_STORE_BYTES = 128 * 2**20  # only unit descriptors and results pass through it
_POLL_S = 0.5


def run_serial(units: Sequence[Unit], failures_in_a_row: int, progress: Progress) -> Iterator[UnitResult]:
    """One unit after the other in this process."""
    worker = Worker(failures_in_a_row)
    with one_thread():
        for first in units:
            unit: Unit | None = first
            while unit:

                def at(done: float, key: str, operator: str, unit: Unit = unit) -> None:
                    progress(unit.shard, unit.part(done), f"{operator} {key}")

                result = worker.run(unit, at)
                progress(unit.shard, unit.part(1.0), "")
                yield result
                unit = unit.following(result)


def run_ray(units: Sequence[Unit], workers: int, failures_in_a_row: int, progress: Progress) -> Iterator[UnitResult]:
    """Units, in this order, on Ray actors, `workers` of them for CPU operators.

    Uses the Ray this process is connected to, that of RAY_ADDRESS, or one started for the run.

    A unit whose worker dies (out of memory, a crash in a decoder, a lost node) runs again; a sample that was being worked on at
    two deaths is quarantined, where the nodes outlived them.

    Raises:
        LikenessError: from an operator or too many failures, or workers die without any work having begun.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        # Quiet: Ray's messages and the workers' output would break into the progress bar.
        cpus = math.ceil(workers * _cpus(units))
        connect(num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES, logging_level=logging.ERROR, log_to_driver=False)
    run = _RayRun(units, workers, failures_in_a_row, progress, ray.cluster_resources().get("GPU", 0))
    try:
        yield from run.results()
    finally:
        run.close()
        if started:
            ray.shutdown()


class DatasetWorker:
    """A worker in a process of its own; what it is working on stands in a file, for progress and for autopsies (see `notes`).

    Ray's dashboard shows the class, and `repr`.
    """

    def __init__(self, title: str, name: str, failures_in_a_row: int) -> None:
        self.title, self.name = title, name
        self.worker = Worker(failures_in_a_row)

    def __repr__(self) -> str:
        return self.title

    def node(self) -> str:
        """Id of the node it runs on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def run(self, unit: Unit) -> UnitResult:
        notes.prepare(unit.root, self.name)

        def at(done: float, key: str, operator: str) -> None:
            notes.write(unit.root, self.name, Note(unit.shard, done, operator, key))

        result = self.worker.run(unit, at)
        notes.remove(unit.root, self.name)  # not where an operator ends the process: then it tells on what
        return result


def _segments(units: Iterable[Unit]) -> Iterator[Segment]:
    return (segment for unit in units for segment in (unit.segment, *unit.later))


def _cpus(units: Iterable[Unit]) -> float:
    """Cores of one worker: its operators take turns, so as many as the hungriest needs."""
    return max(step.node.operator.resources.cpus for segment in _segments(units) for step in segment.steps)


def _gpu_pools(units: Iterable[Unit], gpus: float) -> dict[str, float]:
    """Pools of their own, and the fraction of a GPU that a worker of each needs; none without GPUs."""
    needs = {segment.pool: segment.steps[0].node.operator.resources.gpus for segment in _segments(units)
             if segment.pool != CPU_POOL}  # fmt: skip
    return needs if gpus else {}


class _Pool:
    """Workers of one kind, and the units that wait for them.

    Attributes:
        left: units of this pool that are not done, those that do not exist yet among them.
        nodes: of the workers that have started.
        deaths: nodes on which a worker died by itself at (row key or source path, operator).
    """

    def __init__(self, title: str, size: int, cpus: float, gpus: float, failures_in_a_row: int, left: int) -> None:
        self.title, self.cpus, self.gpus, self.failures_in_a_row, self.left = title, cpus, gpus, failures_in_a_row, left
        self.waiting: list[Unit] = []  # the last is the next
        self.running: dict[Any, tuple[Unit, int]] = {}  # future -> unit, number of its actor
        self.starting: dict[Any, int] = {}  # future -> number of an actor that is not there yet; a full cluster has it wait
        self.names: dict[int, str] = {}  # of the actors' notes
        self.actors = [self._actor(number) for number in range(size)]
        self.nodes: dict[int, str] = {}
        self.deaths: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self.idle_deaths = 0

    def _actor(self, number: int) -> Any:
        import ray

        self.names[number] = uuid.uuid4().hex
        actor: Any = ray.remote(DatasetWorker).options(
            num_cpus=self.cpus, num_gpus=self.gpus, runtime_env={"env_vars": ONE_THREAD}
        ).remote(f"{self.title} worker {number}", self.names[number], self.failures_in_a_row)  # fmt: skip
        self.starting[actor.node.remote()] = number
        return actor

    def started(self, future: Any) -> None:
        """An actor is there, or died before it was."""
        import ray

        number = self.starting.pop(future)
        try:
            self.nodes[number] = ray.get(future)
        except ray.exceptions.RayError as error:
            self._bury(number, error)

    def feed(self) -> None:
        """Hand waiting units to workers with room; the last ones only to those who have nothing to do, so that all end together."""
        depth = QUEUED_PER_WORKER if len(self.waiting) > len(self.actors) else 1
        for _ in range(depth):
            load = Counter(number for _, number in self.running.values())
            for number, actor in enumerate(self.actors):
                if self.waiting and number not in self.starting.values() and load[number] < depth:
                    unit = self.waiting.pop()
                    self.running[actor.run.options(name=unit.title).remote(unit)] = unit, number
                    load[number] += 1

    def take(self, future: Any) -> tuple[Unit, UnitResult] | None:
        """The unit of a future that is ready, and its result; None where its worker died, which is dealt with."""
        import ray

        unit, number = self.running[future]
        try:
            result = ray.get(future)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayError as error:  # process or node gone, out of memory, its result lost with the node
            self._bury(number, error)
            return None
        del self.running[future]
        self.idle_deaths = 0
        self.left -= 1
        return unit, result

    def _bury(self, number: int, error: Exception) -> None:
        """Put a dead actor's units back, and note what it died on."""
        import ray

        units = [unit for unit, where in self.running.values() if where == number]
        self.running = {future: place for future, place in self.running.items() if place[1] != number}
        died = self._died(number, error)
        node = self.nodes.pop(number, "")
        note = self._last_note(units[0].root, number, node) if died and units else None
        lost = bool(node) and node not in _live_nodes()
        by_itself = died and not lost
        self.idle_deaths += not lost and (died or not isinstance(error, ray.exceptions.ActorUnavailableError))
        careful = set()
        for unit in units:
            if note and note.shard == unit.shard and by_itself:
                self.idle_deaths = 0
                if unit.careful or not _batched(unit):
                    self.deaths[note.place].append(node)
                careful.add(unit.shard)
        poisoned = self._poisoned()
        if self.idle_deaths >= DEATHS_WITHOUT_WORK or len(poisoned) >= self.failures_in_a_row:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            last = ", ".join(f"{operator} on {key}" for key, operator in self.deaths) or f"before any work ({reason[-1]})"
            raise LikenessError(f"workers keep dying; the last work was {last[-300:]}",
                                fix="check memory (fewer --workers) and `dmesg`; --runner serial shows a crash directly")
        self.waiting += [replace(unit, poisoned=unit.poisoned | poisoned, careful=unit.careful or unit.shard in careful)
                         for unit in reversed(units)]  # fmt: skip
        self.starting = {future: who for future, who in self.starting.items() if who != number}
        ray.kill(self.actors[number])  # where it lives all the same, two would write one shard
        self.actors[number] = self._actor(number)

    def _last_note(self, root: Path, number: int, node: str) -> Note | None:
        """What a dead worker was on; where its machine's disk is not the dataset's, that machine is asked."""
        note = notes.take(root, self.names[number])
        return notes.take_from(node, root, self.names[number]) if note is None and node and is_object(root) else note

    def _died(self, number: int, error: Exception) -> bool:
        """Whether the worker's process has ended. Its node tells; of one that falls silent, and at times of a process that ends in
        mid-call, Ray says at first only that the worker can't be reached: then it is asked again."""
        import ray

        if isinstance(error, ray.exceptions.ActorUnavailableError):
            try:
                ray.get(self.actors[number].node.remote(), timeout=ASK_AGAIN_S)
            except ray.exceptions.RayError as second:
                error = second
        return isinstance(error, (ray.exceptions.ActorDiedError, ray.exceptions.OutOfMemoryError))

    def _poisoned(self) -> frozenset[tuple[str, str]]:
        """Places at which workers died by themselves, too often. A node's workers may be seen to go before it does: a death counts
        as long as its node is there."""
        if all(len(nodes) < DEATHS_PER_SAMPLE for nodes in self.deaths.values()):
            return frozenset()
        alive = _live_nodes()
        return frozenset(
            place for place, nodes in self.deaths.items() if sum(node in alive for node in nodes) >= DEATHS_PER_SAMPLE
        )

    def state(self) -> list[tuple[Unit, Note | None]]:
        """Units at the workers, or else the next one, with what is known here of the work on them."""
        at = {number: notes.read(unit.root, self.names[number]) for unit, number in self.running.values()}
        here = [(unit, at[number]) for unit, number in self.running.values()] or [(unit, None) for unit in self.waiting[-1:]]
        return [(unit, note if note and note.shard == unit.shard else None) for unit, note in here]

    def close(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors, self.starting = [], {}


class _RayRun:
    def __init__(self, units: Sequence[Unit], workers: int, failures_in_a_row: int, progress: Progress, gpus: float) -> None:
        self.progress = progress
        needs = _gpu_pools(units, gpus)
        pool_of = lambda segment: segment.pool if segment.pool in needs else CPU_POOL
        left = Counter(pool_of(segment) for segment in _segments(units))
        sizes = {pool: max(1, int(gpus / len(needs) / need)) for pool, need in needs.items()} | {CPU_POOL: workers}
        # A GPU worker counts for no core: it waits for its GPU most of the time, and must not wait for the CPU pool to end.
        self.pools = {
            name: _Pool(
                f"{units[0].root.name} {name}", min(sizes[name], count), 0.0 if name in needs else _cpus(units),
                needs.get(name, 0.0), failures_in_a_row, count,
            )
            for name, count in left.items()
        }
        self.pool_of = pool_of
        for unit in reversed(units):
            self.pools[pool_of(unit.segment)].waiting.append(unit)

    def results(self) -> Iterator[UnitResult]:
        import ray

        while any(pool.left for pool in self.pools.values()):
            for pool in self.pools.values():
                pool.feed()
            owners = {future: pool for pool in self.pools.values() for future in (*pool.running, *pool.starting)}
            ready, _ = ray.wait(list(owners), timeout=_POLL_S)
            for future in ready:
                pool = owners[future]
                if future in pool.starting:
                    pool.started(future)
                if future not in pool.running:
                    continue  # its actor died, and was dealt with through another unit
                if (done := pool.take(future)) is None:
                    continue
                unit, result = done
                self.progress(unit.shard, unit.part(1.0), "")
                if following := unit.following(result):
                    # Before what waits: a shard that has begun is finished first.
                    self.pools[self.pool_of(following.segment)].waiting.append(following)
                if not pool.left:
                    pool.close()  # what it held is free for the others
                yield result
            for pool in self.pools.values():
                for unit, note in pool.state():
                    part, key, operator = (note.done, note.key, note.operator) if note else (0.0, "", "waiting for a free worker")
                    self.progress(unit.shard, unit.part(part), f"{operator} {key}")

    def close(self) -> None:
        for pool in self.pools.values():
            pool.close()


def _live_nodes() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _batched(unit: Unit) -> bool:
    """Whether the note of a unit may name another row than the one that killed its worker."""
    return len(unit.steps) == 1 and isinstance(unit.steps[0].node.operator, BatchOperator)


def _cause(error: Any) -> BaseException:
    """The exception an operator raised in a worker; Ray's own carries the worker's traceback."""
    return error.cause if isinstance(error.cause, BaseException) else error
