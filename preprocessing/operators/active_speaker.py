"""Whether the sound comes from the mouth that is seen, by Light-ASD."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from infra.errors import LikenessError
from preprocessing.audio_features import mfcc13
from preprocessing.fields import ACTIVE_SPEAKER, ACTIVE_SPEAKER_MEASURES, FACE_BOX, FACE_VALID, VIDEO, VOICED, Field
from preprocessing.onnx_session import OnnxNetwork
from preprocessing.operator import Operator, Refused, Resources, Sample
from preprocessing.operators.sound import DIGITS, SoundParams
from preprocessing.operators.sync import FPS, SAMPLES_PER_FRAME, Track, cut, sightings, smoothed

SIZE_PX, CUT_PX = 112, 224
MFCC_TAIL = 240  # samples of silence behind a clip that give its last frame four MFCC steps too


class ActiveSpeaker(Operator):
    """ACTIVE_SPEAKER: Light-ASD's score (Liao et al. 2023, "A Light Weight Model for Active Speaker Detection") at every frame.

    Faces are cut as its demonstration does (Columbia_test.py): SyncNet's crop around the smoothed track, brought to 224 px, grey,
    of which the middle 112 px go in: mouth and chin. The sound enters as MFCC, 4 steps a frame. Each stretch in which one face is
    followed is heard by itself, as a whole; the demonstration averages over pieces of 1 to 6 s, and detects with S3FD where this
    reads FACE_BOX. Scores are logits: above 0 for "speaks". They say that a mouth moves while a voice is heard, not that the two
    fit to the frame: SYNC does that.

    Runs on the CPU: equal clips give equal numbers.
    """

    name = "active_speaker"
    version = 1
    resources = Resources(assets=("lightasd",))
    Params = SoundParams

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, self.params.heard, FACE_BOX, FACE_VALID, VOICED)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (ACTIVE_SPEAKER, ACTIVE_SPEAKER_MEASURES)

    def setup(self) -> None:
        """Load the network.

        Raises:
            LikenessError: the asset is not here (what to place where), or is another network.
        """
        path = self.asset("lightasd")
        self._network = OnnxNetwork(path)
        takes = {name: shape[2:] for name, shape in self._network.inputs.items()}
        if takes != {"mfcc": (13,), "faces": (SIZE_PX, SIZE_PX)}:
            what = f"{path.name} takes {dict(self._network.inputs)}"
            allowed = "mfcc (1, 4 T, 13) and faces (1, T, 112, 112), as Light-ASD's export"
            raise LikenessError(what, allowed=allowed, fix="copy or fetch the file again")

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video, valid = sample[VIDEO], sample[FACE_VALID]
        if video.fps != FPS:
            raise Refused(f"wrong-rate: {video.fps:g} frames per second, Light-ASD works at {FPS}")
        tracks = [smoothed(sample[FACE_BOX], seen, "nearest") for seen in sightings(sample[FACE_BOX], valid)]
        faces = mouths(video, tracks)
        scores = np.zeros(video.n_frames, np.float32)
        for track in tracks:
            stretch = slice(track.first, track.first + len(track.places))
            mfcc = steps(sample[self.params.heard], stretch)
            (scores[stretch],) = self._network(mfcc[None], faces[None, stretch].astype(np.float32))
        scores[~valid] = 0
        return {ACTIVE_SPEAKER: scores, ACTIVE_SPEAKER_MEASURES: summary(scores, valid, sample[VOICED])}


def summary(scores: np.ndarray, valid: np.ndarray, voiced: np.ndarray) -> dict[str, float]:
    """Numbers over valid frames, and over those in which somebody speaks; of no frames there is no mean, only their number 0.

    - n_frames, mean_score, speaking_share (of scores above 0): valid frames.
    - voiced_frames, voiced_score, voiced_speaking_share: valid frames that are VOICED too. Pauses do not count against a face here,
      so this tells the speaker from the others best; the last one is the share of what is heard that this face seems to say.
    """
    numbers: dict[str, float] = {}
    for which, names in ((valid, ("n_frames", "mean_score", "speaking_share")),
                         (valid & voiced, ("voiced_frames", "voiced_score", "voiced_speaking_share"))):  # fmt: skip
        counted = scores[which].astype(np.float64)
        means = (counted.mean(), (counted > 0).mean()) if len(counted) else ()
        numbers |= dict(zip(names, (len(counted), *(round(float(mean), DIGITS) for mean in means)), strict=False))
    return numbers


def mouths(video: Any, tracks: list[Track]) -> np.ndarray:
    """(n_frames, 112, 112) uint8 grey: the lower face in every frame that one of the tracks covers, black elsewhere."""
    places: dict[int, np.ndarray] = {t.first + n: place for t in tracks for n, place in enumerate(t.places)}
    out = np.zeros((video.n_frames, SIZE_PX, SIZE_PX), np.uint8)
    margin = (CUT_PX - SIZE_PX) // 2
    for number, frame in enumerate(video):
        if number in places:
            picture = cv2.resize(cut(frame, *places[number]), (CUT_PX, CUT_PX))
            grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            out[number] = grey[margin : margin + SIZE_PX, margin : margin + SIZE_PX]
    return out


def steps(audio: np.ndarray, frames: slice) -> np.ndarray:
    """(4 T, 13) float32 MFCC of the sound of T frames alone; where it ends early, silence."""
    heard = np.zeros((frames.stop - frames.start) * SAMPLES_PER_FRAME + MFCC_TAIL, np.int16)
    there = audio[frames.start * SAMPLES_PER_FRAME : frames.stop * SAMPLES_PER_FRAME]
    heard[: len(there)] = there
    return np.ascontiguousarray(mfcc13(heard).T)
