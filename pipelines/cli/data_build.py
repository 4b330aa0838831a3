"""`likeness data plan`, `build` and `add`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import LikenessError
from infra.storage.objects import as_path
from pipelines.cli.data_options import Dataset, Json, bars, console
from pipelines.dataset.outcome import FAILURES_IN_A_ROW
from pipelines.dataset.request import Request, load_request, updated

Sources = Annotated[list[str] | None, typer.Option("--source", help="Folder or file of clips, maybe LABEL=PATH; repeatable.")]
List = Annotated[str, typer.Option("--list", help="Table with tabs: path, maybe person, split, tags. Only its files count.")]
People = Annotated[str, typer.Option("--people", help="Who is in a source: folder, file, or a regular expression on its path.")]
Recipe = Annotated[str, typer.Option("--recipe", help="What to make: a recipe's name or a YAML file; 'talking' at first.")]
Fields = Annotated[list[str] | None, typer.Option("--field", help="Field to make besides; repeatable.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Setting of an operator, OPERATOR.SETTING=VALUE; repeatable.")]
ValFraction = Annotated[float | None, typer.Option("--val-fraction", help="Share of people held out as split val [0.1].")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes; by default one per core.")]
Runner = Annotated[str, typer.Option("--runner", help="ray or serial; by default Ray for several workers.")]
Retry = Annotated[bool, typer.Option("--retry-quarantined", help="Try again what was quarantined.")]
MaxFailures = Annotated[int, typer.Option("--max-failures", min=1, help="Failures of one operator in a row that stop the run.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 when anything was quarantined.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(
    dataset: Dataset, source: Sources = None, source_list: List = "", people: People = "", recipe: Recipe = "",
    field: Fields = None, settings: Settings = None, val_fraction: ValFraction = None, workers: Workers = CORES,
    retry: Retry = False, as_json: Json = False,
) -> None:  # fmt: skip
    """What a build would compute, why, and how long it would take; changes nothing."""
    request = updated(load_request(dataset), sources=source or [], source_list=source_list, people=people, recipe=recipe,
                      fields=field or [], settings=settings or [], val_fraction=val_fraction)  # fmt: skip
    _plan(dataset, request, workers, retry, as_json)


def build(
    dataset: Dataset, source: Sources = None, source_list: List = "", people: People = "", recipe: Recipe = "",
    field: Fields = None, settings: Settings = None, val_fraction: ValFraction = None, workers: Workers = CORES,
    runner: Runner = "", retry: Retry = False, max_failures: MaxFailures = FAILURES_IN_A_ROW, strict: Strict = False,
    dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Build a dataset, or bring it up to date; run it again to resume. Flags are remembered in the dataset."""
    request = updated(load_request(dataset), sources=source or [], source_list=source_list, people=people, recipe=recipe,
                      fields=field or [], settings=settings or [], val_fraction=val_fraction)  # fmt: skip
    if dry_run:
        _plan(dataset, request, workers, retry, as_json)
    else:
        _build(dataset, request, workers, runner, retry, max_failures, strict, as_json)


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


def expand(
    parent: Annotated[Path, typer.Argument(metavar="PARENT", help="Dataset to make rows from.", parser=as_path)], dataset: Dataset,
    by: Annotated[str, typer.Option("--by", help="What makes the rows; face_tracks: one per person followed; shots: one per shot.")]
    = "face_tracks",
    recipe: Recipe = "", field: Fields = None, settings: Settings = None, workers: Workers = CORES, runner: Runner = "",
    max_failures: MaxFailures = FAILURES_IN_A_ROW, strict: Strict = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Build a dataset whose rows are made from another one's; afterwards `data build DATASET` keeps it up to date."""
    from pipelines.dataset.expand import derived

    request = derived(load_request(dataset), parent, by, dataset)
    request = updated(request, recipe=recipe, fields=field or [], settings=settings or [])
    if dry_run:
        _plan(dataset, request, workers, False, as_json)
    else:
        _build(dataset, request, workers, runner, False, max_failures, strict, as_json)


def _plan(dataset: Path, request: Request, workers: int, retry: bool, as_json: bool) -> None:
    from pipelines.cli.data_tables import print_plan
    from pipelines.dataset.build import plan_build
    from pipelines.dataset.expand import toolbox_of
    from pipelines.dataset.rates import forecast, load_rates

    toolbox = toolbox_of(dataset, request)
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
        print_plan(console(), facts)


def _sum(values: list[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value is not None)


def _build(
    dataset: Path, request: Request, workers: int, runner: str, retry: bool, max_failures: int, strict: bool, as_json: bool
) -> None:
    from pipelines.cli.data_tables import print_report
    from pipelines.dataset.build import build as run
    from pipelines.dataset.expand import toolbox_of

    if runner not in ("", "ray", "serial"):
        raise LikenessError(f"--runner {runner}", allowed="ray, serial")
    with bars(as_json) as shown:
        bar = shown.add_task("starting", total=None)
        report = run(
            dataset, request, toolbox_of(dataset, request), runner=runner or None, workers=workers, retry=retry,  # type: ignore[arg-type]
            failures_in_a_row=max_failures,
            progress=lambda done, total, what: shown.update(bar, completed=done, total=total, description=what),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(asdict(report) | {"quarantined": report.quarantined}, indent=1, ensure_ascii=False))
    else:
        print_report(console(), str(dataset), report)
    if strict and report.quarantined:
        raise typer.Exit(3)
