"""`likeness data show` and `verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from pipelines.cli.data_options import Dataset, Json, bars, console


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
        (print_row if key else print_dataset)(console(), facts)


def verify(
    dataset: Dataset, quick: Annotated[bool, typer.Option("--quick", help="Only look for missing files and wrong sizes.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Read every byte of a dataset and compare it with the manifest; exit with 2 when something is wrong."""
    from pipelines.cli.data_tables import size
    from pipelines.dataset.verify import verify as check

    with bars(as_json) as shown:
        bar = shown.add_task("reading", total=None)
        verdict = check(dataset, lambda done, total: shown.update(bar, completed=done, total=total), quick)
    if as_json:
        typer.echo(json.dumps(asdict(verdict), indent=1))
    else:
        for problem in verdict.problems:
            typer.echo(str(problem))
        count, total = verdict.others
        others = f"; {count} files ({size(total)}) belong to older manifests" if count else ""
        outcome = f"{len(verdict.problems)} problems" if verdict.problems else "all as the manifest says"
        typer.echo(f"{verdict.files} files, {size(verdict.bytes)}: {outcome}{others}")
        if verdict.taken_down:
            typer.echo(f"{verdict.taken_down} rows taken down; their bytes stay until: likeness data takedown {dataset} --purge")
        if verdict.purged and not verdict.problems and not quick:
            typer.echo(f"no byte of the {verdict.purged} purged rows is left")
    if verdict.problems:
        raise typer.Exit(2)
