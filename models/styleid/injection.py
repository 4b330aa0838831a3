"""StyleID's sampler (Chung et al. 2024, arXiv 2312.09008): a content picture redrawn with the attention of a style picture.

Both pictures are inverted by DDIM. On the way the selected self-attention layers are read: queries of the content, keys and values
of the style. Sampling starts from the content's noise with the style's statistics (`adain`), and in those layers

    softmax(T q k_s' / sqrt(d)) v_s,    q = gamma q_c + (1 - gamma) q_cs         (equations 3 to 6)

where q_cs is the layer's own query and q_c, k_s, v_s are those the two inversions had at the same time. No text, no guidance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.attention import attention_hooks
from models.diffusion.attention_processor import Edit, Hook, Part, Recorded
from models.diffusion.conditioning import Condition
from models.diffusion.inversion import CLEAN, Move, Path, convention_a, convention_b, travel
from models.diffusion.layer_names import ldm_attention
from models.diffusion.schedules import Prediction

MAIN_LAYERS = (6, 7, 8, 9, 10, 11)  # LDM's output blocks at 1/16 and 1/8 of the picture; "layers 7 to 12" in the paper
PORT_LAYERS = (7, 8, 9, 10, 11)  # of the authors' diffusers port
PARTS: dict[str, tuple[Part, ...]] = {"content": ("query",), "style": ("key", "value")}
Role = Literal["content", "style"]


@dataclass(frozen=True)
class Trace:
    """One picture's way to noise.

    Attributes:
        end: (1, C, h, w) latent after the last move.
        seen: time -> (1, C, h, w) latent that the network was asked about then.
        features: (layer, time) -> what the layer had, or empty where it is to be computed again from `seen`.
    """

    end: Tensor
    seen: Mapping[int, Tensor]
    features: Mapping[tuple[str, int], Recorded] = field(default_factory=dict)


def main_path(steps: int = 50, skip: int = 1) -> Path:
    """Of the main code: convention B; the first `skip` moves of sampling are left out, so the noise of level 999 enters the move
    that follows them as it is (published: 1, hence 49 calls for 50 steps)."""
    path = convention_b(steps)
    return Path(path.invert, path.sample[skip:])


def port_path(steps: int = 20, offset: int = 1) -> Path:
    """Of the diffusers port: convention A; what it decodes is the clean latent that the last call stands for."""
    path = convention_a(steps, offset)
    last = path.sample[-1]
    return Path(path.invert, (*path.sample[:-1], Move(last.time, last.start, CLEAN)))


def layers_of(unet: Any, blocks: Sequence[int] = MAIN_LAYERS) -> tuple[str, ...]:
    """The self-attention layers of LDM's output blocks with these numbers, of an SD 1.x or 2.x UNet."""
    return tuple(name for block in blocks for name in ldm_attention(unet, f"output_blocks.{block}"))


def adain(content: Tensor, style: Tensor, epsilon: float = 0.0) -> Tensor:
    """(N, C, h, w) content with each channel's mean and standard deviation of the style (1 or N, C, h', w'), picture by picture.

    Args:
        epsilon: added to the content's deviation; the diffusers port has 1e-4. Deviations divide by count - 1 in both codes.
    """
    mean, std = content.mean((2, 3), keepdim=True), content.std((2, 3), keepdim=True)
    return (content - mean) / (std + epsilon) * style.std((2, 3), keepdim=True) + style.mean((2, 3), keepdim=True)


