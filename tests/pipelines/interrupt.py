"""Stopping a build in this process at a chosen point: killed, killed within a write, or with a disk that is full from then on.

Every call that changes the dataset's folder counts as a step: renames, links, deletions, and writes of files. After a kill all of
them fail, so that no `finally` tidies up: what lies there is what a killed process leaves. Nothing is synced, since only a power
cut would show it; that is most of a toy build's time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest

from infra.errors import LikenessError
from infra.storage import columns

How = Literal["killed", "torn", "full"]
NO_ROOM = "No space left on device"
HOW: tuple[How, ...] = ("killed", "torn", "full")


class Killed(BaseException):
    """What nothing catches, as SIGKILL."""


class Steps:
    """Counts steps, and stops at the `at`-th; `at` 0 never.

    Attributes:
        done: steps so far.
        stopped: whether it came to that.
    """

    def __init__(self, at: int = 0, how: How = "killed") -> None:
        self.at, self.how, self.done, self.stopped = at, how, 0, False

    def take(self, writes: bool) -> bool:
        """Whether the step may be done whole; False for a write that is cut halfway.

        Raises:
            Killed: the process is dead.
            OSError: there is no room; deletions still work then.
        """
        self.done += 1
        if self.stopped and self.how != "full":
            raise Killed
        if self.done == self.at:
            self.stopped = True
            if self.how == "killed" or (self.how == "torn" and not writes):
                raise Killed
            return False
        return not (self.stopped and writes)

    def cut(self) -> None:
        """End of a write that was cut."""
        if self.how == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise Killed


@contextmanager
def stopping(at: int = 0, how: How = "killed") -> Iterator[Steps]:
    """Patches what writes, for as long as it is open."""
    steps = Steps(at, how)

    def whole(call: Callable[..., Any], writes: bool) -> Callable[..., Any]:
        def step(*args: Any, **flags: Any) -> Any:
            return call(*args, **flags) if steps.take(writes) or not writes else steps.cut()

        return step

    write_bytes, write, write_table, truncate = Path.write_bytes, columns._Hashing.write, pq.write_table, os.truncate

    def bytes_step(path: Path, data: bytes) -> int:
        if steps.take(writes=True):
            return write_bytes(path, data)
        write_bytes(path, data[: len(data) // 2])
        return steps.cut() or 0

    def tar_step(out: columns._Hashing, data: bytes) -> int:
        if steps.take(writes=True):
            return write(out, data)
        write(out, data[: len(data) // 2])
        out.file.flush()
        return steps.cut() or 0

    def table_step(table: Any, where: Path, **flags: Any) -> None:
        whole = steps.take(writes=True)
        write_table(table, where, **flags)
        if not whole:
            truncate(where, where.stat().st_size // 2)
            steps.cut()

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "link", "pwrite"):
            patch.setattr(os, name, whole(getattr(os, name), writes=True))
        for name in ("unlink", "truncate"):  # the lock's file is emptied at the end, but not by the dead
            patch.setattr(os, name, whole(getattr(os, name), writes=False))
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(Path, "write_bytes", bytes_step)
        patch.setattr(columns._Hashing, "write", tar_step)
        patch.setattr(pq, "write_table", table_step)
        yield steps


def stop(run: Callable[[], Any], at: int, how: How) -> Steps:
    """Run until step `at`, or to the end where there are fewer; a full disk must be told in words."""
    ended = ""
    with stopping(at, how) as steps:
        try:
            run()
        except Killed:
            ended = "killed"
        except LikenessError as error:
            ended = str(error)
    if how == "full":
        assert not ended or (NO_ROOM in ended and "make room and run again: finished shards are kept" in ended)
    else:
        assert ended == ("killed" if steps.stopped else "")
    return steps


def count(run: Callable[[], Any]) -> int:
    """Steps that a run takes."""
    with stopping() as steps:
        run()
    return steps.done
