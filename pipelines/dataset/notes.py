"""What a worker is on, in a small file: for progress, and to know after its death which sample it died on.

A note lies where the worker writes what it makes: in the dataset's folder, which all nodes see, or for a dataset on object storage
in the scratch folder of the worker's own machine. There it outlives the worker, so whoever wants it after a death has a task on
that node read it: nothing is paid for it as long as nobody dies, and a note is on the disk before its sample is begun, which a
message to another process need not be.

A note is named by its worker, a name that never comes again: one that an earlier build has left anywhere is nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.storage.atomic import temporary_folder

ASK_S = 60.0  # for a task that reads a note on another node; a process has to start there


@dataclass(frozen=True)
class Note:
    """Where a worker is: in which shard, what part of its unit is done, and on which row key or source path with which operator."""

    shard: int
    done: float
    operator: str
    key: str

    @property
    def place(self) -> tuple[str, str]:
        return self.key, self.operator


def write(root: Path, worker: str, note: Note) -> None:
    """Set the note of a worker; its folder must be there (see `prepare`)."""
    _file(root, worker).write_text(f"{note.shard}\n{note.done}\n{note.operator}\n{note.key}")


def prepare(root: Path, worker: str) -> None:
    """Before a unit: no note, and a folder for it."""
    temporary_folder(root).mkdir(parents=True, exist_ok=True)
    remove(root, worker)


def remove(root: Path, worker: str) -> None:
    """The unit is done, or nobody asks any more."""
    _file(root, worker).unlink(missing_ok=True)


def read(root: Path, worker: str) -> Note | None:
    """The note as seen from this machine; None where no work has begun, or on another machine."""
    try:
        shard, done, operator, key = _file(root, worker).read_text().split("\n", 3)
        return Note(int(shard), float(done), operator, key)
    except (OSError, ValueError):
        return None  # not there, or read while it was being written


def take(root: Path, worker: str) -> Note | None:
    """The note of a worker that is dead, which is then gone."""
    note = read(root, worker)
    remove(root, worker)
    return note


def take_from(node: str, root: Path, worker: str) -> Note | None:
    """`take` on that node of the Ray cluster; None also where the node is gone or does not answer within ASK_S."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    asked = ray.remote(take).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(root, worker)
    try:
        found: Note | None = ray.get(asked, timeout=ASK_S)
        return found
    except ray.exceptions.RayError:
        ray.cancel(asked, force=True)
        return None


def _file(root: Path, worker: str) -> Path:
    return temporary_folder(root) / f"at-{worker}"
