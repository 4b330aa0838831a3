"""Pictures of one clip in one member: any window decodes without the rest.

Layout: the JPEGs one after the other (any player that knows motion JPEG shows them), then the trailer: n + 1 uint64 offsets,
frame i lying at `offsets[i]:offsets[i + 1]`, and a footer of count, height, width and magic, all little endian. A frame without
a picture takes no bytes and reads as black. Masks and drawings are kept as PNGs instead, in the same layout; the magic tells.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, overload

import cv2
import numpy as np

from infra.errors import LikenessError
from preprocessing.fields import Field

QUALITY = 95
FOOTER = struct.Struct("<QII8s")  # count, height, width, magic
Kind = Literal["jpeg", "png", "grey png"]  # lossy RGB; lossless RGB; lossless with one channel, (height, width) a picture
MAGIC = b"LKMJPEG1"
MAGICS: dict[Kind, bytes] = {"jpeg": MAGIC, "png": b"LKMPNGC1", "grey png": b"LKMPNGG1"}
_SETTINGS = [
    cv2.IMWRITE_JPEG_QUALITY, QUALITY,
    # Colour at full resolution: lips differ from skin mostly in colour, and a 96 px crop has little of it to lose.
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]  # fmt: skip
_PNG_SETTINGS = [cv2.IMWRITE_PNG_COMPRESSION, 6]
_ALLOWED = "a frame sequence written by this project"


def encode_frames(frames: Iterable[np.ndarray | None], height: int, width: int, kind: Kind = "jpeg") -> bytes:
    """The member's bytes.

    Args:
        frames: each (height, width, 3) uint8 RGB ((height, width) for "grey png"), or None for a frame without a picture.
    """
    shape = _picture_shape(height, width, kind)
    parts: list[bytes] = []
    offsets = [0]
    for index, frame in enumerate(frames):
        data = b"" if frame is None else _encoded(frame, index, shape, kind)
        parts.append(data)
        offsets.append(offsets[-1] + len(data))
    return b"".join(parts) + np.array(offsets, "<u8").tobytes() + FOOTER.pack(len(parts), height, width, MAGICS[kind])


def _picture_shape(height: int, width: int, kind: Kind) -> tuple[int, ...]:
    return (height, width) if kind == "grey png" else (height, width, 3)


def _encoded(frame: np.ndarray, index: int, shape: tuple[int, ...], kind: Kind) -> bytes:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape != shape:
        seen = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise LikenessError(f"frame {index} is {seen}", allowed=f"uint8 {shape}{' RGB' if len(shape) == 3 else ''}, or None")
    return encode_jpeg(frame) if kind == "jpeg" else encode_png(frame)


def encode_jpeg(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG of quality 95, colour at full resolution."""
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), _SETTINGS)[1].tobytes()


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB, None where the bytes are no picture."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def encode_png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB, or (H, W), as a PNG: nothing is lost."""
    colour = picture.ndim == 3
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if colour else picture, _PNG_SETTINGS)[1].tobytes()


