"""Jobs on a cluster of our own: run, fail, stop with time to save; and what a wrong address is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

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
