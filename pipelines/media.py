"""Media of runs and generations as files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2

from preprocessing.media.mux import write_video
from training.stage import Media


def write_media(media: Media, stem: Path) -> Path:
    """A picture (.png) for one frame, a video (.mp4, with sound if any) for more; returns the file."""
    if len(media.frames) == 1:
        file = stem.with_suffix(".png")
        cv2.imwrite(str(file), cv2.cvtColor(media.frames[0], cv2.COLOR_RGB2BGR))
        return file
    file = stem.with_suffix(".mp4")
    write_video(file, media.frames, Fraction(media.fps).limit_denominator(1001), media.audio, media.rate_hz)
    return file
