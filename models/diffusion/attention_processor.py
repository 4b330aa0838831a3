"""One hooked attention layer: what is asked of it, and the processor that does it (installed by `models.diffusion.attention`)."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.attention_math import attend, grid_of, image_branches, mixed, repeated

Part = Literal["query", "key", "value", "probabilities"]


@dataclass(frozen=True)
class Edit:
    """What replaces a layer's own tensors in one call. All are (b, heads, tokens, channels of a head), b a divisor of the batch.

    Attributes:
        query: mixed with the layer's own: query_mix * query + (1 - query_mix) * own.
        key, value: put in the place of the layer's own.
        temperature: factor on the logits; above 1 attention is sharper.
        reweight: a function of the softmax rows, (B, heads, queries, keys) -> the same shape, for methods that control the map
            itself (prompt-to-prompt); the layer then does without fused attention. It runs again when recomputed.
    """

    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    query_mix: float = 1.0
    temperature: float = 1.0
    reweight: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class ImageBranch:
    """A second attention of the same queries, added before the output projection: + scale * weights * Attn(q, to_k(x), to_v(x)).

    Attributes:
        tokens: x, (b, tokens, channels), b a divisor of the batch.
        to_k, to_v: x -> (b, tokens, heads * channels of a head).
        scale: 0 leaves the layer's output as it is, bit for bit.
        weights: (queries,) or (b, queries) factor on each query's result, or None.
    """

    tokens: Tensor
    to_k: Callable[[Tensor], Tensor]
    to_v: Callable[[Tensor], Tensor]
    scale: float = 1.0
    weights: Tensor | None = None


@dataclass(frozen=True)
class Hook:
    """What happens in one layer. `edit` and `image` may be functions of (layer name, key of the call).

    Attributes:
        record: which tensors are kept. Query, key and value are the layer's own, before an edit; probabilities are those used.
        edit: replaces the layer's tensors; None changes nothing.
        image: an image branch.
        max_queries: probabilities are kept only in layers of at most so many queries (others keep fused attention).
    """

    record: tuple[Part, ...] = ()
    edit: Edit | Callable[[str, Any], Edit | None] | None = None
    image: ImageBranch | Callable[[str, Any], ImageBranch | None] | None = None
    max_queries: int = 32 * 32


@dataclass
class Recorded:
    """What one layer had in one call; parts that were not asked for are None.

    Attributes:
        query, key, value: (B, heads, tokens, channels of a head).
        probabilities: (B, heads, queries, keys), rows sum to 1.
        grid: rows and columns of the queries, or None where the network was not called with a picture.
    """

    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    probabilities: Tensor | None = None
    grid: tuple[int, int] | None = None


@dataclass
class Call:
    """One call of the network, remembered by its checkpointed blocks until they have been recomputed."""

    key: Hashable
    size: tuple[int, int] | None
    resolved: dict[str, tuple[Edit | None, ImageBranch | None]] = field(default_factory=dict)


class AttentionHooks:
    """What `attention_hooks` gives.

    Attributes:
        key: names the next calls of the network in `records`; None numbers them from 0.
        records: (layer, key) -> what was recorded.
    """

    def __init__(self, keep_graph: bool, dtype: torch.dtype | None, device: torch.device | str | None) -> None:
        self.key: Hashable = None
        self.records: dict[tuple[str, Any], Recorded] = {}
        self._keep_graph, self._dtype, self._device = keep_graph, dtype, device
        self._calls = 0
        self._call: Call | None = None
        self._recomputing = False
        self._closed = False

    def _begin(self, sample: Any) -> None:
        number, self._calls = self._calls, self._calls + 1
        size = tuple(sample.shape[-2:]) if isinstance(sample, Tensor) and sample.ndim >= 4 else None
        self._call = Call(number if self.key is None else self.key, size)  # type: ignore[arg-type]

    def _resolve(self, name: str, hook: Hook) -> tuple[Call, Edit | None, ImageBranch | None]:
        if self._call is None:
            raise LikenessError(
                f"attention layer {name} ran outside a call of the network it belongs to",
                fix="call the network given to attention_hooks, or give the part that is called",
            )
        call = self._call
        if name not in call.resolved:
            edit = hook.edit(name, call.key) if callable(hook.edit) else hook.edit
            image = hook.image(name, call.key) if callable(hook.image) else hook.image
            call.resolved[name] = (edit, image)
        return call, *call.resolved[name]

    def _write(self, name: str, call: Call, grid: tuple[int, int] | None, parts: Mapping[str, Tensor]) -> None:
        if self._recomputing or not parts:
            return
        if (name, call.key) in self.records:
            raise LikenessError(
                f"attention layer {name} was recorded twice under the key {call.key!r}",
                fix="set a new hooks.key before each call of the network, or None to number the calls",
            )
        kept = parts if self._keep_graph else {part: self._stored(tensor) for part, tensor in parts.items()}
        self.records[name, call.key] = Recorded(grid=grid, **kept)

    def _stored(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(device=self._device, dtype=self._dtype)


class HookedProcessor:
    """Stands in for a layer's processor; the arithmetic of diffusers' own, with the hook between projection and softmax."""

    def __init__(self, name: str, hook: Hook, previous: Any, session: AttentionHooks) -> None:
        self.name, self.hook, self.previous, self.session = name, hook, previous, session

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        ip_adapter_masks: Any = None,
    ) -> Tensor:
        hook = self.hook
        call, edit, image = self.session._resolve(self.name, hook)
        context, images = encoder_hidden_states if isinstance(encoder_hidden_states, tuple) else (encoder_hidden_states, [])

        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        shape = hidden_states.shape
        if hidden_states.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if context is None:
            context = hidden_states
        elif attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(context))
            attention_mask = attention_mask.unflatten(0, (len(context), attn.heads))

        def split(states: Tensor) -> Tensor:
            return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key, value = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        parts: dict[str, Tensor] = {
            part: tensor for part, tensor in (("query", query), ("key", key), ("value", value)) if part in hook.record
        }

        temperature, reweight = 1.0, None
        if edit is not None:
            query = mixed(query, edit.query, edit.query_mix, self.name)
            key = key if edit.key is None else repeated(edit.key, key, self.name, tokens=None)
            value = value if edit.value is None else repeated(edit.value, value, self.name, tokens=key.shape[2])
            temperature, reweight = edit.temperature, edit.reweight
        mapped = "probabilities" in hook.record and query.shape[2] <= hook.max_queries
        out, probabilities = attend(query, key, value, attention_mask, temperature, mapped, reweight)
        if probabilities is not None and mapped:
            parts["probabilities"] = probabilities
        grid = grid_of(query.shape[2], call.size)
        self.session._write(self.name, call, grid, parts)

        out = image_branches(out, query, self.previous, images, ip_adapter_masks)
        if image is not None and image.scale != 0:
            tokens = repeated(image.tokens, query, self.name, tokens=None)
            second, _ = attend(query, split(image.to_k(tokens)), split(image.to_v(tokens)))
            weights = 1.0 if image.weights is None else image.weights.to(out).unsqueeze(-1)
            out = out + image.scale * (second * weights)

        out = attn.to_out[1](attn.to_out[0](out))
        if len(shape) == 4:
            out = out.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor
