"""Small media of every awkward kind, made on the spot; the other media tests take them from here.

Every picture carries its own frame number (`paint`, `number`), upright only, so that an off-by-one, a wrong rotation or a repeated
frame cannot go unnoticed.
"""

import os
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder greets on stderr otherwise

HEIGHT, WIDTH, BITS = 128, 160, 8
RATE_HZ = 48_000


def paint(k: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3) uint8: number k as eight light or dark blocks on top, their opposites below, colours at the bottom."""
    picture = np.full((height, width, 3), 128, np.uint8)
    block, band = width // BITS, height // 4
    for bit in range(BITS):
        lit = 230 if k >> bit & 1 else 25
        picture[:band, bit * block : (bit + 1) * block] = lit
        picture[band : 2 * band, bit * block : (bit + 1) * block] = 255 - lit
    picture[3 * band :, : width // 2] = (180, 60, 60)
    picture[3 * band :, width // 2 :] = (60, 100, 180)
    return picture


def number(picture: np.ndarray) -> int:
    """The number `paint` put there, -1 when the picture is not an upright one of its kind."""
    height, width = picture.shape[:2]
    block, band = width // BITS, height // 4
    columns = [bit * block + block // 2 for bit in range(BITS)]
    top, below = (picture[row, columns].mean(axis=1) > 128 for row in (band // 2, band + band // 2))
    return int((top * 2 ** np.arange(BITS)).sum()) if (top != below).all() else -1


def clicks(seconds: float, rate_hz: int = RATE_HZ, channels: int = 1) -> np.ndarray:
    """(channels, samples) int16: a 20 ms burst of 1 kHz every half second, from 0 on."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.tile((12000 * np.sin(2000 * np.pi * t) * (t % 0.5 < 0.02)).astype(np.int16), (channels, 1))


def onsets(sound: np.ndarray, rate_hz: int = 16_000) -> np.ndarray:
    """Seconds at which the bursts of `clicks` begin."""
    loud = np.flatnonzero(np.abs(sound.astype(int)) > 2500)
    return loud[np.flatnonzero(np.diff(loud, prepend=-rate_hz) > 0.1 * rate_hz)] / rate_hz


def encode(
    path: Path,
    pictures: list[np.ndarray],
    pts: list[int] | None = None,
    rate: Fraction = Fraction(25),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sound: np.ndarray | None = None,
    sound_at: float = 0,
    sound_codec: str = "aac",
    **options: str,
) -> Path:
    """Write a clip; `pts` counts in units of 1/rate."""
    if codec == "libx264":
        options = {"crf": "12", "preset": "veryfast", "g": "12", "bf": "2"} | options
    colour = {"colorspace": 1, "color_range": 2} if pixels.startswith("yuvj") else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate, options, width=pictures[0].shape[1], height=pictures[0].shape[0])
        stream.pix_fmt, stream.codec_context.time_base = pixels, 1 / rate
        for name, value in colour.items():
            setattr(stream.codec_context, name, value)
        voice = None
        if sound is not None:
            layout = "mono" if len(sound) == 1 else "stereo"
            voice = container.add_stream(sound_codec, RATE_HZ, layout=layout)
        for k, picture in zip(pts or range(len(pictures)), pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame = frame.reformat(
                format=pixels, dst_colorspace=colour.get("colorspace"), dst_color_range=colour.get("color_range")
            )
            frame.pts, frame.time_base = k, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None and sound is not None:
            size = 1152 if sound_codec == "mp2" else 1024
            for start in range(0, sound.shape[1], size):
                piece = np.ascontiguousarray(sound[:, start : start + size].T.reshape(1, -1))
                block = av.AudioFrame.from_ndarray(piece, "s16", layout)
                block.sample_rate, block.time_base = RATE_HZ, Fraction(1, RATE_HZ)
                block.pts = start + round(sound_at * RATE_HZ)
                container.mux(voice.encode(block))
            container.mux(voice.encode(None))
    return path


def patched(source: Path, path: Path, box: bytes, offset: int, data: bytes) -> Path:
    """A copy of an mp4 in which `data` stands `offset` bytes behind the name of the first `box`."""
    content = bytearray(source.read_bytes())
    at = content.index(box) + offset
    content[at : at + len(data)] = data
    path.write_bytes(content)
    return path


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    """A display matrix that maps (x, y) to (a x + c y, b x + d y), as a track header holds it (44 bytes behind its name)."""
    one = 1 << 16
    return struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)


