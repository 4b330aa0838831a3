"""`likeness generate METHOD`: media from files and words, with trained or published weights."""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pipelines.generate import GenerationPlan

OPTIONS = {"help": "Make media with a method: likeness generate wav2lip face=VIDEO audio=SPEECH. The same command, the same file."}
WORDS = "Inputs and settings: face=FILE audio=FILE blend=hard ... (see: likeness methods METHOD, and --dry-run)."


def command(
    method: Annotated[str, typer.Argument(help="A method's name (see: likeness methods).")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=WORDS)] = None,
    model: Annotated[
        str | None, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder; else the champion, or the newest.")
    ] = None,
    weights: Annotated[list[str] | None, typer.Option("--weights", help="A published checkpoint instead of a model.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model: folder or hub id in diffusers' layout, or tiny-sdxl...")] = None,
    out: Annotated[str | None, typer.Option(help="File to write; else named after the inputs.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all randomness.")] = 0,
    preset: Annotated[str | None, typer.Option(help="Named settings of the method.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Folder of runs and the MLflow store (LIKENESS_WORKSPACE).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show it, make nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the provenance record as JSON.")] = False,
) -> None:
    """See OPTIONS."""
    from infra.workspace import workspace as open_workspace
    from models.registry import method_named
    from pipelines.generate import make_plan, run, sidecar

    with redirect_stdout(sys.stderr):  # libraries that log to the standard output when imported would spoil the JSON
        plan = make_plan(
            method_named(method), words or [], model=model, weights=weights or [], out=out, preset=preset, seed=seed,
            space=open_workspace(workspace), base=base,
        )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True)
    if dry_run:
        _show_plan(plan, console, as_json)
        return
    begun = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn())
    terminal = Console(stderr=True)
    silent = as_json or not terminal.is_terminal
    with redirect_stdout(sys.stderr), Progress(*columns, console=terminal, transient=True, disable=silent) as bars:
        bar = bars.add_task("reading", total=None, count="")

        def watch(doing: str, done: int, total: int) -> None:
            bars.update(bar, description=doing, completed=done, total=total or None, count=f"{done} / {total}" if total else "")

        record = run(plan, watch)
    if as_json:
        typer.echo(json.dumps(record, indent=1, ensure_ascii=False))
        return
    made = record["output"]
    if isinstance(made, list):
        for picture in made:
            console.print(f"wrote {plan.out.with_name(picture['file'])} ({picture['width']} x {picture['height']})", markup=False)
        console.print(
            f"in {time.monotonic() - begun:.1f} s with {plan.weights.said}; provenance in {sidecar(plan.out)}", markup=False
        )
        return
    size = f"{made['width']} x {made['height']}"
    length = f", {made['frames']} frames at {float(Fraction(made['fps'])):.5g} fps, {made['sound_s']} s of sound"
    facts = size + (length if made["frames"] > 1 else "")
    console.print(f"wrote {plan.out} ({facts}) in {time.monotonic() - begun:.1f} s", markup=False)
    console.print(f"with {plan.weights.said}; provenance in {sidecar(plan.out)}", markup=False)


def _show_plan(plan: GenerationPlan, console: Console, as_json: bool) -> None:
    from infra.settings import describe

    if as_json:
        typer.echo(json.dumps(plan.record | {"out": str(plan.out), "weights": plan.weights.said}, indent=1, ensure_ascii=False))
        return
    console.print(f"{plan.method.name} with {plan.weights.said}, seed {plan.seed}", markup=False)
    for name, values in plan.inputs.items():
        for value in values:
            console.print(f"  {name}: {value}", markup=False)
    for key, kind, value in describe(plan.settings):
        console.print(f"  {key} = {value!r}  ({kind})", markup=False)
    console.print(f"  writes {plan.out}", markup=False)
