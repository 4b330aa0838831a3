"""The build lock of a dataset on object storage: an object that only one writer can make.

`DATASET/lock` is written on the condition that there is none (If-None-Match); its holder writes it again every few seconds, on
the condition that it is still the one it wrote (If-Match). A lock is stale, and may be taken over by a conditional write again:

- at once, where it was left on this very machine by a process that no longer runs;
- else when it was not renewed for `LEASE_S`, by the storage's own clock, so that clocks of hosts don't matter.

A holder that was stopped for longer than the lease (a suspended laptop) finds that out before it moves HEAD, and stops.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from infra.errors import LikenessError, StorageError
from infra.storage.objects import ObjectPath

LEASE_S = 90.0
RENEW_S = 20.0
_held: dict[Path, str] = {}  # dataset -> token of the lock that this process holds


@contextmanager
def object_lock(root: ObjectPath) -> Iterator[str]:
    """Hold the build lock of the dataset at `root`; gives a notice about a lock left by a dead build, or "".

    Raises:
        LikenessError: another build holds it.
        StorageError: the storage knows no conditional writes, so there is no safe lock.
    """
    lock = _Lock(root)
    notice = lock.take()
    _held[root] = lock.token
    stop = threading.Event()
    thread = threading.Thread(target=lock.renew, args=(stop,), daemon=True)
    thread.start()
    try:
        yield notice
    finally:
        stop.set()
        thread.join()
        _held.pop(root, None)
        lock.release()


def check_held(root: Path) -> None:
    """Before a change that must not be made by two: whether this process still has the lock it took.

    Raises:
        LikenessError: another build has taken it over.
    """
    if isinstance(root, ObjectPath) and (token := _held.get(root)):
        holder, _ = _read(root / "lock")
        if holder.get("token") != token:
            raise LikenessError(f"{root}: the build lock was lost to another build ({_words(holder)}), since this one stood still "
                                f"for more than {LEASE_S:.0f} s", fix="run again when that one is done")  # fmt: skip


class _Lock:
    def __init__(self, root: ObjectPath) -> None:
        self.root, self.path, self.token, self.etag = root, root / "lock", uuid.uuid4().hex, ""

    def _text(self, renewals: int = 0) -> bytes:
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "started": _started(os.getpid()),
                "token": self.token, "renewals": renewals}  # fmt: skip
        return json.dumps(mine).encode()

    def take(self) -> str:
        etag = self.path.put(self._text(), only_new=True)
        if etag:
            self._check_conditions(etag)
            return ""
        holder, entry_etag = _read(self.path)
        if holder.get("token") == self.token:  # the answer to a first try was lost on the way
            self.etag = entry_etag
            return ""
        entry = self.path.entry()
        stale = entry is not None and entry.etag == entry_etag and (_dead(holder) or entry.age_s > LEASE_S)
        etag = self.path.put(self._text(), only_over=entry_etag) if stale and entry_etag else None
        if etag is None and _read(self.path)[0].get("token") != self.token:
            raise LikenessError(
                f"another build of {self.root} is running ({_words(holder)})",
                fix=f"wait for it, or stop it, then run again; of one that was killed on another machine the lock is free "
                f"{LEASE_S:.0f} s later",
            )
        self.etag = etag or _read(self.path)[1]
        return f"took over the lock of a build that died ({_words(holder)})"

    def _check_conditions(self, etag: str) -> None:
        """Some storages take conditions and ignore them."""
        self.etag = etag
        if again := self.path.put(self._text(), only_new=True):
            self.etag = again
            self.release()
            raise StorageError(f"{self.root}: this storage ignores the conditions of writes (If-None-Match), so two builds could "
                               "not be kept apart", allowed="one that knows them, such as Amazon S3 or MinIO",
                               fix="or build in a local folder and copy it")  # fmt: skip

    def renew(self, stop: threading.Event) -> None:
        renewals = 0
        while not stop.wait(RENEW_S):
            renewals += 1
            with suppress(StorageError, OSError):  # the lease is longer; whether it is still ours is asked before it matters
                self.etag = self.path.put(self._text(renewals), only_over=self.etag) or self.etag

    def release(self) -> None:
        with suppress(StorageError, OSError):  # it will be stale
            if _read(self.path)[0].get("token") == self.token:
                self.path.unlink(missing_ok=True)


def _read(path: ObjectPath) -> tuple[dict[str, Any], str]:
    """The lock's text and its ETag; nothing where there is none."""
    from infra.storage.object_requests import call

    try:
        data, answer = call(path, "get_object", Bucket=path.bucket, Key=path.object_key)
    except FileNotFoundError:
        return {}, ""
    try:
        holder = json.loads(data)
    except ValueError:
        holder = {}
    return holder if isinstance(holder, dict) else {}, answer["ETag"].strip('"')


def _machine() -> str:
    """This boot of this machine, and its space of process numbers: containers often share a host name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> float:
    try:
        return round(psutil.Process(pid).create_time(), 1)
    except psutil.Error:
        return 0.0


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine, and runs no more. A number that was given anew has another time of start."""
    if "token" not in holder:  # of a dataset copied from a folder
        return True
    if holder.get("machine") != _machine():
        return False
    if holder.get("pid") == os.getpid() and abs(holder.get("started", 0.0) - _started(os.getpid())) <= 2.0:
        return holder.get("token") not in _held.values()  # of an earlier build of this process, which could not remove it
    try:
        process = psutil.Process(int(holder["pid"]))
        return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - float(holder["started"])) > 2.0
    except (psutil.NoSuchProcess, KeyError, ValueError, TypeError):
        return True


def _words(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "holder unknown"
