"""One build per dataset.

The lock is a `flock` on `DATASET/lock`: the system drops it when its holder dies, however it dies. The file's text names the
holder, for messages, and for network file systems where another host's `flock` may not be seen. On object storage:
`infra.storage.object_lock`.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import LikenessError
from infra.storage.object_lock import object_lock
from infra.storage.objects import ObjectPath


@contextmanager
def build_lock(root: Path) -> Iterator[str]:
    """Hold the build lock of the dataset at `root`; gives a notice about a lock left by a dead build, or "".

    Raises:
        LikenessError: another build holds it, or may: it was left by another host.
    """
    if isinstance(root, ObjectPath):
        with object_lock(root) as notice:
            yield notice
        return
    root.mkdir(parents=True, exist_ok=True)
    path = root / "lock"
    here = socket.gethostname()
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        holder = _holder(os.pread(handle, 4096, 0))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LikenessError(f"another build of {root} is running ({_words(holder)})",
                                fix="wait for it, or stop it, then run again") from None
        if holder and holder.get("host") != here:
            raise LikenessError(f"{root} is locked by a build on another host ({_words(holder)})",
                                fix=f"if that build is no longer running, delete {path} and run again")
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": here}).encode(), 0)
        try:
            yield f"took over the lock of a build that died ({_words(holder)})" if holder else ""
        finally:
            os.truncate(handle, 0)
    finally:
        os.close(handle)


def _holder(text: bytes) -> dict:
    try:
        holder = json.loads(text)
        return holder if isinstance(holder, dict) else {}
    except ValueError:
        return {}


def _words(holder: dict) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "holder unknown"
