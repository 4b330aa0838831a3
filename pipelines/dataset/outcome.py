"""What a failure means: operators raise, this decides.

A programming error stops the run, since it would fail every sample alike, and so does a machine without disk space or file
handles left. Anything else quarantines the sample, until too
many fail in a row: then it is the operator or the machine that is broken, and the run stops as well.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from infra.errors import LikenessError, StorageError
from preprocessing.operator import Refused

MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)
STOPS_THE_RUN = (ImportError, NameError, TypeError, AttributeError, MemoryError, StorageError)
FAILURES_IN_A_ROW = 20
MISSING_INPUT = "MissingInput"
WORKER_DIED = "WorkerDied"

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_MESSAGE_LENGTH = 500
_FRAMES = 3


@dataclass(frozen=True)
class Failure:
    """Why there is no value: exception type, message, innermost frames. The same failure reads the same everywhere."""

    error: str
    message: str
    trace: str = ""

    @property
    def refused(self) -> bool:
        return self.error == Refused.__name__

    def __str__(self) -> str:
        return self.message if self.error in (Refused.__name__, MISSING_INPUT, WORKER_DIED) else f"{self.error}: {self.message}"


@contextmanager
def machine_errors() -> Iterator[None]:
    """Turns errors of the machine into one that stops the run and says what to do.

    Raises:
        LikenessError: instead of an `OSError` about disk space or file handles.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        fix = "make room" if error.errno not in (errno.EMFILE, errno.ENFILE) else "raise the limit on open files (ulimit -n)"
        raise LikenessError(str(error), fix=f"{fix} and run again: finished shards are kept") from error


def describe(error: Exception, places: Mapping[str, str]) -> Failure:
    """`error` without what differs between machines: `places` maps absolute folders to what to write instead."""
    message = str(error).strip() or type(error).__name__
    for place in sorted(places, key=len, reverse=True):
        message = message.replace(place, places[place])
    frames = [] if isinstance(error, Refused) else traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    trace = " < ".join(f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno} {f.name}" for f in reversed(frames))
    return Failure(type(error).__name__, _ADDRESS.sub("0x", message)[:_MESSAGE_LENGTH], trace)


class Streaks:
    """Counts failures in a row, per operator and worker."""

    def __init__(self, limit: int) -> None:
        self.limit, self.counts = limit, dict[str, int]()

    def note(self, operator: str, key: str, failure: Failure | None) -> None:
        """Raises:
        LikenessError: `limit` samples in a row have failed. Refusals don't count: they are understood.
        """
        if failure is None or failure.refused:
            self.counts[operator] = 0
            return
        self.counts[operator] = self.counts.get(operator, 0) + 1
        if self.counts[operator] >= self.limit:
            raise LikenessError(
                f"operator {operator} failed on {self.limit} samples in a row; the last, {key}: {failure}"
                + (f" ({failure.trace})" if failure.trace else ""),
                fix="mend the cause and run again: finished shards are kept; or raise --max-failures",
            )
