"""The operator contract: reads fields of one sample, writes fields of the same sample.

An operator is one row in, one row out; a frame without a face stays a row with `face_valid` 0, so that index stays time.
It raises when it can't do its work: the runner decides what that means for the build.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from infra import assets
from infra.model_files import locate_model
from preprocessing.fields import Field


class Frames(Protocol):
    """What `sample[VIDEO]` gives: frames one after the other, as often as asked, decoded once where memory allows."""

    n_frames: int
    fps: float

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames in order, each (H, W, 3) uint8 RGB; do not write into them."""


class Sample:
    """One row while it is processed: values are decoded when first asked for.

    Operators read it as `sample[FIELD]`; `key` names the row.
    """

    def __init__(self, key: str, values: Mapping[str, Any] | None = None) -> None:
        self.key = key
        self._values: dict[str, Any] = dict(values or {})

    def __getitem__(self, field: Field) -> Any:
        try:
            value = self._values[field.name]
        except KeyError:
            raise KeyError(f"sample {self.key} has no field {field.name!r}: has {sorted(self._values)}") from None
        if isinstance(value, Lazy):
            value = self._values[field.name] = value.get()
        return value

    def __setitem__(self, field: Field, value: Any) -> None:
        self._values[field.name] = value

    def __contains__(self, field: Field) -> bool:
        return field.name in self._values


@dataclass(frozen=True)
class Lazy:
    """A value to be decoded on first use."""

    decode: Any
    data: bytes

    def get(self) -> Any:
        return self.decode(self.data)


@dataclass(frozen=True)
class Resources:
    """What one instance of an operator needs.

    Attributes:
        cpus: cores.
        gpus: fraction of a GPU; such operators get worker processes of their own where there are GPUs, and take turns with the
            others where there are none.
        assets: see `Operator.assets`.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    assets: tuple[str, ...] = ()


class Refused(Exception):
    """Raised by an operator that understands why a source or sample can't be used; the reason goes to the ledger.

    Any other exception from a sample means "quarantined": kept with its trace, and retried on request.
    """


class OperatorParams(BaseModel):
    """An operator's settings: frozen, unknown names refused, part of the operator's digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Operator(ABC):
    """One step of preprocessing.

    A subclass sets `name` and `version`, may nest its own `Params`, and implements `reads`, `writes` and `__call__`.
    Raise `version` whenever the output for the same input changes: columns of the old version are then rebuilt.
    """

    name: str
    version: ClassVar[int]
    Params: ClassVar[type[OperatorParams]] = OperatorParams
    resources: Resources = Resources()

    def __init__(self, params: OperatorParams | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()
        # Where assets lie, when whoever runs the operator has looked them up; see `asset`.
        self.asset_paths: dict[str, Path] = {}

    @property
    def assets(self) -> tuple[str, ...]:
        """Files its output depends on: they are part of its digest, and must be there before anything starts.

        A name of `infra.assets`; `model:REF` for a folder of weights or a hub id; `fit:NAME` for a fit of the dataset.
        """
        return self.resources.assets

    def asset(self, name: str) -> Path:
        """Where an asset lies.

        Raises:
            LikenessError: it is absent; says what to place where.
        """
        if name not in self.asset_paths:
            kind, _, ref = name.partition(":")
            self.asset_paths[name] = locate_model(ref) if kind == "model" else assets.find(name)
        return self.asset_paths[name]

    @property
    @abstractmethod
    def reads(self) -> tuple[Field, ...]:
        """Fields taken from the sample."""

    @property
    @abstractmethod
    def writes(self) -> tuple[Field, ...]:
        """Fields given back; every call gives all of them."""

    def setup(self) -> None:  # noqa: B027  (most operators need no set-up)
        """Load models; called once per worker before the first sample."""

    @abstractmethod
    def __call__(self, sample: Sample) -> dict[Field, Any]:
        """The written fields of one sample."""


class BatchOperator(Operator):
    """An operator that does several rows together faster than one by one, on a GPU for instance.

    A row's output does not depend on the rows beside it: on the CPU to the byte (it does rows one by one there, unless told
    otherwise), elsewhere to the rounding of its arithmetic. A runner may call it either way, with any rows together.
    """

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Rows that are worth handing over together; more are taken, and split."""

    @abstractmethod
    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        """The written fields of each sample, in order.

        Raises:
            Exception: whatever any of the samples raises alone: call it for each by itself to learn which.
        """

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return self.call_many([sample])[0]


class FamilyOperator(Operator):
    """An operator whose fields carry parameters in their names, such as `face_box_96`."""

    @classmethod
    @abstractmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        """The settings that a field's name fixes, or None where the field is not of this family."""

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        """Fields for which the operator has names of its own, such as `identity_mobileface`; none where all share one name."""
        return ()
