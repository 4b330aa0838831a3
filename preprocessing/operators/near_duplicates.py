"""Whether what a network sees in a row is in a dataset already."""

from __future__ import annotations

from typing import Any

import numpy as np

from infra.errors import LikenessError
from preprocessing.fields import NEAR_DUPLICATE, Field
from preprocessing.fits.duplicates import key_digest
from preprocessing.fits.near_duplicates import NearDuplicates, vector_field
from preprocessing.fits.pairs import nearest, unit
from preprocessing.operator import Operator, OperatorParams, Sample

ALONE = -1
DIGITS = 4


class NearDuplicate(Operator):
    """NEAR_DUPLICATE by the nearest vector of the fit `near_duplicates`.

    - group: of that vector; -1 where the cosine is below the fit's `min_cosine`, and where the row has no face.
    - cosine: to the group's first row; 0 for -1.
    - first: 1 for the row that stands for its group, and for -1; `near_duplicate.first == 1` keeps one row of each group.
    - rows: of the group when it was fitted; 0 for -1.
    """

    name = "near_duplicate"
    version = 1

    class Params(OperatorParams):
        """`field`: the embedding that was fitted."""

        field: str = "identity_mobileface"

    @property
    def assets(self) -> tuple[str, ...]:
        return (f"fit:{NearDuplicates.name}",)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (vector_field(self.params.field),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (NEAR_DUPLICATE,)

    def setup(self) -> None:
        """Read the fit.

        Raises:
            LikenessError: it was made from another embedding.
        """
        with np.load(self.asset(self.assets[0])) as fitted:
            self.fitted = dict(fitted)
        if str(self.fitted["field"]) != self.params.field:
            what = f"the fit {NearDuplicates.name} was made from {self.fitted['field']}"
            fix = f"set near_duplicate.field={self.fitted['field']}, or fit again"
            raise LikenessError(what, allowed=self.params.field, fix=fix)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        found = unit(sample[self.reads[0]][None])
        places, products = nearest(found, self.fitted["vectors"])
        if not found.any() or products[0] < self.fitted["min_cosine"]:
            return {NEAR_DUPLICATE: {"group": ALONE, "cosine": 0.0, "first": 1, "rows": 0}}
        group = int(self.fitted["groups"][places[0]])
        cosine = float(found[0] @ self.fitted["vectors"][self.fitted["firsts"][group]])
        first = int(self.fitted["first_keys"][group]) == key_digest(sample.key)
        rows = int(self.fitted["counts"][group])
        return {NEAR_DUPLICATE: {"group": group, "cosine": round(cosine, DIGITS), "first": int(first), "rows": rows}}
