"""Codecs: every value comes back, equal values give equal bytes, and what does not fit its field is refused."""

import io
import os
import pickle
import wave

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from infra.errors import LikenessError
from preprocessing import fields
from preprocessing.codecs import EXTENSION, decode, encode
from preprocessing.fields import Field
from preprocessing.frame_sequence import FOOTER, FrameSequence

TEXT = Field("caption", "txt", "str", (), "clip", "a caption")
CROPS = fields.face_crop(48, "box")
MAPS = Field("maps", "mpng", "uint8", ("frames", 48, 48, 3), "frame", "drawings", colour="RGB")
MASKS = Field("masks", "mpng", "uint8", ("frames", 48, 40), "frame", "masks")
DRAWING = Field("drawing", "png", "uint8", ("height", "width", 3), "clip", "a drawing", colour="RGB")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def pictures(n: int, size: int = 48, seed: int = 0) -> list[np.ndarray | None]:
    """Smooth random pictures (JPEG keeps them nearly as they are), every fifth missing."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (n, 3, 3, 3), dtype=np.uint8)
    whole = [np.kron(c, np.ones((size // 3, size // 3, 1), np.uint8)) for c in coarse]
    return [None if i % 5 == 4 else picture for i, picture in enumerate(whole)]


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 5), st.just(68), st.just(2))))
@settings(max_examples=25, deadline=None)
def test_npy_round_trip(value):
    data = encode(fields.LANDMARKS_68, value)
    assert data == encode(fields.LANDMARKS_68, np.asfortranarray(value))
    assert np.array_equal(decode(fields.LANDMARKS_68, data), value, equal_nan=True)


@given(arrays.arrays(np.int16, st.integers(0, 4000)))
@settings(max_examples=25, deadline=None)
def test_wav_round_trip(value):
    data = encode(fields.AUDIO, value)
    assert np.array_equal(decode(fields.AUDIO, data), value)
    with wave.open(io.BytesIO(data)) as source:
        assert (source.getframerate(), source.getnchannels(), source.getsampwidth()) == (16_000, 1, 2)


@given(st.dictionaries(st.text(), JSON, max_size=4))
@settings(max_examples=50, deadline=None)
def test_json_round_trip(value):
    data = encode(fields.SOURCE, value)
    assert decode(fields.SOURCE, data) == value
    assert data == encode(fields.SOURCE, dict(reversed(value.items())))


@given(st.text())
@settings(max_examples=25, deadline=None)
def test_txt_round_trip(value):
    assert decode(TEXT, encode(TEXT, value)) == value


@given(st.integers(0, 12), st.data())
@settings(max_examples=30, deadline=None)
def test_every_window_equals_the_full_decode(n, data):
    sequence = decode(CROPS, encode(CROPS, pictures(n)))
    full = sequence[:]
    assert full.shape == (n, 48, 48, 3)
    assert full.dtype == np.uint8
    start, stop = (data.draw(st.integers(-n - 1, n + 1)) for _ in range(2))
    assert np.array_equal(sequence[start:stop], full[start:stop])
    for i in range(n):
        assert np.array_equal(sequence[i], full[i])


def test_pictures_survive_and_missing_ones_are_black():
    wanted = pictures(10)
    data = encode(CROPS, iter(wanted))
    assert data == encode(CROPS, wanted)
    sequence = decode(CROPS, data)
    assert data == encode(CROPS, sequence)
    assert sequence.present.tolist() == [p is not None for p in wanted]
    for have, want in zip(sequence[:], wanted, strict=True):
        if want is None:
            assert not have.any()
        else:
            assert np.abs(have.astype(int) - want).mean() < 2  # in RGB order, at quality 95
    with pytest.raises(IndexError, match="frame 10 of 10"):
        sequence[10]


@pytest.mark.parametrize("field", [MAPS, MASKS], ids=lambda field: field.name)
def test_lossless_sequences_come_back_to_the_bit(field):
    wanted = list(np.random.default_rng(0).integers(0, 256, (6, *field.shape[1:]), dtype=np.uint8))
    wanted[2] = None
    data = encode(field, wanted)
    assert data == encode(field, iter(wanted)) == encode(field, FrameSequence(data))
    sequence = decode(field, data)
    assert sequence.shape == (6, *field.shape[1:])
    assert sequence.present.tolist() == [True, True, False, True, True, True]
    assert not sequence[2].any()
    assert np.array_equal(sequence[3:5], np.stack(wanted[3:5]))
    with pytest.raises(LikenessError, match="shape"):
        decode(MASKS if field is MAPS else MAPS, data)


def test_kinds_of_sequences_do_not_mix():
    lossy = FrameSequence(encode(CROPS, pictures(3)))
    with pytest.raises(LikenessError, match="maps is a sequence of kind jpeg"):
        encode(MAPS, lossy)
    with pytest.raises(LikenessError, match="frame 0 is uint8"):
        encode(MASKS, [np.zeros((48, 40, 3), np.uint8)])


def test_png_round_trip():
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    data = encode(DRAWING, picture)
    assert np.array_equal(decode(DRAWING, data), picture)
    assert data[:4] == b"\x89PNG"
    mask = Field("mask", "png", "uint8", ("height", "width"), "clip", "a mask")
    assert np.array_equal(decode(mask, encode(mask, picture[..., 0])), picture[..., 0])
    with pytest.raises(LikenessError, match="shape"):
        encode(mask, picture)


def test_a_window_reads_only_its_own_bytes(tmp_path, monkeypatch):
    data = encode(CROPS, [p for p in pictures(200) if p is not None])
    member = tmp_path / "shard.tar"
    member.write_bytes(b"x" * 1000 + data + b"y" * 1000)
    reads = []
    real = os.pread

    def counted(descriptor, size, offset):
        reads.append(size)
        return real(descriptor, size, offset)

    monkeypatch.setattr("os.pread", counted)
    sequence = FrameSequence.open(member, 1000, len(data), CROPS)
    trailer = sum(reads)
    assert trailer == FOOTER.size + 8 * (len(sequence) + 1)
    window = sequence[100:105]
    assert sum(reads) - trailer < 10 * len(data) / len(sequence)
    assert np.array_equal(window, decode(CROPS, data)[100:105])
    assert np.array_equal(pickle.loads(pickle.dumps(sequence))[100:105], window)


def test_a_player_shows_it_as_motion_jpeg():
    data = encode(CROPS, pictures(20))
    with av.open(io.BytesIO(data), format="mjpeg") as container:
        assert sum(1 for _ in container.decode(video=0)) == 16


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (fields.FACE_BOX, np.zeros((3, 4)), "float64.*allowed: float32.*astype"),
        (fields.FACE_BOX, np.zeros((3, 5), np.float32), r"shape \(3, 5\).*allowed: \(frames, 4\)"),
        (fields.FACE_BOX, [[0, 0, 1, 1]], "is a list"),
        (fields.AUDIO, np.zeros((2, 100), np.int16), r"allowed: \(samples\)"),
        (fields.MEASURES, {"blur": float("nan")}, "not plain JSON"),
        (fields.MEASURES, {"blur": np.float32(1)}, "not plain JSON"),
        (fields.MEASURES, [1], "is a list"),
        (TEXT, b"x", "is a bytes"),
        (CROPS, [np.zeros((48, 47, 3), np.uint8)], r"face_box_48: frame 0 is uint8 \(48, 47, 3\)"),
        (CROPS, [np.zeros((48, 48, 3))], "frame 0 is float64"),
        (fields.VIDEO, np.zeros((1, 2, 2, 3), np.uint8), "never stored"),
    ],
)
def test_what_does_not_fit_is_refused(field, value, message):
    with pytest.raises(LikenessError, match=message):
        encode(field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (fields.FACE_BOX, np.ones((3, 4), np.float32)),
        (fields.AUDIO, np.ones(100, np.int16)),
        (fields.SOURCE, {"a": 1}),
        (CROPS, pictures(4)),
        (MASKS, [np.ones((48, 40), np.uint8)] * 3),
        (DRAWING, np.ones((9, 9, 3), np.uint8)),
    ],
)
def test_damaged_bytes_are_named(field, value):
    data = encode(field, value)
    for damaged in (b"", data[: len(data) // 2], data[:-1]):
        with pytest.raises(LikenessError):
            decode(field, damaged)


def test_bytes_of_another_field_are_refused():
    with pytest.raises(LikenessError, match="face_valid holds float32"):
        decode(fields.FACE_VALID, encode(fields.FACE_BOX, np.ones((3, 4), np.float32)))
    with pytest.raises(LikenessError, match="shape"):
        decode(fields.face_crop(96, "box"), encode(CROPS, pictures(2)))


def test_every_codec_has_an_extension():
    assert {f.codec for f in (*fields.FIELDS, CROPS, MAPS, DRAWING)} <= EXTENSION.keys()
