"""Options, console and progress bars that the commands of `likeness data` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of the dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console() -> Console:
    """As wide as the terminal; where there is none, wide enough for a line per file."""
    return Console(highlight=False, width=None if Console().is_terminal else 200)


def bars(quiet: bool) -> Progress:
    errors = Console(stderr=True)
    what = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    return Progress(
        BarColumn(20), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), what,
        expand=True, console=errors, disable=quiet or not errors.is_terminal, transient=True,
    )  # fmt: skip
