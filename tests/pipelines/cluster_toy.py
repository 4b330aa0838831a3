"""Builds a toy dataset on a Ray cluster of several nodes on this machine, and kills a worker process and two nodes on the way.

A program of its own: the tests' Ray is another one. Operators hold at their row until a file is there, so that what is killed is at
work, and the same row meets the end of two nodes. Prints JSON: the digest, who worked on which row where, and what was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import dataset_toy as toy

from infra.cluster import connect
from pipelines.dataset.build import Report, build
from pipelines.dataset.request import updated
from preprocessing.fields import Field
from preprocessing.operator import Sample

T = TypeVar("T")
FIELDS = ("summed", "fragile")
FOLDER = "CLUSTER_TOY"  # environment: where calls are told, and the file `go` is waited for
HELD_S = 240.0  # seconds where the machine is idle


class Double(toy.Double):
    """The toy's own, told and held."""

    def work(self, sample: Sample) -> dict[Field, Any]:
        import ray

        folder = Path(os.environ[FOLDER])
        with open(folder / "calls", "a") as log:
            log.write(f"{ray.get_runtime_context().get_node_id()} {os.getpid()} {sample.key}\n")
        wait_for((folder / "go").exists, HELD_S)
        return super().work(sample)


def producer(field: str, settings: Any) -> Any:
    return Double() if field == toy.DOUBLED.name else toy.producer(field, settings)


TOOLBOX = replace(toy.TOOLBOX, producer=producer)


@dataclass(frozen=True)
class Call:
    """One line of the log."""

    node: str
    pid: int
    key: str


class Build(threading.Thread):
    """The build, in a thread of its own, so that this one can kill."""

    def __init__(self, root: Path, source: Path, workers: int) -> None:
        super().__init__(daemon=True)
        self.root, self.source, self.workers = root, source, workers
        self.report: Report | None = None
        self.failed: BaseException | None = None

    def run(self) -> None:
        request = updated(None, sources=[str(self.source)], fields=list(FIELDS))
        try:
            self.report = build(self.root, request, TOOLBOX, runner="ray", workers=self.workers)
        except BaseException as error:
            self.failed = error


def wait_for(what: Callable[[], T | None], timeout_s: float = 120) -> T:
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came of it in {timeout_s} s")
        time.sleep(0.02)
    return found


def calls() -> list[Call]:
    log = Path(os.environ[FOLDER]) / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    return [Call(node, int(pid), key) for node, pid, key in (line.split() for line in lines)]


def patiently(start: Callable[[], T]) -> T:
    """What `start` gives. On a busy machine Ray's agents take more than the 15 s after which a node gives up: then once more."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            failed = error
    raise failed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("source", type=Path)
    args = parser.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}))
    add_node = lambda: patiently(lambda: cluster.add_node(num_cpus=1))
    nodes = {node.node_id: node for node in (add_node(),)}
    here = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}}
    connect(address=cluster.address, log_to_driver=False, runtime_env=here)
    building = Build(args.dataset, args.source, workers=2)
    building.start()

    def call(fits: Callable[[Call], bool], after: int = 0) -> Call:
        wait_for(lambda: building.failed or any(fits(c) for c in calls()[after:]))
        if building.failed:
            raise building.failed
        return next(c for c in calls()[after:] if fits(c))

    on_head = call(lambda c: c.node not in nodes)
    on_other = call(lambda c: c.node in nodes)
    os.kill(on_head.pid, signal.SIGKILL)
    again = call(lambda c: c.key == on_head.key and c.pid != on_head.pid)
    cluster.remove_node(nodes.pop(on_other.node), allow_graceful=False)
    told: dict[str, Any] = {"worker": asdict(on_head), "again": asdict(again), "nodes": [asdict(on_other)]}
    for last in (False, True):  # the replacement has waited for room; it gets the row whose node is gone
        node = add_node()
        nodes[node.node_id] = node
        at = call(lambda c, node=node: c.node == node.node_id)
        if not last:
            cluster.remove_node(nodes.pop(node.node_id), allow_graceful=False)
        told["nodes"].append(asdict(at))
    (Path(os.environ[FOLDER]) / "go").touch()
    building.join()
    if building.failed or not building.report:
        raise building.failed or RuntimeError("no report")
    told |= {"digest": building.report.digest, "calls": [asdict(c) for c in calls()]}
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
