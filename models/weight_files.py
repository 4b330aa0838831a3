"""Files of weights that other people wrote: read without running anything in them, refused with a reason."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.errors import LikenessError


def read_weights(path: str | Path, expected: str) -> Any:
    """What `torch.save` wrote to a file (zip or legacy format), tensors on the CPU; only plain data is unpickled.

    Args:
        path: the file.
        expected: the file or files that belong here, for the messages ("syncnet_v2.model").

    Raises:
        LikenessError: absent, cut short, not torch's, a TorchScript program, or holding pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise LikenessError(f"no weights at {path}", allowed=expected, fix="place the file there or pass another path")
    if _is_torchscript(path):
        raise LikenessError(
            f"{path} is a TorchScript archive (a program), not a file of weights",
            allowed=expected,
            fix=f"if you trust it, rewrite it: torch.save(torch.jit.load({path.name!r}, 'cpu').state_dict(), 'weights.pth')",
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # a damaged file fails anywhere in torch's reader, as almost any type
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if refused:
        raise LikenessError(
            f"{path} holds more than plain weights: a pickled {refused[1]}, which could run code",
            allowed=expected,
            fix=f"if you trust it, torch.load({path.name!r}, weights_only=False) and torch.save its state dict alone",
        )
    raise LikenessError(
        f"{path} is not a complete torch checkpoint",
        allowed=expected,
        fix="fetch it again and compare its size or checksum: a web page or half a download is often saved under such a name",
    )


def state_dict_of(content: Any) -> dict[str, Tensor] | None:
    """The state dict in a file's content, bare or under "state_dict", without DataParallel's `module.`; None without one."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        return None
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def difference(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Where a state dict departs from the keys and shapes wanted, naming the first of each kind; "" where nowhere."""
    reshaped = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(shape)}"
        for key, shape in shapes.items()
        if key in weights and tuple(weights[key].shape) != tuple(shape)
    ]
    kinds = {
        "missing": [key for key in shapes if key not in weights],
        "unexpected": [key for key in weights if key not in shapes],
        "of another shape": reshaped,
    }
    return "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for kind, names in kinds.items()
        if names
    )


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
