"""Selections of a dataset: made, listed, removed, and decided again when the dataset has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.errors import LikenessError
from infra.storage import Dataset, open_dataset
from infra.storage.atomic import write_whole
from infra.storage.lock import build_lock
from infra.storage.selection import Rule, Selection, current, decide, read_selection, selection_file, selection_names


def select(root: Path, name: str, rules: Sequence[str], dry_run: bool = False) -> Selection:
    """Decide which rows of HEAD's manifest the rules keep, and store it; computes no field and changes no tar.

    Args:
        rules: `FIELD.NAME OP VALUE` each; none for those that the selection has already.

    Raises:
        LikenessError: a wrong name or rule, an unknown measure, or another build running.
    """
    path = selection_file(root, name)
    dataset = open_dataset(root)
    parsed = [Rule.parse(rule) for rule in rules or read_selection(root, name).rules]
    selection = decide(dataset, name, parsed)
    check_law(selection)
    if not dry_run:
        with build_lock(root):  # whoever holds it may sweep what is being written
            write_whole(root, path, selection.encoded())
    return selection


def check_law(selection: Selection) -> None:
    """Every row has one outcome. A breach is a bug, so it is no LikenessError."""
    if selection.all != selection.kept + len(selection.dropped) + len(selection.missing):
        raise RuntimeError(f"conservation of rows broken in selection {selection.name}: {selection.all} rows, "
                           f"{selection.kept} kept, {len(selection.dropped)} dropped, {len(selection.missing)} missing")


def remove(root: Path, name: str) -> None:
    """Raises:
    LikenessError: there is none of that name.
    """
    path = selection_file(root, name)
    if not path.exists():
        raise LikenessError(f"dataset {root} has no selection {name!r}", allowed=", ".join(selection_names(root)) or "none")
    path.unlink()


def listed(root: Path) -> list[dict[str, Any]]:
    """A line per selection, as it stands for HEAD; `stale` tells that its file is of another manifest."""
    dataset = open_dataset(root)
    lines = []
    for name in selection_names(root):
        stored = read_selection(root, name)
        now = current(dataset, stored)
        lines.append({"name": name, "rules": list(now.rules), **counts(now), "stale": now is not stored})
    return lines


def counts(selection: Selection) -> dict[str, int]:
    """The ledger of a selection in four numbers."""
    return {"all": selection.all, "kept": selection.kept, "dropped": len(selection.dropped), "missing": len(selection.missing)}


def refresh(root: Path, dataset: Dataset | None = None) -> list[str]:
    """Decide all selections again for HEAD, at the end of what moved it; a notice per selection that moved or can't be decided.

    The caller holds the build lock.
    """
    notices: list[str] = []
    if not (names := selection_names(root)):
        return notices
    dataset = dataset or open_dataset(root)
    for name in names:
        try:
            stored = read_selection(root, name)
            now = current(dataset, stored)
        except LikenessError as error:
            notices.append(f"selection {name}: {error}")
            continue
        if now is stored:
            continue
        check_law(now)
        write_whole(root, selection_file(root, name), now.encoded())
        if now.kept_sha256 != stored.kept_sha256:
            notices.append(f"selection {name} keeps {now.kept} of {now.all} rows now; it kept {stored.kept} of {stored.all}")
    return notices
