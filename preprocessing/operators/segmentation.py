"""What every pixel shows, by a network: SCEdit's and ControlNet's segmentation condition, as numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing.fields import Field, image, segmentation, segments
from preprocessing.operator import FamilyOperator, Sample
from preprocessing.pretrained import PretrainedOperator, PretrainedParams, load_network, loading

DIGITS = 6
MOST_CLASSES = 256


class Segmentation(PretrainedOperator, FamilyOperator):
    """`segmentation_SIZE` and `segments_SIZE`, by SegFormer (Xie et al., 2021) on ADE20K or another segmenting network of
    transformers: the class with the largest logit at each pixel, after logits were brought to the picture's size (bilinear).

    Numbers, not colours: whoever wants a coloured drawing chooses the palette its network has learnt.
    """

    name = "segmentation"
    version = 1

    class Params(PretrainedParams):
        """Besides those of `PretrainedParams`: `size`, fixed by the field's name."""

        size: int = Setting(ge=10, le=9999)
        model: str = Setting("nvidia/segformer-b0-finetuned-ade-512-512", exclude=True)
        gpus: float = Setting(0.25, ge=0, exclude=True)

    @classmethod
    def of_field(cls, field: str) -> dict[str, Any] | None:
        match = re.fullmatch(r"(?:segmentation|segments)_([1-9]\d{1,3})", field)
        return {"size": int(match[1])} if match else None

    @property
    def assets(self) -> tuple[str, ...]:
        return (self.params.asset(),)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (image(self.params.size),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (segmentation(self.params.size), segments(self.params.size))

    def setup(self) -> None:
        """Load the network and its image processor.

        Raises:
            LikenessError: the weights are not here, are no segmenting network, or know more classes than a byte counts.
        """
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        folder = self.asset(self.params.asset())
        with loading(self.params.model, "a segmenting network of transformers"):
            self._processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        self._network = load_network(AutoModelForSemanticSegmentation, folder, self.params.model, dtype=self.torch_dtype())
        self._names: dict[int, str] = self._network.config.id2label
        if len(self._names) > MOST_CLASSES:
            raise LikenessError(f"{self.params.model} knows {len(self._names)} classes", allowed=f"up to {MOST_CLASSES}")

    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        pictures = [sample[self.reads[0]] for sample in samples]
        inputs = [(self._processor(images=p, return_tensors="pt")["pixel_values"], (p.shape[0], p.shape[1])) for p in pictures]
        maps = self.together(inputs, lambda pair: (pair[0].shape, pair[1]), self._segment)
        return [dict(zip(self.writes, (found, self._named(found)), strict=True)) for found in maps]

    def _segment(self, inputs: list[tuple[Any, Any]]) -> list[np.ndarray]:
        import torch

        batch = torch.cat([pixels for pixels, _ in inputs]).to(self._network.device, self._network.dtype)
        with torch.inference_mode():
            logits = self._network(pixel_values=batch).logits.float()
            whole = torch.nn.functional.interpolate(logits, inputs[0][1], mode="bilinear", align_corners=False)
        return list(whole.argmax(1).to(torch.uint8).cpu().numpy())

    def _named(self, found: np.ndarray) -> dict[str, Any]:
        numbers, counts = np.unique(found, return_counts=True)
        shares = {self._names[int(n)]: round(int(c) / found.size, DIGITS) for n, c in zip(numbers, counts, strict=True)}
        return {"names": {str(n): self._names[int(n)] for n in numbers}, "shares": shares}
