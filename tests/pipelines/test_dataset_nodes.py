"""A build on a Ray cluster of several nodes goes on when a worker process, and then whole nodes, are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cluster_toy
import dataset_toy as toy
import pytest

from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.request import updated
from pipelines.dataset.verify import verify


@pytest.mark.long
def test_killed_workers_and_nodes_change_nothing(tmp_path: Path) -> None:
    """A row at which two nodes die is no poisoned row: the digest is that of an unbroken build."""
    toy.write_sources(tmp_path / "clips")
    request = updated(None, sources=[str(tmp_path / "clips")], fields=list(cluster_toy.FIELDS))
    unbroken = build(tmp_path / "unbroken", request, toy.TOOLBOX, runner="serial")
    environment = os.environ | {
        cluster_toy.FOLDER: str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, cluster_toy.__file__, str(tmp_path / "set"), str(tmp_path / "clips")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-6000:]
    told = json.loads(ran.stdout.splitlines()[-1])

    assert told["digest"] == unbroken.digest
    assert verify(tmp_path / "set").problems == []
    lost, then_lost, stayed = told["nodes"]
    assert lost["key"] == then_lost["key"] == stayed["key"]
    assert len({place["node"] for place in told["nodes"]}) == 3
    assert told["again"]["key"] == told["worker"]["key"]
    rows = {row.key for row in open_dataset(tmp_path / "set").rows()}
    after = [call for call in told["calls"] if call["node"] not in (lost["node"], then_lost["node"])]
    assert {call["key"] for call in after} == rows
    assert len(after) == len(rows) + 1, "of what stayed, only the killed worker's row was done twice"
    assert {call["node"] for call in after} == {told["worker"]["node"], stayed["node"]}, "the node that came later got no work"
