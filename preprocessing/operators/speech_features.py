"""What wav2vec 2.0 hears: features of self-supervised speech networks, 50 per second."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing.audio_features import SPEECH_KERNELS, SPEECH_STRIDES, speech_feature_count
from preprocessing.fields import W2V512, W2V1024, Field
from preprocessing.operator import Refused, Sample
from preprocessing.operators.sound import SoundParams
from preprocessing.pretrained import PretrainedOperator, PretrainedParams, load_network


class _SpeechFeatures(PretrainedOperator):
    field: ClassVar[Field]

    @property
    def assets(self) -> tuple[str, ...]:
        return (self.params.asset(),)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (self.params.heard,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (self.field,)

    def setup(self) -> None:
        """Load the network.

        Raises:
            LikenessError: the weights are not here, or are no wav2vec 2.0 of the right width.
        """
        from transformers import Wav2Vec2Model

        model = self.params.model
        network = load_network(Wav2Vec2Model, self.asset(self.assets[0]), model, dtype=self.torch_dtype())
        settings, dims = network.config, self.field.shape[1]
        if tuple(settings.conv_kernel) != SPEECH_KERNELS or tuple(settings.conv_stride) != SPEECH_STRIDES:
            what = f"{model} has convolutions of {list(settings.conv_kernel)} by {list(settings.conv_stride)}"
            raise LikenessError(what, allowed=f"{list(SPEECH_KERNELS)} by {list(SPEECH_STRIDES)}", fix="set model to another")
        if (found := self._width(settings)) != dims:
            raise LikenessError(f"{model} gives {found} dims", allowed=f"{dims} for {self.field}", fix="set model to another")
        self._network = self._part(network)

    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        waves = [self._wave(sample) for sample in samples]
        return [{self.field: value} for value in self.together(waves, len, self._features)]

    def _wave(self, sample: Sample) -> np.ndarray:
        audio = sample[self.params.heard]
        if not speech_feature_count(len(audio)):
            raise Refused(f"too-short: {len(audio)} samples, fewer than the 400 of one feature")
        return self._scaled(audio.astype(np.float64) / 32768).astype(np.float32)

    def _features(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        import torch

        weights = next(self._network.parameters())
        with torch.inference_mode():
            found = self._run(torch.from_numpy(np.stack(waves)).to(weights.device, weights.dtype))
        values = found.half().cpu().numpy()
        if not np.isfinite(values).all():
            raise LikenessError(f"{self.name} gives NaN or infinity", allowed="finite features", fix=f"set {self.name}.dtype")
        return list(values)

    @abstractmethod
    def _width(self, settings: Any) -> int:
        """Dims that a network with these settings gives."""

    @abstractmethod
    def _part(self, network: Any) -> Any:
        """What of the network is run."""

    @abstractmethod
    def _scaled(self, wave: np.ndarray) -> np.ndarray:
        """The waveform as the network wants it, of one in [-1, 1]."""

    @abstractmethod
    def _run(self, waves: Any) -> Any:
        """(B, n) waveforms -> (B, features, dims)."""


class SpeechStates(_SpeechFeatures):
    """W2V1024: the last hidden states of wav2vec 2.0 (transformers' Wav2Vec2Model), as DreamTalk hears.

    The clip's waveform is brought to mean 0 and variance 1 (over the whole clip, with 1e-7 added to the variance, as transformers'
    feature extractor does). Stored are float16 values, (features, 1024). A head for recognising letters is not run.
    """

    name = "w2v1024"
    version = 1
    field = W2V1024

    class Params(SoundParams, PretrainedParams):
        """As `SoundParams` and `PretrainedParams`; `model` is DreamTalk's."""

        model: str = Setting("jonatasgrosman/wav2vec2-large-xlsr-53-english", exclude=True)
        gpus: float = Setting(0.25, ge=0, exclude=True)

    def _width(self, settings: Any) -> int:
        return settings.hidden_size

    def _part(self, network: Any) -> Any:
        return network

    def _scaled(self, wave: np.ndarray) -> np.ndarray:
        return (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)

    def _run(self, waves: Any) -> Any:
        return self._network(waves).last_hidden_state


class SpeechConvolutions(_SpeechFeatures):
    """W2V512: what the seven convolutions of wav2vec 2.0 give, as InstructAvatar hears: before the layer norm and the projection
    that lead into its transformer, which transformers' own `extract_features` has been through already.

    The clip's waveform is scaled so that its largest sample is `peak`, silence stays silence. The published script draws the peak
    anew for every file, from 0.3 to 0.4: two extractions of one file differ. Here it is fixed. Stored are float16 values,
    (features, 512); the published files hold them the other way round.
    """

    name = "w2v512"
    version = 1
    field = W2V512

    class Params(SoundParams, PretrainedParams):
        """As `SoundParams` and `PretrainedParams`, and `peak`; `model` is XLSR-53, not finetuned."""

        model: str = Setting("facebook/wav2vec2-large-xlsr-53", exclude=True)
        gpus: float = Setting(0.25, ge=0, exclude=True)
        peak: float = Setting(0.35, gt=0, le=1)

    def _width(self, settings: Any) -> int:
        return settings.conv_dim[-1]

    def _part(self, network: Any) -> Any:
        return network.feature_extractor  # a fiftieth of its memory

    def _scaled(self, wave: np.ndarray) -> np.ndarray:
        loudest = np.abs(wave).max()
        return wave * (self.params.peak / loudest) if loudest else wave

    def _run(self, waves: Any) -> Any:
        return self._network(waves).transpose(1, 2)
