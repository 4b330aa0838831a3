"""IP-Adapter: image tokens beside the text in a UNet's cross-attention, trained here and published in the released layout.

Attention is diffusers' own: its processors are installed, holding this adapter's weights. The adapter is a module of its own whose
parameter names are the published keys, so its state dict is the checkpoint and the frozen UNet stays outside the optimiser.
Source: IP-Adapter (Ye et al. 2023, arXiv 2308.06721), equation 5: softmax(q k_text') v_text + scale * softmax(q k_image') v_image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from torch import Tensor, nn

from infra.errors import LikenessError
from models.blocks.projections import Projection, projection_for
from models.diffusion.attention_math import nearest_mask
from models.diffusion.layer_names import attention_names, linear_of
from models.diffusion.lora import activate_loras, active_loras
from models.weight_files import difference

LORA_PARTS = ("to_q", "to_k", "to_v", "to_out")
Weights = Mapping[str, Mapping[str, Tensor]]


class IPAdapter(nn.Module):
    """One adapter: `image_proj`, and `ip_adapter` with the published numbers as names.

    Args:
        image_proj: makes the image tokens (models.blocks.projections, models.blocks.resampler).
        layers: by published number: to_k_ip and to_v_ip at odd ones (cross-attention); the FaceID family also has a low-rank
            pair for every projection at every number.
    """

    def __init__(self, image_proj: Projection, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.image_proj = image_proj
        self.ip_adapter = nn.ModuleDict(layers)

    @classmethod
    def for_unet(cls, unet: nn.Module, image_proj: Projection, lora_rank: int = 0) -> IPAdapter:
        """A new adapter to train: keys and values begin as copies of the layer's own for text, low-rank parts as nothing.

        So at scale 1 the first output is not the base model's; only scale 0 is. The weights are float32 whatever the UNet's are:
        beside a bf16 UNet train under autocast, and generate with `adapter.to(unet.dtype)`.
        """
        layers: dict[str, nn.Module] = {}
        for number, name in enumerate(attention_names(unet)):
            layer: Any = unet.get_submodule(name)
            parts = nn.ModuleDict()
            if lora_rank:
                for part in LORA_PARTS:
                    linear = linear_of(layer, part)
                    pair = nn.ModuleDict(
                        {
                            "down": nn.Linear(linear.in_features, lora_rank, bias=False),
                            "up": nn.Linear(lora_rank, linear.out_features, bias=False),
                        }
                    )
                    nn.init.normal_(pair["down"].weight, std=1 / lora_rank)  # type: ignore[arg-type]
                    nn.init.zeros_(pair["up"].weight)  # type: ignore[arg-type]
                    parts[f"{part}_lora"] = pair
            if number % 2:
                parts["to_k_ip"] = _copy(linear_of(layer, "to_k"))
                parts["to_v_ip"] = _copy(linear_of(layer, "to_v"))
            if len(parts):
                layers[str(number)] = parts
        return cls(image_proj, layers)

    @classmethod
    def from_published(cls, weights: Weights) -> IPAdapter:
        """The adapter of a published checkpoint: {"image_proj": ..., "ip_adapter": {"1.to_k_ip.weight": ...}}.

        Raises:
            LikenessError: a part is missing or is no adapter's; the message names keys.
        """
        missing = [part for part in ("image_proj", "ip_adapter") if not weights.get(part)]
        if missing:
            raise LikenessError(
                f"the checkpoint has no {' and no '.join(missing)}; it has {', '.join(sorted(map(str, weights))[:4]) or 'nothing'}",
                allowed="an IP-Adapter: two dicts of tensors, image_proj and ip_adapter",
            )
        layers: dict[str, nn.Module] = {}
        with torch.device("meta"):
            for key, value in sorted(weights["ip_adapter"].items(), key=lambda item: _place(item[0])):
                number, *path, last = key.split(".")
                if last != "weight" or value.ndim != 2 or not number.isdigit() or not path:
                    raise LikenessError(f"{key!r} is no key of an IP-Adapter", allowed="N.to_k_ip.weight, N.to_q_lora.down.weight")
                inside: Any = layers.setdefault(number, nn.ModuleDict())
                for step in path[:-1]:
                    if step not in inside:
                        inside[step] = nn.ModuleDict()
                    inside = inside[step]
                inside[path[-1]] = nn.Linear(value.shape[1], value.shape[0], bias=False)
        adapter = cls(projection_for(weights["image_proj"]), layers)
        state = {f"{part}.{key}": value for part in ("image_proj", "ip_adapter") for key, value in weights[part].items()}
        found = difference(state, {key: tuple(value.shape) for key, value in adapter.state_dict().items()})
        if found:
            raise LikenessError(f"the checkpoint does not fit {type(adapter.image_proj).__name__}: {found}")
        adapter.load_state_dict({key: value.detach().clone() for key, value in state.items()}, assign=True)
        return adapter.requires_grad_(True)

    def published(self) -> dict[str, dict[str, Tensor]]:
        """The checkpoint as the released files hold it, on the CPU; diffusers' `load_ip_adapter` takes it as it is."""
        parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, value in self.state_dict().items():
            part, _, name = key.partition(".")
            parts[part][name] = value.detach().cpu().contiguous()
        # In the order of the network's layers, whatever order training made them in: the same adapter, the same file.
        parts["ip_adapter"] = {key: parts["ip_adapter"][key] for key in sorted(parts["ip_adapter"], key=_place)}
        return parts

    @property
    def lora_rank(self) -> int:
        """Rank of the FaceID family's low-rank part; 0 without one."""
        ranks = {linear.out_features for name, linear in self.ip_adapter.named_modules() if name.endswith("_lora.down")}
        return int(max(ranks, default=0))  # type: ignore[arg-type,call-overload]


