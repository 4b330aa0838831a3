"""Sound as 16-bit mono, on the clock of the picture.

Every block of decoded sound is put where its timestamp says, so that a late start, an edit or a hole in the recording does not
shift all that follows; the holes are silence. Resampling is libswresample's, which gives the same bytes every time.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from preprocessing.media.probe import MediaInfo, MediaProblem, open_media, pick_audio, time_base

SAMPLE_RATE_HZ = 16_000
# Timestamps wobble by less than this (milliseconds, coded blocks). It is half a frame at 25 fps: lips show no smaller shift.
JITTER = Fraction(1, 50)
SILENT = 2.0**-16  # half a step of 16-bit sound: nothing below it would be heard in the result


def read_audio(path: str | os.PathLike, info: MediaInfo, rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """The sound of a video: sample 0 is the moment the first frame is shown.

    Sound before it is cut, a later start is filled with silence, and so are holes of more than `JITTER`. The end is that of the
    sound, not of the picture; only sound that a jump puts after the picture's end is left out. Blocks that do not decode become
    silence. Channels are averaged, those digitally silent from end to end excepted.

    Returns:
        int16 (samples,) at `rate_hz`. It may be empty: all sound may lie before the first frame, or after the last.

    Raises:
        MediaProblem: "no-audio-stream"; "no-samples" when nothing in the stream can be decoded; "damaged" when the sample rate
            changes half-way.
    """
    name = Path(path).name
    if info.audio is None:
        raise MediaProblem("no-audio-stream", f"{name} has no sound", allowed="a video with a sound track")
    with open_media(path) as container:
        blocks = _placed(_blocks(container, info.audio.index), info.start, info.start + info.duration)
        return _mono(blocks, rate_hz, name)


def read_audio_file(path: str | os.PathLike, rate_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """The sound of any file that has some (wav, mp3, m4a, a video, ...), its samples one after the other from the first on.

    A file cut off in the middle gives what is there. Streams are chosen as in `probe`, channels joined as in `read_audio`.

    Returns:
        int16 (samples,) at `rate_hz`.

    Raises:
        MediaProblem: as `open_media`; "no-audio-stream", "no-samples", "damaged" as `read_audio`.
    """
    name = Path(path).name
    with open_media(path) as container:
        stream = pick_audio(container)
        if stream is None:
            raise MediaProblem("no-audio-stream", f"{name} has no sound", allowed="a sound file, or a video with sound")
        return _mono((block for _, *block in _blocks(container, stream.index)), rate_hz, name)


def _blocks(container: InputContainer, index: int) -> Iterator[tuple[Fraction | None, int, np.ndarray]]:
    """(time of the first sample or None, rate, float32 (channels, samples) in -1..1) as decoded."""
    stream: Any = container.streams[index]
    stream.codec_context.thread_count = 1
    base = time_base(stream)
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                time = None if frame.pts is None else frame.pts * (frame.time_base or base)
                if frame.samples:
                    yield time, frame.sample_rate, _to_float(frame)
    except av.FFmpegError:  # cut off: what was read stands
        return


def _to_float(frame: Any) -> np.ndarray:
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return samples.astype(np.float32)


def _placed(
    blocks: Iterable[tuple[Fraction | None, int, np.ndarray]], start: Fraction, end: Fraction
) -> Iterator[tuple[int, np.ndarray]]:
    """The same sound as one unbroken run of samples from time `start` on."""
    position: int | None = None  # where the next sample stands, counted from `start`
    for time, rate, block in blocks:
        by_time = position or 0 if time is None else round((time - start) * rate)
        if position is None:
            position, gap = min(by_time, 0), max(by_time, 0)
        else:
            gap = by_time - position if abs(by_time - position) > JITTER * rate else 0
        if gap > 0:
            if start + Fraction(position + gap, rate) >= end:
                return
            silence = max(0, position + gap) - max(0, position)
            position += gap
            yield rate, np.zeros((len(block), silence), np.float32)
        elif gap < 0:  # said twice: the first stands
            block = block[:, -gap:]
        yield rate, block[:, max(0, -position) :]
        position += block.shape[1]


def _mono(blocks: Iterable[Sequence[Any]], rate_hz: int, name: str) -> np.ndarray:
    """Resample each channel, then average those that are not digitally silent from end to end.

    A silent channel is a microphone that was never plugged in: averaging it in would halve the level.
    """
    channels: list[_Channel] = []
    first_rate = 0
    for rate, block in blocks:
        if not channels:
            first_rate, channels = rate, [_Channel(rate, rate_hz) for _ in block]
        if rate != first_rate:
            what = f"the sound of {name} changes from {first_rate} to {rate} Hz half-way"
            raise MediaProblem("damaged", what, allowed="one sample rate", fix="convert it to a wav file first")
        if len(block) != len(channels):
            block = np.repeat(block.mean(axis=0, keepdims=True), len(channels), axis=0)
        for channel, samples in zip(channels, block, strict=True):
            channel.add(samples)
    if not channels:
        what = f"the sound stream of {name} holds no samples"
        raise MediaProblem("no-samples", what, allowed="at least one sample", fix="copy or record it again")
    heard = [channel.finish() for channel in channels]
    loud = [samples for samples in heard if np.abs(samples).max(initial=0) >= SILENT]
    mono = np.mean(loud or heard, axis=0)
    return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)


class _Channel:
    """Collects one channel's samples at the wanted rate, however they come in."""

    def __init__(self, rate: int, rate_hz: int) -> None:
        self.rate, self.count, self.done = rate, 0, [np.zeros(0, np.float32)]
        self.resampler = None if rate == rate_hz else av.AudioResampler("fltp", "mono", rate_hz)

    def add(self, samples: np.ndarray) -> None:
        if self.resampler is None:
            self.done.append(samples)
        elif len(samples):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.count, Fraction(1, self.rate)
            self.count += len(samples)
            self.done += [out.to_ndarray()[0] for out in self.resampler.resample(frame)]

    def finish(self) -> np.ndarray:
        if self.resampler is not None:
            self.done += [out.to_ndarray()[0] for out in self.resampler.resample(None)]
        return np.concatenate(self.done)
