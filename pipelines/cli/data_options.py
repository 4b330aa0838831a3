"""Options, console and progress bars that the commands of `likeness data` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from infra.storage.objects import as_path
from pipelines.cli.data_tables import duration

LINE_EVERY_S = 30
Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of the dataset, or s3://BUCKET/FOLDER.", parser=as_path)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console() -> Console:
    """As wide as the terminal; where there is none, wide enough for a line per file."""
    return Console(highlight=False, width=None if Console().is_terminal else 200)


def bars(quiet: bool) -> Progress:
    """A progress bar on the terminal; where there is none (a job's log), a line every half minute."""
    errors = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 200)
    what = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    percent = TextColumn("{task.percentage:>3.0f}%")
    columns = (BarColumn(20), percent, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), what)
    if quiet or errors.is_terminal:
        return Progress(*columns, expand=True, console=errors, disable=quiet, transient=True)
    return _Lines(*columns, console=errors, disable=True)


class _Lines(Progress):
    said_s = 0.0  # seconds into the task at the last line

    def update(self, task_id: TaskID, **changes: Any) -> None:  # type: ignore[override]
        super().update(task_id, **changes)
        task = self.tasks[task_id]
        elapsed = task.elapsed or 0.0
        if elapsed - self.said_s >= LINE_EVERY_S:
            self.said_s = elapsed
            left = f"about {duration(task.time_remaining)} left" if task.time_remaining is not None else "time left not known yet"
            self.console.print(f"{task.percentage:.0f}% after {duration(elapsed)}, {left}: {task.description}", markup=False)
