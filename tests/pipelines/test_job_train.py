"""Training as a job: submitted to a local cluster, followed, stopped with time to save, and gone on with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typed import likeness

from infra import cluster
from infra.jobs import Jobs, likeness_program


@pytest.mark.long
def test_a_training_job_runs_stops_and_goes_on(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv(cluster.VARIABLE, str(tmp_path / "cluster"))
    cluster.start(cpus=2, object_store_mb=100)
    try:
        where = ("--data", str(dataset), "--workspace", str(tmp_path / "work"))
        words = ("train", "wav2lip", "--stage", "expert", "--preset", "tiny", *where)
        done = likeness("job", "submit", "--wait", "--", *words).stdout
        assert "models:/wav2lip-expert/1" in done
        before = set((tmp_path / "work" / "runs").glob("*/checkpoints/0*"))
        jobs = Jobs()
        endless = ("loop.steps=100000", "loop.save_every=100000", "loop.validate_every=0")
        job = jobs.submit([likeness_program(), *words, *endless], tmp_path)
        _wait_for(tmp_path, '"step": 3')
        assert "RUNNING" in likeness("job", "status", job).stdout
        likeness("job", "stop", job)
        assert jobs.wait(job).state == "STOPPED"
        assert "its state is saved" in likeness("job", "logs", job).stdout
        saved = sorted(set((tmp_path / "work" / "runs").glob("*/checkpoints/0*")) - before)
        assert len(saved) == 1
    finally:
        cluster.stop()


def _wait_for(folder: Path, text: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        files = folder.glob("work/runs/*/metrics.jsonl")
        if any(text in f.read_text() and "100000" in f.with_name("config.json").read_text() for f in files):
            return
        assert time.monotonic() < deadline, "the job never trained"
        time.sleep(0.1)
