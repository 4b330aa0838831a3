"""`likeness ui`: the MLflow pages of a workspace, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

OPTIONS = {"help": "Open the MLflow UI over a workspace's runs and models (Ctrl-C ends it)."}


def command(
    workspace: Annotated[str | None, typer.Option(help="Folder of runs and the MLflow store.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    host: Annotated[str, typer.Option(help="Address to serve on; anything but loopback shows face data to others.")] = "127.0.0.1",
) -> None:
    """See OPTIONS."""
    from infra.workspace import ARTIFACT_ROOT
    from infra.workspace import workspace as open_workspace

    space = open_workspace(workspace)
    if space.on_server:
        typer.echo(f"the pages are served already: {space.shown_uri}")
        return
    space.mlflow_client()  # what is wrong with the store is told here
    typer.echo(f"serving {space.shown_uri} on http://{host}:{port}")
    # by environment: a database's password must not stand in the list of processes
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ  # processes that judge language models
    environment |= {"MLFLOW_BACKEND_STORE_URI": space.tracking_uri, ARTIFACT_ROOT: space.artifact_root or ""}
    words = ["-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    raise typer.Exit(subprocess.call([sys.executable, *words], env=environment))
