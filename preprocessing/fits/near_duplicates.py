"""Which rows of a dataset look the same to a network: also mirrored, cropped and recoloured copies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing.fields import NEAR_DUPLICATE, Field, by_name
from preprocessing.fits.contract import Fit
from preprocessing.fits.duplicates import key_digest
from preprocessing.fits.pairs import linked, unit
from preprocessing.operator import OperatorParams, Sample

# On 52 portraits by `identity_mobileface`: copies saved as JPEG of quality 30, halved, mirrored, cropped to the head, brightened or
# made grey have 0.9 or more in 92 to 100 % of cases; different photos of one person up to 0.89.
MIN_COSINE = 0.9


class NearDuplicates(Fit):
    """Groups of rows whose embeddings have a cosine of `min_cosine` or more, by single linkage: copies of copies are one group.

    Any stored vector will do: an identity embedding finds copies of one photo of a face, whatever surrounds it; an embedding of
    whole pictures finds copies of pictures. Rows without a face (zeros) are left out. Every other row belongs to a group, if
    alone; its first row is the one with the smallest key.

    Arrays: `vectors` (n, d) float32 of unit length, in the order of the keys; `groups` (n,) int64; by group `first_keys` (g,)
    uint64 (`key_digest`), `firsts` (g,) int64 places among the vectors, and `counts` (g,) int64; `min_cosine`; `field`.
    """

    name = "near_duplicates"
    version = 1

    class Params(OperatorParams):
        """`field`: the embedding's name; see `MIN_COSINE`."""

        field: str = "identity_mobileface"
        min_cosine: float = Setting(MIN_COSINE, gt=0, lt=1)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (vector_field(self.params.field),)

    @property
    def makes(self) -> tuple[Field, dict[str, Any]]:
        differs = self.params.field != self.Params().field
        return NEAR_DUPLICATE, {"field": self.params.field} if differs else {}

    def __call__(self, rows: Iterable[Sample]) -> dict[str, np.ndarray]:
        found = sorted(((row.key, row[self.reads[0]]) for row in rows), key=lambda pair: pair[0])
        shown = [(key, vector) for key, vector in found if vector.any()]
        if not shown:
            raise LikenessError(f"none of {len(found)} rows has anything in {self.reads[0]}", fix="fit rows that have some")
        vectors = unit(np.array([vector for _, vector in shown]))
        groups = linked(vectors, self.params.min_cosine)
        _, firsts, counts = np.unique(groups, return_index=True, return_counts=True)
        return {
            "vectors": vectors, "groups": groups, "firsts": firsts.astype(np.int64), "counts": counts.astype(np.int64),
            "first_keys": np.array([key_digest(shown[row][0]) for row in firsts], np.uint64),
            "min_cosine": np.array(self.params.min_cosine), "field": np.array(self.params.field),
        }  # fmt: skip

    def numbers(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        counts = arrays["counts"]
        return {"rows": int(counts.sum()), "with near copies": int((counts > 1).sum()), "near copies": int((counts - 1).sum())}


def vector_field(name: str) -> Field:
    """The field of this name.

    Raises:
        LikenessError: there is none, or it does not hold one vector per row.
    """
    field = by_name(name)
    vector = field is not None and (field.codec, field.rate, len(field.shape)) == ("npy", "clip", 1)
    if field is None or not vector or not isinstance(field.shape[0], int):
        raise LikenessError(f"near_duplicates.field={name}", allowed="a field of one vector per row, such as identity_mobileface")
    return field
