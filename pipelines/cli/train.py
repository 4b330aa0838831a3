"""`likeness train METHOD`: stages of a method, one after the other, each to a registered version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.train.plan import RunPlan

OPTIONS = {"help": "Train a method's stages. The same command again resumes, or tells what it made."}
DATA = "Dataset folder, FOLDER:SELECTION for some of its rows; SOURCE=FOLDER for stages with several sources."
FROM = "Published file or models:/NAME@ALIAS to build on; with COMPONENT= in front, that part of it."


def command(
    method: Annotated[str, typer.Argument(help="A method's name (see: likeness methods).")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value: loop.steps=500, or for one stage: expert.optim.expert.lr=1e-4.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help=DATA)] = None,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Only this stage (repeatable); else all, in order.")] = None,
    start: Annotated[list[str] | None, typer.Option("--from", help=FROM)] = None,
    base: Annotated[str | None, typer.Option(help="Base model: folder or hub id in diffusers' layout, or tiny-sdxl...")] = None,
    preset: Annotated[str, typer.Option(help="Named settings of the method: tiny, small, full.")] = "full",
    workers: Annotated[int, typer.Option(min=1, help="Ranks; more than one go through Ray Train.")] = 1,
    workspace: Annotated[str | None, typer.Option(help="Folder of runs and the MLflow store (LIKENESS_WORKSPACE).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve and check everything, show it, start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
) -> None:
    """See OPTIONS."""
    from infra.registry import Registry
    from infra.workspace import workspace as open_workspace
    from models.registry import method_named
    from pipelines.train.plan import make_plan, open_sources, resolve_settings, words_for

    declared = method_named(method)
    settings = [*(settings or []), *([f"base={base}"] if base else [])]
    stages = [declared.stage(name) for name in stage] if stage else list(declared.stages)
    for each in stages:  # a wrong setting or dataset of a later stage must not surface after the first one has trained
        open_sources(each(resolve_settings(declared, each, preset, words_for(declared, each, settings))), data or [])
    registry = Registry(open_workspace(workspace))
    results: list[dict[str, Any]] = []
    for each in stages:
        earlier = {result["stage"] for result in results}
        waits = [need.stage for need in each.upstream.values() if f"{method}-{need.stage}" in earlier]
        if dry_run and waits:
            results.append({"stage": f"{method}-{each.name}", "waits_for": waits})
            continue
        words = words_for(declared, each, settings)
        plan = make_plan(
            declared, each, data=data or [], preset=preset, overrides=words, starts=start or [], registry=registry
        )
        results.append({"stage": plan.name} | (_described(plan) if dry_run else _trained(plan, workers)))
    if as_json:
        typer.echo(json.dumps(results, indent=1, default=str))
    else:
        (_show_plan if dry_run else _show)(results)


def _described(plan: RunPlan) -> dict[str, Any]:
    from infra.settings import describe

    settings = {key: value for key, _, value in describe(plan.make_stage().config)}
    return {"run_dir": str(plan.run_dir), "data": plan.datasets, "rows": plan.views, "upstream": plan.upstream,
            "settings": settings}


def _trained(plan: RunPlan, workers: int) -> dict[str, Any]:
    from pipelines.train.launch import run

    done = plan.run_dir / "result.json"
    return json.loads(done.read_text()) | {"already": True} if done.is_file() else run(plan, workers)


def _show_plan(results: list[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    for result in results:
        waits = f" (after {', '.join(result['waits_for'])})" if "waits_for" in result else ""
        console.print(f"[bold]{result['stage']}[/]{waits}")
        for name, (path, digest) in result.get("data", {}).items():
            view = result["rows"].get(name, {})
            rows = "".join(f", {what} {value if what == 'selection' else value[:12]}" for what, value in view.items())
            console.print(f"  data {name}: {path} ({digest[:12]}{rows})")
        for name, (_, reference) in result.get("upstream", {}).items():
            console.print(f"  builds on {name}: {reference}")
        for key, value in result.get("settings", {}).items():
            console.print(f"  {key} = {value}", markup=False)


def _show(results: list[dict[str, Any]]) -> None:
    console = Console()
    table = Table(title="trained")
    for column in ("stage", "version", "steps", "validation"):
        table.add_column(column, overflow="fold")
    for result in results:
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in result["metrics"].items())
        note = " (was there)" if result.get("already") else ""
        table.add_row(result["stage"], result["version"] + note, str(result["step"]), numbers)
    console.print(table)
    console.print("next: likeness model list | likeness model promote NAME VERSION | likeness generate METHOD ... | likeness ui")
