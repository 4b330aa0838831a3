"""`likeness model`: what is registered, where it came from, which version is used, and getting it out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from infra.registry import Registry

app = typer.Typer(no_args_is_help=True, help="Registered models: list, promote, lineage, export.")
Space = Annotated[str | None, typer.Option("--workspace", help="Folder of runs and the MLflow store.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _registry(workspace: str | None) -> Registry:
    from infra.registry import Registry
    from infra.workspace import workspace as open_workspace

    return Registry(open_workspace(workspace))


@app.command("list")
def list_models(name: Annotated[str | None, typer.Argument()] = None, workspace: Space = None, as_json: Json = False) -> None:
    """All versions, newest first, with their aliases and validation numbers."""
    versions = _registry(workspace).versions(name)
    if as_json:
        typer.echo(json.dumps([vars(v) | {"uri": v.uri} for v in versions], indent=1, default=str))
        return
    table = Table()
    for column in ("version", "aliases", "reload check", "facts"):
        table.add_column(column, overflow="fold")
    for v in versions:
        facts = "  ".join(f"{k.split('.', 1)[1]} {x}" for k, x in sorted(v.tags.items()) if k.startswith(("val.", "component.")))
        table.add_row(v.uri, " ".join("@" + a for a in v.aliases), v.tags.get("reload", "never"), facts)
    Console().print(table)


@app.command()
def promote(
    name: str, version: int, alias: Annotated[str, typer.Option(help="candidate, champion or previous.")] = "champion",
    workspace: Space = None,
) -> None:  # fmt: skip
    """Point an alias at a version; the champion so far becomes `previous`."""
    _registry(workspace).promote(name, version, alias)
    typer.echo(f"models:/{name}@{alias} is now version {version}")


@app.command()
def lineage(reference: str, workspace: Space = None, as_json: Json = False) -> None:
    """Where a version came from: run, settings, datasets, upstream versions."""
    registry = _registry(workspace)
    record = registry.lineage(registry.find(reference))
    if as_json:
        typer.echo(json.dumps(record, indent=1))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{record['version']}[/] {' '.join('@' + a for a in record['aliases'])}  run {record['run']}")
    for dataset in record["datasets"]:
        console.print(f"  dataset {dataset['name']}: {dataset['digest']}")
    for key, value in sorted(record["tags"].items()):
        console.print(f"  {key}: {value}", markup=False)
    for key, value in sorted(record["params"].items()):
        console.print(f"  {key} = {value}", markup=False)


@app.command()
def export(
    reference: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/VERSION of a stage.")],
    out: Annotated[Path, typer.Argument(help="File for a published layout, folder for the artefact as it is.")],
    component: Annotated[str | None, typer.Option(help="Which network, where the version has several.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Write the method's published checkpoint layout.")] = False,
    workspace: Space = None,
) -> None:
    """Copy a version out, as our artefact or in the published checkpoint layout."""
    from infra.errors import LikenessError
    from models.method import resolve
    from models.registry import method_named
    from training.artefact import open_artefact

    registry = _registry(workspace)
    folder = registry.fetch(registry.find(reference))
    if not published:
        if out.exists():
            raise LikenessError(f"{out} exists", fix="name a new folder")
        shutil.copytree(folder, out)
        typer.echo(f"copied to {out}")
        return
    artefact = open_artefact(folder)
    method = method_named(artefact.facts["method"])
    if method.exporter is None:
        raise LikenessError(f"{method.name} has no published layout", fix="leave --published away")
    names = [component] if component else artefact.components
    resolve(method.exporter)({name: artefact.weights(name) for name in names}, out, artefact.facts)
    typer.echo(f"wrote {out}")
