"""What operators share that make NAME_SIZE of `image_SIZE`, the whole key frame."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field as Setting

from preprocessing.fields import Field, image
from preprocessing.operator import FamilyOperator, OperatorParams


class SizeParams(OperatorParams):
    """`size`: the shorter side in px, fixed by the field's name."""

    size: int = Setting(ge=10, le=9999)


class OfPicture(FamilyOperator):
    """PREFIX_SIZE from `image_SIZE`; a subclass says `prefix`, `made` and how.

    Attributes:
        prefix: what fields' names begin with.
    """

    prefix: ClassVar[str]
    Params: ClassVar[type[OperatorParams]] = SizeParams

    @staticmethod
    def made(size: int) -> Field:
        """The field of this size."""
        raise NotImplementedError

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(rf"{cls.prefix}_([1-9]\d{{1,3}})", field)
        return {"size": int(match[1])} if match else None

    @property
    def reads(self) -> tuple[Field, ...]:
        return (image(self.params.size),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (self.made(self.params.size),)
