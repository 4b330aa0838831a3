"""Paths on object storage: `s3://BUCKET/KEY`, on s3fs.

An `ObjectPath` is a `pathlib.Path` whose files are objects, so that what reads and writes datasets need not know where they lie.
What differs from a folder:

- an object appears whole, when its last byte has arrived, or not at all; there is no rename, no append, no `fsync`;
- there are no folders but the slashes in the names;
- what wants a file of its own (tar, Parquet, a decoder) gets a whole copy on this machine: `infra.storage.copies`. Handing an
  `ObjectPath` itself to `open` or `os` fails with one clear line.

Requests, with what is tried again, are in `object_requests`; what moves whole objects is in `object_transfers`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any

from infra.errors import StorageError
from infra.storage import object_requests

SCHEME = "s3:"
@dataclass(frozen=True)
class Entry:
    """An object as its storage tells of it: `etag` changes with the bytes, `age_s` is by the storage's clock (-1: not known)."""

    bytes: int
    etag: str
    age_s: float = -1.0


class _Stat:
    """What callers ask of `stat()`; the time of change stands for the ETag, which is surer: equal where nothing has changed."""

    st_nlink = 1

    def __init__(self, entry: Entry) -> None:
        self.st_size = entry.bytes
        self.st_mtime_ns = int.from_bytes(hashlib.blake2b(entry.etag.encode(), digest_size=7).digest(), "big")


