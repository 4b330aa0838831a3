"""Chance that belongs to a row: the same wherever, whenever and beside whatever it is drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator by a seed and words, such as what is drawn and the row's key."""
    state = hashlib.sha256("\0".join(names).encode()).digest()[:16]
    return np.random.default_rng([seed, int.from_bytes(state, "big")])
