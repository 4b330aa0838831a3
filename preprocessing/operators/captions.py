"""Captions: those that came with the sources, and those that vision-language networks write about the key frame."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field as Setting
from pydantic import field_validator

from preprocessing.fields import CAPTION_BLIP, CAPTION_GIVEN, CAPTION_LLAVA, DESCRIPTION_LLAVA, GIVEN, Field, image
from preprocessing.operator import Operator, Refused, Sample
from preprocessing.pretrained import Dtype, PretrainedOperator, PretrainedParams, load_network, loading

GIVEN_PLACE = "{caption}"


class GivenCaption(Operator):
    """CAPTION_GIVEN: the caption from a sidecar file or the source list, white space at its ends removed."""

    name = "given_caption"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (GIVEN,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (CAPTION_GIVEN,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        return {CAPTION_GIVEN: given_caption(sample)}


def given_caption(sample: Sample) -> str:
    """The caption that came with a row's source.

    Raises:
        Refused: there is none.
    """
    caption = str(sample[GIVEN].get("caption") or "").strip()
    if not caption:
        raise Refused("no caption was given")
    return caption


class CaptionerParams(PretrainedParams):
    """Settings besides those of `PretrainedParams`.

    Attributes:
        size_px: which picture is shown to the network: `image_SIZE`.
        prompt: what it is asked, or how its sentence begins; `{caption}` in it stands for the caption given with the source.
        max_new_tokens: length at which a caption is cut off.
        num_beams: 1 for greedy search, more for beam search; never sampled, so the same picture has the same caption.
    """

    size_px: int = Setting(ge=10, le=9999)
    prompt: str = ""
    max_new_tokens: int = Setting(ge=1)
    num_beams: int = Setting(1, ge=1)

    @field_validator("prompt")
    @classmethod
    def _known_places(cls, prompt: str) -> str:
        if unknown := set(re.findall(r"\{\w*\}", prompt)) - {GIVEN_PLACE}:
            raise ValueError(f"{sorted(unknown)[0]} stands for nothing, only {GIVEN_PLACE} does")
        return prompt


class _Captioner(PretrainedOperator):
    """Any image-to-text network of transformers with its processor.

    Pictures are prepared one by one, and only rows whose inputs have the same shapes go through the network together: nothing
    is padded, so a caption does not depend on the rows beside it (but for near ties of two words, which rounding may decide).
    """

    Params = CaptionerParams
    wants = "an image-to-text model of transformers"
    field: Field

    @property
    def assets(self) -> tuple[str, ...]:
        return (self.params.asset(),)

    @property
    def reads(self) -> tuple[Field, ...]:
        shown = image(self.params.size_px)
        return (shown, GIVEN) if GIVEN_PLACE in self.params.prompt else (shown,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (self.field,)

    def setup(self) -> None:
        """Load the network and its processor.

        Raises:
            LikenessError: the weights are not here, or are no image-to-text network.
        """
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

        folder = self.asset(self.params.asset())
        with loading(self.params.model, self.wants):
            self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            # Pillow resizes alike everywhere; torchvision, where there is one, would do it in another way.
            self._processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        self._network = load_network(AutoModelForImageTextToText, folder, self.params.model, dtype=self.torch_dtype())

    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        inputs = [self._prepared(sample) for sample in samples]
        return [{self.field: caption} for caption in self.together(inputs, _shapes, self._write)]

    def _prepared(self, sample: Sample) -> Mapping[str, Any]:
        """The network's inputs for one row, each with a batch axis of 1."""
        picture, prompt = sample[image(self.params.size_px)], self.params.prompt
        if GIVEN_PLACE in prompt:
            prompt = prompt.replace(GIVEN_PLACE, given_caption(sample))
        return self._process(picture, prompt)

    def _process(self, picture: np.ndarray, prompt: str) -> Mapping[str, Any]:
        raise NotImplementedError

    def _write(self, inputs: list[Mapping[str, Any]]) -> list[str]:
        import torch

        network = self._network
        batch = {name: torch.cat([row[name] for row in inputs]).to(network.device) for name in inputs[0]}
        batch = {name: t.to(network.dtype) if t.is_floating_point() else t for name, t in batch.items()}
        with torch.inference_mode():
            tokens = network.generate(
                **batch, do_sample=False, num_beams=self.params.num_beams, max_new_tokens=self.params.max_new_tokens
            )
        texts = self._processor.batch_decode(self._written(tokens, batch), skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _written(self, tokens: Any, batch: Mapping[str, Any]) -> Any:
        """The caption's tokens."""
        return tokens


def _shapes(inputs: Mapping[str, Any]) -> tuple:
    return tuple((name, tuple(value.shape)) for name, value in sorted(inputs.items()))


class Blip(_Captioner):
    """CAPTION_BLIP by BLIP (Li et al., 2022), or by another network that takes a picture and the beginning of a sentence.

    With an empty `prompt` the caption is free; otherwise it begins with the prompt. The processor squeezes the whole picture
    into a square, as published.
    """

    name = "blip"
    version = 1
    field = CAPTION_BLIP
    wants = "BLIP (transformers)"

    class Params(CaptionerParams):
        """Defaults: 384 px is the picture size of the published network."""

        model: str = Setting("Salesforce/blip-image-captioning-base", exclude=True)
        size_px: int = Setting(384, ge=10, le=9999)
        max_new_tokens: int = Setting(50, ge=1)
        gpus: float = Setting(0.5, ge=0, exclude=True)

    def _process(self, picture: np.ndarray, prompt: str) -> Mapping[str, Any]:
        if prompt:
            return self._processor(images=picture, text=prompt, return_tensors="pt")
        return self._processor(images=picture, return_tensors="pt")


class Llava(_Captioner):
    """CAPTION_LLAVA by LLaVA 1.5 (Liu et al., 2023), or by another network that is asked in a chat about a picture.

    The prompt goes into the chat template that comes with the processor. Of a picture that is not square, LLaVA 1.5's
    processor shows the network the middle.
    """

    name = "llava"
    version = 1
    field = CAPTION_LLAVA
    wants = "a vision chat model of transformers, with a chat template"

    class Params(CaptionerParams):
        """Defaults: 336 px is the picture size of the published network, whose weights are stored in float16."""

        model: str = Setting("llava-hf/llava-1.5-7b-hf", exclude=True)
        dtype: Dtype = "auto"
        size_px: int = Setting(336, ge=10, le=9999)
        prompt: str = "Describe this picture in one sentence: who is seen, what they look like, what they do, and where."
        max_new_tokens: int = Setting(80, ge=1)

    def setup(self) -> None:
        super().setup()
        with loading(self.params.model, self.wants):
            self._ask("test")

    def _ask(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def _process(self, picture: np.ndarray, prompt: str) -> Mapping[str, Any]:
        return self._processor(images=picture, text=self._ask(prompt), return_tensors="pt")

    def _written(self, tokens: Any, batch: Mapping[str, Any]) -> Any:
        return tokens[:, batch["input_ids"].shape[1] :]


class LlavaDescription(Llava):
    """DESCRIPTION_LLAVA: what LLaVA, or another network that is asked in a chat, says of the face, part by part.

    ConsistentID's second question: its training text is this description with a marker behind each part's word
    (`preprocessing.face_words`).
    """

    name = "llava_description"
    version = 1
    field = DESCRIPTION_LLAVA

    class Params(Llava.Params):
        """Defaults: greedy and up to 512 tokens, as published; the question is ours."""

        prompt: str = (
            "Describe this person's face in a few short clauses, each about one part and naming it: first the face as a whole, "
            "then the ears, the eyes, the nose and the mouth."
        )
        max_new_tokens: int = Setting(512, ge=1)
