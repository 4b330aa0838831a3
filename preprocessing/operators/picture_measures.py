"""Plain numbers about whole pictures, faces or not: sharpness, exposure, colour, motion; and a hash that finds copies."""

from __future__ import annotations

from itertools import islice
from typing import Any

import cv2
import numpy as np
from pydantic import Field as Setting
from scipy.fft import dctn

from preprocessing.fields import KEY_FRAME, PERCEPTUAL_HASH, PICTURE_MEASURES, SOURCE, VIDEO, Field
from preprocessing.operator import Operator, OperatorParams, Sample
from preprocessing.operators.pictures import shrunk

LOOK_PX, FLOW_PX = 512, 128  # shorter sides at which pictures are looked at, and at which motion is measured
DARK, BRIGHT = 13, 242  # grey levels below and above which hardly any detail is left: the outer twentieths of 0 to 255
HASH_PX, HASH_SIDE = 32, 8
DIGITS = 6


class PictureMeasures(Operator):
    """Numbers of a clip's pictures: medians over up to `samples` frames spread evenly, at a shorter side of 512 px.

    Pictures are resized first (smaller ones are enlarged), so that numbers mean the same for all sizes.

    - width_px, height_px: of the source, upright.
    - blur: variance of the Laplacian (3 x 3) of the grey picture, in squared grey levels. Low is blurred, or empty.
    - brightness, contrast: mean and standard deviation of grey, as shares of full scale.
    - dark_share, bright_share: shares of pixels in the lowest and in the highest twentieth of the grey scale.
    - colourfulness: Hasler and Süsstrunk, "Measuring colorfulness in natural images" (2003); 0 for grey, about 30 for moderate
      and 80 for strong colours.
    - motion: how fast the picture's content moves, in shorter sides per second: length of the optical flow (Farnebäck 2003)
      from a sampled frame to the next, mean over the picture, then over the samples. 0 for photos.
    """

    name = "picture_measures"
    version = 1

    class Params(OperatorParams):
        samples: int = Setting(8, ge=1)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, SOURCE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (PICTURE_MEASURES,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        places = sampled(video.n_frames, self.params.samples)
        looks: list[dict[str, float]] = []
        speeds: list[float] = []
        before: np.ndarray | None = None
        for place, frame in enumerate(video):  # to the end, so that the clip can be held for other operators
            if place not in places and place - 1 not in places:
                continue
            picture = shrunk(frame, LOOK_PX)
            small = cv2.cvtColor(shrunk(picture, FLOW_PX), cv2.COLOR_RGB2GRAY)
            if before is not None and place - 1 in places:
                speeds.append(flow_length(optical_flow(before, small)) / FLOW_PX * video.fps)
            if place in places:
                looks.append(look(picture))
            before = small
        medians = {name: float(np.median([entry[name] for entry in looks])) for name in looks[0]}
        numbers = {**medians, "motion": float(np.mean(speeds)) if speeds else 0.0}
        source = sample[SOURCE]
        sizes = {"width_px": source["width"], "height_px": source["height"]}
        return {PICTURE_MEASURES: sizes | {name: round(number, DIGITS) for name, number in numbers.items()}}


class PerceptualHash(Operator):
    """PERCEPTUAL_HASH by the discrete cosine transform (Zauner, "Implementation and benchmarking of perceptual image hash
    functions", 2010).

    The key frame in grey, shrunk to 32 px squared by area; of its DCT the 8 x 8 lowest frequencies without the rows and columns
    of frequency 0, row after row; a bit is 1 where the coefficient lies above their median. Resizing, JPEG, brightness and
    contrast change few bits; mirroring and cropping change many.
    """

    name = "perceptual_hash"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, KEY_FRAME)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (PERCEPTUAL_HASH,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        frame = next(islice(sample[VIDEO], int(sample[KEY_FRAME]), None))  # what comes later need not be decoded
        return {PERCEPTUAL_HASH: picture_hash(frame)}


def sampled(n_frames: int, samples: int) -> set[int]:
    """Up to `samples` places spread evenly, each in the middle of its stretch."""
    count = min(n_frames, samples)
    return {(2 * part + 1) * n_frames // (2 * count) for part in range(count)}


def look(picture: np.ndarray) -> dict[str, float]:
    """Measures of one (H, W, 3) RGB picture; see `PictureMeasures`."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return {
        "blur": float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        "brightness": float(grey.mean()) / 255,
        "contrast": float(grey.std()) / 255,
        "dark_share": float((grey < DARK).mean()),
        "bright_share": float((grey > BRIGHT).mean()),
        "colourfulness": colourfulness(picture),
    }


def colourfulness(picture: np.ndarray) -> float:
    """Hasler and Süsstrunk's third formula, on RGB from 0 to 255."""
    red, green, blue = (picture[..., channel].astype(np.float32) for channel in range(3))
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(dtype=np.float64), yellow_blue.std(dtype=np.float64))
    return float(spread + 0.3 * np.hypot(red_green.mean(dtype=np.float64), yellow_blue.mean(dtype=np.float64)))


def optical_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H, W, 2) float32: where each pixel of a grey picture goes in the next, px right and down (Farnebäck 2003)."""
    flow = np.empty((*before.shape, 2), np.float32)
    cv2.calcOpticalFlowFarneback(
        before, after, flow, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
    )
    return flow


def flow_length(flow: np.ndarray) -> float:
    """Mean length in px of (H, W, 2) flow."""
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64))


def picture_hash(picture: np.ndarray) -> np.ndarray:
    """(8,) uint8, a byte per row of frequencies; see `PerceptualHash`."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (HASH_PX, HASH_PX), interpolation=cv2.INTER_AREA).astype(np.float64)
    # Rounding keeps the noise of sums out of pictures without any structure.
    waves = dctn(small, norm="ortho")[1 : HASH_SIDE + 1, 1 : HASH_SIDE + 1].round(3)
    return np.packbits(waves > np.median(waves), axis=1)[:, 0]
