"""The probe: frame times equal to what decoding shows, and a clear word for everything that is no video."""

import json
import os
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from test_media_samples import Sample, clicks, encode, paint, patched

from infra.errors import LikenessError
from preprocessing.media.decode import open_video
from preprocessing.media.probe import MediaInfo, MediaProblem, decoded, one_stream, open_media, probe

pytest_plugins = ("test_media_samples",)


def test_finds_every_frame_and_its_time(samples: dict[str, Sample]) -> None:
    for name, sample in samples.items():
        info = probe(sample.path)
        assert (info.n_frames, info.shape, info.rotation, info.mirrored) == (
            len(sample.numbers),
            sample.shape,
            sample.rotation,
            sample.mirrored,
        ), name
        seconds = (info.pts_ticks - info.pts_ticks[0]) * float(info.time_base)
        # Matroska and MPEG keep whole milliseconds or 90 kHz ticks.
        np.testing.assert_allclose(seconds, np.array(sample.times) / float(sample.rate), atol=1.1e-3, err_msg=name)
        assert info.warnings == (), name


def test_demuxed_times_are_those_of_the_decoder(samples: dict[str, Sample]) -> None:
    for name, sample in samples.items():
        info = probe(sample.path)
        assert info.pts_source == ("decoder" if name in ("avi", "raw", "mpeg_ps") else "packets")
        if info.pts_source == "packets":
            with open_media(sample.path) as container:
                assert [f.pts for f in decoded(container, one_stream(container, info.stream))] == info.pts_ticks.tolist(), name


def test_a_picture_that_stands_too_long_is_remarked(tmp_path: Path) -> None:
    info = probe(encode(tmp_path / "v.mkv", [paint(k) for k in range(4)], [0, 1, 400, 401]))
    assert info.n_frames == 4
    assert info.warnings == ("no frame for 16 s after frame 1",)


def test_rates_are_exact(samples: dict[str, Sample]) -> None:
    for name in ("25fps", "30fps", "ntsc", "avi", "raw", "mpeg_ps", "av1"):
        assert probe(samples[name].path).fps == samples[name].rate, name
    vfr = probe(samples["vfr"].path)
    assert vfr.fps == Fraction(25 * 30, samples["vfr"].times[-1])
    assert vfr.duration == Fraction(samples["vfr"].times[-1] + 1, 25)
    assert probe(samples["one"].path).duration == Fraction(1, 25)


def test_describes_the_streams(samples: dict[str, Sample]) -> None:
    info = probe(samples["25fps"].path)
    assert (info.codec, info.pixel_format, info.sample_aspect_ratio, info.start) == ("h264", "yuv420p", 1, 0)
    assert info.audio is not None
    assert (info.audio.codec, info.audio.rate_hz, info.audio.channels) == ("aac", 48000, 1)
    assert info.key_frames.tolist()[0] == 0
    assert probe(samples["full709"].path).pixel_format == "yuvj420p"
    assert probe(samples["hevc10"].path).pixel_format == "yuv420p10le"
    assert probe(samples["30fps"].path).audio is None


def test_survives_json(samples: dict[str, Sample]) -> None:
    for name in ("ntsc", "one", "rot90"):
        info = probe(samples[name].path)
        again = MediaInfo.from_json(json.loads(json.dumps(info.to_json())))
        assert again.to_json() == info.to_json()
        assert (again.fps, again.audio, again.pts_ticks.tolist()) == (info.fps, info.audio, info.pts_ticks.tolist())


def test_frames_cut_by_an_edit_list_are_not_counted(samples: dict[str, Sample], tmp_path: Path) -> None:
    # The edit list begins five frames in: 12800 ticks a second make 512 a frame, and B-frames delay the first by two of them.
    edited = patched(samples["rot90"].path, tmp_path / "e.mp4", b"elst", 16, (512 * 7).to_bytes(4, "big"))
    info = probe(edited)
    assert (info.hidden, info.n_frames) == (5, 35)
    assert open_video(edited, info).corrupt_frames == []


