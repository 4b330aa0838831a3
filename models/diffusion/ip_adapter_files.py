"""IP-Adapter files as they are released: two dicts in a `.bin` of torch, or one safetensors file with prefixed keys."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.ip_adapter import IPAdapter
from models.weight_files import read_weights

PARTS = ("image_proj", "ip_adapter")


def read_ip_adapter(path: str | Path) -> IPAdapter:
    """The adapter in a released file (`ip-adapter_sd15.bin`, InstantID's `ip-adapter.bin`, `.safetensors`), on the CPU.

    Raises:
        LikenessError: absent, damaged, holding more than tensors, or no IP-Adapter.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        content = read_weights(path, "an IP-Adapter file, .bin or .safetensors")
        return IPAdapter.from_published(content if isinstance(content, dict) else {})
    if not path.is_file():
        raise LikenessError(f"no IP-Adapter at {path}", fix="place the file there or pass another path")
    try:
        flat = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise LikenessError(f"{path} is no complete safetensors file ({error})", fix="fetch it again") from error
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for key, value in flat.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return IPAdapter.from_published(parts)


def write_ip_adapter(adapter: IPAdapter, path: str | Path) -> None:
    """Writes an adapter so that diffusers (`load_ip_adapter`) and the tools made for the released files read it.

    The file appears at once, whole. The same weights give the same bytes in safetensors.

    Args:
        path: ends in ".bin" or ".safetensors".
    """
    path = Path(path)
    parts = adapter.published()
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".safetensors":
        save_file({f"{part}.{key}": value for part in PARTS for key, value in parts[part].items()}, partial, {"format": "pt"})
    elif path.suffix == ".bin":
        torch.save(parts, partial)
    else:
        raise LikenessError(f"an IP-Adapter can't be written to {path.name}", allowed="a name ending in .bin or .safetensors")
    os.replace(partial, path)
