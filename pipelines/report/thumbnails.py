"""Thumbnails of the pictures that a dataset holds for a row: label maps, masks, drawings, degraded and aligned pictures.

Label maps are shown in the colours of the PASCAL VOC palette, a fixed colour for each number, so that two rows, fields or pages
can be compared. All else is shown as it is stored: masks, depth and lines in grey, normals as the colours that they are kept as.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from infra.errors import LikenessError
from infra.storage import Dataset, Row
from preprocessing.codecs import decode
from preprocessing.fields import KEY_FRAME, UNKNOWN_LABEL, Field, by_name
from preprocessing.frame_sequence import FrameSequence

PICTURES, SEQUENCES = ("jpg", "png"), ("mjpeg", "mpng")
SIDE_PX = 112  # longer side
JPEG_QUALITY = 82
MOST_BYTES = 45_000  # of all thumbnails of one row, so that a sample stays in the order of 0.1 MB
SEGMENTATION, SEGMENTS = "segmentation_", "segments_"  # whose names of classes are those of a network, stored with each row


@dataclass(frozen=True)
class Thumbnail:
    """One picture of one field.

    Attributes:
        data: JPEG, or PNG for label maps; `kind`: its media type.
        width, height: px.
        frame: which one is shown, and of how many; "" for fields of one picture.
        classes: of a label map, those that occur in the stored picture: name, and colour as "#rrggbb".
    """

    field: Field
    data: bytes
    kind: str
    width: int
    height: int
    frame: str = ""
    classes: tuple[tuple[str, str], ...] = ()


def thumbnails(dataset: Dataset, row: Row) -> tuple[list[Thumbnail], list[str]]:
    """What the row's fields of pictures look like, those asked for first, and names of those for which there was no room.

    Never fails for a damaged value: `likeness data verify` is there for that.
    """
    wanted = dataset.manifest.wanted
    names = sorted(dataset.fields, key=lambda name: (wanted.index(name) if name in wanted else len(wanted), name))
    fields = [f for f in map(by_name, names) if f is not None and f.codec in PICTURES + SEQUENCES and dataset.has(row, f.name)]
    shown: list[Thumbnail] = []
    left_out: list[str] = []
    room = MOST_BYTES
    for field in fields:
        try:
            picture, frame = _picture(dataset, row, field)
            one = _thumbnail(field, picture, frame, _class_names(dataset, row, field))
        except LikenessError:
            continue
        if len(one.data) > room:
            left_out.append(field.name)
            continue
        room -= len(one.data)
        shown.append(one)
    return shown, left_out


@cache
def palette() -> np.ndarray:
    """(256, 3) uint8 RGB: PASCAL VOC's colour of each number. 0 is black, 255 (224, 224, 192); all are different."""
    colours = np.zeros((256, 3), np.uint8)
    numbers = np.arange(256)
    for step in range(8):  # three bits of the number at a time, one to each channel, highest bit first
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * step + channel) & 1) << (7 - step)).astype(np.uint8)
    return colours


def _picture(dataset: Dataset, row: Row, field: Field) -> tuple[np.ndarray, str]:
    """(H, W, 3) RGB or (H, W), and which frame: the key frame (else the middle), or the nearest that has a picture."""
    if field.codec in PICTURES:
        return decode(field, dataset.read(row, field.name)), ""
    frames = FrameSequence.open(*dataset.open_member(row, field.name), field=field, read=dataset.read_part)
    if not len(frames):
        raise LikenessError(f"{field.name} of {row.key} has no frames")
    place = (len(frames) - 1) // 2
    if KEY_FRAME.name in dataset.fields and dataset.has(row, KEY_FRAME.name):
        place = int(decode(KEY_FRAME, dataset.read(row, KEY_FRAME.name)))
    present = np.flatnonzero(frames.present)
    if len(present):
        place = int(present[np.abs(present - place).argmin()])
    place = min(place, len(frames) - 1)
    return frames[place], f"frame {place + 1} of {len(frames)}" if len(frames) > 1 else ""


def _thumbnail(field: Field, picture: np.ndarray, frame: str, names: dict[int, str]) -> Thumbnail:
    height, width = picture.shape[:2]
    scale = min(1.0, SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if field.pixels:
        small = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)  # numbers have no means
        present = [int(n) for n in np.unique(picture)]
        classes = tuple((_class_name(field, n, names), "#" + palette()[n].tobytes().hex()) for n in present)
        return Thumbnail(field, _palette_png(small), "image/png", *size, frame, classes)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR) if small.ndim == 3 else small
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # fmt: skip
    return Thumbnail(field, cv2.imencode(".jpg", bgr, settings)[1].tobytes(), "image/jpeg", *size, frame)


def _palette_png(numbers: np.ndarray) -> bytes:
    picture = Image.fromarray(numbers, "L")
    picture = picture.convert("P")  # keeps the numbers
    picture.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _class_names(dataset: Dataset, row: Row, field: Field) -> dict[int, str]:
    """Number (for bits: place of the bit) -> name, as far as they are known."""
    names = dict(enumerate(field.classes))
    other = field.name.replace(SEGMENTATION, SEGMENTS, 1)
    if field.name.startswith(SEGMENTATION) and other in dataset.fields and dataset.has(row, other):
        stored: dict[str, Any] = json.loads(dataset.read(row, other))
        names |= {int(number): str(name) for number, name in stored.get("names", {}).items()}
    return names


def _class_name(field: Field, number: int, names: dict[int, str]) -> str:
    if field.pixels == "bits":
        return " + ".join(names.get(bit, f"bit {bit}") for bit in range(8) if number >> bit & 1) or "none"
    return names.get(number, "unknown" if number == UNKNOWN_LABEL else f"class {number}")
