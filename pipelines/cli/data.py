"""`likeness data`: datasets from folders of clips."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from infra.errors import LikenessError
from pipelines.dataset.outcome import FAILURES_IN_A_ROW
from pipelines.dataset.request import Request, load_request, updated

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Datasets: plan, build, add fields, look at them, check their bytes.",
)  # fmt: skip

Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of the dataset.")]
Sources = Annotated[list[str] | None, typer.Option("--source", help="Folder or file of clips, LABEL=PATH to name it; repeatable.")]
List = Annotated[str, typer.Option("--list", help="Table with tabs: path, maybe speaker, split, tags. Only its files count.")]
Recipe = Annotated[str, typer.Option("--recipe", help="What to make: a recipe's name or a YAML file; 'talking' at first.")]
Fields = Annotated[list[str] | None, typer.Option("--field", help="Field to make besides; repeatable.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Setting of an operator, OPERATOR.SETTING=VALUE; repeatable.")]
ValFraction = Annotated[float | None, typer.Option("--val-fraction", help="Share of speakers held out as split val [0.1].")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes; by default one per core.")]
Runner = Annotated[str, typer.Option("--runner", help="ray or serial; by default Ray for several workers.")]
Retry = Annotated[bool, typer.Option("--retry-quarantined", help="Try again what was quarantined.")]
MaxFailures = Annotated[int, typer.Option("--max-failures", min=1, help="Failures of one operator in a row that stop the run.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 when anything was quarantined.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.command()
def plan(
    dataset: Dataset, source: Sources = None, source_list: List = "", recipe: Recipe = "", field: Fields = None,
    settings: Settings = None, val_fraction: ValFraction = None, workers: Workers = CORES, retry: Retry = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """What a build would compute, why, and how long it would take; changes nothing."""
    request = updated(load_request(dataset), sources=source or [], source_list=source_list, recipe=recipe, fields=field or [],
                      settings=settings or [], val_fraction=val_fraction)  # fmt: skip
    _plan(dataset, request, workers, retry, as_json)


@app.command()
def build(
    dataset: Dataset, source: Sources = None, source_list: List = "", recipe: Recipe = "", field: Fields = None,
    settings: Settings = None, val_fraction: ValFraction = None, workers: Workers = CORES, runner: Runner = "",
    retry: Retry = False, max_failures: MaxFailures = FAILURES_IN_A_ROW, strict: Strict = False, dry_run: DryRun = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Build a dataset, or bring it up to date; run it again to resume. Flags are remembered in the dataset."""
    request = updated(load_request(dataset), sources=source or [], source_list=source_list, recipe=recipe, fields=field or [],
                      settings=settings or [], val_fraction=val_fraction)  # fmt: skip
    if dry_run:
        _plan(dataset, request, workers, retry, as_json)
    else:
        _build(dataset, request, workers, runner, retry, max_failures, strict, as_json)


