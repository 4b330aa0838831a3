"""Attention seen and changed from outside: queries, keys, values and maps recorded, replaced or tempered, layer by layer.

    with attention_hooks(unet, {name: Hook(record=("query", "key", "value")) for name in layers}) as hooks:
        hooks.key = 981
        unet(latents, 981, text)
    hooks.records[layers[0], 981].key    # (B, heads, tokens, channels of a head)

Layers are named as modules ("up_blocks.1.attentions.0.transformer_blocks.0.attn1"). On leaving, by an error too, every layer has
the processor object it had. Layers with an IP-Adapter keep their image branch. Batches for classifier-free guidance are one
batch of more rows; injected tensors of fewer rows are repeated over it.

Under gradient checkpointing a layer runs again in backward. It then sees what it saw the first time: the same key, the same
injected tensors; and nothing is recorded twice. So backward belongs inside the `with`; after it, recomputation is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0
from torch import nn

from infra.errors import LikenessError
from models.diffusion.attention_processor import AttentionHooks, Hook, HookedProcessor

KNOWN = (AttnProcessor, AttnProcessor2_0, IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0)


class _Bound:
    """A checkpointed block together with the call it ran in: the second run, in backward, is given that call again."""

    def __init__(self, block: Any, session: AttentionHooks) -> None:
        self.block, self.session, self.call, self.runs = block, session, session._call, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        session, again = self.session, self.runs > 0
        self.runs += 1
        if again and session._closed:
            raise LikenessError(
                "backward recomputes an attention layer whose hooks are no longer there",
                allowed="backward inside the `with attention_hooks(...)`",
                fix="move backward (in a stage: the yield) into the `with`, or switch gradient checkpointing off",
            )
        before = session._call, session._recomputing
        session._call, session._recomputing = self.call, again
        try:
            return self.block(*args, **kwargs)
        finally:
            session._call, session._recomputing = before


@contextmanager
def attention_hooks(
    network: nn.Module,
    hooks: Mapping[str, Hook],
    *,
    keep_graph: bool = False,
    store_dtype: torch.dtype | None = None,
    store_device: torch.device | str | None = None,
) -> Iterator[AttentionHooks]:
    """Installs hooks in attention layers of a network for as long as the `with` lasts.

    Args:
        network: what is called: a UNet, a ControlNet. Switch gradient checkpointing on before, not inside.
        hooks: by module name, without ".processor".
        keep_graph: records keep their gradients (for losses on maps) and are then neither cast nor moved.
        store_dtype, store_device: where detached records go; None leaves them as they are.

    Raises:
        LikenessError: no such attention layer, or one with a processor that can't be stood in for.
    """
    session = AttentionHooks(keep_graph, store_dtype, store_device)
    layers = {name: _layer(network, name) for name in hooks}
    around = {id(network.get_submodule(".".join(name.split(".")[:end]))) for name in hooks for end in range(name.count(".") + 2)}
    switches: list[Any] = [module for module in network.modules() if hasattr(module, "gradient_checkpointing")]
    switched = [module.gradient_checkpointing for module in switches]
    originals = [(module, module._gradient_checkpointing_func) for module in switches if module.gradient_checkpointing]

    def remembering(original: Callable) -> Callable:
        def checkpoint(block: Any, *args: Any, **kwargs: Any) -> Any:
            concerned = not isinstance(block, nn.Module) or id(block) in around
            return original(_Bound(block, session) if concerned else block, *args, **kwargs)

        return checkpoint

    def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if torch._C._current_graph_task_id() != -1:  # inside backward, as torch.utils.checkpoint asks it
            raise LikenessError(
                "the whole network is recomputed in backward, so its hooks can't tell which call that is",
                fix="checkpoint its blocks: enable_gradient_checkpointing()",
            )
        if [each.gradient_checkpointing for each in switches] != switched:
            raise LikenessError(
                "gradient checkpointing was switched while attention hooks were installed",
                fix="call enable_gradient_checkpointing() before attention_hooks",
            )
        session._begin(args[0] if args else kwargs.get("sample"))

    counter = network.register_forward_pre_hook(begin, with_kwargs=True)
    # Put before the layer's own in attribute look-up, not in its place: an adapter's processor is a module and stays registered.
    held = {name: layer.__dict__.get("processor") for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.__dict__["processor"] = HookedProcessor(name, hooks[name], layer.processor, session)
        for module, original in originals:
            module._gradient_checkpointing_func = remembering(original)
        yield session
    finally:
        session._closed = True
        counter.remove()
        for module, original in originals:
            module._gradient_checkpointing_func = original
        for name, layer in layers.items():
            del layer.__dict__["processor"]
            if held[name] is not None:
                layer.__dict__["processor"] = held[name]


def _layer(network: nn.Module, name: str) -> Any:
    layer: Any = None
    with suppress(AttributeError):
        layer = network.get_submodule(name)
    if not hasattr(layer, "to_q") or not hasattr(layer, "processor"):
        some = [each for each, module in network.named_modules() if hasattr(module, "to_q") and hasattr(module, "processor")]
        raise LikenessError(
            f"{name!r} is no attention layer of {type(network).__name__}",
            allowed=f"{len(some)} layers, among them {', '.join(some[:3])}",
        )
    if isinstance(layer.processor, HookedProcessor):
        raise LikenessError(f"attention layer {name} is hooked already", fix="leave the other attention_hooks first")
    if not isinstance(layer.processor, KNOWN):
        raise LikenessError(
            f"attention layer {name} has the processor {type(layer.processor).__name__}",
            allowed=", ".join(kind.__name__ for kind in KNOWN),
            fix="unet.set_default_attn_processor()",
        )
    return layer
