"""Relative depth by a network, as a map like those of `condition_maps`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
from pydantic import Field as Setting

from preprocessing.fields import VIDEO, Field
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import Sample
from preprocessing.operators.condition_maps import MapOperator, MapParams, views
from preprocessing.pretrained import PretrainedOperator, PretrainedParams, load_network, loading


class Depth(PretrainedOperator, MapOperator):
    """`depth_SIZE` and `depth_frames_SIZE`, by MiDaS in the form of DPT (Ranftl et al., 2021) or another depth estimator of
    transformers.

    What the network says is brought to the picture's size (bicubic) and scaled so that the farthest place is 0 and the nearest
    255: of a picture by its own extremes, of a clip by those of all frames looked at, so that it does not flicker. A picture of
    one depth is 0.
    """

    version = 1
    kind = "depth"

    class Params(PretrainedParams, MapParams):
        """Besides those of `PretrainedParams` and `MapParams`.

        Attributes:
            output: what the network's numbers are: "inverse" depth, larger where nearer (MiDaS, DPT, Depth Anything), or "metric",
                larger where farther (ZoeDepth, Depth Anything's metric versions), of which the inverse is then taken.
        """

        model: str = Setting("Intel/dpt-large", exclude=True)
        output: Literal["inverse", "metric"] = "inverse"
        gpus: float = Setting(0.5, ge=0, exclude=True)

    @property
    def assets(self) -> tuple[str, ...]:
        return (self.params.asset(),)

    def setup(self) -> None:
        """Load the network and its image processor.

        Raises:
            LikenessError: the weights are not here, or are no depth estimator.
        """
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        folder = self.asset(self.params.asset())
        with loading(self.params.model, "a depth estimator of transformers"):
            self._processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        self._network = load_network(AutoModelForDepthEstimation, folder, self.params.model, dtype=self.torch_dtype())

    def call_many(self, samples: Sequence[Sample]) -> list[dict[Field, Any]]:
        if self.params.frames:
            return [{self.writes[0]: self._frames(sample)} for sample in samples]
        depths = self._nearness([sample[self.reads[0]] for sample in samples])
        return [{self.writes[0]: levels(depth, depth.min(), depth.max())} for depth in depths]

    def _frames(self, sample: Sample) -> FrameSequence:
        places, depths = [], []
        looked_at = views(sample[VIDEO], self.params.shape, self.params.every)
        numbered = ((n, view) for n, view in enumerate(looked_at) if view is not None)
        while group := list(islice(numbered, self.batch_size)):
            places += [place for place, _ in group]
            depths += [depth.astype(np.float32) for depth in self._nearness([view for _, view in group])]
        low, high = min(d.min() for d in depths), max(d.max() for d in depths)
        maps: list[np.ndarray | None] = [None] * sample[VIDEO].n_frames
        for place, depth in zip(places, depths, strict=True):
            maps[place] = np.repeat(levels(depth, low, high)[..., None], 3, 2)
        return FrameSequence.of(maps, *self.params.shape)

    def _nearness(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(H, W) float32 of each picture, larger where nearer."""
        inputs = [(self._processor(images=p, return_tensors="pt")["pixel_values"], (p.shape[0], p.shape[1])) for p in pictures]
        return self.together(inputs, lambda pair: (pair[0].shape, pair[1]), self._estimate)

    def _estimate(self, inputs: list[tuple[Any, tuple[int, int]]]) -> list[np.ndarray]:
        import torch

        batch = torch.cat([pixels for pixels, _ in inputs]).to(self._network.device, self._network.dtype)
        with torch.inference_mode():
            found = self._network(pixel_values=batch).predicted_depth.float()
            if self.params.output == "metric":
                found = 1 / found.clamp(min=1e-3)
            whole = torch.nn.functional.interpolate(found[:, None], inputs[0][1], mode="bicubic", align_corners=False)
        return list(whole[:, 0].cpu().numpy())


def levels(depth: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8: `low` as 0, `high` as 255, evenly between."""
    spread = float(high) - float(low)
    if spread <= 0:
        return np.zeros(depth.shape, np.uint8)
    return np.rint((depth - float(low)) / spread * 255).astype(np.uint8)
