"""Shared by all tests: no writing into the user's cache, and one Ray and one S3 server for the whole session."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import Proxy, start_moto

from infra.cluster import connect
from infra.storage import object_requests
from infra.storage.objects import ObjectPath


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["LIKENESS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Port of an S3 server of this session."""
    server = start_moto()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def bucket(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    """An empty bucket, and an empty cache for copies of what lies there."""
    for name, value in {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3_port}", "AWS_ACCESS_KEY_ID": "key", "AWS_REGION": "us-east-1",
                        "AWS_SECRET_ACCESS_KEY": "secret", "LIKENESS_CACHE": str(tmp_path / "cache")}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    made = ObjectPath("s3:", f"bucket-{uuid.uuid4().hex[:8]}")
    object_requests.call(made, "create_bucket", Bucket=made.bucket)
    return made


@pytest.fixture
def proxy(s3_port: int, bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Stands between this process and the bucket from now on; set its `fault`. Tries follow each other at once."""
    between = Proxy(s3_port)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", between.url)
    monkeypatch.setattr(object_requests, "PAUSE_S", 0.01)
    yield between
    between.close()


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


# They start clusters of their own, or use the session's: two at once are too much for two cores, and stopping one looks for all its
# processes.
WITH_RAY = {
    "test_ray.py", "test_jobs.py", "test_job_train.py", "test_dataset_nodes.py", "test_cluster_commands.py", "test_dataset_laws.py",
    "test_dataset_failures.py", "test_dataset_law_bad_inputs.py", "test_dataset_law_orders.py", "test_dataset_pools.py",
}  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in two processes (pytest -n 2) a file stays together, and all that uses Ray does."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if Path(file).name in WITH_RAY else file

    return ByFile(config, log)
