"""How one value of a field becomes the bytes of one member of a column tar, and back.

| codec | bytes | value |
|---|---|---|
| npy | NumPy format 1.0, little endian, C order, no pickle | array of the field's dtype and shape |
| json | UTF-8, sorted keys, no spaces, NaN refused | dict |
| wav | RIFF PCM16, mono, 16 kHz | int16 (samples,) |
| txt | UTF-8 | str |
| jpg | JPEG, quality 95, colour at full resolution | uint8 (height, width, 3) RGB |
| png | PNG, lossless | uint8 (height, width, 3) RGB, or (height, width) |
| mjpeg | JPEGs one after the other and a trailer (see `preprocessing.frame_sequence`) | `FrameSequence`, or frames to encode |
| mpng | likewise of PNGs: masks and drawings, of which JPEG would change every value | the same |

Equal values give equal bytes, always. Whatever does not fit its field is refused here, where the field's name is known.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np

from infra.digest import canonical_json
from infra.errors import LikenessError
from preprocessing.fields import Codec, Field
from preprocessing.frame_sequence import FrameSequence, Kind, decode_jpeg, decode_png, encode_frames, encode_jpeg, encode_png

EXTENSION: dict[Codec, str] = {codec: codec for codec in get_args(Codec)}
WAV_RATE_HZ = 16_000


class CodecError(LikenessError):
    """A value that does not fit its field, or bytes that do not hold what the field says."""


def encode(field: Field, value: Any) -> bytes:
    """`value` as the bytes of a member named `KEY.{field.name}.{EXTENSION[field.codec]}`.

    Raises:
        CodecError: the value's type, dtype or shape is not the field's.
    """
    if not field.stored:
        raise CodecError(f"field {field.name} is never stored", fix="ask for a field made from it")
    return _ENCODE[field.codec](field, value)


def decode(field: Field, data: bytes) -> Any:
    """The value that `encode` was given; a `FrameSequence` for pictures, which decodes a frame when it is asked for.

    Raises:
        CodecError: the bytes are damaged or do not belong to this field.
    """
    try:
        return _DECODE[field.codec](field, data)
    except LikenessError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise CodecError(f"the {len(data)} bytes of {field.name} are no {field.codec}: {reason}", fix=_REBUILD) from error


_REBUILD = "the shard is damaged: run `likeness data verify`"


def check_shape(field: Field, shape: tuple[int, ...]) -> None:
    """Raise `CodecError` unless `shape` has the field's axes: numbers must agree, words may be anything."""
    fits = len(shape) == len(field.shape) and all(
        isinstance(want, str) or want == have for want, have in zip(field.shape, shape, strict=True)
    )
    if not fits:
        raise CodecError(f"{field.name} has shape {_axes(shape)}", allowed=_axes(field.shape))


