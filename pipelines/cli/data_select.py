"""`likeness data select`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from infra.errors import LikenessError
from pipelines.cli.data_options import Dataset, Json, console

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the selection; train on it with --data DATASET:NAME.")]
Where = Annotated[list[str] | None, typer.Option("--where", help='Keep rows for which "measures.blur >= 50"; repeatable: and.')]
SHOWN = 20  # dropped rows; --json and the selection's file have all


def select(
    dataset: Dataset, name: Name = "", where: Where = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the selections.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the selection; no row is touched.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would keep.")] = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Choose rows by stored numbers; nothing is computed again. Without --where, decide again by the known rules."""
    from pipelines.dataset import select as selections

    if list_all:
        _print_list(selections.listed(dataset), as_json)
        return
    if not name:
        raise LikenessError("no selection named", fix=f"name one, or see them with: likeness data select {dataset} --list")
    if remove:
        selections.remove(dataset, name)
        typer.echo(json.dumps({"removed": name}) if as_json else f"removed selection {name}")
        return
    made = selections.select(dataset, name, where or [], dry_run)
    if as_json:
        typer.echo(json.dumps(made.model_dump(mode="json") | {"stored": not dry_run}, indent=1, ensure_ascii=False))
        return
    for lost in made.dropped[:SHOWN]:
        typer.echo(f"dropped {lost.key}: {lost.measure} is {lost.value}, threshold {lost.threshold}")
    for absent in made.missing[:SHOWN]:
        typer.echo(f"missing {absent.key}: no {absent.measure}")
    if hidden := max(0, len(made.dropped) - SHOWN) + max(0, len(made.missing) - SHOWN):
        typer.echo(f"... and {hidden} more: add --json")
    for rule in made.per_rule:
        typer.echo(f"{rule.rule}: {rule.fails} fail it, {rule.lacks} lack it")
    how = f"train on it with: --data {dataset}:{name}" if not dry_run else "not stored (--dry-run)"
    typer.echo(f"{made.all} rows = {made.kept} kept + {len(made.dropped)} dropped + {len(made.missing)} missing; {how}")


def _print_list(lines: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(lines, indent=1, ensure_ascii=False))
    for line in [] if as_json else lines:
        stale = " (decided anew: the dataset has changed)" if line["stale"] else ""
        console().print(f"{line['name']}: {line['kept']} of {line['all']} rows{stale}; {' and '.join(line['rules'])}", markup=False)
    if not lines and not as_json:
        typer.echo("no selections yet")
