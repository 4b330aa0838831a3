"""Column shards: a plain tar with fixed headers, and an index of its members.

Members are `KEY.FIELD.EXT`, so any WebDataset reader streams a column alone. The tar has the layout of webdataset's own
`TarWriter` (ustar, regular members); the standard library writes it here because importing webdataset imports torch, which
costs every worker and every command seconds.

The index is NVIDIA DALI's text format "v1.2": a line with the number of samples, then a line per sample with
`EXT OFFSET SIZE NAME` for each of its members.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

INDEX_VERSION = "v1.2"
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """Where one value lies: `size` bytes from `offset` of the tar."""

    key: str
    field: str
    offset: int
    size: int


def stem(shard: int, revision: int) -> str:
    """File name of a column shard without its ending: `000012`, or `000012.r1` for the first replacement.

    A committed file is never overwritten: what replaces it gets the next revision, so that a reader of the older manifest
    keeps its bytes.
    """
    return f"{shard:06d}" + (f".r{revision}" if revision else "")


class _Hashing:
    """Passes bytes to a file and hashes them on the way, which spares reading the tar again."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "wb")  # noqa: SIM115  (closed by ColumnWriter)
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size


class ColumnWriter:
    """Writes one tar; the same members give the same bytes.

    Attributes after `close()`: `size` (bytes) and `sha256` of the tar, `index` (bytes of the index file).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._out = _Hashing(path)
        self._tar = tarfile.TarFile(fileobj=cast(Any, self._out), mode="w", format=tarfile.USTAR_FORMAT)
        self._lines: dict[str, list[str]] = {}
        self.index = b""

    def add(self, key: str, field: str, extension: str, data: bytes) -> None:
        """Append one value.

        Raises:
            ValueError: a key with a dot, slash or space, which readers would split, or a name longer than ustar takes.
        """
        if any(sign in key for sign in "./ \n"):
            raise ValueError(f"row key {key!r}: want no dot, slash or space")
        info = tarfile.TarInfo(f"{key}.{field}.{extension}")
        info.size, info.mode, info.mtime = len(data), 0o444, 0
        self._tar.addfile(info, io.BytesIO(data))
        offset = self._tar.offset - -(-len(data) // _BLOCK) * _BLOCK
        self._lines.setdefault(key, []).append(f"{field}.{extension} {offset} {len(data)} {info.name}")

    def close(self) -> None:
        """Finish the tar; without this the file is not a tar."""
        self._tar.close()
        self._out.file.close()
        lines = [f"{INDEX_VERSION} {len(self._lines)}", *(" ".join(parts) for parts in self._lines.values())]
        self.index = ("\n".join(lines) + "\n").encode()

    def discard(self) -> None:
        """Drop what was written so far."""
        self._out.file.close()
        self.path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        return self._out.size

    @property
    def sha256(self) -> str:
        return self._out.sha256.hexdigest()


def parse_index(data: bytes) -> Iterator[Member]:
    """Members in the order of the tar.

    Raises:
        ValueError: not an index of this version, or damaged.
    """
    lines = data.decode().split("\n")
    version, _, count = lines[0].partition(" ")
    if version != INDEX_VERSION or lines[-1] or len(lines) != int(count) + 2:
        raise ValueError(f"not an index {INDEX_VERSION}, or cut short")
    for line in lines[1:-1]:
        parts = line.split(" ")
        for kind, offset, size, name in zip(*(parts[i::4] for i in range(4)), strict=True):
            yield Member(name.partition(".")[0], kind.partition(".")[0], int(offset), int(size))


def walk_tar(path: Path) -> Iterator[Member]:
    """Members as the tar's own headers give them, to check an index against.

    Raises:
        tarfile.TarError: the file is not a tar, or is damaged.
    """
    with tarfile.open(path, mode="r:", format=tarfile.USTAR_FORMAT) as tar:
        for info in tar:
            key, field, _ = info.name.split(".", 2)
            yield Member(key, field, info.offset_data, info.size)
