"""Which fits there are; a new one is one line here."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from infra.errors import LikenessError
from infra.settings import apply_overrides
from preprocessing.fits.contract import Fit
from preprocessing.fits.duplicates import Duplicates
from preprocessing.fits.identity_clusters import IdentityClusters
from preprocessing.fits.morphable import Morphable
from preprocessing.fits.near_duplicates import NearDuplicates

FITS: tuple[type[Fit], ...] = (IdentityClusters, Duplicates, NearDuplicates, Morphable)


def fit(name: str, settings: Sequence[str] = ()) -> Fit:
    """The fit called `name`.

    Args:
        settings: `SETTING=VALUE` each, with or without the fit's name and a dot before it; values read as YAML.

    Raises:
        LikenessError: no such fit, or a setting it does not have.
    """
    kind = next((kind for kind in FITS if kind.name == name), None)
    if kind is None:
        names = [kind.name for kind in FITS]
        near = get_close_matches(name, names, n=1, cutoff=0.4)
        raise LikenessError(f"unknown fit {name!r}" + (f" (nearest: {near[0]})" if near else ""), allowed=", ".join(names))
    return kind(apply_overrides(kind.Params(), [setting.removeprefix(f"{name}.") for setting in settings]))
