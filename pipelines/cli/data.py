"""`likeness data`: datasets from folders of clips and photos. Each command stands in one of the `data_` modules beside this one."""

from __future__ import annotations

import typer

from pipelines.cli import data_build, data_fit, data_lifecycle, data_look, data_report, data_select

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Datasets: plan, build, add fields, look at them, check their bytes.",
)  # fmt: skip
COMMANDS = (
    data_build.plan,
    data_build.build,
    data_build.add,
    data_build.expand,
    data_look.show,
    data_look.verify,
    data_report.report,
    data_report.card,
    data_select.select,
    data_fit.fit,
    data_fit.split,
    data_lifecycle.takedown,
    data_lifecycle.gc,
    data_lifecycle.export,
    data_lifecycle.replay,
    data_lifecycle.quarantine,
    data_lifecycle.retry,
)
for command in COMMANDS:
    app.command()(command)
