"""`likeness demo`: the whole road on clips it makes itself, or on yours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OPTIONS = {"help": "From clips to a lip-synced video: builds a dataset, trains Wav2Lip's stages small, registers, generates."}


def command(
    source: Annotated[Path | None, typer.Option(help="Folder of talking videos; without it, clips are made.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that build the dataset.")] = 2,
) -> None:
    """See OPTIONS."""
    from pipelines.demo.run import run_demo

    run_demo(source, out, workers)
