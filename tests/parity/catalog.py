"""Which fixtures there are: those beside this file, and those in the folder that LIKENESS_PARITY_DIR names."""

import os
from pathlib import Path

import adapters
import fixtures

measured: dict[str, float] = {}  # largest relative error of every output compared in this session


def roots() -> list[Path]:
    """The folders of fixtures, METHOD/MODULE.json in each."""
    elsewhere = os.environ.get("LIKENESS_PARITY_DIR")
    if elsewhere and not Path(elsewhere).is_dir():
        raise FileNotFoundError(f"LIKENESS_PARITY_DIR is {elsewhere!r}, which is no folder")
    return [fixtures.ROOT, *([Path(elsewhere)] if elsewhere else [])]


def modules(root: Path) -> list[tuple[str, str]]:
    """Every (method, module) of a folder."""
    return sorted((path.parent.name, path.stem) for path in root.glob("*/*.json"))


def summary() -> list[str]:
    """One line per folder with its counts, one with the names that have no adapter, and the worst error measured."""
    lines = []
    for root in roots():
        found = modules(root)
        without = [f"{method}/{module}" for method, module in found if adapters.find(method, module) is None]
        lines.append(f"parity, {root.name}: {len(found)} fixtures, {len(found) - len(without)} with adapter")
        if without:
            lines.append(f"  no adapter yet: {', '.join(without)}")
    if measured:
        worst = max(measured, key=measured.__getitem__)
        lines.append(f"  largest error of {len(measured)} outputs: {measured[worst]:.1e} ({worst})")
    return lines
