"""Writing a clip: H.264 and AAC in an mp4 that every player opens, the same bytes every time.

Colours are converted with, and labelled as, BT.601 limited range: players that read the label are right, and so are the tools
(OpenCV among them) that assume BT.601 without looking.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream
from numpy.core._multiarray_umath import __cpu_features__

from infra.errors import LikenessError
from preprocessing.media.probe import open_media

AUDIO_BLOCK = 1024  # samples per AAC packet
# With its AVX-512 code x264 gives other bytes now and then: 17 of 36 clips differed within six runs, with AVX2 none did.
X264_STEADY = {"x264-params": "asm=avx2"} if __cpu_features__.get("AVX512F") else {}
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


def write_video(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    audio: np.ndarray | None = None,
    rate_hz: int = 16_000,
    *,
    crf: int = 18,
    metadata: Mapping[str, Any] | None = None,
    threads: int = 1,
) -> int:
    """Write a video file, atomically: `path` appears complete or not at all.

    H.264 needs even sizes: an odd width or height gets its last column or row once more. Sound and picture both begin at 0 and
    end when they end. The bytes depend on the arguments (`threads` too) and the libav build alone.

    Args:
        path: an mp4 file; an existing one is replaced.
        frames: (H, W, 3) uint8 RGB arrays of one size, taken one at a time.
        fps: frames per second, exact.
        audio: int16 (samples,) mono at `rate_hz`, or None for a silent file.
        crf: x264 quality, 0 (lossless) to 51; 18 is visually lossless.
        metadata: JSON values to keep in the container's comment, for `read_metadata` (provenance).

    Returns:
        The number of frames written.

    Raises:
        LikenessError: no frames, a frame or sound of another shape or type, a rate AAC cannot carry.
    """
    path = Path(path)
    _check_audio(audio, rate_hz)
    # Hidden and in the same folder: a rename is only atomic within one file system, and readers list by suffix.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with av.open(
            str(part), "w", format="mp4", container_options={"movflags": "+faststart", "fflags": "+bitexact"}
        ) as container:
            if metadata is not None:
                container.metadata["comment"] = json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False)
            count = _write(container, iter(frames), Fraction(fps), audio, rate_hz, crf, threads)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return count


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_video` was given as `metadata`; {} when the file carries none of ours.

    Raises:
        MediaProblem: as `open_media`.
    """
    with open_media(path) as container:
        comment = container.metadata.get("comment", "")
    try:
        found = json.loads(comment)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(
    container: OutputContainer,
    frames: Iterator[np.ndarray],
    fps: Fraction,
    audio: np.ndarray | None,
    rate_hz: int,
    crf: int,
    threads: int,
) -> int:
    first = next(frames, None)
    if first is None:
        raise LikenessError("a video without frames cannot be written", allowed="one frame or more")
    _check_frame(first, first.shape)
    video = _video_stream(container, first.shape, fps, crf, threads)
    sound = None if audio is None else _audio_stream(container, rate_hz)
    blocks = _audio_frames(audio if audio is not None else np.zeros(0, np.int16), rate_hz)
    block = next(blocks, None)
    fed, count = 0, 0  # samples handed to the encoder, frames
    for count, picture in enumerate(chain([first], frames), 1):
        _check_frame(picture, first.shape)
        container.mux(video.encode(_video_frame(picture, count - 1, fps)))
        # Sound goes in beside the pictures it belongs to, so that a player needs no long buffer.
        while sound and block and fed * fps < count * rate_hz:
            container.mux(sound.encode(block))
            fed += block.samples
            block = next(blocks, None)
    container.mux(video.encode(None))
    while sound and block:
        container.mux(sound.encode(block))
        block = next(blocks, None)
    if sound:
        container.mux(sound.encode(None))
    return count


def _video_stream(container: OutputContainer, shape: tuple[int, ...], fps: Fraction, crf: int, threads: int) -> VideoStream:
    # Without x264 (a libav built without GPL parts) MPEG-4 at a fine fixed quantiser is what every build has.
    if "libx264" in av.codecs_available:
        stream = container.add_stream("libx264", fps, {"crf": str(crf), "preset": "medium"} | X264_STEADY)
    else:
        stream = container.add_stream("mpeg4", fps, {"qmin": "2", "qmax": "2"})
    context = stream.codec_context
    stream.height, stream.width = (side + side % 2 for side in shape[:2])
    stream.pix_fmt = "yuv420p"
    context.time_base = 1 / fps
    context.thread_count = threads
    context.flags |= Flags.bitexact
    context.colorspace, context.color_range = ColorPrimaries.SMPTE170M, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.SMPTE170M, ColorTrc.SMPTE170M
    return stream


def _audio_stream(container: OutputContainer, rate_hz: int) -> AudioStream:
    # 6 bits a sample is the most AAC allows one channel.
    stream = container.add_stream("aac", rate_hz, layout="mono", bit_rate=min(128_000, 6 * rate_hz))
    stream.codec_context.flags |= Flags.bitexact
    return stream


def _video_frame(picture: np.ndarray, index: int, fps: Fraction) -> av.VideoFrame:
    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
        threads=1,
    )
    frame.pts, frame.time_base = index, 1 / fps
    return frame


def _audio_frames(audio: np.ndarray, rate_hz: int) -> Iterator[av.AudioFrame]:
    for start in range(0, len(audio), AUDIO_BLOCK):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[start : start + AUDIO_BLOCK])[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
        yield frame


def _check_frame(picture: np.ndarray, shape: tuple[int, ...]) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.shape != shape:
        what = f"a frame of shape {picture.shape} and type {picture.dtype}, the first one {shape}"
        raise LikenessError(what, allowed="(height, width, 3) uint8, all of one size")


def _check_audio(audio: np.ndarray | None, rate_hz: int) -> None:
    if audio is not None and (audio.dtype != np.int16 or audio.ndim != 1):
        raise LikenessError(f"sound of shape {audio.shape} and type {audio.dtype}", allowed="(samples,) int16")
    if audio is not None and rate_hz not in AAC_RATES:
        raise LikenessError(f"sound at {rate_hz} Hz", allowed=", ".join(map(str, AAC_RATES)), fix="resample it first")
