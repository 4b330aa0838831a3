"""`likeness methods`: what there is, what each needs, and what a dataset can train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

OPTIONS = {"help": "Methods: inputs, outputs, stages, fields, weights, licence; with --data, what a dataset can train."}


def command(
    name: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="A dataset: tells which stages it can train.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See OPTIONS."""
    from models.registry import all_methods, method_named

    records = [_record(method, data) for method in ([method_named(name)] if name else all_methods())]
    if as_json:
        typer.echo(json.dumps(records, indent=1))
        return
    console = Console(highlight=False)
    for record in records:
        console.print(f"[bold]{record['name']}[/]  {record['task']}\n  {record['paper']}")
        for side in ("inputs", "outputs"):
            for port in record[side]:
                needed = "" if port["required"] else ", optional"
                console.print(f"  {side[:-1]} {port['name']} ({port['kind']}{needed}): {port['meaning']}")
        if record["families"]:
            tries = f"tiny-{record['families'][0]} for tries"
            console.print(f"  base model of {', '.join(record['families'])} (usually {record['base']}); {tries}")
        if not record["stages"]:
            console.print(f"  needs no training\n  licence: {record['licence']}\n")
            continue
        table = Table("stage", "reads", "builds on", *(["with this dataset"] if data else []), box=None, padding=(0, 2))
        for stage in record["stages"]:
            judged = [stage["data"]] if data else []
            table.add_row(stage["name"], "\n".join(stage["fields"]), " ".join(stage["builds_on"]), *judged)
        console.print(table)
        for file in record["published"]:
            console.print(f"  published {file['file']} -> {file['component']} of {file['stage']} ({file['source']})")
        console.print(f"  licence: {record['licence']}\n")


def _record(method: Any, data: Path | None) -> dict[str, Any]:
    from infra.errors import LikenessError
    from infra.storage.dataset import open_dataset
    from models.diffusion.bases import PUBLISHED
    from training.loader import check_fields

    stages = []
    for stage in method.stages:
        entry: dict[str, Any] = {
            "name": stage.name, "fields": sorted({str(f) for s in stage().reads().values() for f in s.fields}),
            "builds_on": sorted({need.stage for need in stage.upstream.values() if need.stage != stage.name}),
        }  # fmt: skip
        if data is not None:
            try:
                dataset = open_dataset(data)
                check_fields(stage(), dict.fromkeys(stage().reads(), dataset))
                entry["data"] = "trainable now"
            except LikenessError as error:
                if not data.is_dir():
                    raise
                entry["data"] = str(error)
        stages.append(entry)
    return {
        "name": method.name, "title": method.title, "paper": method.paper, "task": method.task, "recipe": method.recipe,
        "inputs": [vars(port) for port in method.inputs], "outputs": [vars(port) for port in method.outputs],
        "families": list(method.families), "base": PUBLISHED[method.families[0]] if method.families else "",
        "stages": stages, "published": [vars(file) for file in method.published], "licence": method.licence,
    }  # fmt: skip
