"""Fits: what was learnt from a dataset's rows, kept beside them as a file of arrays that operators read.

`fits/NAME/DIGEST8.npz` holds the arrays, DIGEST8 being the first digits of the file's sha256; `fits/NAME/current.json` says
which of them counts, and what it was made from. Operators name a fit as asset `fit:NAME`; its checksum is part of their digest.
A fit changes only on request, so new rows never make old columns stale.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from infra import digest
from infra.errors import LikenessError
from infra.storage.atomic import write_whole
from infra.storage.copies import local
from infra.storage.manifest import FitEntry, Manifest

FOLDER = "fits"


class FitRecord(BaseModel):
    """`current.json`.

    Attributes:
        name: of the fit.
        made: what a manifest tells of it as well.
        manifest: digest of the manifest whose rows were read.
        bytes: of the file of arrays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    made: FitEntry
    manifest: str
    bytes: int

    def file(self, root: Path) -> Path:
        """The file of arrays."""
        return root / FOLDER / self.name / f"{self.made.sha256[:8]}.npz"


def write_fit(root: Path, name: str, arrays: Mapping[str, np.ndarray], manifest: str, **made: Any) -> FitRecord:
    """Store a fit and make it the current one; the same arrays give the same file.

    Args:
        manifest: digest of the manifest whose rows were read.
        made: attributes of `FitEntry` but the checksum.
    """
    data = packed(arrays)
    record = FitRecord(name=name, made=FitEntry(sha256=digest.of_bytes(data), **made), manifest=manifest, bytes=len(data))
    write_whole(root, record.file(root), data)
    write_whole(root, _current(root, name), digest.canonical_json(record.model_dump(mode="json")))
    return record


def read_record(root: Path, name: str) -> FitRecord:
    """What is known about the current fit of this name.

    Raises:
        LikenessError: there is none, or its record is damaged.
    """
    again = f"run: likeness data fit {root} {name}"
    try:
        return FitRecord.model_validate_json(_current(root, name).read_bytes())
    except OSError:
        raise LikenessError(f"dataset {root} has no fit {name}", fix=again) from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise LikenessError(f"{_current(root, name)}: {problem['loc']}: {problem['msg']}", fix=again) from None


def find_fit(root: Path, name: str) -> tuple[Path, str]:
    """File of the current fit of this name (an absolute path: workers may run elsewhere), and its sha256; of a dataset on object
    storage a copy on this machine.

    Raises:
        LikenessError: there is none, or its bytes changed since it was written.
    """
    root = root.absolute()
    record = read_record(root, name)
    path = record.file(root)
    found = digest.of_file(path) if path.is_file() else "no file"
    if found != record.made.sha256:
        raise LikenessError(f"{path}: {found}", allowed=record.made.sha256, fix=f"run: likeness data fit {root} {name}")
    return local(path, found), found


def fit_names(root: Path) -> list[str]:
    """Fits that the dataset has."""
    return sorted(path.parent.name for path in (root / FOLDER).glob("*/current.json"))


def used_fits(root: Path, assets: Mapping[str, str]) -> dict[str, FitEntry]:
    """Of assets (name -> checksum, see `Column.assets`) the fits: name -> how it was made, for the manifest."""
    names = [name.removeprefix("fit:") for name in assets if name.startswith("fit:")]
    return {name: read_record(root, name).made for name in sorted(names)}


def outdated_fits(manifest: Manifest) -> list[str]:
    """A line per fit in use that was made from a column which the dataset no longer reads."""
    lines = []
    for name, fit in manifest.fits.items():
        now = {field: manifest.fields[field].column for field in fit.reads if field in manifest.fields}
        if changed := sorted(field for field, column in fit.reads.items() if now.get(field) != column):
            lines.append(f"fit {name} was made from another {', '.join(changed)}: run `likeness data fit` for it, then build again")
    return lines


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of an .npz file, in the order of their names, with fixed dates and no compression."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o444 << 16
            archive.writestr(info, member.getvalue())
    return out.getvalue()


def _current(root: Path, name: str) -> Path:
    return root / FOLDER / name / "current.json"
