"""Books the time of decoding apart from the operators that ask for frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class TimedClip:
    """A clip that reports the CPU seconds its frames took; in all else the clip itself.

    Args:
        clip: the value of VIDEO (see `preprocessing.operator.Frames`).
        took: called with CPU seconds, frame by frame.
    """

    def __init__(self, clip: Any, took: Callable[[float], None]) -> None:
        self._clip, self._took = clip, took

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)

    def __len__(self) -> int:
        return len(self._clip)

    def __iter__(self) -> Iterator[np.ndarray]:
        frames = iter(self._clip)
        while True:
            start = time.process_time()
            try:
                frame = next(frames, None)
            finally:
                self._took(time.process_time() - start)
            if frame is None:
                return
            yield frame
