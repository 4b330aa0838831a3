"""Shared by all tests: no writing into the user's cache, and one Ray for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cluster import connect


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["LIKENESS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with two CPUs; starting one takes seconds, so tests share it. Test modules can be imported in its workers."""
    import ray

    folders = [str(path) for path in (Path(__file__).parent.parent, *Path(__file__).parent.iterdir())]
    paths = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    environment = {"env_vars": {"PYTHONPATH": paths}}
    connect(num_cpus=2, object_store_memory=128 * 2**20, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


# They start clusters of their own: beside the session's, two cores are too few, and stopping one looks for all its processes.
CLUSTERS = {"test_ray.py", "test_jobs.py", "test_job_train.py", "test_dataset_nodes.py", "test_cluster_commands.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in two processes (pytest -n 2 --dist loadgroup) a file stays together, and all that uses Ray does."""
    for item in items:
        uses_ray = item.path.name in CLUSTERS or "ray_session" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if uses_ray else str(item.path)))