class NearestMaskProcessor(IPAdapterAttnProcessor2_0):
    """diffusers' processor with masks resized as InstantID has it, to the nearest pixel, where diffusers' own are bicubic."""

    def fitted(self, mask: Tensor, queries: int) -> Tensor:
        """(1, images, height, width) at the size of the queries; bicubic resizing to the same size then changes nothing."""
        return nearest_mask(mask, queries)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        scale: float = 1.0,
        ip_adapter_masks: Any = None,
    ) -> Tensor:
        if ip_adapter_masks is not None:
            queries = hidden_states.shape[1] if hidden_states.ndim == 3 else hidden_states[0, 0].numel()
            ip_adapter_masks = [None if mask is None else self.fitted(mask, queries) for mask in ip_adapter_masks]
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb, scale, ip_adapter_masks)


@dataclass
class Installed:
    """Adapters in a UNet. `remove` (or leaving a `with`) gives the UNet back as it was."""

    unet: Any
    adapters: tuple[IPAdapter, ...]
    processors: dict[str, Any]
    projection: Any
    kind: Any
    loras: list[str] = field(default_factory=list)

    def set_scale(self, *scales: float) -> None:
        """Strength of the image branches, one number for all adapters or one each; 0 leaves a branch out altogether."""
        chosen = list(scales) * len(self.adapters) if len(scales) == 1 else list(scales)
        if len(chosen) != len(self.adapters):
            raise LikenessError(f"{len(scales)} scales for {len(self.adapters)} adapters", allowed="one, or one each")
        for name in self.processors:
            self.unet.get_submodule(name).processor.scale = list(chosen)

    def remove(self) -> None:
        for name, processor in self.processors.items():
            self.unet.get_submodule(name).set_processor(processor)
        del self.unet.encoder_hid_proj
        self.unet.encoder_hid_proj = self.projection
        self.unet.config.encoder_hid_dim_type = self.kind
        if self.loras:
            _remove_loras(self.unet, self.loras)
        self.processors = {}

    def __enter__(self) -> Installed:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def install(unet: Any, adapters: IPAdapter | Sequence[IPAdapter], scale: float = 1.0, nearest_masks: bool = False) -> Installed:
    """Puts adapters into a UNet, sharing their weights: training the UNet's output trains the adapter.

    Image embeddings are then passed as diffusers wants them: added_cond_kwargs={"image_embeds": [...]}, one tensor per adapter,
    (B, images, D) or (B, images, tokens, D); without guidance's image: the projection of zeros, not zero tokens.
    Give the UNet its device and dtype before: a later `unet.to(...)` would move the adapter with it. Make every ControlNet with
    `from_unet` before too.

    Args:
        unet: a UNet2DConditionModel with diffusers' default attention processors.
        adapters: one or several; they act side by side.
        scale: of all image branches.
        nearest_masks: resize `ip_adapter_masks` as InstantID does.

    Raises:
        LikenessError: adapters are there already, or an adapter's shapes are another UNet's.
    """
    adapters = (adapters,) if isinstance(adapters, IPAdapter) else tuple(adapters)
    names = attention_names(unet)
    crossing = {str(number): name for number, name in enumerate(names) if number % 2}
    for name in crossing.values():
        if type(unet.get_submodule(name).processor) not in (AttnProcessor, AttnProcessor2_0):
            raise LikenessError(
                f"{name} already has the processor {type(unet.get_submodule(name).processor).__name__}",
                allowed="a UNet with diffusers' default processors",
                fix="remove what is installed, or install all adapters in one call",
            )
    for adapter in adapters:
        _check_fit(unet, names, adapter)
    trainable = {parameter: parameter.requires_grad for module in (unet, *adapters) for parameter in module.parameters()}
    others = active_loras(unet)
    loras = [_install_lora(unet, names, adapter, f"ip_adapter_{i}") for i, adapter in enumerate(adapters) if adapter.lora_rank]
    if loras:
        activate_loras(unet, [*others, *loras])
    for parameter, wanted in trainable.items():  # peft freezes all that is not its own
        parameter.requires_grad_(wanted)

    processors = {}
    for number, name in crossing.items():
        layer = unet.get_submodule(name)
        kind = NearestMaskProcessor if nearest_masks else IPAdapterAttnProcessor2_0
        with torch.device("meta"):
            linear = linear_of(layer, "to_k")
            tokens = [adapter.image_proj.num_tokens for adapter in adapters]
            processor = kind(linear.out_features, linear.in_features, tokens, [scale] * len(adapters))
        processor.to_k_ip = nn.ModuleList(adapter.ip_adapter[number]["to_k_ip"] for adapter in adapters)  # type: ignore[index]
        processor.to_v_ip = nn.ModuleList(adapter.ip_adapter[number]["to_v_ip"] for adapter in adapters)  # type: ignore[index]
        processors[name] = layer.processor
        layer.set_processor(processor)
    installed = Installed(unet, adapters, processors, unet.encoder_hid_proj, unet.config.encoder_hid_dim_type, loras)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([adapter.image_proj for adapter in adapters])
    unet.config.encoder_hid_dim_type = "ip_image_proj"
    return installed


