"""Reading frames: the right one for every index, whatever the file, the backend and the way of asking."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from test_media_samples import Sample, encode, matrix, number, paint, patched

from infra.errors import LikenessError
from preprocessing.media import decode
from preprocessing.media.decode import BACKENDS, DecordReader, PyAVReader, open_video
from preprocessing.media.probe import MediaProblem, probe

pytest_plugins = ("test_media_samples",)

# What decord may be trusted with; everything else must quietly go to PyAV.
DECORD_READS = {
    "25fps",
    "30fps",
    "ntsc",
    "vfr",
    "odd444",
    "gray",
    "full709",
    "late_mp4",
    "late_mkv",
    "one",
    "wrong_ext",
    "webm",
    "mjpeg",
    "rot90",
    "rot180",
    "rot270",
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_frame_is_the_right_one(samples: dict[str, Sample], backend: str) -> None:
    for name, sample in samples.items():
        reader = open_video(sample.path, backend=backend)
        frames = list(reader.frames(range(reader.info.n_frames)))
        assert [number(f) for f in frames] == sample.numbers, name
        assert {(f.shape, f.dtype, f.flags.c_contiguous) for f in frames} == {(sample.shape, np.dtype(np.uint8), True)}
        assert reader.corrupt_frames == []
        assert reader.backend == ("decord" if backend == "decord" and name in DECORD_READS else "pyav"), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_selection_gives_the_same_pixels_as_reading_all(samples: dict[str, Sample], backend: str) -> None:
    draw = random.Random(1)
    for name, sample in samples.items():
        reader = open_video(sample.path, backend=backend)
        n = reader.info.n_frames
        everything = list(reader.frames(range(n)))
        for chosen in ([n - 1], [0, 0, n - 1], *(sorted(draw.choices(range(n), k=5)) for _ in range(4))):
            picked = list(reader.frames(chosen))
            assert all(np.array_equal(p, everything[i]) for i, p in zip(chosen, picked, strict=True)), (name, chosen)
            again = [i for i in range(1, len(chosen)) if chosen[i] == chosen[i - 1]]
            assert all(picked[i] is picked[i - 1] for i in again), "a repeated index is the same array"


def test_backends_agree_pixel_by_pixel(samples: dict[str, Sample]) -> None:
    for name in DECORD_READS:
        info = probe(samples[name].path)
        pairs = (open_video(samples[name].path, info, backend).frames(range(info.n_frames)) for backend in BACKENDS)
        for ours, theirs in zip(*pairs, strict=True):
            # Bit-equal where both use the same libswscale path; one level of rounding is allowed for other builds.
            assert np.abs(ours.astype(int) - theirs).max() <= 2, name


def test_colours_follow_range_and_matrix(samples: dict[str, Sample]) -> None:
    truth = paint(0)
    for name in ("25fps", "full709", "ntsc", "hevc10", "30fps", "av1"):
        picture = next(iter(open_video(samples[name].path).frames([0])))
        for column in (30, 130):  # well inside the two coloured fields; wrong range or matrix is off by ten and more
            np.testing.assert_allclose(picture[112, column].astype(int), truth[112, column], atol=7, err_msg=name)


def test_decodes_each_frame_once_and_jumps_over_unwanted_groups(
    samples: dict[str, Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    plain = decode.decoded

    def counting(container, stream):
        for frame in plain(container, stream):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(decode, "decoded", counting)
    reader = open_video(samples["25fps"].path, backend="pyav")
    keys = reader.info.key_frames.tolist()
    assert len(list(reader.frames(range(20)))) == 20
    assert len(seen) == len(set(seen)) == 20
    seen.clear()
    list(reader.frames([2, keys[-1] + 1]))
    assert len(seen) <= 5, "groups in between are skipped"


def test_bad_requests_are_refused_at_once(samples: dict[str, Sample]) -> None:
    for backend in BACKENDS:
        reader = open_video(samples["25fps"].path, backend=backend)
        for indices in ([40], [-1], [5, 4]):
            with pytest.raises(LikenessError):
                reader.frames(indices)
        assert list(reader.frames([])) == []
    with pytest.raises(LikenessError, match="pyav or decord"):
        open_video(samples["25fps"].path, backend="opencv")


def test_threads_do_not_change_pictures(samples: dict[str, Sample]) -> None:
    one, two = (list(open_video(samples["25fps"].path, threads=t).frames(range(40))) for t in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_cut_off_file_gives_what_is_there(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.mp4", [paint(k) for k in range(40)], bf="0")
    content = whole.read_bytes()
    moov, mdat = content.index(b"moov") - 4, content.index(b"mdat") - 4
    # Put the index first, as for streaming, and correct the offsets of the one chunk it lists.
    index = bytearray(content[moov:])
    table = index.index(b"stco") + 12
    index[table : table + 4] = (int.from_bytes(index[table : table + 4], "big") + len(index)).to_bytes(4, "big")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((content[:mdat] + bytes(index) + content[mdat:moov])[: len(content) * 7 // 10])
    info = probe(cut)
    assert "40" in info.warnings[0]
    assert 5 < info.n_frames < 40
    reader = open_video(cut, info)
    numbers = [number(f) for f in reader.frames(range(info.n_frames))]
    bad = reader.corrupt_frames
    assert bad in ([], [info.n_frames - 1])
    assert numbers[: info.n_frames - len(bad)] == list(range(info.n_frames - len(bad)))


def test_a_missing_frame_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    pictures = [paint(k) for k in range(40)]
    path = encode(tmp_path / "v.mp4", pictures, g="5", bf="0", threads="1", **{"x264-params": "no-cabac=1:scenecut=0"})
    info = probe(path)
    with_holes = bytearray(path.read_bytes())
    for index in (7, 8, 15):  # two inside a group, one key frame
        position, size = _packet(path, index)
        with_holes[position : position + size] = bytes(size)
    path.write_bytes(with_holes)
    for wanted in (range(40), [3, 8, 20], [7], [15, 30]):
        reader = open_video(path, info)
        numbers = dict(zip(wanted, (number(f) for f in reader.frames(wanted)), strict=True))
        assert set(reader.corrupt_frames) >= {7, 8, 15} & set(wanted)
        assert all(numbers[k] == k for k in set(wanted) - set(reader.corrupt_frames))
        assert all(numbers[k] == 6 for k in {7, 8} & set(wanted))
        assert numbers.get(15, 14) == 14


def test_missing_first_frames_are_replaced_by_the_next(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mp4", [paint(k) for k in range(10)], codec="mjpeg", pixels="yuvj420p")
    info = probe(path)
    content = bytearray(path.read_bytes())
    for index in (0, 1):
        position, size = _packet(path, index)
        content[position : position + size] = bytes(size)
    path.write_bytes(content)
    reader = open_video(path, info)
    assert [number(f) for f in reader.frames([0, 1, 2])] == [2, 2, 2]
    assert reader.corrupt_frames == [0, 1]
    assert "do not decode" in probe(path).warnings[0]


def test_nothing_decodable_is_an_error(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mp4", [paint(k) for k in range(10)])
    info = probe(path)
    content = bytearray(path.read_bytes())
    start, stop = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)
    with pytest.raises(MediaProblem) as caught:
        next(iter(open_video(path, info).frames([3])))
    assert caught.value.reason == "damaged"


def test_pyav_finishes_what_decord_cannot(samples: dict[str, Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    path = samples["25fps"].path
    real = decode._decord(path, 1)

    class Failing:
        def __getitem__(self, index: int):
            if index > 5:
                raise RuntimeError("out of luck")
            return real[index]

    reader = DecordReader(PyAVReader(path, probe(path)))
    monkeypatch.setattr(decode, "_decord", lambda *_: Failing())
    assert [number(f) for f in reader.frames([0, 5, 5, 6, 6, 39])] == [0, 5, 5, 6, 6, 39]
    assert reader.backend == "pyav"


def test_mirrored_and_turned_at_once(tmp_path: Path) -> None:
    # Stored = what the matrix maps to the upright picture: mirrored left-right, then turned clockwise by 90.
    stored = [np.ascontiguousarray(np.rot90(paint(k))[:, ::-1]) for k in range(3)]
    path = patched(encode(tmp_path / "p.mp4", stored), tmp_path / "m.mp4", b"tkhd", 44, matrix(0, -1, -1, 0))
    info = probe(path)
    assert (info.rotation, info.mirrored) == (90, True)
    assert [number(f) for f in open_video(path, info).frames(range(3))] == [0, 1, 2]


@pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS names no folder of real media")
def test_real_files_read_in_full() -> None:
    good = 0
    for path in sorted(Path(os.environ["LIKENESS_CORPUS"]).rglob("*")):
        try:
            info = probe(path)
        except MediaProblem:
            continue
        reader = open_video(path, info)
        assert sum(f.shape == info.shape for f in reader.frames(range(info.n_frames))) == info.n_frames
        good += 1
    assert good


def _packet(path: Path, index: int) -> tuple[int, int]:
    """(position in the file, size) of a video packet."""
    import av

    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]
    position, size = packets[index]
    assert position is not None
    return position, size
