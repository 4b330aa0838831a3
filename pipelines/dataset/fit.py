"""Fitting: what is learnt from all rows of a dataset, on request, and kept in it for operators to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from infra import digest
from infra.errors import LikenessError
from infra.storage import Dataset, Row, open_dataset
from infra.storage.atomic import remove_tree
from infra.storage.fits import FOLDER, FitRecord, fit_names, outdated_fits, read_record, write_fit
from infra.storage.lock import build_lock
from pipelines.dataset.source_list import SPLITS
from preprocessing.codecs import decode
from preprocessing.fields import Field
from preprocessing.fits.catalogue import FITS
from preprocessing.fits.contract import Fit
from preprocessing.operator import Lazy, Sample


def run_fit(root: Path, fit: Fit, selection: str = "", split: str = "") -> tuple[FitRecord, dict[str, np.ndarray]]:
    """Fit to HEAD's rows that have all the fields it reads, and make the outcome the dataset's current fit of that name.

    No column is touched: those made with an earlier fit become stale when the outcome differs, and the next build makes them anew.

    Args:
        selection: take only the rows that it keeps.
        split: take only the rows of this split.

    Raises:
        LikenessError: no such dataset, field, selection or split; no rows; or a build is running.
    """
    if split and split not in SPLITS:
        raise LikenessError(f"--split {split}", allowed=", ".join(SPLITS))
    root = root.absolute()
    open_dataset(root)  # a mistake must not leave a folder behind
    with build_lock(root):
        return _fitted(root, fit, selection, split)


def _fitted(root: Path, fit: Fit, selection: str, split: str) -> tuple[FitRecord, dict[str, np.ndarray]]:
    dataset = open_dataset(root, selection=selection or None)
    reads = {field.name: dataset.field(field.name).column for field in fit.reads}
    rows = with_values(dataset, fit.reads, split)
    if not rows:
        what = f"none of {len(dataset.rows())} rows has {' and '.join(reads)}"
        raise LikenessError(what, fix=f"see: likeness data show {root}")
    arrays = fit(samples(dataset, rows, fit.reads))
    rows_of = {name: value for name, value in dataset.view.items() if name != "rows"} | ({"split": split} if split else {})
    record = write_fit(
        root, fit.name, arrays, dataset.digest, version=fit.version, params=fit.params.model_dump(mode="json"), reads=reads,
        rows_of=rows_of, rows=len(rows), rows_sha256=digest.of_json([row.key for row in rows]),
    )  # fmt: skip
    return record, arrays


def purge_fits(root: Path) -> list[str]:
    """Make those fits anew whose rows are of a manifest that is no longer there, from the rows that are left, and delete every
    other file of fits: a face that was taken down must not live on in a cluster's centre. A fit that can't be made any more goes.

    The caller holds the build lock, and has deleted the manifests that name what was taken down; may be called again after a kill.

    Returns:
        Names of the fits that are another now, or gone.
    """
    changed = []
    for folder in sorted(path for path in (root / FOLDER).glob("*") if path.is_dir()):
        name = folder.name
        try:
            record = read_record(root, name)
            if not (root / "manifests" / f"{record.manifest}.json").exists():
                changed.append(name)
                kind = next(kind for kind in FITS if kind.name == name)
                of = record.made.rows_of
                fit = kind(kind.Params.model_validate(record.made.params))
                record, _ = _fitted(root, fit, of.get("selection", ""), of.get("split", ""))
        except (LikenessError, ValidationError, StopIteration):
            remove_tree(folder)
            changed = list(dict.fromkeys([*changed, name]))
            continue
        for file in folder.glob("*.npz"):
            if file != record.file(root):
                file.unlink()
    return changed


def with_values(dataset: Dataset, fields: Sequence[Field], split: str = "") -> list[Row]:
    """Rows (of one split) that have a value of each of the fields."""
    rows = (row for row in dataset.rows() if not split or row.source.get("split") == split)
    return [row for row in rows if all(dataset.has(row, field.name) for field in fields)]


def samples(dataset: Dataset, rows: Sequence[Row], fields: Sequence[Field]) -> Iterator[Sample]:
    """Stored rows as operators see them, read one by one."""
    for row in rows:
        yield Sample(row.key, {f.name: Lazy(partial(decode, f), dataset.read(row, f.name)) for f in fields})


def listed(root: Path) -> list[dict[str, Any]]:
    """A line per known fit: what the dataset's current one was made of, and how many of today's rows it has not seen."""
    dataset = open_dataset(root)
    outdated = outdated_fits(dataset.manifest)
    lines: list[dict[str, Any]] = []
    for kind in FITS:
        line: dict[str, Any] = {"name": kind.name, "fitted": kind.name in fit_names(root)}
        if line["fitted"]:
            record = read_record(root, kind.name)
            fields = [dataset.fields[name] for name in record.made.reads if name in dataset.fields]
            written = min((sum(s.written for s in dataset.manifest.columns[f.column].shards) for f in fields), default=0)
            line |= {
                "rows": record.made.rows, "rows_now": written, "sha256": record.made.sha256, "params": record.made.params,
                "manifest": record.manifest, "outdated": any(text.startswith(f"fit {kind.name} ") for text in outdated),
            }  # fmt: skip
        lines.append(line)
    return lines