@dataclass(frozen=True)
class StyleInjection:
    """One UNet with a schedule and layers to inject into.

    Attributes:
        unet: a UNet2DConditionModel without guidance: it sees `condition` alone.
        condition: one row, of the empty prompt.
        path: moves of inversion and sampling. The times asked in sampling must be among those asked in inversion.
        alpha_bar, prediction: of the UNet's training.
        layers: names of self-attention layers.
        store: type the features are kept in; None keeps none and computes them again at every sampling step, from the inversion's
            latents: two more calls of the network a step, and megabytes instead of gigabytes.
    """

    unet: Any
    condition: Condition
    path: Path
    alpha_bar: Tensor
    prediction: Prediction
    layers: tuple[str, ...]
    store: torch.dtype | None = torch.float16

    def invert(self, latent: Tensor, role: Role) -> Trace:
        """The way to noise of one latent (1, C, h, w), with the features its role needs."""
        seen: dict[int, Tensor] = {}
        with attention_hooks(self.unet, self._recording(role if self.store else None), store_dtype=self.store) as hooks:

            def network(x: Tensor, time: int) -> Tensor:
                hooks.key, seen[time] = time, x
                return self._ask(x, time)

            end = travel(network, latent, self.path.invert, self.alpha_bar, self.prediction)
        return Trace(end, seen, hooks.records)

    def stylise(
        self,
        contents: Sequence[Trace],
        styles: Sequence[Trace],
        gamma: float = 0.75,
        temperature: float = 1.5,
        start: Tensor | None = None,
        epsilon: float = 0.0,
    ) -> Tensor:
        """(N, C, h, w) latents: content n drawn in style n.

        Args:
            contents, styles: N each; the same one may come several times.
            gamma: share of the content's query.
            temperature: factor on the logits of the injected layers.
            start: (N, C, h, w) to begin with instead of the contents' ends with the statistics of the styles' ends.
            epsilon: see `adain`.

        Raises:
            LikenessError: numbers that do not go together, pictures of several sizes, or traces of another schedule.
        """
        self._check(contents, styles)
        start = self.start(contents, styles, epsilon) if start is None else start
        at: dict[tuple[str, int], Edit] = {}
        hooks = {name: Hook(edit=lambda layer, time: at[layer, time]) for name in self.layers}

        def network(x: Tensor, time: int) -> Tensor:
            at.clear()
            there = {id(trace): self._features(trace, "content", time) for trace in contents}
            given = {id(trace): self._features(trace, "style", time) for trace in styles}
            for layer in self.layers:
                asked = [there[id(trace)][layer, time] for trace in contents]
                looked_at = [given[id(trace)][layer, time] for trace in styles]
                query = torch.cat([found.query for found in asked])  # type: ignore[misc]
                key = torch.cat([found.key for found in looked_at])  # type: ignore[misc]
                value = torch.cat([found.value for found in looked_at])  # type: ignore[misc]
                at[layer, time] = Edit(query, key, value, query_mix=gamma, temperature=temperature)
            with attention_hooks(self.unet, hooks) as session:
                session.key = time
                return self._ask(x, time)

        return travel(network, start, self.path.sample, self.alpha_bar, self.prediction)

    def start(self, contents: Sequence[Trace], styles: Sequence[Trace], epsilon: float = 0.0) -> Tensor:
        """(N, C, h, w) the contents' noise with the statistics of the styles'."""
        return torch.cat([adain(content.end, style.end, epsilon) for content, style in zip(contents, styles, strict=True)])

    def reconstruct(self, latent: Tensor) -> Tensor:
        """The plain way back from (N, C, h, w), nothing injected."""
        return travel(self._ask, latent, self.path.sample, self.alpha_bar, self.prediction)

    def _ask(self, x: Tensor, time: int) -> Tensor:
        """The network's output in the latent's type: moves are exact however coarse the network's own type is."""
        rows = self.condition.rows([0] * len(x))
        return self.unet(x.to(self.unet.dtype), time, **rows.arguments()).sample.to(x)

    def _recording(self, role: Role | None) -> dict[str, Hook]:
        return {name: Hook(record=PARTS[role]) for name in self.layers} if role else {}

    def _features(self, trace: Trace, role: Role, time: int) -> Mapping[tuple[str, int], Recorded]:
        """The features of a picture at a time, kept or computed again: the same call of the network gives the same numbers."""
        if trace.features:
            return trace.features
        with attention_hooks(self.unet, self._recording(role)) as hooks:
            hooks.key = time
            self._ask(trace.seen[time], time)
        return hooks.records

    def _check(self, contents: Sequence[Trace], styles: Sequence[Trace]) -> None:
        if len(contents) != len(styles):
            raise LikenessError(f"{len(contents)} contents and {len(styles)} styles", allowed="as many of each: pairs")
        sizes = {tuple(trace.end.shape) for trace in contents}
        if len(sizes) != 1:
            raise LikenessError(f"contents of {len(sizes)} sizes in one batch", allowed="one size", fix="stylise them one by one")
        times = {move.time for move in self.path.sample}
        if any(times - trace.seen.keys() for trace in (*contents, *styles)):
            raise LikenessError("a picture was not inverted at the times sampling asks for", fix="invert it with this schedule")
        for traces, part in ((contents, "query"), (styles, "key")):
            kept = [next(iter(trace.features.values())) for trace in traces if trace.features]
            if any(getattr(each, part) is None for each in kept):
                raise LikenessError(f"a picture's {part} was not recorded", fix="invert contents as content and styles as style")
