"""Jobs on a cluster of our own: run, fail, stop with time to save; and what a wrong address is told."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from typer.testing import CliRunner

from infra import cluster
from infra.errors import LikenessError
from infra.jobs import Jobs, likeness_program
from pipelines.cli.job import app

SAVES = """
import signal, sys, time
from pathlib import Path
def save(*_):
    Path("asked").touch()
    time.sleep(5)  # longer than the 3 s that Ray gives by default
    Path("saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("training", flush=True)
time.sleep(300)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running cluster; nothing of it is left afterwards."""
    folder = tmp_path_factory.mktemp("cluster")
    found = cluster.start(folder, cpus=2, object_store_mb=100)
    processes = psutil.Process(found.pid).children(recursive=True)
    yield folder
    assert cluster.stop(folder)
    assert not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not Path(found.scratch).exists()
    assert not cluster.stop(folder), "stopping again must do nothing"


@pytest.mark.long
def test_jobs_run_fail_and_stop_after_saving(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert cluster.start(folder) == cluster.running(folder), "starting again must give the same cluster"
    (folder / "token").chmod(0o600)
    monkeypatch.setenv("LIKENESS_ASSETS", "/from/the/submitter")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise ImportError('not the project's')")
    (tmp_path / "trainer.py").write_text(SAVES)
    jobs = Jobs(folder=folder)

    saving = jobs.submit([sys.executable, "trainer.py"], tmp_path)
    good = jobs.submit([likeness_program(), "assets", "list", "--json"], tmp_path)
    bad = jobs.submit([likeness_program(), "assets", "fetch", "wav2lip"], tmp_path)
    assert "training" in next(text for text in jobs.follow(saving) if "training" in text)
    began = time.monotonic()
    assert jobs.stop(saving).state == "STOPPED"
    assert 5 <= time.monotonic() - began < 30
    assert (tmp_path / "asked").exists()
    assert (tmp_path / "saved").exists(), "killed before it could save"

    assert jobs.wait(good, 60).state == "SUCCEEDED", jobs.logs(good)
    assert '"name": "syncnet_v2"' in jobs.logs(good)
    assert jobs.get(good).command == "likeness assets list --json"
    failed = jobs.wait(bad, 60)
    assert (failed.state, failed.exit_code) == ("FAILED", 2)
    assert "place wav2lip.pth in /from/the/submitter" in jobs.logs(bad)
    assert jobs.stop(good).state == "SUCCEEDED", "a job that is over stays as it is"
    assert {job.id for job in jobs.all()} == {saving, good, bad}
    with pytest.raises(LikenessError, match="unknown job 'nobody'"):
        jobs.get("nobody")

    monkeypatch.setenv("LIKENESS_CLUSTER", str(folder))
    listed = CliRunner().invoke(app, ["list"])
    assert saving in listed.stdout
    assert CliRunner().invoke(app, ["logs", bad]).stdout == jobs.logs(bad)


def ask(address: str, token: str = "", method: str = "GET", cookie: str = "") -> tuple[str, Any]:
    """The body of an answer, and its headers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = Request(address, headers=headers | ({"Cookie": cookie} if cookie else {}), method=method)
    with urlopen(request, timeout=30) as answer:
        return answer.read().decode(), answer.headers


@pytest.mark.long
def test_the_dashboard_answers_and_says_what_a_build_is_doing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LIKENESS_CLUSTER", str(folder))
    shown = CliRunner().invoke(app, ["up"]).stdout
    dashboard = shown.removeprefix("dashboard: ").split()[0]
    token = Path(shown.split("token in ")[1].split(")")[0]).read_text()
    page, headers = ask(dashboard + "/")
    assert headers["Content-Type"] == "text/html"
    script = page.split('src="./')[1].split('"')[0]
    assert len(ask(f"{dashboard}/{script}")[0]) > 100_000, "an index without its program: ray without [default]"
    with pytest.raises(HTTPError, match="401"):
        ask(dashboard + "/api/jobs/")
    cookie = ask(dashboard + "/api/authenticate", token, "POST")[1]["Set-Cookie"].split(";")[0]  # what the page does when asked
    assert isinstance(json.loads(ask(dashboard + "/api/jobs/", cookie=cookie)[0]), list)

    toy = Path(__file__).parents[1] / "pipelines" / "dataset_toy.py"
    for n in range(3):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / f"{n}.mp4").write_text("1 2 3")
    jobs = Jobs(folder=folder)
    words = [sys.executable, str(toy), str(tmp_path / "talks"), str(tmp_path / "clips"), "--runner", "ray", "--workers", "1"]
    job = jobs.submit(words, tmp_path)
    assert jobs.wait(job, 90).state == "SUCCEEDED", jobs.logs(job)
    assert job in {entry["submission_id"] for entry in json.loads(ask(dashboard + "/api/jobs/", token)[0])}

    def listed(kind: str) -> list[dict[str, Any]]:
        return json.loads(ask(f"{dashboard}/api/v0/{kind}?detail=1", token)[0])["data"]["result"]["result"]

    (worker,) = [actor for actor in listed("actors") if actor["class_name"] == "DatasetWorker"]
    assert worker["repr_name"] == "talks cpu worker 0"
    deadline = time.monotonic() + 30  # workers report their tasks once a second
    title = "talks 000000 ingest, double, shift, sum, fragile"
    while title not in (names := {task["name"] for task in listed("tasks")}):
        assert time.monotonic() < deadline, names
        time.sleep(0.5)


@pytest.mark.long
def test_the_cluster_wants_its_token(folder: Path, tmp_path: Path):
    address = cluster.start(folder).dashboard
    with pytest.raises(LikenessError, match="wants a token"):
        Jobs(address, folder=tmp_path / "other")


@pytest.mark.parametrize(("address", "message"), [
    ("127.0.0.1:1", "nobody answers at http://127.0.0.1:1 .*likeness job up"), ("ftp://x", "HOST:PORT"),
    (None, "likeness job up"),
])
def test_a_wrong_address_gets_one_line_at_once(
    address: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    began = time.monotonic()
    with pytest.raises(LikenessError, match=message):
        Jobs(address, folder=tmp_path)
    assert time.monotonic() - began < 10


def test_only_our_commands_are_submitted():
    result = CliRunner().invoke(app, ["submit", "--", "job", "list"])
    assert isinstance(result.exception, LikenessError)
    assert "can't run as a job" in str(result.exception)
