"""`likeness assets`: weights that can't ship with the project."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from infra import assets
from infra.errors import LikenessError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Weights that can't ship with the project: list, fetch, verify."
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _status(asset: assets.Asset, read: bool) -> dict[str, Any]:
    path = assets.locate(asset)
    row: dict[str, Any] = {"path": str(path) if path else None, "state": "here" if path else "absent"}
    if path and read:
        try:
            row["sha256_found"] = assets.checksum(asset.name)
            row["state"] = "right" if asset.sha256 else "here, checksum not published"
        except LikenessError as error:
            row |= {"state": "wrong", "error": str(error)}
    return asdict(asset) | row


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        origin = row["path"] or row["url"] or f"by hand: {row['page']}"
        checksum = f"  sha256 {row['sha256_found']}" if "sha256_found" in row else ""
        typer.echo(f"{row['name']!s:{width}}  {row['state']}  {row['note']} ({', '.join(row['used_by'])}){checksum}")
        typer.echo(f"{'':{width}}  {origin}  (licence: {row['licence']})")


@app.command("list")
def list_assets(as_json: Json = False) -> None:
    """All assets, and which are here."""
    _print([_status(asset, read=False) for asset in assets.ASSETS], as_json)


def _show(bars: Progress, bar: TaskID, done: int, total: int | None) -> None:
    bars.update(bar, completed=done, total=total)


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    folder: Annotated[Path | None, typer.Option("--to", help="Folder to put them in.")] = None,
    as_json: Json = False,
) -> None:
    """Download assets; those already here are left as they are."""
    for name in names:
        assets.get(name)
    paths = {}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal, transient=True) as bars:
        for name in names:
            show = partial(_show, bars, bars.add_task(name, total=None))
            paths[name] = str(assets.fetch(name, folder, show))
    if as_json:
        typer.echo(json.dumps(paths, indent=2))
    else:
        for name, path in paths.items():
            typer.echo(f"{name}: {path}")


@app.command()
def verify(names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]")] = None, as_json: Json = False) -> None:
    """Read the assets that are here (or those named, which must be) and compare their checksums."""
    rows = [_status(assets.get(name), read=True) for name in names or [a.name for a in assets.ASSETS]]
    _print(rows, as_json)
    bad = [row for row in rows if row["state"] == "wrong" or (names and row["state"] == "absent")]
    if bad:
        raise LikenessError(str(bad[0].get("error") or f"asset {bad[0]['name']} is not here"), fix="likeness assets fetch NAME")


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="trained-tiny-sd15, trained-tiny-sd21 or trained-tiny-sdxl.")],
    data: Annotated[str, typer.Option("--data", help="Dataset of photos of people (recipe portrait, with face_box).")],
    autoencoder_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    unet_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    judged: Annotated[int | None, typer.Option(min=1, help="Held-out pictures that the numbers are taken over.")] = None,
    pool: Annotated[int | None, typer.Option(min=1, help="Squares around faces that the UNet learns from.")] = None,
    as_json: Json = False,
) -> None:
    """Train a tiny base model on pictures of faces, so that methods can be tried over it where no published one is at hand."""
    from models.diffusion.tiny_training import TinyTraining
    from pipelines.tiny_base import make as make_base

    given = {"autoencoder_steps": autoencoder_steps, "unet_steps": unet_steps, "judged": judged, "pool": pool}
    settings = TinyTraining(**{key: value for key, value in given.items() if value is not None})
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} / {task.total}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("reading", total=None)
        watch = lambda what, done, total: bars.update(bar, description=what, completed=done, total=total)
        record = make_base(name, data, settings, watch)
    if as_json:
        typer.echo(json.dumps(record, indent=1))
        return
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in record["measured"].items()) or "nothing held out"
    typer.echo(f"made {name} from {record['faces']} faces in {record['cpu_minutes']} CPU minutes; held out: {numbers}")
    typer.echo(f"use it: --base {name}")
