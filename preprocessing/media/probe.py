"""What is in a media file: streams, geometry, colour and the exact display time of every frame, without decoding them.

Files are judged by content, never by name: libav only sees an anonymous byte stream. That also keeps playlists and other
formats that point elsewhere from opening anything (no protocol is allowed to them).

Which frames count: those a player shows. A packet is left out when an edit list discards it, or when it stands before the first
key frame (in file order or in display order), because nothing can decode it. A frame whose packet is there but does not decode
stays in the list: its index is its place in time, and the reader fills it (see `decode`).
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from infra.errors import LikenessError

# PANIC prints nothing, and unlike the default (no logging at all) still attaches libav's last message to its exceptions.
av.logging.set_level(av.logging.PANIC)

ALLOWED = "a video file that libav can read (mp4, mov, mkv, webm, avi, mpg, ...)"
STILL_BRANDS = {"heic", "heix", "mif1", "avif"}  # one picture in an MP4-like box
ANIMATIONS = {"gif", "apng", "webp"}  # stills or clips: the number of frames decides
LONG_GAP_S = 10  # a picture that stands this long is more likely a broken timestamp
SIGNATURES = {b"ftyp": 4, b"moov": 4, b"mdat": 4, b"RIFF": 0, b"\x1aE\xdf\xa3": 0, b"OggS": 0, b"fLaC": 0}


class MediaProblem(LikenessError):
    """A media file that cannot be used.

    Attributes:
        reason: short code for ledgers and counts: "empty-file", "not-media", "cannot-open", "still-image", "no-video-stream",
            "no-audio-stream", "unknown-codec", "no-frames", "no-samples" or "damaged".
    """

    def __init__(self, reason: str, what: str, *, allowed: str = "", fix: str = "") -> None:
        self.reason = reason
        super().__init__(what, allowed=allowed, fix=fix)

    def __reduce__(self) -> tuple:
        return (_problem, (self.reason, self.what, self.allowed, self.fix))


def _problem(reason: str, what: str, allowed: str, fix: str) -> MediaProblem:
    return MediaProblem(reason, what, allowed=allowed, fix=fix)


@dataclass(frozen=True)
class AudioInfo:
    """The chosen audio stream: `start` is the time of its first packet on the container's clock, in seconds."""

    index: int
    codec: str
    rate_hz: int
    channels: int
    start: Fraction


