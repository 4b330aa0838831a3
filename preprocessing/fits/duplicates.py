"""Which pictures of a dataset are copies of each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing.fields import DUPLICATE, PERCEPTUAL_HASH, Field
from preprocessing.fits.contract import Fit
from preprocessing.fits.pairs import linked
from preprocessing.operator import OperatorParams, Sample

BITS = 64
KEY_BYTES = 8


class Duplicates(Fit):
    """Groups of rows whose perceptual hashes differ in up to `max_bits`, by single linkage: copies of copies are one group.

    On 141 photos and paintings, copies resized to 25 % or 150 % or saved as JPEG of quality 30 differed in at most 8 bits, 99 % of
    them in at most 6; different pictures in at least 8 (two of one photo session).

    Every row belongs to a group, if alone; its first row is the one with the smallest key. Arrays: `hashes` (h, 8) uint8, each
    once; `groups` (h,) int64; by group `firsts` (g, 8) uint8, the hash of its first row, `first_keys` (g,) uint64 (`key_digest`)
    and `counts` (g,) int64; `max_bits`.
    """

    name = "duplicates"
    version = 1

    class Params(OperatorParams):
        max_bits: int = Setting(6, ge=0, le=BITS // 4)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (PERCEPTUAL_HASH,)

    @property
    def makes(self) -> tuple[Field, dict[str, Any]]:
        return DUPLICATE, {}

    def __call__(self, rows: Iterable[Sample]) -> dict[str, np.ndarray]:
        found = sorted((row.key, row[PERCEPTUAL_HASH].tobytes()) for row in rows)
        if not found:
            raise LikenessError(f"no row has {PERCEPTUAL_HASH.name}", fix="fit rows that have one")
        hashes = np.frombuffer(b"".join(data for _, data in found), np.uint8).reshape(-1, BITS // 8)
        _, place, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
        # Hashes in the order of their smallest keys, so that groups are numbered by their first rows.
        order = np.argsort(place)
        hashes, of_row = hashes[place[order]], np.argsort(order)[inverse.reshape(-1)]
        groups = linked(signs(hashes), BITS - 2 * self.params.max_bits)
        _, first_rows, counts = np.unique(groups[of_row], return_index=True, return_counts=True)
        return {
            "hashes": hashes, "groups": groups, "firsts": hashes[of_row[first_rows]], "counts": counts.astype(np.int64),
            "first_keys": np.array([key_digest(found[row][0]) for row in first_rows], np.uint64),
            "max_bits": np.array(self.params.max_bits),
        }  # fmt: skip

    def numbers(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        counts = arrays["counts"]
        return {"pictures": len(counts), "with copies": int((counts > 1).sum()), "copies": int((counts - 1).sum())}


def signs(hashes: np.ndarray) -> np.ndarray:
    """(n, 8) uint8 -> (n, 64) float32 of -1 and 1; the product of two is 64 less twice the bits in which they differ."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1


def key_digest(key: str) -> int:
    """A row's key as 64 bits: enough to know it again, and nothing of it can be read."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=KEY_BYTES).digest(), "little")