def _axes(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(str(axis) for axis in shape) + ")"


def _check_array(field: Field, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise CodecError(f"{field.name} is a {type(value).__name__}", allowed=f"a NumPy array of {field.dtype}")
    if value.dtype.name != field.dtype:
        raise CodecError(f"{field.name} holds {value.dtype.name}", allowed=field.dtype, fix=f"use .astype({field.dtype!r})")
    check_shape(field, value.shape)
    return value


def _encode_npy(field: Field, value: Any) -> bytes:
    array = _check_array(field, value)
    buffer = io.BytesIO()
    # C order and little endian whatever the array in memory is like, so that equal values are equal bytes.
    plain = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")  # keeps single numbers single
    np.lib.format.write_array(buffer, plain, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _decode_npy(field: Field, data: bytes) -> np.ndarray:
    return _check_array(field, np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))


def _encode_json(field: Field, value: Any) -> bytes:
    if not isinstance(value, Mapping):
        raise CodecError(f"{field.name} is a {type(value).__name__}", allowed="a mapping of plain JSON values")
    try:
        return canonical_json(value)
    except (TypeError, ValueError) as error:
        raise CodecError(f"{field.name} is not plain JSON: {error}", allowed="str, int, finite float, bool, None") from error

def _decode_json(field: Field, data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise CodecError(f"{field.name} holds a JSON {type(value).__name__}", allowed="an object", fix=_REBUILD)
    return value


def _encode_wav(field: Field, value: Any) -> bytes:
    samples = _check_array(field, value)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setparams((1, 2, WAV_RATE_HZ, len(samples), "NONE", "not compressed"))
        out.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def _decode_wav(field: Field, data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data), "rb") as source:
        kind = source.getnchannels(), source.getsampwidth(), source.getframerate()
        if kind != (1, 2, WAV_RATE_HZ):
            what = f"{field.name} has {kind[0]} channels of {kind[1]} bytes at {kind[2]} Hz"
            raise CodecError(what, allowed=f"1 channel of 2 bytes at {WAV_RATE_HZ} Hz", fix=_REBUILD)
        samples = np.frombuffer(source.readframes(source.getnframes()), "<i2").astype(np.int16)
        if len(samples) != source.getnframes():
            raise CodecError(f"{field.name} ends after {len(samples)} of {source.getnframes()} samples", fix=_REBUILD)
    return samples


def _encode_txt(field: Field, value: Any) -> bytes:
    if not isinstance(value, str):
        raise CodecError(f"{field.name} is a {type(value).__name__}", allowed="a str")
    return value.encode()


def _encode_sequence(field: Field, value: Any) -> bytes:
    height, width = field.shape[1:3]
    if not isinstance(height, int) or not isinstance(width, int):
        raise CodecError(f"pictures of {field.name} have no fixed size", allowed="a field with numbers for height and width")
    if isinstance(value, FrameSequence):
        _check_sequence(field, value)
        return value.tobytes()
    try:
        return encode_frames(value, height, width, kind_of(field))
    except LikenessError as error:
        raise CodecError(f"{field.name}: {error.what}", allowed=error.allowed, fix=error.fix) from error


def _decode_sequence(field: Field, data: bytes) -> FrameSequence:
    frames = FrameSequence(data)
    _check_sequence(field, frames)
    return frames


def _check_sequence(field: Field, frames: FrameSequence) -> None:
    check_shape(field, frames.shape)
    if frames.kind != kind_of(field):
        raise CodecError(f"{field.name} is a sequence of kind {frames.kind}", allowed=kind_of(field))


def kind_of(field: Field) -> Kind:
    """How the pictures of a field of frames (codec mjpeg or mpng) are kept."""
    if field.codec == "mjpeg":
        return "jpeg"
    return "png" if len(field.shape) == 4 else "grey png"


def _encode_jpg(field: Field, value: Any) -> bytes:
    return encode_jpeg(_check_array(field, value))


def _decode_jpg(field: Field, data: bytes) -> np.ndarray:
    picture = decode_jpeg(data)
    if picture is None:
        raise CodecError(f"{field.name} does not decode", fix=_REBUILD)
    return _check_array(field, picture)


def _encode_png(field: Field, value: Any) -> bytes:
    return encode_png(_check_array(field, value))


def _decode_png(field: Field, data: bytes) -> np.ndarray:
    picture = decode_png(data, colour=len(field.shape) == 3)
    if picture is None:
        raise CodecError(f"{field.name} does not decode", fix=_REBUILD)
    return _check_array(field, picture)


def _decode_txt(field: Field, data: bytes) -> str:
    return data.decode()


_ENCODE: dict[Codec, Callable[[Field, Any], bytes]] = {
    "npy": _encode_npy,
    "json": _encode_json,
    "wav": _encode_wav,
    "txt": _encode_txt,
    "mjpeg": _encode_sequence,
    "mpng": _encode_sequence,
    "jpg": _encode_jpg,
    "png": _encode_png,
}
_DECODE: dict[Codec, Callable[[Field, bytes], Any]] = {
    "npy": _decode_npy,
    "json": _decode_json,
    "wav": _decode_wav,
    "txt": _decode_txt,
    "mjpeg": _decode_sequence,
    "mpng": _decode_sequence,
    "jpg": _decode_jpg,
    "png": _decode_png,
}
