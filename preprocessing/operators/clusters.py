"""Which of the people found in a dataset a face belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np

from infra.errors import LikenessError
from preprocessing.fields import IDENTITY_CLUSTER, Field, identity
from preprocessing.fits.identity_clusters import IdentityClusters
from preprocessing.fits.pairs import nearest, unit
from preprocessing.operator import Operator, OperatorParams, Sample
from preprocessing.operators.identity import Variant

NOBODY = -1


class IdentityCluster(Operator):
    """IDENTITY_CLUSTER by the nearest centre of the fit `identity_clusters`.

    - cluster: number of the centre; -1 where its cosine is below the fit's `min_cosine` (nobody of the fitted rows) or the row has
      no face.
    - cosine: to the nearest centre; 0 without a face.
    - rows: of that cluster when it was fitted; 0 for -1.
    """

    name = "identity_cluster"
    version = 1

    class Params(OperatorParams):
        """`variant` of the identity embedding, that of the fit."""

        variant: Variant = "mobileface"

    @property
    def assets(self) -> tuple[str, ...]:
        return (f"fit:{IdentityClusters.name}",)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (identity(self.params.variant),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (IDENTITY_CLUSTER,)

    def setup(self) -> None:
        with np.load(self.asset(self.assets[0])) as fitted:
            self.fitted = dict(fitted)
        if (found := str(self.fitted["variant"])) != self.params.variant:
            raise LikenessError(f"fit {IdentityClusters.name} is of {identity(found).name}", allowed=self.reads[0].name,
                                fix=f"pass --set {self.name}.variant={found}, or fit anew")  # fmt: skip

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        vector = sample[self.reads[0]]
        if not vector.any():
            return {IDENTITY_CLUSTER: {"cluster": NOBODY, "cosine": 0.0, "rows": 0}}
        places, cosines = nearest(unit(vector[None]), self.fitted["centres"])
        known = cosines[0] >= self.fitted["min_cosine"]
        numbers = {"cluster": int(places[0]) if known else NOBODY, "rows": int(self.fitted["counts"][places[0]]) if known else 0}
        return {IDENTITY_CLUSTER: {**numbers, "cosine": round(float(cosines[0]), 6)}}