def decode_png(data: bytes, colour: bool) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB, or (H, W) where `colour` is false; None where the bytes are no picture.

    A picture of colours stays one, so that whoever wanted a grey one sees it by its shape.
    """
    if colour:
        return decode_jpeg(data)  # imdecode looks at the bytes
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


ReadPart = Callable[[Path, int, int], bytes]  # file, offset, size


def read_part(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` of a file, which is opened for it.

    Raises:
        LikenessError: the file ends before.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise LikenessError(f"{path.name} ends inside a frame sequence", fix="run `likeness data verify`")
    return data


class FrameSequence:
    """The pictures of one clip, decoded when asked for: `len(seq)`, `seq[i]` and `seq[a:b]`.

    Made from the member's bytes, or with `open` from its place in a file, of which then only the trailer (once) and the bytes
    of the wanted frames are read. Can be sent to another process: it holds no file open.

    Attributes:
        shape: (n, height, width, 3); (n, height, width) with one channel.
        kind: how pictures are kept.
        present: bool (n,), False for frames without a picture.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._file: Path | None = None
        self._start = 0
        self._read_file: ReadPart = read_part
        self._read_trailer(len(data))

    @classmethod
    def open(
        cls, path: str | os.PathLike, offset: int, size: int, field: Field | None = None, read: ReadPart | None = None
    ) -> FrameSequence:
        """The sequence in the `size` bytes from `offset` on of a file, such as a member inside a tar.

        Args:
            field: checked, where given.
            read: reads a part of the file; whoever keeps files open spares opening it for each read.
        """
        sequence = cls.__new__(cls)
        file = path if isinstance(path, Path) else Path(path)  # a Path may be of another kind than this machine's
        sequence._data, sequence._file, sequence._start, sequence._read_file = b"", file, offset, read or read_part
        sequence._read_trailer(size)
        if field is not None and sequence.shape[1:] != field.shape[1:]:
            raise LikenessError(f"{field.name} has pictures of {sequence.shape[1:]}", allowed=str(field.shape[1:]))
        return sequence

    @classmethod
    def of(cls, frames: Iterable[np.ndarray | None], height: int, width: int, kind: Kind = "jpeg") -> FrameSequence:
        """The sequence that storing these frames will give: JPEG loss included, so that nobody ever works on other pixels."""
        return cls(encode_frames(frames, height, width, kind))

    def tobytes(self) -> bytes:
        """The member's bytes."""
        return self._read(0, int(self._offsets[-1]) + 8 * len(self._offsets) + FOOTER.size)

    def _read_trailer(self, size: int) -> None:
        if size < FOOTER.size:
            raise LikenessError(f"a frame sequence of {size} bytes", allowed=_ALLOWED)
        count, height, width, magic = FOOTER.unpack(self._read(size - FOOTER.size, size))
        table = size - FOOTER.size - 8 * (count + 1)
        kind = next((name for name, known in MAGICS.items() if known == magic), None)
        if kind is None or table < 0:
            raise LikenessError(f"a frame sequence that ends with {magic!r}", allowed=_ALLOWED)
        self._offsets = np.frombuffer(self._read(table, size - FOOTER.size), "<u8").astype(np.int64)
        if self._offsets[0] != 0 or self._offsets[-1] != table or (np.diff(self._offsets) < 0).any():
            raise LikenessError("a frame sequence whose offsets do not fit its length", allowed=_ALLOWED)
        self.kind: Kind = kind
        self.shape = (int(count), *_picture_shape(int(height), int(width), kind))

    def _read(self, start: int, stop: int) -> bytes:
        if self._file is None:
            return self._data[start:stop]
        return self._read_file(self._file, self._start + start, stop - start)

    @property
    def present(self) -> np.ndarray:
        return np.diff(self._offsets) > 0

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, index: int | np.integer) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> np.ndarray: ...
    def __getitem__(self, index: int | np.integer | slice) -> np.ndarray:
        """Frame i as (height, width, 3), or a slice as (n, height, width, 3); uint8 RGB, black where there is no picture.

        With one channel the last axis is not there.
        """
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        place = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return self.take(range(place, place + 1))[0]

    def take(self, places: Iterable[int]) -> np.ndarray:
        """The frames at these places, in this order, read in one piece from the first to the last.

        Shapes as `__getitem__`: (n, height, width, 3), or (n, height, width).
        """
        wanted = list(places)
        out = np.zeros((len(wanted), *self.shape[1:]), np.uint8)
        if not wanted:
            return out
        start = int(self._offsets[min(wanted)])
        data = self._read(start, int(self._offsets[max(wanted) + 1]))
        for row, place in enumerate(wanted):
            picture = data[self._offsets[place] - start : self._offsets[place + 1] - start]
            if picture:
                self._decode(picture, place, out[row])
        return out

    def _decode(self, data: bytes, place: int, out: np.ndarray) -> None:
        picture = decode_jpeg(data) if self.kind == "jpeg" else decode_png(data, colour=self.kind == "png")
        if picture is None or picture.shape != out.shape:
            raise LikenessError(f"frame {place} of a sequence does not decode", fix="run `likeness data verify`")
        out[:] = picture
