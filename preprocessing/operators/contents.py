"""What a picture shows, in labels: the class of the whole and the objects in it, by networks (PASD's high-level information)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import OBJECTS, PICTURE_CLASS, Field, image
from preprocessing.operator import Sample
from preprocessing.pretrained import PretrainedOperator, PretrainedParams, load_network, loading

DIGITS = 6


class ContentsParams(PretrainedParams):
    """Besides those of `PretrainedParams`: `size_px`, which picture is shown to the network: `image_SIZE`."""

    size_px: int = Setting(512, ge=10, le=9999)
    gpus: float = Setting(0.25, ge=0, exclude=True)


class _Labeller(PretrainedOperator):
    """A network of transformers with its image processor, shown the key frame."""

    field: ClassVar[Field]
    auto: ClassVar[str]

    @property
    def assets(self) -> tuple[str, ...]:
        return (self.params.asset(),)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (image(self.params.size_px),)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (self.field,)

    def setup(self) -> None:
        """Load the network and its image processor.

        Raises:
            LikenessError: the weights are not here, or are another kind of network.
        """
        import transformers

        kind, folder = getattr(transformers, self.auto), self.asset(self.params.asset())
        with loading(self.params.model, self.auto):
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        self._network = load_network(kind, folder, self.params.model, dtype=self.torch_dtype())

    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        inputs = [self._processor(images=sample[self.reads[0]], return_tensors="pt")["pixel_values"] for sample in samples]
        return [{self.field: found} for found in self.together(inputs, lambda pixels: tuple(pixels.shape), self._look)]

    def _look(self, inputs: list[Any]) -> list[dict[str, Any]]:
        import torch

        with torch.inference_mode():
            outputs = self._network(pixel_values=torch.cat(inputs).to(self._network.device, self._network.dtype))
        chances = outputs.logits.float().softmax(-1).cpu().numpy()
        return [self._found(chances[row], outputs, row) for row in range(len(inputs))]

    def _found(self, chances: np.ndarray, outputs: Any, row: int) -> dict[str, Any]:
        raise NotImplementedError

    def _name(self, number: int) -> str:
        """A class's first name: ImageNet's are lists of synonyms."""
        names: Mapping[int, str] = self._network.config.id2label
        return names[number].partition(",")[0].strip()


class PictureClass(_Labeller):
    """PICTURE_CLASS by ResNet-50 on ImageNet (He et al., 2016), or another classifier of transformers."""

    name = "picture_class"
    version = 1
    field = PICTURE_CLASS
    auto = "AutoModelForImageClassification"

    class Params(ContentsParams):
        """Besides those of `ContentsParams`: `most`, how many of the likeliest labels are kept."""

        model: str = Setting("microsoft/resnet-50", exclude=True)
        most: int = Setting(5, ge=1)

    def _found(self, chances: np.ndarray, outputs: Any, row: int) -> dict[str, Any]:
        best = np.argsort(-chances, kind="stable")[: self.params.most]
        likeliest = [{"label": self._name(int(n)), "score": round(float(chances[n]), DIGITS)} for n in best]
        return {**likeliest[0], "likeliest": likeliest}


class Objects(_Labeller):
    """OBJECTS by YOLOS on COCO (Fang et al., 2021), or another detector of transformers that says "no object" with its last class
    (DETR and its kin). PASD's own is YOLOv8n, whose package is under the AGPL."""

    name = "objects"
    version = 1
    field = OBJECTS
    auto = "AutoModelForObjectDetection"

    class Params(ContentsParams):
        """Besides those of `ContentsParams`: `threshold`, the score that counts as found."""

        model: str = Setting("hustvl/yolos-small", exclude=True)
        threshold: float = Setting(0.5, ge=0, le=1)

    def _found(self, chances: np.ndarray, outputs: Any, row: int) -> dict[str, Any]:
        kinds, scores = chances[:, :-1].argmax(-1), chances[:, :-1].max(-1)
        middle_x, middle_y, width, height = outputs.pred_boxes[row].float().cpu().numpy().T
        corners = np.stack([middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2], 1)
        order = [int(n) for n in np.argsort(-scores, kind="stable") if scores[n] > self.params.threshold]
        objects = [
            {
                "label": self._name(int(kinds[n])), "score": round(float(scores[n]), DIGITS),
                "box": [round(float(v), DIGITS) for v in corners[n].clip(0, 1)],
            }
            for n in order
        ]  # fmt: skip
        return {"objects": objects, "counts": dict(sorted(Counter(o["label"] for o in objects).items()))}