@app.command()
def add(
    dataset: Dataset, field: Fields = None, settings: Settings = None, workers: Workers = CORES, runner: Runner = "",
    max_failures: MaxFailures = FAILURES_IN_A_ROW, strict: Strict = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Add fields to a dataset; no column that is there is touched."""
    known = load_request(dataset)
    if known is None:
        raise LikenessError(f"{dataset} is not a dataset", fix=f"build one with: likeness data build {dataset} --source FOLDER")
    if not field:
        raise LikenessError("no field named", fix="name one: --field NAME; docs/fields.md lists them")
    request = updated(known, fields=field, settings=settings or [])
    if dry_run:
        _plan(dataset, request, workers, False, as_json)
    else:
        _build(dataset, request, workers, runner, False, max_failures, strict, as_json)


@app.command()
def show(
    dataset: Dataset, key: Annotated[str, typer.Argument(metavar="[KEY]", help="A row to look at.")] = "",
    rows: Annotated[bool, typer.Option("--rows", help="List the rows' keys.")] = False, as_json: Json = False,
) -> None:  # fmt: skip
    """What a dataset holds; with KEY, one row's fields."""
    from infra.storage import open_dataset
    from pipelines.cli.data_tables import print_dataset, print_row
    from pipelines.dataset.show import dataset_facts, row_facts

    opened = open_dataset(dataset)
    if rows:
        keys = [row.key for row in opened.rows()]
        typer.echo(json.dumps(keys, indent=1) if as_json else "\n".join(keys))
        return
    facts = row_facts(opened, key) if key else dataset_facts(opened)
    if as_json:
        typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        (print_row if key else print_dataset)(_console(), facts)


@app.command()
def verify(dataset: Dataset, as_json: Json = False) -> None:
    """Read every byte of a dataset and compare it with the manifest; exit with 2 when something is wrong."""
    from pipelines.cli.data_tables import size
    from pipelines.dataset.verify import verify as check

    with _bars(as_json) as bars:
        bar = bars.add_task("reading", total=None)
        verdict = check(dataset, lambda done, total: bars.update(bar, completed=done, total=total))
    if as_json:
        typer.echo(json.dumps(asdict(verdict), indent=1))
    else:
        for problem in verdict.problems:
            typer.echo(str(problem))
        count, total = verdict.others
        others = f"; {count} files ({size(total)}) belong to older manifests" if count else ""
        outcome = f"{len(verdict.problems)} problems" if verdict.problems else "all as the manifest says"
        typer.echo(f"{verdict.files} files, {size(verdict.bytes)}: {outcome}{others}")
    if verdict.problems:
        raise typer.Exit(2)


def _plan(dataset: Path, request: Request, workers: int, retry: bool, as_json: bool) -> None:
    from pipelines.cli.data_tables import print_plan
    from pipelines.dataset.build import plan_build
    from pipelines.dataset.graph import standard
    from pipelines.dataset.rates import forecast, load_rates

    toolbox = standard()
    made = plan_build(dataset, request, toolbox, retry)
    operators = forecast(made, load_rates())
    cpu_s, disk = (_sum([line[name] for line in operators]) for name in ("cpu_s", "bytes"))
    facts: dict[str, Any] = {
        "dataset": str(dataset), "operators": operators, "shards": len(made.shards), "units": len(made.units(toolbox)),
        "sources": {"files": sum(map(len, made.shards)) + len(made.left_out), "left_out": len(made.left_out)},
        "workers": workers, "cpu_s": cpu_s, "wall_s": None if cpu_s is None else cpu_s / workers, "bytes": disk,
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        print_plan(_console(), facts)


def _sum(values: list[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value is not None)


def _build(
    dataset: Path, request: Request, workers: int, runner: str, retry: bool, max_failures: int, strict: bool, as_json: bool
) -> None:
    from pipelines.cli.data_tables import print_report
    from pipelines.dataset.build import build as run
    from pipelines.dataset.graph import standard

    if runner not in ("", "ray", "serial"):
        raise LikenessError(f"--runner {runner}", allowed="ray, serial")
    with _bars(as_json) as bars:
        bar = bars.add_task("starting", total=None)
        report = run(
            dataset, request, standard(), runner=runner or None, workers=workers, retry=retry,  # type: ignore[arg-type]
            failures_in_a_row=max_failures,
            progress=lambda done, total, what: bars.update(bar, completed=done, total=total, description=what),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(asdict(report) | {"quarantined": report.quarantined}, indent=1, ensure_ascii=False))
    else:
        print_report(_console(), str(dataset), report)
    if strict and report.quarantined:
        raise typer.Exit(3)


def _console() -> Console:
    """As wide as the terminal; where there is none, wide enough for a line per file."""
    return Console(highlight=False, width=None if Console().is_terminal else 200)


def _bars(quiet: bool) -> Progress:
    console = Console(stderr=True)
    what = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    return Progress(
        BarColumn(20), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), what,
        expand=True, console=console, disable=quiet or not console.is_terminal, transient=True,
    )  # fmt: skip
