"""A build on a Ray cluster of several nodes goes on when a worker process, and then whole nodes, are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cluster_deadly
import cluster_toy
import dataset_toy as toy
import pytest

from infra.storage import open_dataset
from infra.storage.objects import ObjectPath
from pipelines.dataset.build import build
from pipelines.dataset.request import updated
from pipelines.dataset.verify import verify


def on_cluster(program: str, *words: Any, environment: Mapping[str, str] = MappingProxyType({})) -> Any:
    """The JSON that a program with a cluster of its own prints."""
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    around = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "PYTHONPATH": paths} | environment
    around.pop("RAY_ADDRESS", None)
    command = [sys.executable, program, *map(str, words)]
    ran = subprocess.run(command, env=around, capture_output=True, text=True, timeout=400, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-6000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.long
def test_killed_workers_and_nodes_change_nothing(tmp_path: Path) -> None:
    """A row at which two nodes die is no poisoned row: the digest is that of an unbroken build."""
    toy.write_sources(tmp_path / "clips")
    request = updated(None, sources=[str(tmp_path / "clips")], fields=list(cluster_toy.FIELDS))
    unbroken = build(tmp_path / "unbroken", request, toy.TOOLBOX, runner="serial")
    told = on_cluster(cluster_toy.__file__, tmp_path / "set", tmp_path / "clips", environment={cluster_toy.FOLDER: str(tmp_path)})

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


@pytest.mark.long
def test_a_row_that_kills_workers_of_other_machines_is_quarantined(tmp_path: Path, bucket: ObjectPath) -> None:
    """On object storage, where what a worker was on is written on its own machine: as in a folder that all nodes see."""
    toy.write_sources(tmp_path / "clips", 3)
    (tmp_path / "clips" / "last.mp4").write_text("3 4\n66\n5")
    told = []
    for root, caches in ((tmp_path / "set", tmp_path / "near"), (bucket / "set", tmp_path / "far")):
        caches.mkdir()
        told.append(on_cluster(cluster_deadly.__file__, root, tmp_path / "clips", caches))
    near, far = told
    (problem,) = [p for p in far["problems"] if p["operator"] == "deadly"]
    assert "died" in problem["reason"]
    data = open_dataset(bucket / "set")
    assert [data.has(row, "deadly") for row in data.rows()].count(False) == 1
    assert far["digest"] == near["digest"]
    assert far["problems"] == near["problems"]
    assert verify(bucket / "set").problems == []
    assert {"node0", "node1"} <= set(far["worked"]), "the nodes have one cache"
    assert far["left"] == []
