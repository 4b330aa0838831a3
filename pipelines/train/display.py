"""What a training run shows while it goes: one progress line with the newest numbers, and a line per validation."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from training.loop import Observer
from training.stage import Evaluation


class Display(Observer):
    """A rich progress bar on a terminal, plain lines elsewhere (job logs)."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self.title = title
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"), console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip

    def started(self, done: int, total: int) -> None:
        if done:
            self.console.print(f"{self.title}: going on from step {done} of {total}")
        self._progress.start()
        self._task = self._progress.add_task(self.title, total=total, completed=done, numbers="")

    def logged(self, step: int, values: Mapping[str, float]) -> None:
        terms = {name.replace("/", "."): value for name, value in values.items() if not name.startswith("time/")}
        shown = "  ".join(f"{name} {value:.4f}" for name, value in terms.items() if not name.endswith(".total"))
        if self._task is not None:
            self._progress.update(self._task, numbers=shown)
        if not self.console.is_terminal:
            self.console.print(f"{self.title}  step {step}  {shown}")

    def validated(self, step: int, evaluation: Evaluation) -> None:
        shown = "  ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
        self._progress.console.print(f"{self.title}  step {step}  validation: {shown or 'no rows of split val'}")

    def stepped(self, step: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=step)

    def close(self) -> None:
        """End the progress line."""
        self._progress.stop()
