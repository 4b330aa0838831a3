"""Builds a toy dataset with an operator that kills its process at one row, on a Ray cluster of three nodes on this machine that
have a cache each, as machines do: what is noted at the workers' nodes is not seen at the driver's, which has no workers.

A program of its own: the tests' Ray is another one. Prints JSON: the report's digest and problems, and where notes were left.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import dataset_toy as toy
from cluster_toy import patiently

from infra.cluster import connect
from infra.storage.objects import as_path
from pipelines.dataset.build import build
from pipelines.dataset.request import updated

NODES = 2


def main() -> None:
    root, source, folder = as_path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    import ray
    from ray.cluster_utils import Cluster

    os.environ["LIKENESS_CACHE"] = str(folder / "driver")
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}))
    for number in range(NODES):
        cache = {"LIKENESS_CACHE": str(folder / f"node{number}")}
        patiently(lambda cache=cache: cluster.add_node(num_cpus=1, env_vars=cache))
    here = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}}
    connect(address=cluster.address, log_to_driver=False, runtime_env=here)
    request = updated(None, sources=[str(source)], fields=["summed", "deadly"])
    report = build(root, request, toy.TOOLBOX, runner="ray", workers=NODES)
    ray.shutdown()
    cluster.shutdown()
    left = [str(path.relative_to(folder)) for path in folder.rglob("at-*")]
    worked = sorted(path.name for path in folder.iterdir() if (path / "objects" / "scratch").is_dir())
    print(json.dumps({"digest": report.digest, "problems": report.problems, "left": left, "worked": worked}))


if __name__ == "__main__":
    sys.exit(main())
