"""One shard of one column: what is stored, and a draft of what will be."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from infra import digest
from infra.storage.atomic import sync_all, temporary
from infra.storage.columns import ColumnWriter, Member, parse_index
from infra.storage.copies import Changed, keep, open_local
from infra.storage.ledger import Commit, LedgerRow, read_commit, read_ledger, write_ledger
from infra.storage.manifest import ColumnShard, column_files
from infra.storage.object_transfers import upload
from infra.storage.objects import is_object

UPLOADS_AT_ONCE = 4


class Named(Protocol):
    """Whose column it is: an operator's name, and the digest of all that its values depend on (see `graph.Node`)."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...


class StoredShard:
    """A committed shard of a column.

    Attributes:
        rows: ledger by row key, in the order of the tar.
    """

    def __init__(self, root: Path, node: Named, shard: int, revision: int) -> None:
        self.revision = revision
        self.tar, self.idx, self.ledger = column_files(root, node.name, node.digest, shard, revision)
        commit = read_commit(self.ledger)
        if commit is None:
            raise FileNotFoundError(f"{self.ledger} is missing or damaged")
        self.commit = commit
        self.rows = {row.key: row for row in read_ledger(self.ledger)}
        self._members: dict[str, dict[str, Member]] = {}
        for member in parse_index(self.idx.read_bytes()):
            self._members.setdefault(member.key, {})[member.field] = member
        self._handle: int | None = None
        if not is_object(self.tar):  # else fetched when it is read, which often it is not
            self._handle = os.open(self.tar, os.O_RDONLY)  # stays readable when the name is replaced

    def read(self, key: str, field: str) -> bytes | None:
        """The stored bytes, None where there are none."""
        member = self._members.get(key, {}).get(field)
        if member is None:
            return None
        if self._handle is None:
            self._handle = open_local(self.tar, self.commit.tar_sha256)
        return os.pread(self._handle, member.size, member.offset)

    def values(self, key: str) -> list[tuple[str, bytes]]:
        """All of a row's stored bytes, with their fields, in the order of the tar."""
        return [(field, data) for field in self._members.get(key, {}) if (data := self.read(key, field)) is not None]

    def intact(self) -> bool:
        """Whether the tar still has the bytes that were committed."""
        if not is_object(self.tar):
            return digest.of_file(self.tar) == self.commit.tar_sha256
        try:
            self._handle = self._handle or open_local(self.tar, self.commit.tar_sha256)
        except (FileNotFoundError, Changed):
            return False
        return True

    def entry(self) -> ColumnShard:
        """Its line of the manifest."""
        return _entry(self.revision, self.rows.values(), self.commit, digest.of_file(self.ledger))

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> StoredShard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Finished:
    """A shard of a column that is written but not in place yet: its line of the manifest, and files with their places.

    Tar, index, ledger; none where a stored shard stays.
    """

    entry: ColumnShard
    scratch: tuple[Path, ...] = ()
    final: tuple[Path, ...] = ()


def publish(shards: Sequence[Finished]) -> None:
    """Put shards in place, each ledger after the files it vouches for. Their bytes reach the disk before their names do."""
    if any(is_object(path) for shard in shards for path in shard.final):
        _upload(shards)
        return
    sync_all(path for shard in shards for path in shard.scratch)
    for shard in shards:
        for path in shard.final[2:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # of an unfinished build with other sources; no manifest names it
        for scratch, place in zip(shard.scratch, shard.final, strict=True):
            os.replace(scratch, place)
    sync_all({path.parent for shard in shards for path in shard.final})


def _upload(shards: Sequence[Finished]) -> None:
    """`publish` to object storage: tars and indexes, several at a time, then the ledgers, which vouch for them.

    What was stored stays here as a copy, since later segments read it.
    """
    files = [(*pair, number) for shard in shards for number, pair in enumerate(zip(shard.scratch, shard.final, strict=True))]
    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        list(pool.map(lambda file: file[1].unlink(missing_ok=True), (file for file in files if file[2] == 2)))
        for ledgers in (False, True):
            list(pool.map(lambda file: upload(file[0], file[1]), (file for file in files if (file[2] == 2) == ledgers)))
    for shard in shards:
        digests = (shard.entry.sha256, shard.entry.idx_sha256, shard.entry.ledger_sha256)
        for scratch, sha256 in zip(shard.scratch, digests, strict=False):
            keep(scratch, sha256)


class ShardDraft:
    """A shard of a column being written; nothing of it is seen before `commit`."""

    def __init__(self, root: Path, node: Named, shard: int) -> None:
        self.root, self.node, self.shard = root, node, shard
        self.rows: list[LedgerRow] = []
        self._writer = ColumnWriter(temporary(root, ".tar"))

    def add(self, row: LedgerRow, members: Iterable[tuple[str, str, bytes]] = ()) -> None:
        """One row, with its (field, extension, bytes) when it was written."""
        self.rows.append(row)
        for field, extension, data in members:
            self._writer.add(row.key, field, extension, data)

    def finish(
        self, revision: int, base: StoredShard | None, inputs: Mapping[str, str], sources: list[dict[str, Any]]
    ) -> Finished:
        """Write the rest of tar, index and ledger, still out of sight.

        Where the outcome is exactly that of `base`, base stays and the draft is dropped.
        """
        self._writer.close()
        idx, ledger = temporary(self.root, ".idx"), temporary(self.root, ".ledger")
        idx.write_bytes(self._writer.index)
        sha256 = self._writer.sha256
        commit = Commit(self._writer.size, sha256, digest.of_bytes(self._writer.index), dict(inputs), sources)
        write_ledger(ledger, self.rows, commit)
        entry = _entry(revision, self.rows, commit, digest.of_file(ledger))
        if base and base.tar.exists() and base.entry().ledger_sha256 == entry.ledger_sha256:
            for scratch in (self._writer.path, idx, ledger):
                scratch.unlink()
            return Finished(base.entry())
        if base and base.revision != revision and base.commit.tar_sha256 == sha256:
            _share(base.tar, self._writer.path)
        final = column_files(self.root, self.node.name, self.node.digest, self.shard, revision)
        return Finished(entry, (self._writer.path, idx, ledger), final)

    def commit(
        self, revision: int, base: StoredShard | None, inputs: Mapping[str, str], sources: list[dict[str, Any]]
    ) -> ColumnShard:
        """`finish`, and put the files in place; the line of the manifest."""
        finished = self.finish(revision, base, inputs, sources)
        publish([finished])
        return finished.entry

    def discard(self) -> None:
        self._writer.discard()


def _entry(revision: int, rows: Collection[LedgerRow], commit: Commit, ledger_sha256: str) -> ColumnShard:
    written = sum(row.status == "written" for row in rows)
    return ColumnShard(
        revision=revision, written=written, quarantined=len(rows) - written, bytes=commit.tar_bytes,
        sha256=commit.tar_sha256, idx_sha256=commit.idx_sha256, ledger_sha256=ledger_sha256,
    )  # fmt: skip


def _share(old: Path, new: Path) -> None:
    """Make `new` a second name of `old`, which has the same bytes; keep the copy where links are not to be had."""
    if is_object(old):  # which knows no second names
        return
    link = new.with_suffix(".link")
    try:
        os.link(old, link)
    except OSError:
        return
    os.replace(link, new)
