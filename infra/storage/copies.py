"""Whole copies of objects on this machine, in a folder of bounded size.

A copy is named by the sha256 of its bytes and appears when they have all arrived and been hashed, so a name that is there can be
trusted, for whichever dataset: nothing is ever read out of half a download. Where the caller knows the digest (a manifest's, a
ledger's) no request is made for a copy that is there, and bytes with another digest are refused. Where it does not (a source
file), the storage's ETag says whether the copy is still of the present object.

    $LIKENESS_CACHE/objects/content/AB/SHA256     copies; the least recently used make room for new ones
    $LIKENESS_CACHE/objects/known/AB/DIGEST       ETag and sha256 of the object with this address when it was last copied
    $LIKENESS_CACHE/objects/scratch/DIGEST/       what is being written for a dataset on object storage
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.cache import cache_folder
from infra.errors import StorageError
from infra.storage.object_requests import positive_setting
from infra.storage.object_transfers import read_parts
from infra.storage.objects import ObjectPath

SIZE_VARIABLE = "LIKENESS_S3_CACHE_GB"
SIZE_GB = 20.0
AT_ONCE = 16  # small files fetched together
_LEFT_OVER_S = 24 * 3600.0
_looking, _unseen = threading.Lock(), 0  # bytes that may be added before looking again


class Changed(StorageError):
    """An object whose bytes are not those that were asked for."""


def local(path: Path, sha256: str = "") -> Path:
    """Where the bytes of `path` lie on this machine: itself, or a copy that is fetched when it is not there.

    It may go as soon as room is needed for others: open it at once (see `open_local`).

    Args:
        sha256: that its bytes must have; "" for whatever the object has now.

    Raises:
        FileNotFoundError: no such object.
        Changed: its bytes have another digest.
        StorageError: it can't be fetched.
        OSError: no room on this machine.
    """
    if not isinstance(path, ObjectPath):
        return path
    etag = ""
    if not sha256:
        entry = path.entry()
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        etag = entry.etag
        sha256 = _known(path, etag)
    if sha256 and (copy := _there(sha256)):
        return copy
    with _alone(sha256 or _address(path)):
        if sha256 and (copy := _there(sha256)):  # another process was first
            return copy
        return _fetch(path, sha256, etag)


def local_all(paths: Sequence[tuple[Path, str]]) -> list[Path]:
    """`local` of many small files, several at a time."""
    if not any(isinstance(path, ObjectPath) for path, _ in paths):
        return [path for path, _ in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda pair: local(*pair), paths))


def open_local(path: Path, sha256: str = "") -> int:
    """A handle on the bytes of `path`, for reading, which stays good when the copy is dropped."""
    for _ in range(3):
        with suppress(FileNotFoundError):
            return os.open(local(path, sha256), os.O_RDONLY)
    return os.open(local(path, sha256), os.O_RDONLY)


def read_whole(path: Path, sha256: str) -> bytes:
    """All bytes of a small file, of which the digest is known; of a local file as they are."""
    if not isinstance(path, ObjectPath):
        return path.read_bytes()
    handle = open_local(path, sha256)
    with open(handle, "rb") as file:
        return file.read()


def keep(file: Path, sha256: str) -> None:
    """Make a copy of a file that was stored a moment ago; the file is gone then."""
    size = file.stat().st_size
    if size > cache_bytes():
        file.unlink()
        return
    make_room(size)
    place = _content(sha256)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, place)


def forget(folder: Path) -> None:
    """Trust no copy of what lies below `folder` for its ETag: the next use fetches and hashes it again. For `verify`."""
    if isinstance(folder, ObjectPath):
        for path in folder.files():
            _known_file(path).unlink(missing_ok=True)


def drop_all() -> None:
    """Delete all copies on this machine, such as after a purge."""
    shutil.rmtree(objects_folder() / "content", ignore_errors=True)
    shutil.rmtree(objects_folder() / "known", ignore_errors=True)


def scratch_folder(root: ObjectPath) -> Path:
    """A local folder for what is being written for the dataset at `root`."""
    return objects_folder() / "scratch" / _address(root)[:16]


def objects_folder() -> Path:
    return cache_folder() / "objects"


def cache_bytes() -> int:
    """Most bytes that copies may take; a single one that is larger is fetched all the same."""
    return int(positive_setting(SIZE_VARIABLE, SIZE_GB) * 1e9)


def make_room(size: int) -> None:
    """Delete the least recently used copies until `size` more bytes fit.

    Not every small file is worth a look at all of them: a process looks again when it has added a fiftieth of the whole.
    """
    global _unseen
    with _looking:
        slack = cache_bytes() // 50
        if size <= min(_unseen, slack):
            _unseen = min(_unseen, slack) - size
            return
        _unseen = max(0, min(_make_room(size), slack))


def _make_room(size: int) -> int:
    """Does it; the bytes that are free then."""
    copies = []
    with suppress(OSError):
        for folder in os.scandir(objects_folder() / "content"):
            for file in os.scandir(folder.path):
                with suppress(OSError):
                    stat = file.stat()
                    if file.name.endswith(".part"):
                        if time.time() - stat.st_mtime > _LEFT_OVER_S:  # of a killed process
                            os.unlink(file.path)
                        continue
                    copies.append((stat.st_mtime_ns, stat.st_size, file.path))
    over = sum(bytes_ for _, bytes_, _ in copies) + size - cache_bytes()
    for _, bytes_, place in sorted(copies):
        if over <= 0:
            break
        with suppress(OSError):
            os.unlink(place)
        over -= bytes_
    return -over


def _fetch(path: ObjectPath, sha256: str, etag: str) -> Path:
    part = objects_folder() / "content" / "00" / f"{os.getpid()}-{uuid.uuid4().hex[:12]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    state, room = hashlib.sha256(), 0
    try:
        with open(part, "wb") as file:
            for data in read_parts(path, etag):
                if file.tell() + len(data) > room:
                    room = max(2 * room, len(data))
                    make_room(room)
                state.update(data)
                file.write(data)
        have = state.hexdigest()
        if sha256 and have != sha256:
            raise Changed(f"{path}: bytes changed: sha256 {have[:12]}..., wanted {sha256[:12]}...",
                          fix="find all damage with: likeness data verify DATASET")  # fmt: skip
        copy = _content(have)
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, copy)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if etag:
        _note(path, etag, have)
    return copy


def _content(sha256: str) -> Path:
    return objects_folder() / "content" / sha256[:2] / sha256


def _there(sha256: str) -> Path | None:
    copy = _content(sha256)
    try:
        os.utime(copy)  # used now: others go first
    except OSError:
        return None
    return copy


def _address(path: ObjectPath) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()


def _known_file(path: ObjectPath) -> Path:
    address = _address(path)
    return objects_folder() / "known" / address[:2] / address


def _known(path: ObjectPath, etag: str) -> str:
    try:
        noted, sha256 = _known_file(path).read_text().split()
    except (OSError, ValueError):
        return ""
    return sha256 if noted == etag else ""


def _note(path: ObjectPath, etag: str, sha256: str) -> None:
    file = _known_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    part.write_text(f"{etag} {sha256}")
    os.replace(part, file)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time fetches the same object; others wait and find it there."""
    folder = objects_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / name[:2], os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
