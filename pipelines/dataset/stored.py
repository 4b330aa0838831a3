"""What lies in a dataset's folder, apart from what HEAD says: all manifests, and all column files.

Manifests are read as plain JSON here, so that those of older versions count too.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra import digest
from infra.storage.fits import FOLDER as FITS
from infra.storage.ledger import read_commit, read_ledger
from infra.storage.manifest import column_files
from infra.storage.objects import is_object
from infra.storage.tombstones import Tombstones

ENDINGS = (".tar", ".idx", ".ledger.parquet")
PAGES = ("report.html", "card.md")  # show rows; `likeness data report` makes them again


def stored_manifests(root: Path) -> dict[str, dict[str, Any] | None]:
    """Digest -> the manifest, None where its bytes are not those it was named by."""
    found: dict[str, dict[str, Any] | None] = {}
    for path in sorted((root / "manifests").glob("*.json")):
        data = path.read_bytes()
        found[path.stem] = json.loads(data) if digest.of_bytes(data) == path.stem else None
    return found


def manifest_path(root: Path, name: str) -> Path:
    return root / "manifests" / f"{name}.json"


def named_files(root: Path, manifest: Mapping[str, Any]) -> set[Path]:
    """Column files that a manifest names."""
    columns = manifest["columns"].values()
    return {
        path for column in columns for shard, entry in enumerate(column["shards"])
        for path in column_files(root, column["operator"], column["digest"], shard, entry["revision"])
    }  # fmt: skip


def column_shards(root: Path) -> Iterator[list[Path]]:
    """Files below `columns/`, those of one shard and revision together; a file that is none of a shard's stands alone."""
    for folder in sorted({path.parent for path in (root / "columns").rglob("*") if path.is_file()}):
        groups: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(folder.iterdir()):
            if path.is_file():
                ending = next((e for e in ENDINGS if path.name.endswith(e)), "")
                groups[path.name.removesuffix(ending) if ending else path.name].append(path)
        yield from groups.values()


def names_any(manifest: Mapping[str, Any], stones: Tombstones) -> bool:
    """Whether a manifest names a source or a row that is taken down."""
    return any(names(stones, entry) or any(map(stones.covers_key, entry.get("keys", ()))) for entry in manifest["sources"])


def names(stones: Tombstones, entry: Mapping[str, Any]) -> bool:
    """Whether a source, as a manifest or ingest's ledger tells of it, is taken down.

    A file with the same bytes under a new name is one that a build has refused: it has no rows, and its name may stay.
    """
    return stones.covers_source(entry["path"], entry.get("person", ""), entry.get("sha256", "") if entry.get("keys") else "")


def holds_any(group: Collection[Path], stones: Tombstones) -> bool:
    """Whether a column shard holds a row that is taken down, or tells of such a source."""
    ledger = next((path for path in group if path.name.endswith(ENDINGS[2])), None)
    commit = read_commit(ledger) if ledger else None
    if ledger is None or commit is None:
        return False
    return any(names(stones, record) for record in commit.sources) or any(stones.covers_key(r.key) for r in read_ledger(ledger))


def learnt_from(root: Path, manifests: Collection[str]) -> list[str]:
    """Fits whose rows were read from one of these manifests."""
    records = [json.loads(path.read_bytes()) for path in sorted((root / FITS).glob("*/current.json"))]
    return [record["name"] for record in records if record["manifest"] in manifests]


def remove_files(root: Path, paths: Collection[Path]) -> int:
    """Delete files, ledgers first since they vouch for the others, and folders of columns that are empty then; the bytes freed.

    A file with several names counts when its last name goes.
    """
    freed = 0
    for path in sorted(paths, key=lambda path: (not path.name.endswith(ENDINGS[2]), path)):
        stat = path.stat()
        freed += stat.st_size if stat.st_nlink == 1 else 0
        path.unlink()
    if is_object(root):  # which has no folders
        return freed
    for folder in sorted((root / "columns").glob("*/*")) + sorted((root / "columns").glob("*")):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return freed
