"""The fit contract: reads fields of many rows, gives arrays that operators then read, row by row.

An operator sees one row at a time; what has to be learnt from all of them (who looks like whom, what is there twice) is a fit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from preprocessing.fields import Field
from preprocessing.operator import OperatorParams, Sample


class Fit(ABC):
    """One fit. The same rows in the same order must give the same arrays.

    A subclass sets `name` and `version`, may nest its own `Params`, and implements `reads`, `makes` and `__call__`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    Params: ClassVar[type[OperatorParams]] = OperatorParams

    def __init__(self, params: OperatorParams | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    @property
    @abstractmethod
    def reads(self) -> tuple[Field, ...]:
        """Fields taken from the rows; rows that lack one are left out."""

    @property
    @abstractmethod
    def makes(self) -> tuple[Field, dict[str, Any]]:
        """The field whose operator reads this fit, and the settings that operator needs to be of use with it."""

    @abstractmethod
    def __call__(self, rows: Iterable[Sample]) -> dict[str, np.ndarray]:
        """Arrays by name, none of objects.

        Raises:
            LikenessError: nothing can be learnt from these rows.
        """

    @abstractmethod
    def numbers(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        """What came of it, in a few counts for people."""