@dataclass(frozen=True, eq=False)
class MediaInfo:
    """What `probe` found. Times are ticks of `time_base` seconds on the container's clock.

    Attributes:
        container: libav's name of the format ("mov,mp4,m4a,3gp,3g2,mj2").
        container_duration: seconds the container states, None when it states none; see `duration` for the measured one.
        stream: index of the chosen video stream.
        width, height: coded size in pixels, before rotation; `shape` is the upright one.
        rotation: degrees clockwise (0, 90, 180, 270) that bring the picture upright.
        mirrored: whether it must be mirrored left-right before that.
        interlaced: whether the first frame says so; nothing here de-interlaces.
        sample_aspect_ratio: width of a coded pixel over its height; 1 when not stated.
        fps: the container's average rate if the timestamps agree to 0.1 %, else the rate measured on them.
        pts_ticks: int64 (N,), strictly increasing display times; position in it is *the* frame index everywhere.
        pts_source: "packets", or "decoder" when packets carry no usable times and the stream had to be decoded to learn them.
        key_frames: int64 (K,), frame indices at which decoding can begin.
        hidden: packets left out of `pts_ticks` (edit list, or before the first key frame).
        audio: the chosen audio stream, None when the file has no sound.
        warnings: human-readable signs of damage that leave the file usable.
    """

    container: str
    container_duration: Fraction | None
    stream: int
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation: int
    mirrored: bool
    interlaced: bool
    sample_aspect_ratio: Fraction
    fps: Fraction
    time_base: Fraction
    pts_ticks: np.ndarray
    pts_source: str
    key_frames: np.ndarray
    hidden: int
    audio: AudioInfo | None
    warnings: tuple[str, ...] = ()

    @property
    def n_frames(self) -> int:
        return len(self.pts_ticks)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of an upright frame."""
        return (self.width, self.height, 3) if self.rotation in (90, 270) else (self.height, self.width, 3)

    @property
    def start(self) -> Fraction:
        """Display time of the first frame, in seconds."""
        return int(self.pts_ticks[0]) * self.time_base

    @property
    def duration(self) -> Fraction:
        """Seconds shown, the last frame counted as long as the median frame interval (1/fps for a single frame)."""
        if self.n_frames == 1:
            return 1 / self.fps
        return int(self.pts_ticks[-1] - self.pts_ticks[0] + median_interval(self.pts_ticks)) * self.time_base

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; `from_json` reads it back."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("container_duration", "sample_aspect_ratio", "fps", "time_base"):
            plain[name] = None if plain[name] is None else str(plain[name])
        plain |= {"pts_ticks": self.pts_ticks.tolist(), "key_frames": self.key_frames.tolist(), "warnings": list(self.warnings)}
        plain["audio"] = self.audio and {**vars(self.audio), "start": str(self.audio.start)}
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "MediaInfo":
        """The `MediaInfo` that `to_json` wrote."""
        values = dict(plain)
        for name in ("container_duration", "sample_aspect_ratio", "fps", "time_base"):
            values[name] = None if values[name] is None else Fraction(values[name])
        values |= {name: np.asarray(values[name], np.int64) for name in ("pts_ticks", "key_frames")}
        values["warnings"] = tuple(values["warnings"])
        values["audio"] = values["audio"] and AudioInfo(**{**values["audio"], "start": Fraction(values["audio"]["start"])})
        return cls(**values)


def median_interval(pts_ticks: np.ndarray) -> int:
    """The median step between neighbouring frames in ticks; of two middle ones the smaller, so that it occurs in the file."""
    steps = np.diff(pts_ticks)
    return int(np.partition(steps, (len(steps) - 1) // 2)[(len(steps) - 1) // 2])


class _Anonymous:
    """A file libav can read but not name, so that no decision hangs on an extension."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb", buffering=0)
        self.read, self.seek, self.tell = self.file.read, self.file.seek, self.file.tell


