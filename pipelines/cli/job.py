"""`likeness job`: any other command as a job on a Ray cluster."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from infra import cluster
from infra.errors import LikenessError
from infra.jobs import Job, Jobs, likeness_program

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run any other command as a job on a Ray cluster.")
Address = Annotated[str | None, typer.Option("--address", help="Ray dashboard, HOST:PORT; by default the one of `job up`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RUNNABLE = ("data", "train", "generate", "evaluate", "methods", "model", "assets", "demo")


def _print(job: Job, as_json: bool) -> None:
    typer.echo(json.dumps(asdict(job), indent=2) if as_json else job.line + (f"\n{job.message}" if job.message else ""))


def _end(job: Job) -> None:
    """Leave with the job's own exit code."""
    if job.state != "SUCCEEDED":
        raise typer.Exit(job.exit_code or 1)


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What follows `likeness`.")],
    address: Address = None,
    wait: Annotated[bool, typer.Option("--wait", help="Print the output and end with the job, with its exit code.")] = False,
    start: Annotated[bool, typer.Option("--start", help="Start a local cluster if none runs.")] = False,
    folder: Annotated[Path | None, typer.Option("--folder", help="Working directory on the cluster; on a local one, here.")] = None,
    as_json: Json = False,
) -> None:
    """Submit a command: likeness job submit -- train wav2lip --data DATASET."""
    words = command[1:] if command[0] == "likeness" else command
    if not words or words[0] not in RUNNABLE:
        raise LikenessError(f"likeness {' '.join(words)!r} can't run as a job", allowed=", ".join(RUNNABLE))
    if start and address is None:
        cluster.start()
    jobs = Jobs(address)
    # on another cluster our interpreter's path means nothing: its own `likeness` is found there
    job = jobs.submit([likeness_program() if jobs.same_machine else "likeness", *words], folder)
    if not wait:
        _print(jobs.get(job), True) if as_json else typer.echo(f"{job}\nsee: likeness job status|logs|stop {job}")
        return
    for text in jobs.follow(job):
        typer.echo(text, nl=False, err=as_json)
    state = jobs.wait(job)
    if as_json:
        _print(state, True)
    _end(state)


@app.command()
def status(job: str, address: Address = None, as_json: Json = False) -> None:
    """One job's state."""
    _print(Jobs(address).get(job), as_json)


@app.command()
def logs(
    job: str, address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
) -> None:
    """What a job has printed."""
    jobs = Jobs(address)
    for text in jobs.follow(job) if follow else [jobs.logs(job)]:
        typer.echo(text, nl=False)


@app.command()
def stop(job: str, address: Address = None, as_json: Json = False) -> None:
    """Stop a job: training saves first."""
    _print(Jobs(address).stop(job), as_json)


@app.command("list")
def list_jobs(address: Address = None, as_json: Json = False) -> None:
    """All jobs of the cluster, newest first."""
    found = Jobs(address).all()
    typer.echo(json.dumps([asdict(job) for job in found], indent=2) if as_json else "\n".join(j.line for j in found) or "no jobs")


@app.command()
def up(
    cpus: Annotated[int | None, typer.Option(help="Cores; all by default.")] = None, as_json: Json = False,
) -> None:
    """Start a cluster on this machine, or show the one that runs."""
    found = cluster.start(cpus=cpus)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        token = cluster.environment()["RAY_AUTH_TOKEN_PATH"]
        typer.echo(f"dashboard: {found.dashboard} (a browser is asked once for the token in {token})")
        typer.echo(f"ray address: {found.address}\nstop it with: likeness job down")


@app.command()
def down() -> None:
    """Stop the cluster of `job up`, and no other; its jobs end with it."""
    typer.echo("stopped" if cluster.stop() else "no cluster runs")
