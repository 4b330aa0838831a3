"""Low-rank adapters (LoRA) on UNets, ControlNets and text encoders through peft, in diffusers' file layout, alpha kept.

    y = W x + (alpha / rank) B A x        (Hu et al. 2021, arXiv 2106.09685, section 4.1; B begins as zero)

Files made without the adapter's settings are read with alpha = rank, which is another network wherever alpha was not the rank.
So the settings always go into the file's metadata here.
"""

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from infra.errors import LikenessError

UNET_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
FILE_NAME = "pytorch_lora_weights.safetensors"
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


def add_lora(
    model: Any, rank: int, alpha: float | None = None, targets: tuple[str, ...] = UNET_ATTENTION, name: str = "default"
) -> None:
    """Adds a low-rank adapter that changes nothing yet; only its parameters train afterwards.

    Args:
        model: a diffusers or transformers network.
        rank: r.
        alpha: strength times rank; None for the rank, a factor of 1.
        targets: module names, or their last parts.
        name: of the adapter, for models with several.

    Raises:
        LikenessError: no module has such a name, or the adapter is there already.
    """
    from peft import LoraConfig

    if name in getattr(model, "peft_config", {}):
        raise LikenessError(f"{type(model).__name__} already has an adapter {name!r}", fix="pass another name, or remove_lora")
    names = [each for each, _ in model.named_modules()]
    absent = [target for target in targets if not any(each == target or each.endswith(f".{target}") for each in names)]
    if absent or not targets:
        raise LikenessError(
            f"{type(model).__name__} has no module {', '.join(absent) or '(none named)'}",
            allowed="names of linear or convolution layers: UNET_ATTENTION, TEXT_ATTENTION, or any of the network's",
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # type: ignore[arg-type]
        target_modules=list(targets),
        init_lora_weights="gaussian",  # type: ignore[arg-type]
    )
    model.add_adapter(config, adapter_name=name)


def set_lora_scale(model: Any, scale: float, name: str = "default") -> None:
    """Factor on the adapter's part; 0 gives the base network's output."""
    from diffusers.utils.peft_utils import set_weights_and_activate_adapters

    _need(model, name)
    set_weights_and_activate_adapters(model, [name], [scale])


def active_loras(model: Any) -> list[str]:
    """Names of the adapters that act."""
    return list(model.active_adapters()) if getattr(model, "peft_config", None) else []


def activate_loras(model: Any, names: list[str]) -> None:
    """Chooses the adapters that act; their scales stay, which diffusers' own `set_adapters` would reset."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(names)


def merge_lora(model: Any, name: str = "default") -> None:
    """Adds the adapter, at its present scale, to the weights, and takes it off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    _need(model, name)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(adapter_names=[name])
    _strip(model, name)


def remove_lora(model: Any, name: str = "default") -> None:
    """Takes the adapter off; the weights are those from before, bit for bit."""
    _need(model, name)
    _strip(model, name)


def save_lora(folder: str | Path, name: str = "default", **models: Any) -> Path:
    """Writes `pytorch_lora_weights.safetensors` as diffusers' pipelines read it; the same weights give the same bytes.

    Args:
        folder: made if need be.
        models: unet, text_encoder, text_encoder_2, as many as have the adapter.

    Returns:
        The file.
    """
    from diffusers import StableDiffusionXLPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    _known(models)
    arguments: dict[str, Any] = {}
    for component, model in models.items():
        _need(model, name)
        # Embedding layers are never part of it; "auto" would ask the hub about the base model.
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
        arguments[f"{component}_lora_layers"] = {key: value.detach().cpu().contiguous() for key, value in sorted(state.items())}
        arguments[f"{component}_lora_adapter_metadata"] = _settings(model.peft_config[name])
    # SDXL's writer knows all three components; for one or two it writes what SD's does.
    StableDiffusionXLPipeline.save_lora_weights(folder, **arguments)
    file = Path(folder) / FILE_NAME
    _sort_header(file)
    return file


def load_lora(path: str | Path, name: str = "default", **models: Any) -> dict[str, float]:
    """Reads an adapter file of diffusers' or kohya's layout into networks.

    Args:
        path: the file, or the folder it lies in.
        models: unet, text_encoder, text_encoder_2: those to be adapted; parts of the file for others are left.

    Returns:
        alpha / rank by component, as they are in effect.

    Raises:
        LikenessError: no file, or it has nothing for one of the networks.
    """
    from diffusers import StableDiffusionXLPipeline

    _known(models)
    path = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise LikenessError(f"no adapter at {path}", allowed=f"a LoRA file, or a folder with {FILE_NAME}")
    state, alphas, settings = StableDiffusionXLPipeline.lora_state_dict(
        str(path.parent),
        weight_name=path.name,
        return_lora_metadata=True,
        unet_config=getattr(models.get("unet"), "config", None),
    )
    factors = {}
    for component, model in models.items():
        if not any(key.startswith(f"{component}.") for key in state):
            raise LikenessError(f"{path.name} has no adapter for {component}", allowed="files saved with that component adapted")
        if name in getattr(model, "peft_config", {}):
            raise LikenessError(f"{component} already has an adapter {name!r}", fix="pass another name, or remove_lora")
        if component == "unet":
            StableDiffusionXLPipeline.load_lora_into_unet(state, alphas, model, adapter_name=name, metadata=settings)
        else:
            StableDiffusionXLPipeline.load_lora_into_text_encoder(
                state, alphas, model, prefix=component, adapter_name=name, metadata=settings
            )
        config = model.peft_config[name]
        factors[component] = config.lora_alpha / config.r
    return factors


def _settings(config: Any) -> dict[str, Any]:
    settings = {key: sorted(value) if isinstance(value, set | frozenset) else value for key, value in config.to_dict().items()}
    # Where the base model lay on the machine that trained is no part of the adapter.
    return {**settings, "base_model_name_or_path": None}


def _sort_header(file: Path) -> None:
    """Puts a safetensors file's metadata in order: the library writes several entries in an order that changes with every call."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    os.replace(partial, file)


def _strip(model: Any, name: str) -> None:
    from diffusers.utils import delete_adapter_layers, recurse_remove_peft_layers

    if set(model.peft_config) == {name}:
        recurse_remove_peft_layers(model)
        del model.peft_config
        if hasattr(model, "_hf_peft_config_loaded"):
            model._hf_peft_config_loaded = False
        return
    delete_adapter_layers(model, name)
    model.peft_config.pop(name, None)


def _need(model: nn.Module, name: str) -> None:
    if name not in getattr(model, "peft_config", {}):
        there = ", ".join(getattr(model, "peft_config", {})) or "none"
        raise LikenessError(f"{type(model).__name__} has no adapter {name!r}", allowed=f"those there are: {there}", fix="add_lora")


def _known(models: dict[str, Any]) -> None:
    if not models or set(models) - set(COMPONENTS):
        raise LikenessError(f"adapters of {', '.join(models) or 'nothing'}", allowed=", ".join(COMPONENTS))
