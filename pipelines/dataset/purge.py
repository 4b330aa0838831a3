"""Removing every byte of what was taken down.

Column shards that hold such rows are written again without them, the other rows' bytes copied as they are, and the manifest with
them; HEAD moves; only then everything old is deleted. No operator runs and no source is read. A source that is gone stays in the
manifest as refused, under the digest of its name, so that the counts still add up and a build does not take it in again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.storage import open_dataset
from infra.storage.atomic import sweep, write_whole
from infra.storage.copies import drop_all
from infra.storage.ledger import LedgerRow
from infra.storage.manifest import (
    ColumnShard,
    Manifest,
    ShardEntry,
    SourceEntry,
    column_files,
    commit_manifest,
    head_digest,
    read_manifest,
)  # fmt: skip
from infra.storage.objects import as_path, is_object
from infra.storage.selection import Rule, decide, read_selection, selection_file, selection_names
from infra.storage.tombstones import TAKEN_DOWN, Tombstone, Tombstones, anonymous, of_text
from pipelines.dataset.build import check_laws, write_sources_table
from pipelines.dataset.fit import purge_fits
from pipelines.dataset.plan import Hashes
from pipelines.dataset.request import load_request, save_request
from pipelines.dataset.select import refresh
from pipelines.dataset.shard import ShardDraft, StoredShard
from pipelines.dataset.sources import Source, content_digest, given_digest
from pipelines.dataset.stored import (
    ENDINGS,
    PAGES,
    column_shards,
    holds_any,
    manifest_path,
    named_files,
    names,
    names_any,
    remove_files,
    stored_manifests,
)  # fmt: skip
from pipelines.dataset.worker import without_rows
from preprocessing.fields import GIVEN


@dataclass
class Purged:
    """What a purge did.

    Attributes:
        digest: of the manifest HEAD names now.
        rows: removed from it.
        files, bytes: column files deleted, and the bytes that freed.
        manifests: number of those deleted.
        fits: made anew from the rows that are left, or deleted; the next build makes their columns anew.
        mentions: files that still have one of the names in them, which only their owner can mend (`request.json` with a folder
            called so).
    """

    digest: str
    rows: int = 0
    files: int = 0
    bytes: int = 0
    manifests: int = 0
    fits: list[str] = field(default_factory=list)
    mentions: list[str] = field(default_factory=list)


def purge(root: Path) -> Purged:
    """Remove what the dataset's tombstones name. The caller holds the build lock; to be called again after a kill.

    Raises:
        LikenessError: HEAD's manifest is missing or damaged.
    """
    sweep(root)
    stones = Tombstones.load(root)
    name = head_digest(root)
    assert name, "a dataset without HEAD can't be opened, so nothing of it can be taken down"
    head = read_manifest(root, name)
    new = _Cleaner(root, head, stones).manifest()
    check_laws(new, len(new.sources))
    done = Purged(commit_manifest(root, new), sum(s.rows for s in head.shards) - sum(s.rows for s in new.shards))
    write_sources_table(root, new)
    _clean_small_files(root, stones)
    manifests = stored_manifests(root)
    for old, manifest in manifests.items():
        if old != done.digest and (manifest is None or names_any(manifest, stones)):
            manifest_path(root, old).unlink()
            done.manifests += 1
    kept = {path for manifest in stored_manifests(root).values() if manifest for path in named_files(root, manifest)}
    gone = [path for group in column_shards(root) if not kept.intersection(group) and _suspect(group, stones) for path in group]
    done.files, done.bytes = len(gone), remove_files(root, gone)
    done.fits = purge_fits(root)
    words = _words(stones, head)
    Tombstones(tuple(map(_finished, stones.entries))).save(root)
    sweep(root)
    if is_object(root):
        drop_all()  # copies on other machines go when room is needed, or by hand
    done.mentions = sorted(_mentions(root, words))
    return done


def _suspect(group: list[Path], stones: Tombstones) -> bool:
    """Whether files that no manifest names may hold what was taken down: they do, or an unfinished build left them."""
    whole = {ending for path in group for ending in ENDINGS if path.name.endswith(ending)} == set(ENDINGS)
    return not whole or holds_any(group, stones)


def _finished(stone: Tombstone) -> Tombstone:
    reason = "" if stone.value and stone.value in stone.reason else stone.reason
    return stone.model_copy(update={"value": "", "reason": reason, "purged": True})


@dataclass(frozen=True)
class _Named:
    name: str
    digest: str


class _Cleaner:
    """Writes HEAD's column shards without the rows that are taken down."""

    def __init__(self, root: Path, head: Manifest, stones: Tombstones) -> None:
        self.root, self.head, self.stones = root, head, stones
        self.entries = {entry.path: entry for entry in head.sources}
        self.gone = {e.path for e in head.sources if names(stones, e.model_dump())}
        manifests = [manifest for manifest in stored_manifests(root).values() if manifest]
        self.named = {path for manifest in manifests for path in named_files(root, manifest)}
        self.extensions = {(info.column, info.name): info.extension for info in head.fields.values()}
        self.written: dict[tuple[str, int], ColumnShard] = {}

    def manifest(self) -> Manifest:
        """The manifest without them; HEAD's own where it has none."""
        shards, keys = [], set[str]()
        for number, shard in enumerate(self.head.shards):
            rows = self._rows(number)
            lost = {row.key for row in rows if self._lost(row)}
            if lost or self.gone.intersection(shard.sources):
                for column in self.head.columns:
                    self._write(column, number, lost)
                paths = tuple(anonymous(path) if path in self.gone else path for path in shard.sources)
                shard = ShardEntry(sources=paths, rows=len(rows) - len(lost))
            shards.append(shard)
            keys |= lost
        columns = {
            name: column.model_copy(update={"shards": tuple(
                self.written.get((name, number), entry) for number, entry in enumerate(column.shards))})
            for name, column in self.head.columns.items()
        }  # fmt: skip
        sources = {(new := self._entry(entry, keys)).path: new for entry in self.head.sources}
        ordered = tuple(sources[path] for path in sorted(sources))
        return self.head.model_copy(update={"sources": ordered, "shards": tuple(shards), "columns": columns})

    def _rows(self, shard: int) -> list[LedgerRow]:
        with self._open(self.head.ingest, shard) as stored:
            return list(stored.rows.values())

    def _lost(self, row: LedgerRow) -> bool:
        record = json.loads(row.source)
        return record.get("path") in self.gone or self.stones.covers_row(row.key, record)

    def _entry(self, entry: SourceEntry, lost: set[str]) -> SourceEntry:
        if entry.path in self.gone:
            return SourceEntry(path=anonymous(entry.path), bytes=0, status="refused", reason=TAKEN_DOWN)
        keys = tuple(key for key in entry.keys if key not in lost)
        outcome = {} if keys or not entry.keys else {"status": "refused", "reason": TAKEN_DOWN}
        return entry.model_copy(update={"keys": keys, **outcome})

    def _open(self, column: str, shard: int) -> StoredShard:
        named = self.head.columns[column]
        return StoredShard(self.root, _Named(named.operator, named.digest), shard, named.shards[shard].revision)

    def _write(self, name: str, shard: int, lost: set[str]) -> ColumnShard:
        """The column's shard without the lost rows; the columns it was made from go first, since its ledger names their tars."""
        if (name, shard) not in self.written:
            column = self.head.columns[name]
            revision, base = self._revision(name, shard)
            with self._open(name, shard) as stored, base or nullcontext():
                inputs = {key: self._input(key, value, stored, shard, lost) for key, value in stored.commit.inputs.items()}
                draft = ShardDraft(self.root, _Named(column.operator, column.digest), shard)
                for row in stored.rows.values():
                    if row.key not in lost:
                        draft.add(row, [(f, self.extensions[name, f], data) for f, data in stored.values(row.key)])
                records = [self._record(record, stored.rows, lost) for record in stored.commit.sources]
                self.written[name, shard] = draft.commit(revision, base or stored, inputs, records)
        return self.written[name, shard]

    def _revision(self, name: str, shard: int) -> tuple[int, StoredShard | None]:
        """The next one that no manifest names, and the one before where it is not HEAD's.

        A purge that was killed just before it moved HEAD has left a manifest: what that names is used, if it is the same.
        """
        column, base = self.head.columns[name], None
        revision = first = column.shards[shard].revision + 1
        while self.named.intersection(column_files(self.root, column.operator, column.digest, shard, revision)):
            revision += 1
        if revision > first:
            with suppress(OSError, ValueError):
                base = StoredShard(self.root, _Named(column.operator, column.digest), shard, revision - 1)
        return revision, base

    def _input(self, name: str, value: str, stored: StoredShard, shard: int, lost: set[str]) -> str:
        """What a ledger says about one of its inputs, as a build will expect it from now on."""
        if name in self.head.columns:
            same = value == self.head.columns[name].shards[shard].sha256
            return self._write(name, shard, lost).sha256 if same else value
        sources = self.head.shards[shard].sources
        if name == GIVEN.name:
            now = given_digest(map(self._source, sources))
            return given_digest(self._source(path, purged=True) for path in sources) if value == now else value
        hashes = {record["path"]: record["sha256"] for record in stored.commit.sources}
        refusals = {r["path"]: r["reason"] for r in stored.commit.sources if r["status"] == "refused" and not r["sha256"]}
        if value != content_digest((self._source(path, refusals.get(path, "")) for path in sources), hashes):
            return value  # of another kind: the build will see to it
        return content_digest((self._source(path, refusals.get(path, ""), True) for path in sources), hashes)

    def _source(self, path: str, refusal: str = "", purged: bool = False) -> Source:
        """A source as a build will find it."""
        if purged and path in self.gone:
            return Source(anonymous(path), Path(), 0, 0, refusal=TAKEN_DOWN)
        entry = self.entries[path]
        return Source(path, Path(), entry.bytes, 0, tags=entry.tags, caption=entry.caption, refusal=refusal)

    def _record(self, record: dict[str, Any], rows: Mapping[str, LedgerRow], lost: set[str]) -> dict[str, Any]:
        """A source's record in ingest's ledger."""
        if record["path"] in self.gone:
            return record | {"path": anonymous(record["path"]), "bytes": 0, "sha256": "", "status": "refused", "reason": TAKEN_DOWN,
                             "error": "", "trace": "", "tries": 1, "keys": [], "seconds": 0.0}  # fmt: skip
        out = {key: json.loads(rows[key].source) for key in record["keys"] if key in lost}
        return without_rows(record, out) if out else record


