"""Pictures as autoencoders see them."""

from __future__ import annotations

import re
from typing import Literal, cast, get_args

from preprocessing.fields.contract import Family, Field

Encoder = Literal["sd15", "sd21", "sdxl", "taef2"]
_ENCODERS = "|".join(get_args(Encoder))


def latent(encoder: Encoder, size_px: int) -> Field:
    """The key frame as an autoencoder's latent; the operator's digest carries the encoder's checksum."""
    what = "mean" if encoder == "taef2" else "mean and log variance, stacked, before the scaling factor"
    return Field(
        f"latent_{encoder}_{size_px}", "npy", "float16", ("channels", "height", "width"), "clip",
        f"latent of image_{size_px} by the autoencoder {encoder}: {what}",
    )


FIELDS: tuple[Field, ...] = ()
FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(f"latent_({_ENCODERS})_([1-9][0-9]{{1,3}})"), lambda m: latent(cast(Encoder, m[1]), int(m[2])),
        f"latent_({_ENCODERS})_SIZE", "latent_sd15_512",
    ),
)  # fmt: skip
