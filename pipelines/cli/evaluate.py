"""`likeness evaluate`: lip sync of finished videos, and held-out numbers of trained stages."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from infra.errors import LikenessError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Numbers: lip sync of videos, held-out numbers of a stage.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Protocol(StrEnum):
    """How pictures are made of a video."""

    track = "track"
    resize = "resize"


@app.command()
def sync(
    places: Annotated[list[Path], typer.Argument(metavar="FILE_OR_FOLDER", help="Videos with sound, or folders of them.")],
    protocol: Annotated[
        Protocol, typer.Option(help="track: the face is followed and cut out; resize: the video is a face crop already (LRS).")
    ] = Protocol.track,
    judge: Annotated[str, typer.Option(help="Only syncnet: a network that taught a generator cannot judge it.")] = "syncnet",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when a file could not be scored.")] = False,
    as_json: Json = False,
) -> None:
    """LSE-D, LSE-C and offset of each video, and their mean."""
    if judge != "syncnet":
        raise LikenessError(
            f"--judge {judge}: an expert finds the lips of the generator it taught in sync, whether or not people do",
            allowed="syncnet, which no method here trains with", fix="leave --judge away (see docs/evaluation.md)",
        )
    from pipelines.evaluate.videos import mean_scores, score_videos, video_files

    files = video_files(places)
    bar = Console(stderr=True)
    done = score_videos(files, protocol.value)
    scores = list(track(done, "scoring", len(files), console=bar, transient=True, disable=as_json))
    mean, failed = mean_scores(scores), [score for score in scores if score.sync is None]
    if as_json:
        record = {
            "judge": judge, "protocol": protocol.value, "mean": mean,
            "videos": [{"file": str(score.file), **score.sync} for score in scores if score.sync is not None],
            "failed": [{"file": str(score.file), "reason": score.reason} for score in failed],
        }  # fmt: skip
        typer.echo(json.dumps(record, indent=1))
    else:
        table = Table("video", "LSE-D", "LSE-C", "offset", "windows", title=f"lip sync by SyncNet, protocol {protocol.value}")
        for score in scores:
            if (found := score.sync) is not None:
                numbers = f"{found['min_distance']:.3f}", f"{found['confidence']:.3f}", f"{found['offset_frames']:+d}"
                table.add_row(str(score.file), *numbers, str(found["n_windows"]))
        if mean:
            table.add_row(f"mean of {len(scores) - len(failed)}", *(f"{value:.3f}" for value in mean.values()), style="bold")
        console = Console(highlight=False)
        console.print(table)
        for score in failed:
            console.print(f"not scored: {score.file}: {score.reason}", markup=False, soft_wrap=True)
    if not mean:
        first = failed[0]
        raise LikenessError(f"none of {len(files)} files could be scored; the first, {first.file}: {first.reason}")
    if failed and strict:
        raise typer.Exit(3)


@app.command()
def stage(
    method: Annotated[str, typer.Argument(help="A method's name (see: likeness methods).")],
    name: Annotated[str, typer.Argument(metavar="STAGE", help="One of its stages.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value: loop.batch_size=8; the others are those it was trained with.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Dataset folder; SOURCE=FOLDER for several.")] = None,
    model: Annotated[
        str | None, typer.Option(help="models:/NAME@ALIAS, or an artefact's folder; by default the newest version.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="A published file instead.")] = None,
    start: Annotated[
        list[str] | None, typer.Option("--from", help="COMPONENT=models:/NAME or COMPONENT=FILE: another upstream.")
    ] = None,
    split: Annotated[str, typer.Option(help="Rows to measure on.")] = "val",
    examples: Annotated[int | None, typer.Option(min=1, help="How many; by default as in training.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Folder of runs and the MLflow store (LIKENESS_WORKSPACE).")] = None,
    as_json: Json = False,
) -> None:
    """A trained stage's own validation, on any dataset and split, without training."""
    if model and weights:
        raise LikenessError("--model and --weights name two sets of weights", allowed="one of them")
    starts = dict(word.partition("=")[::2] for word in start or [])
    if not all(starts.values()):
        raise LikenessError(f"--from {' '.join(start or [])}", allowed="COMPONENT=models:/NAME or COMPONENT=FILE")
    from infra.registry import Registry
    from infra.workspace import workspace as open_workspace
    from models.registry import method_named
    from pipelines.evaluate.stage import evaluate_stage

    declared = method_named(method)
    words = [*(settings or []), *([f"loop.validation_examples={examples}"] if examples else [])]
    score = evaluate_stage(
        declared, declared.stage(name), model or weights or f"models:/{method}-{name}", data=data or [],
        registry=Registry(open_workspace(workspace)), split=split, starts=starts, overrides=words,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"method": method, "stage": name, **asdict(score)}, indent=1))
        return
    table = Table("number", "value", title=f"{method} {name}: {score.weights}, {score.examples} examples of split {split}")
    for key, value in score.metrics.items():
        table.add_row(key, f"{value:.5g}")
    console = Console(highlight=False)
    console.print(table)
    for component, reference in score.upstream.items():
        console.print(f"measured with {component} {reference}, as in training; to judge videos: likeness evaluate sync")
