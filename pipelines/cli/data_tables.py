"""How `likeness data` prints plans, reports and datasets."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.dataset.build import Report
from pipelines.dataset.unit import PER_PHOTO

MOST_PROBLEMS = 200
MOST_ALIKE = 3


def print_plan(console: Console, facts: dict[str, Any]) -> None:
    """The plan as a table, a line per operator, then what it comes to."""
    table = _table("operator", "fields", "shards", "to run", "why", "CPU time", "disk")
    for line in facts["operators"]:
        why = "; ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in line["why"].items())
        name = f"{line['operator']} v{line['version']}" if "version" in line else line["operator"]
        measured = line["to_run"] > 0
        table.add_row(
            name, ", ".join(line["fields"]), str(line["shards"]), str(line["to_run"] or "-"), why or ("" if measured else "there"),
            duration(line["cpu_s"]) if measured else "", size(line["bytes"]) if measured else "",
        )  # fmt: skip
    console.print(table)
    sources = facts["sources"]
    left_out = f", {sources['left_out']} left out" if sources["left_out"] else ""
    console.print(f"{sources['files']} files{left_out}; {facts['units']} of {facts['shards']} shards to run")
    if facts["units"] == 0:
        console.print("nothing to compute: everything wanted is there")
    elif facts["cpu_s"] is None:
        console.print("?: not measured on this machine yet; a first build measures")
    else:
        console.print(f"about {duration(facts['cpu_s'])} of CPU time, {duration(facts['wall_s'])} with {facts['workers']} workers, "
                      f"{size(facts['bytes'])} of disk")  # fmt: skip


def print_report(console: Console, root: str, report: Report) -> None:
    """Files and rows that came to nothing, with reasons; then the dataset in two lines."""
    if report.problems:
        table = _table("file or row", "", "reason")
        lines = _grouped(report.problems)
        for line in lines[:MOST_PROBLEMS]:
            table.add_row(*line)
        console.print(table)
        if len(lines) > MOST_PROBLEMS:
            console.print(f"... and {len(lines) - MOST_PROBLEMS} more: likeness data quarantine {root}")
    if report.starved:
        counts = ", ".join(f"{operator} {count}" for operator, count in sorted(report.starved.items()))
        console.print(f"rows without a value because an input of theirs is missing: {counts}")
    if report.costs:
        print_costs(console, report)
    for notice in report.notices:
        console.print(f"note: {notice}")
    files = ", ".join(f"{count} {status}" for status, count in sorted(report.sources.items()))
    console.print(f"{sum(report.sources.values())} files: {files}; {report.rows} rows")
    done = f"{report.units} shards in {duration(report.wall_s)}" if report.units else "nothing to compute"
    moved = "" if report.changed else " (unchanged)"
    console.print(f"{done}; dataset {root} is {report.digest[:12]}{moved}; look at it with: likeness data show {root}")


def _grouped(problems: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """A line per file and row; where an operator gave many rows the same reason, one line for all of them."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for problem in problems:
        by = "" if problem["operator"] == "ingest" else f" by {problem['operator']}"
        alike.setdefault((problem["operator"], problem["status"] + by, problem["reason"]), []).append(problem["name"])
    lines = []
    for (operator, what, reason), names in alike.items():
        if operator != "ingest" and len(names) > MOST_ALIKE:
            lines.append((f"{len(names)} rows, {names[0]} the first", what, reason))
        else:
            lines += [(name, what, reason) for name in names]
    return lines


def print_costs(console: Console, report: Report) -> None:
    """Where the time went: an operator per line, the costliest first and named as the bottleneck."""
    total = sum(cost.cpu_s for cost in report.costs.values())
    table = _table("operator", "time", "share", "rate", "stored")
    lines = sorted(report.costs.items(), key=lambda item: -item[1].cpu_s)
    for name, cost in lines:
        unit = "photo" if name.endswith(PER_PHOTO) else "s"
        each = f"{cost.cpu_s / cost.clip_s:.4f} s per {unit}" if cost.clip_s else ""
        table.add_row(name, duration(cost.cpu_s), f"{cost.cpu_s / total:.0%}" if total else "", each, size(cost.bytes))
    console.print(table)
    console.print(f"bottleneck: {lines[0][0]}, {lines[0][1].cpu_s / total:.0%} of {duration(total)}" if total else "")


def print_dataset(console: Console, facts: dict[str, Any]) -> None:
    console.print(f"dataset {facts['path']}  {facts['digest'][:12]}")
    console.print(f"{facts['rows']} rows, {duration(facts['seconds'])} of clips, {facts['shards']} shards, {size(facts['bytes'])}")
    if facts["taken_down"]:
        console.print(f"{facts['taken_down']} more rows are taken down; the numbers of fields below count them still")
    console.print("files: " + ", ".join(f"{count} {status}" for status, count in facts["sources"].items()))
    for name, split in facts["splits"].items():
        console.print(f"split {name or '(none)'}: {split['rows']} rows, {duration(split['seconds'])}, {split['people']} people")
    table = _table("field", "type", "operator", "written", "quarantined")
    for field in facts["fields"]:
        name = field["name"] if field["wanted"] else f"({field['name']})"
        operator = f"{field['operator']} v{field['version']} {field['digest']}"
        table.add_row(name, field["type"], operator, str(field["written"]), str(field["quarantined"] or "-"))
    console.print(table)
    console.print("(in brackets: made on the way)  funnel: " + " > ".join(f"{name} {count}" for name, count in facts["funnel"]))
    if facts["refused"]:
        table = _table("file without rows", "", "reason")
        for entry in facts["refused"][:MOST_PROBLEMS]:
            table.add_row(entry["path"], entry["status"], entry["reason"])
        console.print(table)


def print_row(console: Console, facts: dict[str, Any]) -> None:
    console.print(f"row {facts['key']}, shard {facts['shard']}")
    for name, value in facts["source"].items():
        console.print(f"  {name}: {value}")
    table = _table("field", "type", "operator", "bytes", "value")
    for field in facts["fields"]:
        table.add_row(field["name"], field["type"], field["operator"], str(field["bytes"] or "-"), field["value"])
    console.print(table)


def duration(seconds: float | None) -> str:
    """`1 h 02 min`, `3 min 05 s`, `4.2 s`; `?` for None."""
    if seconds is None:
        return "?"
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s" if seconds >= 60 else f"{seconds:.1f} s"


def size(count: float | None) -> str:
    """`4.2 MB` for a number of bytes; `?` for None."""
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
