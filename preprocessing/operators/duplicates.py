"""Whether a picture is in a dataset already."""

from __future__ import annotations

from typing import Any

import numpy as np

from preprocessing.fields import DUPLICATE, PERCEPTUAL_HASH, Field
from preprocessing.fits.duplicates import BITS, Duplicates, key_digest, signs
from preprocessing.fits.pairs import nearest
from preprocessing.operator import Operator, Sample

ALONE = -1


class Duplicate(Operator):
    """DUPLICATE by the nearest hash of the fit `duplicates`.

    - group: of that hash; -1 where it differs in more than the fit's `max_bits` (a picture like none of the fitted rows).
    - distance: bits that differ from the group's first row; 0 for -1.
    - first: 1 for the row that stands for its group, and for -1; `duplicate.first == 1` keeps one row of each group.
    - rows: of the group when it was fitted; 0 for -1.
    """

    name = "duplicate"
    version = 1

    @property
    def assets(self) -> tuple[str, ...]:
        return (f"fit:{Duplicates.name}",)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (PERCEPTUAL_HASH,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (DUPLICATE,)

    def setup(self) -> None:
        with np.load(self.asset(self.assets[0])) as fitted:
            self.fitted = dict(fitted)
        self.signs = signs(self.fitted["hashes"])

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        found = sample[PERCEPTUAL_HASH]
        places, products = nearest(signs(found[None]), self.signs)
        if (BITS - products[0]) / 2 > self.fitted["max_bits"]:
            return {DUPLICATE: {"group": ALONE, "distance": 0, "first": 1, "rows": 0}}
        group = int(self.fitted["groups"][places[0]])
        distance = int(np.unpackbits(found ^ self.fitted["firsts"][group]).sum())
        first = int(self.fitted["first_keys"][group]) == key_digest(sample.key)
        return {DUPLICATE: {"group": group, "distance": distance, "first": int(first), "rows": int(self.fitted["counts"][group])}}
