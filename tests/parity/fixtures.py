"""Reads parity fixtures: what published code computes, fixed without its checkpoint.

Every weight is drawn from its published name and every input from a seed, so an implementation that loads the published
layout must give the stored outputs. A fixture is MODULE.json (how to build, what to feed, shapes of state dict and outputs)
beside MODULE.npz (the outputs, flattened and thinned by `stride`).
"""

import json
import math
import zlib
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

ROOT = Path(__file__).parent / "fixtures"
_Module = TypeVar("_Module", bound=torch.nn.Module)


def value_for(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 weight that belongs to a published name.

    Matrices and kernels: normal / sqrt(fan_in). Vectors and scalars: 1 + 0.1 |normal| for running variances,
    1 + 0.1 normal for weights, 0.1 normal for the rest.
    """
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(tuple(shape), dtype=np.float32)
    if len(shape) > 1:
        # A float64 divisor: numpy then divides as the fixtures' makers did and rounds once.
        value = draw / np.sqrt(max(1, math.prod(shape[1:])))
    elif key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(draw)
    else:
        value = 1 + 0.1 * draw if key.endswith("weight") else 0.1 * draw
    return np.asarray(value, dtype=np.float32)


def make_input(shape: tuple[int, ...], seed: int, kind: str = "normal") -> np.ndarray:
    """One input array: "normal" and "uniform" (in [0, 1)) as float32, "int:N" as int64 in [0, N)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    if kind == "normal":
        return rng.standard_normal(tuple(shape), dtype=np.float32)
    if kind == "uniform":
        return rng.random(tuple(shape), dtype=np.float32)
    name, _, limit = kind.partition(":")
    if name != "int" or not limit:
        raise ValueError(f"unknown input kind {kind!r}: want 'normal', 'uniform' or 'int:N'")
    return rng.integers(0, int(limit), tuple(shape), dtype=np.int64)


def load(method: str, module: str, root: Path = ROOT) -> tuple[dict, dict[str, np.ndarray]]:
    """A fixture's description and its expected outputs, each stored as full.reshape(-1)[::stride]."""
    description = json.loads((root / method / f"{module}.json").read_text(encoding="utf-8"))
    arrays = root / method / f"{module}.npz"
    if not arrays.exists():
        return description, {}
    with np.load(arrays) as stored:
        return description, dict(stored)


def compare(actual: np.ndarray, expected: np.ndarray, stride: int = 1) -> float:
    """||actual - expected|| / ||expected|| at the stored positions; infinity where sizes differ or a value is not finite."""
    got, want = _pair(actual, expected, stride)
    if got is None:
        return math.inf
    return float(np.linalg.norm(got - want) / max(1e-12, np.linalg.norm(want)))


def max_error(actual: np.ndarray, expected: np.ndarray, stride: int = 1) -> float:
    """max |actual - expected| / max |expected| at the stored positions; infinity as in `compare`."""
    got, want = _pair(actual, expected, stride)
    if got is None:
        return math.inf
    return float(np.abs(got - want).max(initial=0) / max(1e-12, np.abs(want).max(initial=0)))


def _pair(actual: np.ndarray, expected: np.ndarray, stride: int) -> tuple[np.ndarray | None, np.ndarray]:
    got = np.asarray(actual, dtype=np.float64).reshape(-1)[::stride]
    want = np.asarray(expected, dtype=np.float64).reshape(-1)
    return (got if got.shape == want.shape and np.isfinite(got).all() else None), want


def tensor(spec: dict, *, scale: float = 1.0) -> torch.Tensor:
    """The input an entry of description["inputs"] with shape, seed and kind describes, times `scale`."""
    return torch.from_numpy(make_input(spec["shape"], spec["seed"], spec.get("kind", "normal"))) * scale


def fill(module: _Module, description: dict) -> _Module:
    """Checks a module's state dict against the fixture's, name by name, draws its weights and puts it in eval mode."""
    state = module.state_dict()
    ours = {key: list(value.shape) for key, value in state.items()}
    theirs = {key: list(shape) for key, shape in description["state_dict"].items()}
    assert ours.keys() == theirs.keys(), (
        f"missing {sorted(theirs.keys() - ours.keys())[:5]}, unexpected {sorted(ours.keys() - theirs.keys())[:5]}"
    )
    assert ours == theirs, {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
    drawn = {
        key: torch.from_numpy(value_for(key, tuple(value.shape))) if value.is_floating_point() else value
        for key, value in state.items()
    }
    module.load_state_dict(drawn, strict=True)
    description["filled"] = True  # the harness refuses a fixture with weights that no adapter loaded
    return module.eval()
