"""Where things lie: one folder with the MLflow store, run directories and media, unless told otherwise.

`LIKENESS_WORKSPACE` names the folder (default `likeness-workspace` in the current directory); `MLFLOW_TRACKING_URI`, when
set, names a tracking server or database to use instead of the folder's own SQLite file.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT = "likeness-workspace"


@dataclass(frozen=True)
class Workspace:
    """The folder of one user's runs."""

    path: Path

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the model registry."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps files of runs, with the SQLite store."""
        return self.path / "mlartifacts"

    @property
    def runs(self) -> Path:
        """Run directories: checkpoints, local metrics, media."""
        return self.path / "runs"

    def mlflow_client(self) -> Any:
        """An `MlflowClient` on this workspace's store, without MLflow's own bars and notices among our output."""
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return MlflowClient(self.tracking_uri, self.tracking_uri)


def workspace(path: str | Path | None = None) -> Workspace:
    """The workspace at `path`, by environment, or the default one; made when absent."""
    folder = Path(path or os.environ.get("LIKENESS_WORKSPACE") or DEFAULT).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return Workspace(folder)
