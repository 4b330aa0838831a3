"""Two ranks over gloo: ZeRO 0 to 3 agree with each other and with one rank, resume exactly, and need the freeze."""

from __future__ import annotations

import json
import os
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_loop import Log, weights
from toy import ToyBatches, ToyGan

from training import distributed
from training.config import LoopConfig
from training.loop import train
from training.stage import Optim


class NoNorm(ToyGan):
    """Batch statistics depend on how a batch is split over ranks; everything else must not. The hinge loss leaves gradients
    that cancel to rounding noise, which Adam would blow up to a full step: a larger eps keeps it noise."""

    class Config(ToyGan.Config):
        optim: dict[str, Optim] = {"generator": Optim(lr=1e-2, clip_norm=0.5, eps=1e-3), "critic": Optim(lr=1e-2, eps=1e-3)}

    def build(self, upstream):
        modules = super().build(upstream)
        modules["generator"] = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
        return modules


CASES = {
    "zero0": {}, "zero1": {"zero_stage": 1}, "zero2": {"zero_stage": 2}, "zero3": {"zero_stage": 3},
    "zero2-accumulated": {"zero_stage": 2, "accumulation": 2}, "zero1-ema": {"zero_stage": 1, "ema_decay": 0.9},
    "zero0-bf16": {"precision": "bf16"}, "zero2-bf16": {"precision": "bf16", "zero_stage": 2},
    "zero1-bf16-weights": {"precision": "bf16-weights", "zero_stage": 1},
    "zero2-bf16-weights": {"precision": "bf16-weights", "zero_stage": 2},
}  # fmt: skip
RESUMED = ("zero0", "zero1-ema", "zero2", "zero3", "zero2-bf16-weights")


def config(**changes) -> LoopConfig:
    return LoopConfig(**({"steps": 8, "batch_size": 8, "validate_every": 4, "save_every": 3, "log_every": 1} | changes))


def one_run(folder: Path, settings: LoopConfig, stop=lambda: False, unfrozen: bool = False) -> dict:
    log = Log()
    batches = ToyBatches(settings, distributed.rank(), distributed.world_size())
    stage = NoNorm()
    if unfrozen:
        from training.engines import Engines

        kept, Engines.only = Engines.only, lambda self, role: nullcontext()  # type: ignore[method-assign]
    try:
        outcome, loop = train(stage, {}, batches, settings, folder, log, stop)
    finally:
        if unfrozen:
            Engines.only = kept  # type: ignore[method-assign]
    whole = []
    for role in loop.engines.roles:
        with loop.engines.whole(role) as module:
            whole += [p.detach().float().flatten() for p in module.parameters()]
    return {"step": outcome.step, "rows": log.rows, "val": log.evaluations, "weights": torch.cat(whole).tolist()}


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    root = Path(folder)
    results = {name: one_run(root / name, config(**changes)) for name, changes in CASES.items()}
    for name in RESUMED:
        settings, calls = config(**CASES[name]), iter(range(100))
        # only rank 0 is asked to stop: the ranks must agree on the step
        first = one_run(root / f"{name}-cut", settings, lambda calls=calls: distributed.rank() == 0 and next(calls) >= 5)
        second = one_run(root / f"{name}-cut", settings)
        results[f"{name}-resumed"] = {
            "stopped_at": first["step"], "rows": first["rows"] | second["rows"], "val": first["val"] | second["val"],
            "weights": second["weights"],
        }  # fmt: skip
    results["zero0-unfrozen"] = one_run(root / "unfrozen", config(), unfrozen=True)
    if rank == 0:
        (root / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("two_ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(worker, (port, str(folder)), nprocs=2, start_method="spawn")
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory) -> dict:
    settings, log = config(), Log()
    _, loop = train(NoNorm(), {}, ToyBatches(settings, 0, 1), settings, tmp_path_factory.mktemp("one"), log)
    return {"weights": weights(loop).tolist(), "rows": log.rows}


def distance(a: list[float], b: list[float]) -> float:
    return float((torch.tensor(a) - torch.tensor(b)).abs().max())


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "zero2-accumulated", "zero1-ema"])
def test_agrees_with_one_rank(results, one_rank, name):
    assert distance(results[name]["weights"], one_rank["weights"]) < 1e-5
    for step, row in one_rank["rows"].items():
        assert results[name]["rows"][str(step)]["generator/total"] == pytest.approx(row["generator/total"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["zero0-bf16", "zero2-bf16", "zero1-bf16-weights", "zero2-bf16-weights"])
def test_half_precision_follows_single(results, one_rank, name):
    assert 0 < distance(results[name]["weights"], one_rank["weights"]) < 0.05


@pytest.mark.parametrize("name", RESUMED)
def test_resume_is_bit_equal(results, name):
    resumed, whole = results[f"{name}-resumed"], results[name]
    assert resumed["stopped_at"] == 5
    assert resumed["rows"] == whole["rows"]
    assert resumed["val"] == whole["val"]
    assert resumed["weights"] == whole["weights"]


def test_without_the_freeze_two_engines_corrupt_each_other(results):
    """What `Engines.only` is for: if this distance were 0, the freeze could go."""
    assert distance(results["zero0-unfrozen"]["weights"], results["zero0"]["weights"]) > 1e-3
