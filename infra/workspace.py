"""Where things lie: one folder with the MLflow store, run directories and media, unless told otherwise.

`LIKENESS_WORKSPACE` names the folder (default `likeness-workspace` in the current directory); `MLFLOW_TRACKING_URI`, when
set, names a tracking server or database to use instead of the folder's own SQLite file. A server decides where files of runs go;
beside a database they go to `MLFLOW_DEFAULT_ARTIFACT_ROOT`, by default a folder of the workspace.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from infra.errors import LikenessError

DEFAULT = "likeness-workspace"
ARTIFACT_ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"  # MLflow's own name for it
PATIENCE_S = 5.0  # a server that is being restarted; MLflow itself would go on for minutes


@dataclass(frozen=True)
class Workspace:
    """The folder of one user's runs."""

    path: Path

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the model registry."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def shown_uri(self) -> str:
        """The same, to be shown: without its password."""
        url = urlsplit(self.tracking_uri)
        if not url.password:
            return self.tracking_uri
        return url._replace(netloc=f"{url.username or ''}:***@{url.netloc.rpartition('@')[2]}").geturl()

    @property
    def on_server(self) -> bool:
        """Whether MLflow is asked over HTTP, rather than a database of ours or of the team."""
        return urlsplit(self.tracking_uri).scheme in ("http", "https")

    @property
    def artifact_root(self) -> str | None:
        """Where files of new experiments go; None where a server decides."""
        return None if self.on_server else os.environ.get(ARTIFACT_ROOT, "").rstrip("/") or f"file://{self.artifacts}"

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps files of runs, unless told otherwise."""
        return self.path / "mlartifacts"

    @property
    def runs(self) -> Path:
        """Run directories: checkpoints, local metrics, media."""
        return self.path / "runs"

    def mlflow_client(self) -> Any:
        """An `MlflowClient` on this workspace's store, without MLflow's own bars and notices among our output.

        Raises:
            LikenessError: nobody answers there, or not to this user.
        """
        self._check()
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # among JSON
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return MlflowClient(self.tracking_uri, self.tracking_uri)

    def _check(self) -> None:
        """Whether somebody answers, sooner and in fewer words than MLflow would tell."""
        url = urlsplit(self.tracking_uri)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if url.scheme in ("postgresql", "postgresql+psycopg"):
                    _ask_postgres(self.tracking_uri)
                elif self.on_server and not getproxies().get(url.scheme):
                    port = url.port or (443 if url.scheme == "https" else 80)
                    socket.create_connection((url.hostname or "", port), timeout=PATIENCE_S).close()
                return
            except OSError as error:
                if not isinstance(error, PermissionError) and time.monotonic() < deadline:
                    time.sleep(0.5)
                    continue
                raise LikenessError(f"MLFLOW_TRACKING_URI={self.shown_uri}: {error.strerror or error}",
                                    fix="set it right, start that server, or unset it for the workspace's own file") from None


def _ask_postgres(uri: str) -> None:
    """Raises: ConnectionError: nobody answers, or not yet; PermissionError: what else the server has against it."""
    try:
        import psycopg
    except ImportError:
        raise LikenessError("MLFLOW_TRACKING_URI names a PostgreSQL server, and its driver is not installed",
                            fix="install it: pip install 'likeness[server]'") from None
    try:
        psycopg.connect(uri.replace("postgresql+psycopg:", "postgresql:", 1), connect_timeout=int(PATIENCE_S)).close()
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[0].rpartition(" failed: ")[2]
        refused = reason.startswith("FATAL:") and "starting up" not in reason
        raise (PermissionError if refused else ConnectionError)(reason.removeprefix("FATAL:").strip()) from None


def workspace(path: str | Path | None = None) -> Workspace:
    """The workspace at `path`, by environment, or the default one; made when absent."""
    folder = Path(path or os.environ.get("LIKENESS_WORKSPACE") or DEFAULT).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return Workspace(folder)
