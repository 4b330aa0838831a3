"""How likely speech is at every frame, by Silero VAD."""

from __future__ import annotations

from typing import Any

import numpy as np

from infra.errors import LikenessError
from preprocessing.audio_features import SAMPLE_RATE
from preprocessing.fields import SOURCE, SPEECH_PROBABILITY, Field
from preprocessing.onnx_session import OnnxNetwork
from preprocessing.operator import Operator, Resources, Sample
from preprocessing.operators.sound import SoundParams

CHUNK, CONTEXT, STATE = 512, 64, (2, 1, 128)  # samples heard at once, those before them heard again, the network's memory


class SpeechProbability(Operator):
    """SPEECH_PROBABILITY: Silero VAD's probability for each 32 ms of the sound, averaged over each frame's 40 ms.

    The network hears the clip from its beginning with an empty memory; the last chunk is filled up with zeros. A number, not a
    decision: VoiceActivity makes VOICED of it where asked to, and selections may use it as it is.
    """

    name = "speech_probability"
    version = 1
    resources = Resources(assets=("silero_vad",))
    Params = SoundParams

    @property
    def reads(self) -> tuple[Field, ...]:
        return (self.params.heard, SOURCE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (SPEECH_PROBABILITY,)

    def setup(self) -> None:
        """Load the network.

        Raises:
            LikenessError: the asset is not here (what to place where), or is another network.
        """
        path = self.asset("silero_vad")
        self._network = OnnxNetwork(path)
        if list(self._network.inputs) != ["input", "state", "sr"]:
            what = f"{path.name} takes {', '.join(self._network.inputs)}"
            raise LikenessError(what, allowed="Silero VAD's input, state, sr", fix="copy or fetch the file again")

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        chunks = self.chunks(sample[self.params.heard])
        return {SPEECH_PROBABILITY: per_frame(chunks, len(sample[self.params.heard]), sample[SOURCE]["n_frames"])}

    def chunks(self, audio: np.ndarray) -> np.ndarray:
        """(ceil(n / 512),) probability for each 32 ms of int16 samples at 16 kHz."""
        count = -(-len(audio) // CHUNK)
        wave = np.zeros((1, CONTEXT + count * CHUNK), np.float32)
        wave[0, CONTEXT : CONTEXT + len(audio)] = audio.astype(np.float32) / 32768
        state, rate = np.zeros(STATE, np.float32), np.array(SAMPLE_RATE, np.int64)
        found = np.zeros(count)
        for place in range(count):
            heard = np.ascontiguousarray(wave[:, place * CHUNK : place * CHUNK + CONTEXT + CHUNK])
            probability, state = self._network(heard, state, rate)
            found[place] = probability[0, 0]
        return found


def per_frame(chunks: np.ndarray, samples: int, n_frames: int) -> np.ndarray:
    """(n_frames,) float32: the mean over each frame's share of `samples` of a value that holds for 512 samples each."""
    edges = np.linspace(0, samples, n_frames + 1)
    total = np.interp(edges, CHUNK * np.arange(len(chunks) + 1), np.concatenate([[0], np.cumsum(chunks)]) * CHUNK)
    return (np.diff(total) * n_frames / samples).astype(np.float32)
