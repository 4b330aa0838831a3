"""`likeness data fit` and `split`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from infra.errors import LikenessError
from pipelines.cli.data_options import Dataset, Json, console

SHOWN = 20  # leaking pairs; --json has more
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what it would come to.")]


def fit(
    dataset: Dataset, name: Annotated[str, typer.Argument(metavar="[NAME]", help="Which; without it the fits are listed.")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Setting of the fit, SETTING=VALUE; repeatable.")] = None,
    selection: Annotated[str, typer.Option("--selection", help="Take only the rows that this selection keeps.")] = "",
    split: Annotated[str, typer.Option("--split", help="Take only the rows of this split.")] = "", as_json: Json = False,
) -> None:  # fmt: skip
    """Learn from all rows what single rows don't tell (who is who, what is there twice), and keep it for a field to be made with.

    Columns made with an earlier fit of the name become stale if the outcome differs; the next build makes them anew.
    """
    from pipelines.cli.data_tables import size
    from pipelines.dataset import fit as fits
    from preprocessing.fits.catalogue import fit as by_name

    if not name:
        if settings or selection or split:
            raise LikenessError("no fit named", fix=f"see them with: likeness data fit {dataset}")
        _print_fits(fits.listed(dataset), as_json)
        return
    chosen = by_name(name, settings or [])
    record, arrays = fits.run_fit(dataset, chosen, selection, split)
    field, needed = chosen.makes
    command = f"likeness data add {dataset} --field {field.name}"
    command += "".join(f" --set {field.name}.{setting}={value}" for setting, value in needed.items())
    if as_json:
        facts: dict[str, Any] = record.model_dump(mode="json") | {"numbers": chosen.numbers(arrays), "then": command}
        typer.echo(json.dumps(facts, indent=1))
        return
    counts = ", ".join(f"{what} {count}" for what, count in chosen.numbers(arrays).items())
    typer.echo(f"fit {name} of {record.made.rows} rows: {counts}; {size(record.bytes)}, {record.made.sha256[:8]}")
    typer.echo(f"make the field with: {command}")


def split(
    dataset: Dataset,
    by: Annotated[str, typer.Option("--by", help="identity_VARIANT or identity_cluster; person for names alone.")] = "",
    val_fraction: Annotated[float | None, typer.Option("--val-fraction", help="Share of rows for split val [as built].")] = None,
    test_fraction: Annotated[float, typer.Option("--test-fraction", help="Share of rows for split test.")] = 0.0,
    min_cosine: Annotated[float | None, typer.Option("--min-cosine", help="Embeddings this close are one person [0.38].")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another one holds out other people.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="People stay in their splits; only new ones get one.")] = False,
    dry_run: DryRun = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Hold people out for validation and test, nobody in two splits by name or face; only the manifest changes."""
    from pipelines.dataset import split as splits
    from preprocessing.fits.identity_clusters import MIN_COSINE

    cosine = MIN_COSINE if min_cosine is None else min_cosine
    wanted = splits.Wanted(by, val_fraction, test_fraction, cosine, seed, keep)
    facts = splits.split(dataset, wanted, dry_run)
    if as_json:
        typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    joined = "by name" if facts["by"] == splits.PEOPLE else f"by name and {facts['by']}"
    typer.echo(f"{facts['people']} people, {facts['components']} joined {joined}; the largest has {facts['largest']:.1%} of rows")
    for name, counts in facts["splits"].items():
        typer.echo(f"split {name}: {counts['rows']} rows, {counts['people']} people")
    print_leakage(facts["leakage"])
    for notice in facts["notices"]:
        typer.echo(f"note: {notice}")
    if dry_run:
        typer.echo(f"not stored (--dry-run); {facts['moved']} people would move")
    else:
        unchanged = "" if facts["changed"] else " (unchanged)"
        typer.echo(f"{facts['moved']} people moved; dataset {dataset} is {facts['digest'][:12]}{unchanged}")


def print_leakage(found: dict[str, Any] | None) -> None:
    """The leakage figure in a sentence, and the closest pairs."""
    if found is None:
        typer.echo("leakage: not known; add identity_mobileface (or another identity field) to measure it")
        return
    if found["share"] is None:
        typer.echo("leakage: not known; no faces to compare in train and in a held-out split")
        return
    typer.echo(
        f"leakage: {found['share']:.1%} ({found['leaking']} of {found['rows']} held-out rows with a face have a row of train "
        f"at cosine {found['min_cosine']:g} or more by identity_{found['variant']})"
    )
    for pair in found["pairs"][:SHOWN]:
        held, train = (f"{pair[key]} ({pair[who]})" for key, who in (("key", "person"), ("nearest", "nearest_person")))
        typer.echo(f"  {pair['cosine']:.3f} {pair['split']} {held} ~ {train}")
    if len(found["pairs"]) > SHOWN:
        typer.echo(f"  ... and {len(found['pairs']) - SHOWN} more: add --json")


def _print_fits(lines: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(lines, indent=1))
        return
    for line in lines:
        text = "not fitted"
        if line["fitted"]:
            text = f"{line['rows']} rows ({line['rows_now']} have its fields now), {line['sha256'][:8]}, {line['params']}"
            text += "; made from a column that was replaced: fit again" if line["outdated"] else ""
        console().print(f"{line['name']}: {text}", markup=False)
