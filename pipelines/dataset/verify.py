"""Does the dataset still hold what its manifest says, and nothing of what was purged? Reads every byte of it."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra import digest
from infra.errors import LikenessError
from infra.storage import open_dataset
from infra.storage.columns import parse_index, walk_tar
from infra.storage.copies import forget, local
from infra.storage.fits import find_fit, fit_names
from infra.storage.ledger import LedgerRow, read_ledger
from infra.storage.manifest import Column, Manifest, head_digest, read_manifest
from infra.storage.objects import listed
from infra.storage.selection import Rule, decide, read_selection, selection_file, selection_names
from infra.storage.tombstones import FILE, Tombstones
from pipelines.dataset.build import write_sources_table
from pipelines.dataset.stored import column_shards, holds_any, manifest_path, names_any, stored_manifests


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
    files, bytes: that were read, or with `quick` looked at.
    others: number and bytes of column files that only older manifests or unfinished builds name.
    taken_down: rows of the manifest that readers don't give out.
    purged: rows of which no byte may be left; with `quick` that is not checked.
    """

    problems: list[Problem]
    files: int
    bytes: int
    others: tuple[int, int]
    taken_down: int
    purged: int


def verify(root: Path, progress: Callable[[int, int], None] = lambda done, total: None, quick: bool = False) -> Verdict:
    """Check every file that HEAD's manifest names against its digest, the laws against the ledgers, and what lies beside them:
    older manifests, selections, fits, tombstones.

    Args:
        progress: called with bytes done and bytes in all.
        quick: look only whether files are there and tars have their size.

    Raises:
        LikenessError: there is no finished dataset, or its manifest is damaged.
    """
    name = head_digest(root)
    if name is None:
        raise LikenessError(f"{root} has no finished build", fix=f"build it with: likeness data build {root}")
    root = root.absolute()
    if not quick:
        forget(root)
    with listed(root):
        return _verdict(root, name, progress, quick)


def _verdict(root: Path, name: str, progress: Callable[[int, int], None], quick: bool) -> Verdict:
    manifest = read_manifest(root, name)
    stones, problems = _tombstones(root)
    files = done = 0
    total = sum(shard.bytes for column in manifest.columns.values() for shard in column.shards)
    for shard, keys in enumerate(_keys(root, manifest)):
        for column in manifest.columns.values():
            problems += _shard_problems(root, manifest, column, shard, keys, quick)
            files += 3
            done += column.shards[shard].bytes
            progress(done, total)
    problems += _source_problems(root, manifest)
    problems += _manifest_problems(root, name, stones)
    problems += _fit_problems(root)
    if not quick:
        problems += _purge_problems(root, stones.purged)
    problems += _selection_problems(root, stones, quick or bool(problems))
    hidden = 0 if problems or not stones else open_dataset(root).taken_down
    purged = len({row for stone in stones.purged.entries for row in stone.rows})
    return Verdict(problems, files, done, _others(root, manifest), hidden, purged)


def _keys(root: Path, manifest: Manifest) -> Iterator[list[str]]:
    """Row keys per shard, as the sources' outcomes give them; the order is that of ingest's ledger, checked with its digest."""
    by_source = {entry.path: entry.keys for entry in manifest.sources}
    for shard in manifest.shards:
        yield [key for path in shard.sources for key in by_source.get(path, ())]


def _shard_problems(
    root: Path, manifest: Manifest, column: Column, shard: int, keys: list[str], quick: bool
) -> Iterator[Problem]:
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
        elif quick:
            if path == files[0] and (size := path.stat().st_size) != entry.bytes:
                yield Problem(_name(root, path), f"{size} bytes, the manifest has {entry.bytes}", fix)
        elif (have := digest.of_file(path)) != want:
            yield Problem(_name(root, path), f"bytes changed: sha256 {have[:12]}..., the manifest has {want[:12]}...", fix)
            broken = True
    if not broken and not quick:  # the laws; with the digests right, a breach means that the build was wrong
        for path, what in _breaches(column, manifest, shard, keys, *files):
            yield Problem(_name(root, path), what, f"this is a bug, please report it; {fix}")


