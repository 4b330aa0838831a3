"""Wav2Lip in use: the mouth of a filmed or photographed face redrawn to fit any speech (the published `inference.py`).

The defaults are the published ones, except `blend`: `blend=hard` gives the published pictures, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain, groupby, islice, repeat
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field as Setting

from infra.errors import LikenessError
from models.method import Generation, Output, Values
from models.wav2lip.network import Generator, generator_input
from preprocessing.audio_features import MEL_WINDOW, SAMPLE_RATE, mel_chunk_count, mel_window_start
from preprocessing.fields import AUDIO, FACE_BOX, FACE_VALID, MEL80, SOURCE, VIDEO
from training.stage import Artefact

SIDE = 96  # px of the network's pictures
# In use, a frame's speech window starts at the frame; in training one frame before it (`stages.MEL_LEAD`). The released weights
# were made and are used with that mismatch of 40 ms. `mel_lead=1` gives a network the windows it was trained on.
MEL_LEAD = 0
SMOOTHED = 5  # frames
BATCH_BYTES = 256 * 1024**2  # of whole frames waiting for their faces: 128 frames of 1080p would take 800 MB


class LipSync(Generation):
    """A face and speech in, the face speaking out: at the size and rate of the input, as long as the speech.

    The picture ends with the last whole speech window, about 0.1 s before the sound, as published. A video shorter than the
    speech starts again from its beginning.
    """

    inputs = {"face": (SOURCE, VIDEO, FACE_BOX, FACE_VALID), "audio": (AUDIO, MEL80)}

    class Config(Generation.Config):
        """Settings.

        Attributes:
            pads: px added to the face box at top, bottom, left, right; more at the bottom takes in a chin that opens wide.
            box: top, bottom, left, right of a fixed face box in px, instead of the detected ones; neither padded nor smoothed.
            smooth: average each box with the four that follow.
            static: use the first frame alone, as for a picture.
            blend: "feather" fades into the filmed picture inside the box; "hard" replaces the box, as published.
            on_missing: frames without a face: an error, as published; the box of the nearest frame that has one; or kept as filmed.
            mel_lead: frames by which a frame's speech window starts before it.
            still_fps: rate of a video made from a photo.
            batch_size: faces drawn at once, at most.
        """

        pads: tuple[int, int, int, int] = (0, 10, 0, 0)
        box: tuple[int, int, int, int] | None = None
        smooth: bool = True
        static: bool = False
        blend: Literal["feather", "hard"] = "feather"
        on_missing: Literal["error", "nearest", "keep"] = "error"
        mel_lead: int = Setting(MEL_LEAD, ge=0)
        still_fps: float = Setting(25.0, gt=0, le=240)
        batch_size: int = Setting(128, ge=1)

    def __init__(self, bundle: Mapping[str, Artefact], config: Generation.Config | None = None) -> None:
        super().__init__(bundle, config)
        artefact = bundle["generator"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = artefact.load("generator", Generator(artefact.config["width"]))
        self.generator = network.eval().requires_grad_(False).to(self.device)

    def frames_needed(self, port: str, fps: Fraction, inputs: Mapping[str, Values]) -> int | None:
        columns = inputs["audio"][MEL80].shape[1]
        if port != "face" or columns < MEL_WINDOW:  # which the call will refuse
            return None
        return 1 if self.config.static else mel_chunk_count(columns, float(fps))

    def __call__(self, inputs: Mapping[str, Values], rng: np.random.Generator) -> Output:
        face, speech = inputs["face"], inputs["audio"]
        video, mel = face[VIDEO], speech[MEL80]
        photo = "source_fps" not in face[SOURCE]
        rate = Fraction(str(self.config.still_fps)).limit_denominator(1001) if photo else Fraction(str(face[SOURCE]["fps"]))
        starts = window_starts(mel, float(rate), self.config.mel_lead)
        count = 1 if self.config.static else min(video.n_frames, len(starts))
        first = next(iter(video))
        boxes, drawn = self._boxes(face, count, first.shape)
        filmed = repeat(first) if count == 1 else chain.from_iterable(islice(video, count) for _ in repeat(None))
        return Output(
            self._frames(islice(filmed, len(starts)), boxes, drawn, mel, starts), len(starts), rate,
            audio=speech[AUDIO], rate_hz=SAMPLE_RATE, sound_of="audio",
        )  # fmt: skip

    def _boxes(self, face: Values, count: int, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(count, 4) x0, y0, x1, y1 in whole px inside the picture, and for each frame whether its mouth is redrawn."""
        config = self.config
        if config.box is not None:
            top, bottom, left, right = config.box
            if not (0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]):
                raise LikenessError(
                    f"box={list(config.box)}", allowed=f"top, bottom, left, right within {shape[0]} rows and {shape[1]} columns"
                )
            return np.tile(np.array([left, top, right, bottom]), (count, 1)), np.ones(count, bool)
        boxes = padded(face[FACE_BOX][:count], config.pads, shape)
        found = face[FACE_VALID][:count] & ((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 2)
        if not found.any():
            raise LikenessError(
                "no face was found in any frame" if count > 1 else "no face was found in the picture",
                allowed="a face of at least a thirtieth of the picture's longer side",
                fix="use another picture or video, or give its place: box=[TOP,BOTTOM,LEFT,RIGHT]",
            )
        if not found.all() and config.on_missing == "error":
            missing = np.flatnonzero(~found)
            raise LikenessError(
                f"no face in {len(missing)} of {count} frames: {ranges(missing)} (counted from 0)",
                allowed="a face in every frame",
                fix="cut them, or pass on_missing=keep (leave them as filmed) or on_missing=nearest (the nearest frame's place)",
            )
        boxes = boxes[nearest(found)]
        if config.smooth:
            boxes = smoothed(boxes)
        return boxes, np.ones(count, bool) if config.on_missing == "nearest" else found

    def _frames(
        self, frames: Iterator[np.ndarray], boxes: NDArray, drawn: NDArray, mel: NDArray, starts: NDArray
    ) -> Iterator[np.ndarray]:
        """The finished frames; a batch of filmed ones is held at a time."""
        first = next(frames)
        frames = chain([first], frames)
        size = max(1, min(self.config.batch_size, BATCH_BYTES // first.nbytes))
        paste = paste_soft if self.config.blend == "feather" else paste_hard
        at = 0
        while batch := list(islice(frames, size)):
            places = np.arange(at, at + len(batch)) % len(boxes)
            todo = np.flatnonzero(drawn[places])
            faces = self._draw([crop(batch[k], boxes[places[k]]) for k in todo], mel, starts[at + todo])
            for frame, place in zip(batch, places, strict=True):
                yield paste(frame, boxes[place], next(faces)) if drawn[place] else frame
            at += len(batch)

    @torch.inference_mode()
    def _draw(self, crops: list[np.ndarray], mel: NDArray, starts: NDArray) -> Iterator[np.ndarray]:
        """(96, 96, 3) uint8 RGB for each filmed crop and the start of its speech window."""
        if not crops:
            return iter(())
        pictures = torch.from_numpy(np.stack(crops)).to(self.device)
        target = pictures.flip(-1).permute(0, 3, 1, 2).float() / 255  # the networks know BGR
        windows = np.stack([mel[None, :, start : start + MEL_WINDOW] for start in starts])
        faces = self.generator(torch.from_numpy(windows).to(self.device), generator_input(target, target))
        # Cut off, not rounded: so did the published `astype(uint8)`.
        return iter((faces.float() * 255).to(torch.uint8).permute(0, 2, 3, 1).flip(-1).cpu().numpy())


def window_starts(mel: NDArray, fps: float, lead: int = MEL_LEAD) -> NDArray[np.int64]:
    """(n,) first mel column of each output frame's speech; n is `mel_chunk_count`, the last window ends with the mel."""
    if not np.isfinite(mel).all():
        raise LikenessError("the mel spectrogram holds NaN", allowed="finite values", fix="check the audio for NaN samples")
    last = mel.shape[1] - MEL_WINDOW
    count = mel_chunk_count(mel.shape[1], fps)
    return np.array([min(mel_window_start(max(0, i - lead), fps), last) for i in range(count)])


def padded(boxes: NDArray, pads: tuple[int, int, int, int], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(n, 4) x0, y0, x1, y1 in px, cut to whole ones as for the dataset's crops, grown by `pads` and clipped to the picture."""
    top, bottom, left, right = pads
    grown = np.clip(boxes, 0, None).astype(np.int64) + (-left, -top, right, bottom)
    grown[:, :2] = np.maximum(grown[:, :2], 0)
    grown[:, 2:] = np.minimum(grown[:, 2:], (shape[1], shape[0]))
    return grown


def smoothed(boxes: NDArray[np.int64], frames: int = SMOOTHED) -> NDArray[np.int64]:
    """Each box averaged with those that follow it, exactly as published.

    In place: the last window serves all of the last boxes, and there holds some that are averages already. Truncated, not
    rounded. Of fewer boxes than a window, the slice counts from the end (of 3 boxes it is the last 2).
    """
    out = boxes.copy()
    for i in range(len(out)):
        window = out[len(out) - frames :] if i + frames > len(out) else out[i : i + frames]
        out[i] = window.mean(axis=0)
    return out


def nearest(found: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each place, the nearest one that is found: itself, or of two equally near the earlier."""
    there = np.flatnonzero(found)
    places = np.arange(len(found))
    after = np.searchsorted(there, places)
    right, left = there[np.minimum(after, len(there) - 1)], there[np.maximum(after - 1, 0)]
    return np.where(np.abs(right - places) < np.abs(places - left), right, left)


def ranges(numbers: NDArray, most: int = 6) -> str:
    """Ascending numbers in words: "3, 40 to 64"."""
    runs = [[int(n) for _, n in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more ranges" if len(words) > most else "")


def crop(frame: np.ndarray, box: NDArray) -> np.ndarray:
    """(96, 96, 3): the box of a (H, W, 3) frame, resized as published."""
    x0, y0, x1, y1 = box
    return cv2.resize(frame[y0:y1, x0:x1], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def paste_hard(frame: np.ndarray, box: NDArray, face: np.ndarray) -> np.ndarray:
    """A copy of the frame with the drawn face (96, 96, 3) over the whole box, as published."""
    x0, y0, x1, y1 = box
    out = frame.copy()
    out[y0:y1, x0:x1] = cv2.resize(face, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_LINEAR)
    return out


def paste_soft(frame: np.ndarray, box: NDArray, face: np.ndarray) -> np.ndarray:
    """A copy of the frame with the drawn lower face faded in (see `feather`); nothing outside the box changes."""
    x0, y0, x1, y1 = box
    out = frame.copy()
    filmed = out[y0:y1, x0:x1]
    drawn = cv2.resize(face, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_LINEAR)
    mask = feather(*filmed.shape[:2])
    filmed[:] = np.rint(filmed + mask * (drawn.astype(np.float32) - filmed))
    return out


def feather(height: int, width: int) -> NDArray[np.float32]:
    """(height, width, 1) share of the drawn face, by place in the box.

    The network was shown the upper half and gives back a blurred copy of it, so the filmed one stays: 0 down to 0.35 of the
    height, 1 from the middle, where its own work begins. Towards the sides (0.12) and the chin's edge (0.08) it fades to 0.
    """
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    x = (np.arange(width, dtype=np.float32) + 0.5) / width
    down = _step((y - 0.35) / 0.15) * _step((1 - y) / 0.08)
    across = _step(np.minimum(x, 1 - x) / 0.12)
    return (down[:, None] * across)[..., None]


def _step(value: Any) -> Any:
    """0 below 0, 1 above 1, smooth between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)