class ObjectPath(PosixPath):
    """See the module. Paths relative to another (`relative_to`) are plain names."""

    __slots__ = ()

    def __str__(self) -> str:
        parts = self.parts
        return f"{SCHEME}//{'/'.join(parts[1:])}" if parts and parts[0] == SCHEME else "/".join(parts) or "."

    def __fspath__(self) -> str:
        raise StorageError(f"{self} is on object storage, and what was asked for wants a folder of this machine",
                           fix="name a local path")  # fmt: skip

    @property
    def bucket(self) -> str:
        return self.parts[1]

    @property
    def object_key(self) -> str:
        return "/".join(self.parts[2:])

    @property
    def prefix(self) -> str:
        """How the keys of all objects below begin."""
        return f"{self.object_key}/" if self.object_key else ""

    # where it is: nowhere on this machine

    def absolute(self) -> ObjectPath:
        return self

    def resolve(self, strict: bool = False) -> ObjectPath:
        return self

    def expanduser(self) -> ObjectPath:
        return self

    # what is there

    def entry(self) -> Entry | None:
        """The object of this very name, None where there is none."""
        if (known := _listed(self)) is not None:
            return known.get(self)
        try:
            answer = object_requests.call(self, "head_object", Bucket=self.bucket, Key=self.object_key)
        except FileNotFoundError:
            return None
        return Entry(answer["ContentLength"], answer["ETag"].strip('"'), object_requests.age_s(answer))

    def exists(self) -> bool:
        return (bool(self.object_key) and self.entry() is not None) or self.is_dir()

    def is_file(self) -> bool:
        return bool(self.object_key) and self.entry() is not None

    def is_dir(self) -> bool:
        if (known := _listed(self)) is not None:
            return any(self in path.parents for path in known)
        try:
            answer = object_requests.call(self, "list_objects_v2", Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
        except FileNotFoundError:
            return False
        return bool(answer.get("Contents")) or (not self.object_key)

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        if (entry := self.entry()) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return _Stat(entry)

    def lstat(self) -> Any:
        return self.stat()

    def files(self) -> dict[ObjectPath, Entry]:
        """All objects below, in the order of their names."""
        if (known := _listed(self)) is not None:
            return {path: entry for path, entry in known.items() if self in path.parents}
        found: dict[ObjectPath, Entry] = {}
        more: dict[str, str] = {}
        while True:
            answer = object_requests.call(self, "list_objects_v2", Bucket=self.bucket, Prefix=self.prefix, **more)
            for line in answer.get("Contents", ()):
                if not line["Key"].endswith("/"):  # some tools mark folders with empty objects
                    found[ObjectPath(SCHEME, self.bucket, line["Key"])] = Entry(line["Size"], line["ETag"].strip('"'))
            if not answer.get("IsTruncated"):
                return found
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def _below(self) -> list[ObjectPath]:
        """Objects, and the folders that their names imply, sorted."""
        found = set(self.files())
        found |= {above for path in found for above in path.parents if self in above.parents}  # type: ignore[misc]
        return sorted(found)

    def iterdir(self) -> Iterator[ObjectPath]:  # type: ignore[override]
        yield from (path for path in self._below() if path.parent == self)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:  # type: ignore[override]
        wanted = pattern.split("/")
        for path in self._below():
            parts = path.parts[len(self.parts) :]
            if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
                yield path

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:  # type: ignore[override]
        yield from (path for path in self._below() if fnmatchcase(path.name, pattern))

    # its bytes

    def read_bytes(self) -> bytes:
        from infra.storage.object_transfers import read_parts

        return b"".join(read_parts(self))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: Any) -> int:
        self.put(bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> int:
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def put(self, data: bytes, only_new: bool = False, only_over: str = "") -> str | None:
        """Write in one request; the new ETag, None where the condition does not hold.

        Args:
            only_new: where there is no object of this name.
            only_over: where the object has this ETag.
        """
        condition = {"IfNoneMatch": "*"} if only_new else {"IfMatch": only_over} if only_over else {}
        try:
            answer = object_requests.call(self, "put_object", Bucket=self.bucket, Key=self.object_key, Body=data, **condition)
        except (FileExistsError, FileNotFoundError, OSError) as error:
            if object_requests.status(error) in (404, 409, 412) and condition and object_requests.code(error) != "NoSuchBucket":
                return None
            if isinstance(error, FileNotFoundError):
                raise StorageError(f"{self}: there is no bucket {self.bucket}",
                                   fix=f"make it, or check {object_requests.endpoint()}") from None  # fmt: skip
            raise
        return str(answer["ETag"]).strip('"')

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """For reading only: of a whole copy on this machine."""
        from infra.storage.copies import local

        if set(mode) & set("wax+"):
            raise StorageError(f"{self}: objects are written whole, not opened with mode {mode}")
        return open(local(self), mode, *args, **kwargs)

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok and self.entry() is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        object_requests.call(self, "delete_object", Bucket=self.bucket, Key=self.object_key)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing to do: there are no folders."""

    def rmdir(self) -> None:
        """Nothing to do: there are no folders."""


def as_path(where: str | Path) -> Path:
    """A path as users name it: `s3://BUCKET/KEY`, else one of this machine.

    Raises:
        StorageError: storage of another kind, or no bucket named.
    """
    if isinstance(where, ObjectPath):
        return where
    text = str(where)
    scheme, colon, rest = text.partition(":/")  # a Path has one slash less
    if not colon or "/" in scheme or len(scheme) < 2:
        return Path(where)
    if scheme != "s3" or not rest.strip("/"):
        raise StorageError(f"{text}", allowed="a local path, or s3://BUCKET/FOLDER")
    return ObjectPath(SCHEME, rest.strip("/"))


def as_local_path(where: str | Path) -> Path:
    """A path of this machine, for what can't be written to object storage.

    Raises:
        StorageError: it is not.
    """
    if is_object(path := as_path(where)):
        raise StorageError(f"{path} is on object storage, and this is written to a folder of this machine",
                           fix="name a local path, and copy it afterwards")  # fmt: skip
    return path


def is_object(path: Path) -> bool:
    return isinstance(path, ObjectPath)


# lists taken once

_lists: dict[int, list[tuple[ObjectPath, dict[ObjectPath, Entry]]]] = {}  # thread -> the lists it goes by


@contextmanager
def listed(folder: Path) -> Iterator[None]:
    """Take one list of all objects below `folder`, by which this thread answers what is there while the block runs.

    A plan asks for thousands of files; nothing may be written below `folder` meanwhile. Does nothing for a local folder.
    """
    if not isinstance(folder, ObjectPath):
        yield
        return
    lists = _lists.setdefault(threading.get_ident(), [])
    lists.append((folder, folder.files()))
    try:
        yield
    finally:
        lists.pop()


def _listed(path: ObjectPath) -> dict[ObjectPath, Entry] | None:
    for folder, found in reversed(_lists.get(threading.get_ident(), ())):
        if path == folder or folder in path.parents:
            return found
    return None