def _clean_small_files(root: Path, stones: Tombstones) -> None:
    """Everything beside manifests and columns that may have the names: the cache of digests, the request, rules, pages."""
    hashes = Hashes(root)
    known = {path: line for path, line in hashes.known.items() if not stones.covers_source(path, "", line[2])}
    if known != hashes.known:
        hashes.known = known
        hashes.save()
    if request := load_request(root):
        gone = [label for label, where in request.roots.items() if stones.covers_source(f"{label}/{as_path(where).name}")]
        if gone:  # a root that is one file
            save_request(root, request.model_copy(update={"roots": {k: v for k, v in request.roots.items() if k not in gone}}))
    for page in PAGES:
        (root / page).unlink(missing_ok=True)
    names = {of_text(stone.value) for stone in stones.entries if stone.value}
    names |= {name for stone in stones.entries for name in (*stone.paths, *stone.rows)}
    for name in selection_names(root):
        _clean_rules(root, name, names)
    refresh(root)


def _clean_rules(root: Path, name: str, names: set[str]) -> None:
    """Rules that ask for a purged name ask for its digest from now on, which drops and keeps the same rows."""
    rules = [Rule.parse(text) for text in read_selection(root, name).rules]
    clean = [
        Rule(rule.field, rule.name, rule.op, f"sha256:{of_text(rule.threshold)}")
        if isinstance(rule.threshold, str) and of_text(rule.threshold) in names else rule for rule in rules
    ]  # fmt: skip
    if clean != rules:
        write_whole(root, selection_file(root, name), decide(open_dataset(root), name, clean, strict=False).encoded())


def _words(stones: Tombstones, head: Manifest) -> set[bytes]:
    """The names of what was taken down, as far as they are still known."""
    lost = [e for e in head.sources if names(stones, e.model_dump())]
    words = {stone.value for stone in stones.entries} | {entry.path for entry in lost} | {key for e in lost for key in e.keys}
    return {word.encode() for word in words if word}


def _mentions(root: Path, words: set[bytes]) -> set[str]:
    """Files besides columns in which one of the names stands."""
    files = [path for path in root.rglob("*") if path.is_file() and (root / "columns") not in path.parents]
    return {path.relative_to(root).as_posix() for path in files for data in [path.read_bytes()] if any(w in data for w in words)}
