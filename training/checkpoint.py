"""Checkpoints of a run: engines, averages and loop state commit together, as one directory rename.

Layout: RUN/checkpoints/00000100/{ROLE/..., ema.safetensors, state.json}. A directory without the `.part` suffix is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file

from infra.errors import LikenessError
from infra.storage.atomic import sync
from training import distributed
from training.ema import MovingAverage
from training.engines import Engines


@dataclass
class LoopState:
    """What the loop must know to go on: position is `step`, the rest follows from it and the seed."""

    step: int = 0
    open_gates: list[str] = field(default_factory=list)
    last_metrics: dict[str, float] = field(default_factory=dict)


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:08d}"


def saved_steps(run: Path) -> list[int]:
    """Steps with a whole checkpoint, oldest first."""
    return sorted(int(p.name) for p in (run / "checkpoints").glob("[0-9]*") if p.name.isdigit())


def save(run: Path, engines: Engines, averages: dict[str, MovingAverage], state: LoopState, keep: int) -> None:
    """Write a checkpoint and drop the oldest ones beyond `keep`. Collective: every rank calls it."""
    final = _folder(run, state.step)
    part = final.with_suffix(".part")
    first = distributed.rank() == 0
    if first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    distributed.barrier()
    distributed.broadcast_buffers(list(engines.roles.values()))
    for role, engine in engines.engines.items():
        engine.save_checkpoint(str(part), tag=role, save_latest=False)
    if first:
        if averages:
            flat = {f"{role}/{name}": value for role, ema in averages.items() for name, value in ema.values.items()}
            save_file(flat, part / "ema.safetensors")
        facts = asdict(state) | {"world": distributed.world_size(), "zero_stage": engines.loop.zero_stage}
        (part / "state.json").write_text(json.dumps(facts))
        for path in part.rglob("*"):
            if path.is_file():
                sync(path)
    distributed.barrier()
    if first:
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
        sync(final.parent)
        for step in saved_steps(run)[:-keep]:
            shutil.rmtree(_folder(run, step), ignore_errors=True)
    distributed.barrier()


def load_latest(run: Path, engines: Engines, averages: dict[str, MovingAverage]) -> LoopState | None:
    """Restore the newest whole checkpoint, or None when there is none. Collective."""
    steps = saved_steps(run)
    if not steps:
        return None
    folder = _folder(run, steps[-1])
    facts = json.loads((folder / "state.json").read_text())
    world, zero_stage = facts.pop("world"), facts.pop("zero_stage")
    if zero_stage != engines.loop.zero_stage or (zero_stage > 0 and world != distributed.world_size()):
        raise LikenessError(
            f"the checkpoint at step {steps[-1]} was written by {world} workers at zero_stage {zero_stage}, "
            f"this run has {distributed.world_size()} at zero_stage {engines.loop.zero_stage}",
            allowed="the same number of workers and zero_stage (any number of workers at zero_stage 0)",
            fix=f"pass --workers {world} zero_stage={zero_stage}",
        )
    for role, engine in engines.engines.items():
        path, _ = engine.load_checkpoint(str(folder), tag=role)
        if path is None:
            raise LikenessError(f"checkpoint {folder} has no engine for role {role!r}", fix=f"remove {folder}")
    if averages:
        flat = load_file(folder / "ema.safetensors")
        for role, ema in averages.items():
            ema.load({name: flat[f"{role}/{name}"] for name in ema.values})
    return LoopState(**facts)
