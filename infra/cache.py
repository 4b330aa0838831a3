"""The folder for what can be made or fetched again: measured rates, assets, the local cluster."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "LIKENESS_CACHE"


def cache_folder() -> Path:
    """$LIKENESS_CACHE, else ~/.cache/likeness."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/likeness").expanduser()
