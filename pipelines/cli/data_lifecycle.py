"""`likeness data takedown`, `gc`, `export`, `replay`, `quarantine` and `retry`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import LikenessError
from infra.storage.objects import as_local_path
from pipelines.cli import data_build
from pipelines.cli.data_options import Dataset, Json, bars
from pipelines.dataset.outcome import FAILURES_IN_A_ROW

Space = Annotated[str | None, typer.Option("--workspace", help="Folder of runs and the MLflow store (LIKENESS_WORKSPACE).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")]
SHOWN = 10


def takedown(
    dataset: Dataset,
    source: Annotated[list[str] | None, typer.Option("--source", help="Name of a source, or its file; repeatable.")] = None,
    person: Annotated[list[str] | None, typer.Option("--person", help="All sources of a person; repeatable.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="One row; repeatable.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    purge: Annotated[bool, typer.Option("--purge", help="Also remove every byte; alone, finish what was cut short.")] = False,
    workspace: Space = None, dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Take sources, people or rows out of use: no reader gives them out any more. Lists first what that touches."""
    from pipelines.cli.data_tables import size
    from pipelines.dataset.takedown import find_impact, take_down

    if not (source or person or key or purge):
        raise LikenessError("nothing named", fix="name it: --source, --person or --key")
    impact = find_impact(dataset, source or [], person or [], key or [], reason, _trained_on(workspace))
    facts: dict[str, Any] = {name: value for name, value in asdict(impact).items() if name != "stones"}
    if not as_json:
        _tell(f"{len(impact.rows)} rows", impact.rows)
        _tell(f"{len(impact.sources)} sources", impact.sources)
        _tell(f"{len(impact.files)} column files ({size(impact.bytes)}) hold them", impact.files)
        _tell(f"{len(impact.manifests)} manifests name them", [name[:12] for name in impact.manifests])
        for words, names in (("derived datasets, to be taken down there too", impact.derived),
                             ("fits learnt from them, which a purge makes anew", impact.fits),
                             ("registered models trained on them, which stay", impact.models)):
            _tell(words, names) if names else None
    if dry_run:
        done = None
    else:
        done = take_down(dataset, impact, purge)
    if as_json:
        typer.echo(json.dumps(facts | {"purged": done and asdict(done), "dry_run": dry_run}, indent=1, ensure_ascii=False))
    elif dry_run:
        typer.echo("nothing was changed (--dry-run)")
    elif done is None:
        typer.echo(f"taken down; the bytes stay until: likeness data takedown {dataset} --purge")
    else:
        typer.echo(f"purged: {done.rows} rows, {done.manifests} manifests and {done.files} files removed, {size(done.bytes)} freed")
        if done.fits:
            fits = ", ".join(done.fits)
            typer.echo(f"fits made anew from the rows that are left, or removed: {fits}; then: likeness data build {dataset}")
        _tell("these files still have such a name in them", done.mentions) if done.mentions else None


