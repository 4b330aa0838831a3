"""Deleting what no manifest needs: leftovers of killed builds, old manifests beyond those to keep, and their column files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from infra.errors import LikenessError
from infra.storage.atomic import sweep, temporary_folder
from infra.storage.fits import FOLDER as FITS
from infra.storage.fits import fit_names, read_record
from infra.storage.lock import build_lock
from infra.storage.manifest import head_digest
from infra.storage.selection import read_selection, selection_names
from pipelines.dataset.stored import column_shards, manifest_path, named_files, remove_files, stored_manifests


@dataclass(frozen=True)
class Garbage:
    """What `collect` removes, or would.

    Attributes:
        kept: manifests that stay, newest first, each with why.
        manifests: digests of those to go.
        files: column files that no kept manifest names.
        fits: files of fits that neither count now nor stand in a kept manifest.
        temporary: leftovers of killed builds.
        bytes: that all of them free.
    """

    kept: dict[str, str]
    manifests: list[str]
    files: list[str]
    fits: list[str]
    temporary: list[str]
    bytes: int


def collect(
    root: Path, keep: int | None = None, models: Iterable[tuple[str, Iterable[str]]] = (), dry_run: bool = False
) -> Garbage:
    """Remove what nobody needs. HEAD's manifest, those that registered models or selections name, and all their files stay.

    May be killed at any point and run again.

    Args:
        keep: how many of the newest manifests stay, HEAD's included; None for all.
        models: registered versions, each with the digests of the datasets it was trained on.

    Raises:
        LikenessError: a build is running, or a manifest to be kept is damaged: what it names can't be told.
    """
    root = root.absolute()
    head = head_digest(root)
    if head is None:
        raise LikenessError(f"{root} has no finished build", fix=f"build it with: likeness data build {root}")
    with build_lock(root):
        manifests = stored_manifests(root)
        if head not in manifests:
            raise LikenessError(f"{manifest_path(root, head)}, which HEAD names, is missing", fix="nothing is deleted without it; "
                                f"finish a build first: likeness data build {root}")
        kept = _kept(root, head, list(manifests), keep, models)
        needed = set()
        for name in kept:
            manifest = manifests[name]
            if manifest is None:
                raise LikenessError(f"{manifest_path(root, name)}: bytes changed since it was written",
                                    fix="delete it if it is an old one; of HEAD's, see: likeness data verify")
            needed |= named_files(root, manifest)
        old = [manifest_path(root, name) for name in manifests if name not in kept]
        columns = [path for group in column_shards(root) for path in group if path not in needed]
        fits = _unused_fits(root, [manifest for name in kept if (manifest := manifests[name])])
        temporary = [path for path in sorted(temporary_folder(root).rglob("*")) if path.is_file()]
        removed = [*old, *columns, *fits, *temporary]
        garbage = Garbage(
            kept, [path.stem for path in old], _names(root, columns), _names(root, fits),
            _names(temporary_folder(root).parent, temporary), _size(removed),
        )
        if not dry_run:
            remove_files(root, old)  # first: a manifest that is there names files that are there
            remove_files(root, [*columns, *fits])
            sweep(root)
        return garbage


def _kept(
    root: Path, head: str, there: list[str], keep: int | None, models: Iterable[tuple[str, Iterable[str]]]
) -> dict[str, str]:
    """Manifests that stay, and why."""
    newest = _by_age(root, head, there)
    kept = dict.fromkeys(newest if keep is None else newest[: max(keep, 1)], "all are kept" if keep is None else f"newest {keep}")
    kept[head] = "HEAD"
    for model, digests in models:
        kept |= {name: f"{model} was trained on it" for name in digests if name in there and name not in kept}
    for selection in selection_names(root):
        name = read_selection(root, selection).manifest
        if name in there and name not in kept:
            kept[name] = f"selection {selection} was decided on it"
    return {name: kept[name] for name in newest if name in kept}


def _by_age(root: Path, head: str, there: list[str]) -> list[str]:
    """Manifests, the one HEAD moved to last first; those of which nothing is known last."""
    moves = []
    try:
        for line in (root / "history.jsonl").read_text().splitlines():
            moves.append(json.loads(line)["to"])
    except (OSError, ValueError, KeyError):  # a log: what can be read of it counts
        pass
    order = list(dict.fromkeys([head, *reversed(moves), *there]))
    return [name for name in order if name in there]


def _unused_fits(root: Path, manifests: list[dict]) -> list[Path]:
    used = {read_record(root, name).file(root) for name in fit_names(root)}
    used |= {root / FITS / name / f"{fit['sha256'][:8]}.npz" for m in manifests for name, fit in m.get("fits", {}).items()}
    return [path for path in sorted((root / FITS).glob("*/*.npz")) if path not in used]


def _names(root: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def _size(paths: list[Path]) -> int:
    """Bytes that come free; a file with another name elsewhere frees none."""
    return sum(stat.st_size for path in paths if (stat := path.stat()).st_nlink == 1)
