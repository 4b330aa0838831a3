"""`likeness ui`: the MLflow pages of a workspace, on this machine."""

from __future__ import annotations

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
    from infra.workspace import workspace as open_workspace

    space = open_workspace(workspace)
    typer.echo(f"serving {space.tracking_uri} on http://{host}:{port}")
    words = ["-m", "mlflow", "ui", "--backend-store-uri", space.tracking_uri, "--host", host, "--port", str(port)]
    raise typer.Exit(subprocess.call([sys.executable, *words, "--default-artifact-root", f"file://{space.artifacts}"]))
