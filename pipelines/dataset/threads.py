"""One thread per worker: a unit per core beats threads inside it, and sums taken in one order give one result."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Numeric libraries read these when they load.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
_LOADED = (("cv2", "getNumThreads", "setNumThreads"), ("torch", "get_num_threads", "set_num_threads"))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep numeric libraries to one thread, also those loaded already; afterwards they have what they had."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    threads = {name: getattr(sys.modules[name], get)() for name, get, _ in _LOADED if name in sys.modules}
    os.environ.update(ONE_THREAD)
    _set_threads(dict.fromkeys(threads, 1))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _set_threads(threads)


def _set_threads(threads: dict[str, int]) -> None:
    for name, _, put in _LOADED:
        if name in threads:
            getattr(sys.modules[name], put)(threads[name])