def _breaches(
    column: Column, manifest: Manifest, shard: int, keys: list[str], tar: Path, idx: Path, ledger: Path
) -> Iterator[tuple[Path, str]]:
    try:
        members = list(walk_tar(local(tar)))
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
    """`sources.parquet` is what a build would write; where another version of the library wrote it, it says the same."""
    path = root / "sources.parquet"
    fix = f"mend it with: likeness data build {root}"
    with tempfile.TemporaryDirectory() as scratch:
        write_sources_table(Path(scratch), manifest)
        want = Path(scratch) / path.name
        try:
            if path.read_bytes() == want.read_bytes():
                return
            same = pq.read_table(local(path), use_threads=False).equals(pq.read_table(want, use_threads=False))
            if not same or pq.read_metadata(local(path)).created_by == pq.read_metadata(want).created_by:
                yield Problem(path.name, "is not of this manifest, or its bytes changed", fix)
        except (OSError, pa.ArrowException, ValueError) as error:
            yield Problem(path.name, f"can't be read: {str(error).splitlines()[0]}", fix)


def _tombstones(root: Path) -> tuple[Tombstones, list[Problem]]:
    try:
        return Tombstones.load(root), []
    except LikenessError as error:
        return Tombstones(), [Problem(FILE, error.what.partition(": ")[2], error.fix)]


def _manifest_problems(root: Path, head: str, stones: Tombstones) -> Iterator[Problem]:
    for name, manifest in stored_manifests(root).items():
        path = _name(root, manifest_path(root, name))
        if manifest is None and name != head:
            yield Problem(path, "bytes changed", f"delete it: rm {manifest_path(root, name)}")
        elif manifest and names_any(manifest, stones.purged):
            yield Problem(path, "names what was purged", f"remove it with: likeness data takedown {root} --purge")


def _purge_problems(root: Path, purged: Tombstones) -> Iterator[Problem]:
    """No column file, whoever names it, may hold a purged row."""
    fix = f"remove it with: likeness data takedown {root} --purge"
    for group in column_shards(root) if purged else ():
        held = holds_any(group, purged)
        for path in group:
            if held or (path.suffix == ".idx" and any(purged.covers_key(m.key) for m in parse_index(path.read_bytes()))):
                yield Problem(_name(root, path), "holds a row that was purged", fix)


def _fit_problems(root: Path) -> Iterator[Problem]:
    for name in fit_names(root):
        try:
            find_fit(root, name)
        except LikenessError as error:
            yield Problem(f"fits/{name}", error.what, error.fix)


def _selection_problems(root: Path, stones: Tombstones, quick: bool) -> Iterator[Problem]:
    """Stored selections are whole; those of a manifest that can still be read say what their rules come to."""
    for name in selection_names(root):
        path = selection_file(root, name)
        try:
            stored = read_selection(root, name)
        except LikenessError as error:
            yield Problem(_name(root, path), error.what.partition(": ")[2], error.fix)
            continue
        if quick or stored.tombstones != stones.digest or stored.manifest != head_digest(root):
            continue  # readers decide anew
        again = decide(open_dataset(root), name, [Rule.parse(rule) for rule in stored.rules], strict=False)
        if again != stored:
            yield Problem(_name(root, path), "is not what its rules come to", f"decide again: likeness data select {root} {name}")


def _others(root: Path, manifest: Manifest) -> tuple[int, int]:
    named = {f for column in manifest.columns.values() for shard in range(len(column.shards)) for f in column.files(root, shard)}
    sizes = [f.stat().st_size for f in (root / "columns").rglob("*") if f.is_file() and f not in named]
    return len(sizes), sum(sizes)


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
