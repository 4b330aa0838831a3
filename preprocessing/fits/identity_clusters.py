"""Who is in a dataset, by faces alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing.fields import IDENTITY_CLUSTER, Field, identity
from preprocessing.fits.contract import Fit
from preprocessing.fits.pairs import average_linkage, unit
from preprocessing.operator import OperatorParams, Sample
from preprocessing.operators.identity import Variant

# Two faces of one person by `identity_mobileface`. On 52 labelled photos of 28 people nobody is torn in two, and two pairs that
# are labelled as different are joined (cosines 0.53, and 0.47 for two generated faces); of the other 1265 pairs of different
# people the closest has 0.37. The more people, the closer the closest strangers: raise it for thousands, and measure it for other
# variants.
MIN_COSINE = 0.38


class IdentityClusters(Fit):
    """Clusters of unit embeddings by average linkage: merged while the mean cosine between two clusters is `min_cosine` or more.

    Rows without a face (zeros) are left out; names of people are not used. Arrays: `centres` (k, d) float32, unit length, in the
    order of the clusters' first rows; `counts` (k,) int64, rows of each; `min_cosine`; `variant`.
    """

    name = "identity_clusters"
    version = 1

    class Params(OperatorParams):
        """`variant` of the identity embedding; see `MIN_COSINE`."""

        variant: Variant = "mobileface"
        min_cosine: float = Setting(MIN_COSINE, gt=0, lt=1)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (identity(self.params.variant),)

    @property
    def makes(self) -> tuple[Field, dict[str, Any]]:
        differs = self.params.variant != self.Params().variant
        return IDENTITY_CLUSTER, {"variant": self.params.variant} if differs else {}

    def __call__(self, rows: Iterable[Sample]) -> dict[str, np.ndarray]:
        found = [row[self.reads[0]] for row in rows]
        shown = [vector for vector in found if vector.any()]
        if not shown:
            raise LikenessError(f"none of {len(found)} rows has a face in {self.reads[0]}", fix="fit rows with faces")
        vectors = unit(np.array(shown))
        groups = average_linkage(vectors, self.params.min_cosine)
        counts = np.bincount(groups)
        sums = np.zeros((len(counts), vectors.shape[1]))
        np.add.at(sums, groups, vectors)
        return {
            "centres": unit(sums), "counts": counts.astype(np.int64), "min_cosine": np.array(self.params.min_cosine),
            "variant": np.array(self.params.variant),
        }  # fmt: skip

    def numbers(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        counts = arrays["counts"]
        return {"rows with a face": int(counts.sum()), "clusters": len(counts), "largest": int(counts.max())}