def gc(
    dataset: Dataset,
    keep: Annotated[int | None, typer.Option("--keep", min=1, help="Manifests to keep, the newest; without it all.")] = None,
    workspace: Space = None, dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Delete what no kept manifest needs: leftovers of killed builds, columns of older versions, fits made again since."""
    from pipelines.cli.data_tables import size
    from pipelines.dataset.collect import collect

    garbage = collect(dataset, keep, _trained_on(workspace), dry_run)
    if as_json:
        typer.echo(json.dumps(asdict(garbage) | {"dry_run": dry_run}, indent=1))
        return
    for name, why in garbage.kept.items():
        typer.echo(f"keeps manifest {name[:12]}: {why}")
    _tell(f"{len(garbage.manifests)} old manifests", [name[:12] for name in garbage.manifests])
    _tell(f"{len(garbage.files)} column files", garbage.files)
    _tell(f"{len(garbage.fits)} fits, {len(garbage.temporary)} temporary files", [*garbage.fits, *garbage.temporary])
    typer.echo(f"{size(garbage.bytes)} {'would be freed (--dry-run)' if dry_run else 'freed'}")


def export(
    dataset: Dataset, out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.", parser=as_local_path)],
    field: Annotated[list[str] | None, typer.Option("--field", help="Field to export; repeatable.")] = None,
    rename: Annotated[list[str] | None, typer.Option("--rename", help="FIELD=MEMBER, as image_512=jpg; repeatable.")] = None,
    selection: Annotated[str, typer.Option("--selection", help="Only the rows that it keeps.")] = "",
    split: Annotated[str, typer.Option("--split", help="Only this split.")] = "",
    shard_mb: Annotated[float, typer.Option("--shard-mb", min=0.001, help="Largest size of a tar, MB.")] = 256,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write chosen fields as one wide WebDataset, for other tools."""
    from pipelines.cli.data_tables import size
    from pipelines.dataset.export import export as write

    names = dict(_pair(word) for word in rename or [])
    with bars(as_json) as shown:
        bar = shown.add_task("writing", total=None)
        made = write(dataset, out, field or [], rename=names, selection=selection or None, split=split,
                     shard_bytes=int(shard_mb * 1e6), progress=lambda done, total: shown.update(bar, completed=done, total=total))
    if as_json:
        typer.echo(json.dumps(asdict(made), indent=1, ensure_ascii=False))
        return
    for reason, count in made.skipped.items():
        typer.echo(f"{count} rows skipped, no {reason}")
    total = sum(tar["bytes"] for tar in made.tars)
    typer.echo(f"{sum(tar['rows'] for tar in made.tars)} of {made.rows} rows in {len(made.tars)} tars, {size(total)}: {out}")


def _pair(word: str) -> tuple[str, str]:
    name, equals, member = word.partition("=")
    if not (equals and name and member):
        raise LikenessError(f"--rename {word}", allowed="FIELD=MEMBER", fix="for example: --rename image_512=jpg")
    return name, member


def replay(
    dataset: Dataset, key: Annotated[str, typer.Argument(metavar="KEY", help="A row's key.")],
    op: Annotated[str, typer.Option("--op", help="The operator to run.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for its values, as files.", parser=as_local_path)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, OPERATOR.SETTING=VALUE; repeatable.")] = None,
    pdb: Annotated[bool, typer.Option("--pdb", help="Stop in the debugger where it fails.")] = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Run one operator on one stored row and compare with what is stored; exit with 1 and its traceback when it fails."""
    import traceback

    from pipelines.dataset.replay import Replay

    ready = Replay(dataset, key, op, settings or [])
    try:
        done = ready.run(out)
    except Exception as error:
        traceback.print_exc()
        if pdb:
            from pdb import post_mortem

            post_mortem(error.__traceback__)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(asdict(done), indent=1))
        return
    for field in done.fields:
        typer.echo(f"{field['field']}: {field['bytes']} bytes, {field['compared']}")
    typer.echo(f"{op} on {key}: {done.wall_s:.3f} s ({done.cpu_s:.3f} s CPU)")
    for file in done.files:
        typer.echo(f"wrote {file}")


def quarantine(
    dataset: Dataset, op: Annotated[str, typer.Option("--op", help="Only this operator's.")] = "", as_json: Json = False
) -> None:
    """List what failed: the file or row, why, and where in the code."""
    from pipelines.dataset.replay import quarantined

    lines = quarantined(dataset, op)
    if as_json:
        typer.echo(json.dumps(lines, indent=1, ensure_ascii=False))
        return
    for line in lines:
        typer.echo(f"{line['name']} by {line['operator']}, tries {line['tries']}: {line['error']}: {line['message']}")
        typer.echo(f"    {line['trace']}") if line["trace"] else None
    typer.echo(f"{len(lines)} quarantined" + (f"; try them again with: likeness data retry {dataset}" if lines else ""))


def retry(
    dataset: Dataset, workers: data_build.Workers = data_build.CORES, runner: data_build.Runner = "",
    max_failures: data_build.MaxFailures = FAILURES_IN_A_ROW, strict: data_build.Strict = False,
    dry_run: data_build.DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Try again what was quarantined; the same as data build --retry-quarantined."""
    if not (dataset / "request.json").exists():
        raise LikenessError(f"{dataset} is not a dataset", fix=f"build one with: likeness data build {dataset} --source FOLDER")
    data_build.build(dataset, workers=workers, runner=runner, retry=True, max_failures=max_failures, strict=strict, dry_run=dry_run,
                     as_json=as_json)  # fmt: skip


def _tell(words: str, names: list[str]) -> None:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    typer.echo(f"{words}{': ' if names else ''}{', '.join(names[:SHOWN])}{more}")


def _trained_on(workspace: str | None) -> Iterator[tuple[str, list[str]]]:
    """Registered versions of the workspace, each with the digests of its datasets; none where there is no workspace."""
    import os

    from infra.workspace import DEFAULT

    folder = Path(workspace or os.environ.get("LIKENESS_WORKSPACE") or DEFAULT)
    if not folder.is_dir() and not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    from infra.registry import Registry
    from infra.workspace import workspace as open_workspace

    registry = Registry(open_workspace(workspace))
    for version in registry.versions():
        yield version.uri, [dataset["digest"] for dataset in registry.lineage(version)["datasets"]]
