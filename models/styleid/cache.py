"""Features of styles on disk: a file for each picture, model, schedule, layers and precision, found by a digest of all of them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra import digest
from infra.cache import cache_folder
from models.diffusion.attention_processor import Recorded
from models.styleid.injection import StyleInjection, Trace


def trace_file(injection: StyleInjection, latent: Tensor, checksum: str) -> Path:
    """Where the way to noise of a style's latent lies, or would.

    Args:
        checksum: of the base model.
    """
    exact = latent.detach().float().cpu().contiguous()
    facts = {
        "latent": digest.of_bytes(exact.numpy().tobytes()), "shape": list(exact.shape), "model": checksum,
        "layers": list(injection.layers), "moves": [[m.time, m.start, m.end] for m in injection.path.invert],
        "store": str(injection.store), "network": str(injection.unet.dtype), "device": latent.device.type,
    }  # fmt: skip
    return cache_folder() / "styleid" / f"{digest.of_json(facts)}.safetensors"


def write_trace(trace: Trace, file: Path) -> None:
    """Half-written files never carry the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"end": trace.end} | {f"seen/{time}": latent for time, latent in trace.seen.items()}
    for (layer, time), feature in trace.features.items():
        for part in ("query", "key", "value"):
            if (tensor := getattr(feature, part)) is not None:
                tensors[f"{layer}/{time}/{part}"] = tensor
    part_file = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part_file)
        os.replace(part_file, file)
    finally:
        part_file.unlink(missing_ok=True)


def read_trace(file: Path, device: torch.device | str = "cpu") -> Trace:
    """What `write_trace` wrote; on the CPU the file is mapped, not copied."""
    seen: dict[int, Tensor] = {}
    parts: dict[tuple[str, int], dict[str, Tensor]] = {}
    with safe_open(file, "pt", device=str(device)) as stored:
        for name in stored.keys():  # noqa: SIM118  (no mapping)
            words = name.split("/")
            if words[0] == "seen":
                seen[int(words[1])] = stored.get_tensor(name)
            elif len(words) == 3:
                parts.setdefault((words[0], int(words[1])), {})[words[2]] = stored.get_tensor(name)
        end = stored.get_tensor("end")
    return Trace(end, seen, {key: Recorded(**found) for key, found in parts.items()})  # type: ignore[arg-type]