@contextmanager
def open_media(path: str | os.PathLike) -> Iterator[InputContainer]:
    """Open any media file for reading.

    Raises:
        MediaProblem: "empty-file", "not-media" (nothing libav knows) or "cannot-open" (media, but broken or unreadable).
    """
    path = Path(path)
    try:
        source = _Anonymous(path)
    except OSError as error:
        raise MediaProblem("cannot-open", f"{path.name} cannot be read: {error.strerror}", allowed=ALLOWED) from error
    with source.file:
        if os.fstat(source.file.fileno()).st_size == 0:
            raise MediaProblem("empty-file", f"{path.name} is empty (0 bytes)", allowed=ALLOWED, fix="copy it again")
        head = source.read(16)
        source.seek(0)
        # Missing timestamps stay missing instead of being guessed from the decoding order (genpts guesses wrongly in AVI).
        options = {"protocol_whitelist": "none", "fflags": "-genpts"}
        try:
            container = av.open(source, "r", container_options=options, buffer_size=1 << 18, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            if any(head[at : at + len(mark)] == mark for mark, at in SIGNATURES.items()):
                what = f"{path.name} begins like a media file but cannot be opened: {libav_message(error)}"
                fix = "it was probably cut off while copying or recording; copy it again or repair it"
                raise MediaProblem("cannot-open", what, allowed=ALLOWED, fix=fix) from error
            what = f"{path.name} is not a media file: {libav_message(error)}"
            raise MediaProblem("not-media", what, allowed=ALLOWED) from error
        with container:
            yield container


def libav_message(error: Exception) -> str:
    """libav's own words for an error, with the last line of its log where there is one."""
    text = str(getattr(error, "strerror", None) or error)
    log = getattr(error, "log", None)
    return f"{text} ({log[2].strip()})" if log else text


def probe(path: str | os.PathLike) -> MediaInfo:
    """Read a video file's headers and packets; one frame is decoded, all of them only where packets carry no times.

    Several video streams: cover pictures are never chosen; then the ones marked default go first, then the larger picture, then
    the lower stream index. Audio: marked default, then the higher sample rate, then more channels, then the lower index.

    Raises:
        MediaProblem: see its `reason`; "damaged" when not one frame can be decoded.
    """
    path = Path(path)
    with open_media(path) as container:
        index = _video_stream(container, path).index
        stream = one_stream(container, index)
        audio = _audio_info(container)
        packets = _read_packets(container, stream)
        order = _display_order(packets.times)
        if order is not None and packets.first is not None:
            return _info(path, container, stream, audio, packets, order)
    if packets.first is None:
        if not packets.times:
            what = f"{path.name} declares a video stream but holds no frame"
            raise MediaProblem("no-frames", what, allowed="at least one frame", fix="copy or record it again")
        what = f"no frame of {path.name} can be decoded: {packets.error or 'no picture came out'}"
        raise MediaProblem("damaged", what, allowed="a decodable video stream", fix="copy it again")
    with open_media(path) as container:
        stream = one_stream(container, index)
        order = _Order(_decoded_times(container, stream, packets), np.zeros(1, np.int64), 0, "decoder")
        return _info(path, container, stream, audio, packets, order)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        if container.streams.audio:
            raise MediaProblem("no-video-stream", f"{path.name} holds only sound", allowed="a file with a video stream")
        raise MediaProblem("not-media", f"{path.name} holds neither picture nor sound ({container.format.name})", allowed=ALLOWED)
    name = container.format.name
    if name.endswith("_pipe") or name == "image2" or container.metadata.get("major_brand") in STILL_BRANDS:
        raise _still(path, container)
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise MediaProblem("unknown-codec", f"no decoder for the video in {path.name}", allowed="a codec libav decodes")
    return min(known, key=lambda s: (not s.disposition & Disposition.default, -s.width * s.height, s.index))


def _still(path: Path, container: InputContainer) -> MediaProblem:
    what = f"{path.name} is a still picture ({container.format.name})"
    return MediaProblem("still-image", what, allowed=ALLOWED, fix="list it among the photos instead")


def pick_audio(container: InputContainer) -> AudioStream | None:
    """The sound stream to use, by the rule `probe` states; None when there is none that can be decoded."""
    known = [s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate]
    order = lambda s: (not s.disposition & Disposition.default, -s.sample_rate, -s.channels, s.index)
    return min(known, key=order, default=None)


def _audio_info(container: InputContainer) -> AudioInfo | None:
    stream = pick_audio(container)
    if stream is None:
        return None
    start = (stream.start_time or 0) * time_base(stream)
    return AudioInfo(stream.index, stream.codec_context.name, stream.sample_rate, stream.channels, start)


@dataclass
class _Packets:
    times: list[tuple[int | None, int | None, bool, bool]]  # pts, dts, key frame, discarded by an edit list
    first: VideoFrame | None = None
    error: str = ""  # the first decoding error before `first`
    stopped: str = ""  # why reading ended early


def _read_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    found = _Packets([])
    try:
        for packet in container.demux(stream):
            if packet.size:
                found.times.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
            if found.first is None:
                try:
                    found.first = next(iter(packet.decode()), None)
                except av.FFmpegError as error:
                    found.error = found.error or libav_message(error)
    except av.FFmpegError as error:
        found.stopped = libav_message(error)
    return found


def one_stream(container: InputContainer, index: int, threads: int = 1) -> VideoStream:
    """Stream `index`, set to decode with exactly `threads` threads: libav's own choice, one per core, suits no worker pool."""
    stream: Any = container.streams[index]
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "NONE" if threads == 1 else "AUTO"
    return stream


def time_base(stream: Stream) -> Fraction:
    """Seconds per tick of a stream's times."""
    assert stream.time_base is not None  # every opened stream has one; only the type allows for none
    return stream.time_base


@dataclass
class _Order:
    ticks: np.ndarray
    keys: np.ndarray
    hidden: int
    source: str


def _display_order(times: list[tuple[int | None, int | None, bool, bool]]) -> _Order | None:
    """The frames shown, by their packets' times; None when those are missing or two frames share one."""
    if any(pts is None for pts, *_ in times):
        return None
    first = next((i for i, (_, _, key, _) in enumerate(times) if key), None)
    # Without any key frame (intra refresh) every packet is given the benefit of the doubt.
    since, opening = (0, -math.inf) if first is None else (first, times[first][0])
    shown = [(pts, key) for pts, _, key, discard in times[since:] if not discard and pts >= opening]  # type: ignore[operator]
    shown.sort()
    ticks = np.array([pts for pts, _ in shown], np.int64)
    if len(ticks) == 0 or (np.diff(ticks) <= 0).any():
        return None
    return _Order(ticks, np.flatnonzero([key for _, key in shown]), len(times) - len(shown), "packets")


def _decoded_times(container: InputContainer, stream: VideoStream, packets: _Packets) -> np.ndarray:
    """Times of the frames in the order the decoder gives them, for streams without (usable) presentation times.

    A frame's decoding time is the best there is: such streams show one frame per decoding step. The decoder's delay is taken
    off by letting the first frame begin at its own display time or, without one, with the first packet. Times that are missing
    or run backwards are replaced by going on at the nominal rate.
    """
    step = max(1, round(1 / (_declared_rate(stream) * time_base(stream))))
    frames = decoded(container, stream)
    first = next(frames)
    start = first.pts if first.pts is not None else packets.times[0][1]
    shift = (first.dts - start) if first.dts is not None and start is not None else 0
    ticks: list[int] = [start or 0]
    for frame in frames:
        ahead = None if frame.dts is None else frame.dts - shift
        ticks.append(ahead if ahead is not None and ahead > ticks[-1] else ticks[-1] + step)
    return np.array(ticks, np.int64)


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame the decoder gives, from where the container stands; packets that do not decode are passed over."""
    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue
    except av.FFmpegError:  # the file ends in the middle of something: what the decoder still holds is good
        yield from stream.decode(None)


def _info(
    path: Path, container: InputContainer, stream: VideoStream, audio: AudioInfo | None, packets: _Packets, order: _Order
) -> MediaInfo:
    frame = packets.first
    assert frame is not None
    if container.format.name in ANIMATIONS and len(order.ticks) == 1:
        raise _still(path, container)
    rotation, mirrored = _orientation(frame)
    warnings = [f"reading stopped early: {packets.stopped}"] if packets.stopped else []
    if stream.frames > len(packets.times):
        warnings.append(f"the container lists {stream.frames} frames, {len(packets.times)} can be read")
    if packets.error:
        warnings.append(f"the first packets do not decode: {packets.error}")
    gaps = np.diff(order.ticks)
    if len(gaps) and gaps.max() * time_base(stream) > LONG_GAP_S:
        at = int(gaps.argmax())
        warnings.append(f"no frame for {float(gaps[at] * time_base(stream)):.0f} s after frame {at}")
    return MediaInfo(
        container=container.format.name,
        container_duration=None if container.duration is None else Fraction(container.duration, 1_000_000),
        stream=stream.index,
        codec=stream.codec_context.name,
        pixel_format=frame.format.name,
        width=frame.width,
        height=frame.height,
        rotation=rotation,
        mirrored=mirrored,
        interlaced=bool(frame.interlaced_frame),
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        fps=_rate(stream, order.ticks),
        time_base=time_base(stream),
        pts_ticks=order.ticks,
        pts_source=order.source,
        key_frames=order.keys,
        hidden=order.hidden,
        audio=audio,
        warnings=tuple(warnings),
    )


def _rate(stream: VideoStream, ticks: np.ndarray) -> Fraction:
    declared = _declared_rate(stream)
    if len(ticks) < 2:
        return declared
    measured = (len(ticks) - 1) / (int(ticks[-1] - ticks[0]) * time_base(stream))
    return declared if abs(measured / declared - 1) < Fraction(1, 1000) else measured


def _declared_rate(stream: VideoStream) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    """(degrees clockwise, mirrored first) from the display matrix, which maps (x, y) to (a x + c y, b x + d y)."""
    # Looking at a frame's side data ties it into a reference cycle that keeps its picture until the garbage collector runs, so
    # let it be a tiny copy.
    side_data: Any = frame.reformat(16, 16, threads=1).side_data
    matrix = next((s for s in side_data if s.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].astype(float)
    # Left-right mirroring leaves "down" alone, so where down goes tells the rotation, and the determinant tells the mirroring.
    quarter_turns = round(math.atan2(-c, d) / (math.pi / 2))
    return quarter_turns % 4 * 90, bool(a * d < b * c)
