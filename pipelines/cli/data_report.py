"""`likeness data report` and `card`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from infra.errors import LikenessError
from infra.storage.objects import as_local_path, is_object
from pipelines.cli.data_options import Dataset, Json, bars

CARD, PAGE = "card.md", "report.html"
DEFAULT_SAMPLES = 24
Out = Annotated[
    Path | None, typer.Option("--out", help="File to write [DATASET/report.html, DATASET/card.md].", parser=as_local_path)
]
Samples = Annotated[int, typer.Option("--samples", min=0, max=500, help="Rows to show; each takes about 0.1 MB.")]


def report(
    dataset: Dataset, out: Out = None, samples: Samples = DEFAULT_SAMPLES, as_json: Json = False,
) -> None:  # fmt: skip
    """Write a page to look at a dataset, one HTML file that needs no network; without --out the dataset's card as well."""
    from infra.storage import open_dataset
    from pipelines.cli.data_tables import size
    from pipelines.report.card import make_card
    from pipelines.report.facts import problem_facts, read_facts
    from pipelines.report.page import make_page

    facts = read_facts(open_dataset(dataset))
    with bars(as_json) as shown:
        bar = shown.add_task("drawing samples", total=None)
        page = make_page(facts, samples, lambda done, total: shown.update(bar, completed=done, total=total))
    data = page.encode()
    file = out or dataset / PAGE
    _write(file, data)
    if out is None:
        _write(dataset / CARD, make_card(facts).encode())
    if as_json:
        problems = [problem_facts(p) for p in facts.outcomes.source_problems + facts.outcomes.value_problems]
        written = {"report": str(file), "report_bytes": len(data)}
        typer.echo(json.dumps(facts.summary() | {"problems": problems} | written, indent=1, ensure_ascii=False))
    else:
        typer.echo(f"{file} ({size(len(data))})" + ("" if out else f" and {dataset / CARD}"))


def card(dataset: Dataset, out: Out = None) -> None:
    """Write the dataset's card: contents, licences, consent, leakage, known limits."""
    from infra.storage import open_dataset
    from pipelines.report.card import make_card
    from pipelines.report.facts import read_facts

    file = out or dataset / CARD
    _write(file, make_card(read_facts(open_dataset(dataset))).encode())
    typer.echo(str(file))


def _write(file: Path, data: bytes) -> None:
    """In one step, and not by way of the dataset's tmp/, which a build that is running may sweep at any time."""
    if is_object(file):
        file.write_bytes(data)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LikenessError(f"{file} can't be written: {error.strerror}", fix="name another file: --out FILE") from None
