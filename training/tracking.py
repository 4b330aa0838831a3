"""What a run leaves behind: a local metrics file, and an MLflow run with params, curves, dataset, media and system load.

Curves stay clean over kills: after a resume, steps that MLflow already has are not logged again, and steps that the killed
process had not yet sent are taken from the local file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.workspace import Workspace
from training.loop import Observer
from training.stage import Evaluation, Media

BATCH = 200  # metrics per request
TRAINING_KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI shows runs as trainings, not as evaluations
# Logged with every point of their kind, so that one query each tells how far the curves reach.
TRAINED, VALIDATED = "progress/trained_step", "progress/validated_step"


class MetricsFile:
    """RUN/metrics.jsonl: one line per logged step. On resume, lines after the checkpoint are cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """All whole lines."""
        if not self.path.is_file():
            return []
        rows = []
        for line in self.path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # a kill in the middle of a write
        return rows

    def resume(self, done: int) -> list[dict[str, Any]]:
        """Keep what the checkpoint covers, and return it."""
        kept = [row for row in self.rows() if row["step"] <= done]
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(part, self.path)
        return kept

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Add one step."""
        with self.path.open("a") as handle:
            handle.write(json.dumps({"step": step, **values}) + "\n")


class Tracker(Observer):
    """Writes to the metrics file and to MLflow, asynchronously and in batches.

    Args:
        write_media: turns a `Media` into a file in a folder and returns its path.
    """

    def __init__(self, space: Workspace, run_dir: Path, write_media: Callable[[Media, Path], Path]) -> None:
        self.client = space.mlflow_client()
        self.space, self.run_dir, self._write_media = space, run_dir, write_media
        self.file = MetricsFile(run_dir / "metrics.jsonl")
        self.run_id = ""
        self._reached = {TRAINED: 0, VALIDATED: 0}
        self._waiting: list[Any] = []
        self._monitor: Any = None

    def open(
        self, experiment: str, name: str, config: Mapping[str, Any], params: Mapping[str, Any],
        datasets: Mapping[str, tuple[str, str]], tags: Mapping[str, str],
    ) -> None:
        """Make the run, or go on with the one that this run directory already has.

        Args:
            config: the resolved configuration, kept whole as a file.
            params: the same, flat.
            datasets: source -> (path, full digest).
        """
        known = self.run_dir / "mlflow.json"
        resume = known.is_file()
        if resume:
            self.run_id = json.loads(known.read_text())["run_id"]
            self.client.set_terminated(self.run_id, "RUNNING")
            for curve in self._reached:
                history = self.client.get_metric_history(self.run_id, curve)
                self._reached[curve] = max((metric.step for metric in history), default=0)
        else:
            found = self.client.get_experiment_by_name(experiment)
            root = self.space.artifact_root
            location = f"{root}/{experiment}" if root else None
            where = found.experiment_id if found else self.client.create_experiment(experiment, location, TRAINING_KIND)
            self.run_id = self.client.create_run(where, run_name=name, tags=dict(tags)).info.run_id
            self._describe(config, params, datasets)
            known.write_text(json.dumps({"run_id": self.run_id}))
        self._monitor = _monitor(self.run_id, self.space.tracking_uri, resume)

    def _describe(
        self, config: Mapping[str, Any], params: Mapping[str, Any], datasets: Mapping[str, tuple[str, str]]
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        flat = [Param(key, str(value)[:6000]) for key, value in params.items()]
        for start in range(0, len(flat), 100):
            self.client.log_batch(self.run_id, params=flat[start : start + 100])
        self.client.log_dict(self.run_id, dict(config), "config.json")
        inputs = [
            # MLflow keeps 36 characters of a digest; the tag has all of it
            DatasetInput(
                Dataset(Path(path).name, digest[:36], "local", json.dumps({"uri": path})),
                [InputTag("digest", digest), InputTag("mlflow.data.context", source)],
            )
            for source, (path, digest) in datasets.items()
        ]
        self.client.log_inputs(self.run_id, inputs)

    def started(self, done: int, total: int) -> None:
        for row in self.file.resume(done):
            self._send(int(row["step"]), {k: v for k, v in row.items() if k != "step"})
        self._flush()

    def logged(self, step: int, values: Mapping[str, float]) -> None:
        self.file.append(step, values)
        self._send(step, values)

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        curve = VALIDATED if any(name.startswith("val/") for name in values) else TRAINED
        if step <= self._reached[curve]:
            return
        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in {**values, curve: float(step)}.items()]
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            part, self._waiting = self._waiting[:1000], self._waiting[1000:]
            self.client.log_batch(self.run_id, metrics=part, synchronous=False)

    def validated(self, step: int, evaluation: Evaluation) -> None:
        self.logged(step, {f"val/{name}": value for name, value in evaluation.metrics.items()})
        folder = self.run_dir / "media" / f"{step:08d}"
        for name, media in evaluation.media.items():
            folder.mkdir(parents=True, exist_ok=True)
            file = self._write_media(media, folder / name)
            self.client.log_artifact(self.run_id, str(file), f"media/{step:08d}")

    def saved(self, step: int) -> None:
        self._flush()

    def close(self, status: str) -> None:
        """Send what is left and end the run: "FINISHED", "KILLED" (stopped on request, resumable) or "FAILED"."""
        import mlflow

        self._flush()
        mlflow.flush_async_logging()
        if self._monitor is not None:
            self._monitor.finish()
        self.client.set_terminated(self.run_id, status)


def _monitor(run_id: str, tracking_uri: str, resume: bool) -> Any:
    """CPU, memory, disk, network and GPU load in the run's system metrics."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=resume, tracking_uri=tracking_uri)
    monitor.start()
    return monitor