@dataclass
class Sample:
    """A video and what must be found in it: `numbers` of the frames shown, in order, and their times in units of 1/rate."""

    path: Path
    numbers: list[int]
    times: list[int] = field(default_factory=list)
    rate: Fraction = Fraction(25)
    shape: tuple[int, int, int] = (HEIGHT, WIDTH, 3)
    rotation: int = 0
    mirrored: bool = False


def make_samples(folder: Path) -> dict[str, Sample]:
    """Every readable video the tests use, by name."""
    n = 40
    up = [paint(k) for k in range(n)]
    voice = clicks(n / 25)
    kept = [k for k in range(n) if k % 7 != 3 and k % 11 != 5]
    odd = [paint(k, 177, 241) for k in range(n)]
    all_of = lambda path, **more: Sample(path, list(range(n)), list(range(n)), **more)
    made = {
        "25fps": all_of(encode(folder / "25fps.mp4", up, sound=voice)),
        "30fps": all_of(encode(folder / "30fps.mp4", up, rate=Fraction(30), codec="mpeg4", qmin="2", qmax="4"), rate=Fraction(30)),
        "ntsc": all_of(encode(folder / "ntsc.mkv", up, rate=Fraction(30000, 1001), sound=voice), rate=Fraction(30000, 1001)),
        "vfr": Sample(encode(folder / "vfr.mp4", [up[k] for k in kept], kept), kept, kept),
        "odd444": all_of(encode(folder / "odd.mp4", odd, pixels="yuv444p"), shape=(177, 241, 3)),
        "gray": all_of(encode(folder / "gray.mp4", up, pixels="gray")),
        "full709": all_of(encode(folder / "full.mp4", up, pixels="yuvj420p")),
        "hevc10": all_of(encode(folder / "ten.mp4", up, codec="libx265", pixels="yuv420p10le", **{"x265-params": "log-level=0"})),
        "av1": all_of(encode(folder / "av1.mkv", up, codec="libsvtav1", preset="12", **{"svtav1-params": "avif=0:lp=1"})),
        "mpeg_ps": all_of(encode(folder / "ps.mpg", up, codec="mpeg1video", sound=voice, sound_codec="mp2", g="12", bf="2")),
        # AVI holds no presentation times, and MPEG-4 with B-frames needs them; a raw stream holds none at all.
        "avi": all_of(encode(folder / "b.avi", up, codec="mpeg4", qmin="2", qmax="4", bf="2", sound=voice, sound_codec="mp3")),
        "raw": all_of(encode(folder / "raw.h264", up)),
        "ts": all_of(encode(folder / "stream.ts", up, sound=voice)),
        "flv": all_of(encode(folder / "flash.flv", up)),
        "webm": all_of(encode(folder / "v.webm", up, codec="libvpx-vp9", deadline="realtime", crf="20", g="12")),
        "mjpeg": all_of(encode(folder / "v.mov", up, codec="mjpeg", pixels="yuvj420p")),
        "late_mp4": all_of(encode(folder / "late.mp4", up, sound=voice, sound_at=0.2)),
        "late_mkv": all_of(encode(folder / "late.mkv", up, sound=voice, sound_at=0.2, sound_codec="libopus")),
        "one": Sample(encode(folder / "one.mp4", up[:1]), [0], [0]),
        "wrong_ext": all_of(encode(folder / "x.mp4", up).rename(folder / "x.jpg")),
    }
    turns = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    for angle, entries in turns.items():
        stored = [np.ascontiguousarray(np.rot90(picture, angle // 90)) for picture in up]  # the matrix turns it back clockwise
        plain = encode(folder / "plain.mp4", stored)
        path = patched(plain, folder / f"rot{angle}.mp4", b"tkhd", 44, matrix(*entries))
        made[f"rot{angle}"] = all_of(path, rotation=angle)
    plain = encode(folder / "plain.mp4", [np.ascontiguousarray(picture[:, ::-1]) for picture in up])
    made["mirrored"] = all_of(patched(plain, folder / "mirrored.mp4", b"tkhd", 44, matrix(-1, 0, 0, 1)), mirrored=True)
    return made


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    return make_samples(tmp_path_factory.mktemp("media"))


def test_painted_numbers_read_back_only_upright() -> None:
    assert [number(paint(k)) for k in range(256)] == list(range(256))
    assert all(number(np.rot90(paint(77), turns)) == -1 for turns in (1, 2, 3))
    assert number(paint(77)[:, ::-1]) != 77


def test_click_onsets_are_where_clicks_are() -> None:
    np.testing.assert_allclose(onsets(clicks(1.6)[0], RATE_HZ), [0, 0.5, 1, 1.5], atol=2e-4)
