"""Does the dataset still hold what its manifest says? Reads every byte of it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra import digest
from infra.errors import LikenessError
from infra.storage.columns import parse_index, walk_tar
from infra.storage.ledger import LedgerRow, read_ledger
from infra.storage.manifest import Column, Manifest, head_digest, read_manifest


@dataclass(frozen=True)
class Problem:
    """What is wrong with which file, and what mends it."""

    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.fix}"


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    problems: none when the dataset is whole.
    files, bytes: that were read.
    others: number and bytes of column files that only older manifests or unfinished builds name.
    """

    problems: list[Problem]
    files: int
    bytes: int
    others: tuple[int, int]


def verify(root: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Verdict:
    """Check every file that HEAD's manifest names against its digest, and the laws against the ledgers.

    Args:
        progress: called with bytes done and bytes in all.

    Raises:
        LikenessError: there is no finished dataset, or its manifest is damaged.
    """
    name = head_digest(root)
    if name is None:
        raise LikenessError(f"{root} has no finished build", fix=f"build it with: likeness data build {root}")
    manifest = read_manifest(root, name)
    problems: list[Problem] = []
    files = done = 0
    total = sum(shard.bytes for column in manifest.columns.values() for shard in column.shards)
    for shard, keys in enumerate(_keys(root, manifest)):
        for column in manifest.columns.values():
            problems += _shard_problems(root, manifest, column, shard, keys)
            files += 3
            done += column.shards[shard].bytes
            progress(done, total)
    problems += _source_problems(root, manifest)
    return Verdict(problems, files, done, _others(root, manifest))


def _keys(root: Path, manifest: Manifest) -> Iterator[list[str]]:
    """Row keys per shard, as the sources' outcomes give them; the order is that of ingest's ledger, checked with its digest."""
    by_source = {entry.path: entry.keys for entry in manifest.sources}
    for shard in manifest.shards:
        yield [key for path in shard.sources for key in by_source.get(path, ())]


def _shard_problems(root: Path, manifest: Manifest, column: Column, shard: int, keys: list[str]) -> Iterator[Problem]:
    entry = column.shards[shard]
    files = column.files(root, shard)
    fix = f"mend it with: rm {' '.join(str(f) for f in files if f.exists())} ; likeness data build {root}"
    if not any(f.exists() for f in files):
        fix = f"mend it with: likeness data build {root}"
    broken = False
    for path, want in zip(files, (entry.sha256, entry.idx_sha256, entry.ledger_sha256), strict=True):
        if not path.exists():
            yield Problem(_name(root, path), "missing", fix)
            broken = True
        elif (have := digest.of_file(path)) != want:
            yield Problem(_name(root, path), f"bytes changed: sha256 {have[:12]}..., the manifest has {want[:12]}...", fix)
            broken = True
    if not broken:  # the laws; with the digests right, a breach means that the build was wrong
        for path, what in _breaches(column, manifest, shard, keys, *files):
            yield Problem(_name(root, path), what, f"this is a bug, please report it; {fix}")


def _breaches(
    column: Column, manifest: Manifest, shard: int, keys: list[str], tar: Path, idx: Path, ledger: Path
) -> Iterator[tuple[Path, str]]:
    try:
        members = list(walk_tar(tar))
        if list(parse_index(idx.read_bytes())) != members:
            yield idx, "does not say what the tar holds"
        rows = read_ledger(ledger)
    except (tarfile.TarError, ValueError, OSError, pa.ArrowException) as error:
        yield tar, f"can't be read: {error}"
        return
    if sorted(row.key for row in rows) != sorted(keys):
        yield ledger, f"{len(rows)} rows, the sources have {len(keys)}"
    written = [row.key for row in rows if row.status == "written"]
    if (len(written), len(rows) - len(written)) != (column.shards[shard].written, column.shards[shard].quarantined):
        yield ledger, "written and quarantined rows are not as many as the manifest says"
    if list(dict.fromkeys(m.key for m in members)) != written:
        yield tar, "rows are not those that the ledger calls written"
    names = {info.name for info in manifest.fields.values() if info.digest == column.digest}
    if {m.field for m in members} - names:
        yield tar, f"holds fields that the manifest does not have: {', '.join(sorted({m.field for m in members} - names))}"
    yield from _bad_rows(ledger, rows)


def _bad_rows(ledger: Path, rows: list[LedgerRow]) -> Iterator[tuple[Path, str]]:
    for row in rows:
        if row.status not in ("written", "quarantined") or (row.status == "quarantined") != bool(row.error):
            yield ledger, f"row {row.key} is neither written nor quarantined with a reason"


def _source_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
    path = root / "sources.parquet"
    fix = f"mend it with: likeness data build {root}"
    try:
        lines = pq.read_table(path, columns=["path", "status"], use_threads=False).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        yield Problem(path.name, f"can't be read: {str(error).splitlines()[0]}", fix)
        return
    if [(line["path"], line["status"]) for line in lines] != [(entry.path, entry.status) for entry in manifest.sources]:
        yield Problem(path.name, "is not of this manifest", fix)


def _others(root: Path, manifest: Manifest) -> tuple[int, int]:
    named = {f for column in manifest.columns.values() for shard in range(len(column.shards)) for f in column.files(root, shard)}
    sizes = [f.stat().st_size for f in (root / "columns").rglob("*") if f.is_file() and f not in named]
    return len(sizes), sum(sizes)


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