def test_packets_before_the_first_key_frame_are_not_counted(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.ts", [paint(k) for k in range(40)])
    content = whole.read_bytes()
    middle = len(content) // 188 // 4 * 188
    cut = tmp_path / "cut.ts"
    cut.write_bytes(content[: 188 * 3] + content[middle:])  # the tables, then from somewhere inside the first group
    info = probe(cut)
    with open_media(cut) as container:
        shown = [f.pts for f in decoded(container, one_stream(container, info.stream)) if f.pts is not None]
    assert info.n_frames == len(shown) < 40
    assert info.pts_ticks.tolist() == shown


def test_the_larger_of_two_pictures_is_taken_and_a_cover_never(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", 25, width=w, height=h) for w, h in ((64, 48), (160, 128), (320, 256))]
        streams[0].disposition = streams[1].disposition = Disposition.default
        streams[2].disposition = Disposition.attached_pic
        for k in range(5):
            for stream in streams[: 3 if k == 0 else 2]:
                frame = av.VideoFrame.from_ndarray(paint(k, stream.height, stream.width), "rgb24")
                frame.pts, frame.time_base = k, Fraction(1, 25)
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
        for stream in streams:
            container.mux(stream.encode(None))
    info = probe(path)
    assert (info.stream, info.width, info.n_frames) == (1, 160, 5)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("broken")
    whole = encode(folder / "whole.mp4", [paint(k) for k in range(40)], sound=clicks(1.6))
    content = whole.read_bytes()

    def write(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    with av.open(str(folder / "picture.jpg"), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("mjpeg", 1, width=160, height=128)
        stream.pix_fmt = "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(paint(1), "rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(folder / "sound.mp4"), "w") as container:
        voice = container.add_stream("aac", 48000, layout="mono")
        block = av.AudioFrame.from_ndarray(clicks(0.5), "s16", "mono")
        block.sample_rate = 48000
        container.mux(voice.encode(block))
        container.mux(voice.encode(None))
    fragmented = folder / "fragmented.mp4"
    with av.open(str(fragmented), "w", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("libx264", 25, width=160, height=128)
        for k in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(paint(k), "rgb24")))
        container.mux(stream.encode(None))
    header = fragmented.read_bytes()
    spoiled = bytearray(content)
    start = content.index(b"mdat") + 4
    spoiled[start : content.index(b"moov")] = bytes(content.index(b"moov") - start)
    return {
        "empty-file": write("empty.mp4", b""),
        "not-media": write("text.mp4", b"no video at all, only a few words\n" * 20),
        "cannot-open": write("headless.mp4", content[: len(content) // 2]),
        "still-image": (folder / "picture.jpg").rename(folder / "picture.mp4"),
        "no-video-stream": folder / "sound.mp4",
        "no-frames": write("none.mp4", header[: header.index(b"moof") - 4]),
        "damaged": write("spoiled.mp4", bytes(spoiled)),
    }


def test_every_problem_has_its_code(broken: dict[str, Path]) -> None:
    for reason, path in broken.items():
        with pytest.raises(MediaProblem) as caught:
            probe(path)
        assert caught.value.reason == reason, str(caught.value)
        assert path.name in str(caught.value)
    with pytest.raises(MediaProblem, match="moov atom not found"):
        probe(broken["cannot-open"])
    for nowhere in (broken["damaged"].parent, broken["damaged"].parent / "absent.mp4"):
        with pytest.raises(MediaProblem) as caught:
            probe(nowhere)
        assert caught.value.reason == "cannot-open"


def test_problems_cross_process_borders() -> None:
    problem = pickle.loads(pickle.dumps(MediaProblem("no-frames", "what", allowed="a", fix="b")))
    assert isinstance(problem, LikenessError)
    assert (problem.reason, problem.what, problem.allowed, problem.fix) == ("no-frames", "what", "a", "b")


def test_nothing_is_printed(broken: dict[str, Path]) -> None:
    code = """if True:
        import sys
        from preprocessing.media.probe import MediaProblem, probe
        for path in sys.argv[1:]:
            try:
                probe(path)
            except MediaProblem:
                pass
    """
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, *map(str, broken.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root})
    assert done.stdout + done.stderr == ""


def test_a_playlist_opens_nothing(samples: dict[str, Sample], tmp_path: Path) -> None:
    target = samples["25fps"].path
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile '{target}'\n")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\n{target}\n#EXT-X-ENDLIST\n")
    for name in ("list.txt", "list.m3u8"):
        with pytest.raises(MediaProblem):
            probe(tmp_path / name)