def _install_lora(unet: Any, names: list[str], adapter: IPAdapter, label: str) -> str:
    from peft import LoraConfig

    targets = {
        f"{names[int(number)]}.{'to_out.0' if part == 'to_out_lora' else part.removesuffix('_lora')}": pair
        for number, parts in adapter.ip_adapter.items()
        for part, pair in parts.items()  # type: ignore[operator]
        if part.endswith("_lora")
    }
    rank = adapter.lora_rank
    # The family has no alpha: its low-rank parts are added as they are.
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), adapter_name=label)
    for name, pair in targets.items():
        layer = unet.get_submodule(name)
        layer.lora_A[label], layer.lora_B[label] = pair["down"], pair["up"]
    return label


def _remove_loras(unet: Any, labels: list[str]) -> None:
    if set(unet.peft_config) == set(labels):
        unet.unload_lora()
    else:
        activate_loras(unet, [name for name in active_loras(unet) if name not in labels])
        unet.delete_adapters(labels)


def _check_fit(unet: nn.Module, names: list[str], adapter: IPAdapter) -> None:
    shapes = {}
    for number, name in enumerate(names):
        layer: Any = unet.get_submodule(name)
        if number % 2:
            for part in ("to_k", "to_v"):
                shapes[f"{number}.{part}_ip.weight"] = tuple(linear_of(layer, part).weight.shape)
        for part in LORA_PARTS if adapter.lora_rank else ():
            linear = linear_of(layer, part)
            shapes[f"{number}.{part}_lora.down.weight"] = (adapter.lora_rank, linear.in_features)
            shapes[f"{number}.{part}_lora.up.weight"] = (linear.out_features, adapter.lora_rank)
    found = difference(adapter.ip_adapter.state_dict(), shapes)
    if found:
        raise LikenessError(
            f"the adapter was made for another UNet: {found}",
            allowed="an adapter of the backbone's family: SD 1.5 (context of 768), SDXL (2048)",
        )


def _copy(linear: Any) -> nn.Linear:
    made = nn.Linear(linear.in_features, linear.out_features, bias=False, device=linear.weight.device)
    made.load_state_dict({"weight": linear.weight.detach()})
    return made


def _place(key: str) -> tuple[int, str]:
    number, _, rest = key.partition(".")
    return (int(number) if number.isdigit() else -1, rest)
