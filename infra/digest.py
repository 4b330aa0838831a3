"""Digests: what is called the same must be the same bytes.

Values are hashed as canonical JSON (sorted keys, no spaces, UTF-8, no NaN), files as they lie on disk.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """`value` as the one JSON text that stands for it.

    Raises:
        ValueError: NaN or infinity, which JSON can't carry.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def of_bytes(data: bytes) -> str:
    """sha256 (64 hex digits) of bytes."""
    return hashlib.sha256(data).hexdigest()


def of_json(value: Any) -> str:
    """sha256 (64 hex digits) of a JSON value."""
    return of_bytes(canonical_json(value))


def of_file(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_part(path: Path, offset: int, size: int) -> str:
    """sha256 (64 hex digits) of `size` bytes of a file from `offset` on."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(offset)
        while size > 0 and (data := file.read(min(size, 1 << 20))):
            state.update(data)
            size -= len(data)
    return state.hexdigest()


def short(*parts: bytes) -> str:
    """16 hex digits over byte strings, for telling apart the rows of one shard: collisions there cost a wrong cache hit
    with probability 2^-64 per comparison."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.hexdigest()
