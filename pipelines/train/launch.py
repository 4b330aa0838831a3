"""Where ranks run: the calling process for one worker, Ray Train for more.

A Ray Train launch takes tens of seconds, so one worker never goes through it. A request to stop reaches the loop in two ways:
as SIGTERM or Ctrl-C in the calling process, and from there to Ray's workers (which are not its children) as a file in the run
directory that rank 0 looks at before every step.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.errors import LikenessError
from pipelines.train.display import Display
from pipelines.train.plan import RunPlan
from pipelines.train.worker import run_rank

STOP_FILE = "STOP"


class Interrupted(LikenessError):
    """The run was asked to stop and saved its state."""

    exit_code = 143


@contextmanager
def stop_request(stop_file: Path | None = None) -> Iterator[threading.Event]:
    """Within, SIGTERM and SIGINT set the event (and write the file) instead of ending the process; a second one ends it."""
    asked = threading.Event()

    def ask(number: int, _: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        if stop_file is not None:
            stop_file.touch()

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals belong to the main thread
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(plan: RunPlan, workers: int) -> dict[str, Any]:
    """Train to the end; returns the outcome record.

    Raises:
        Interrupted: stopped on request, state saved; the same command goes on.
        LikenessError: as the run says.
    """
    plan.loop.micro_batch(workers)  # refuse before anything starts
    plan.loop.check()
    plan.run_dir.mkdir(parents=True, exist_ok=True)
    stop_file = plan.run_dir / STOP_FILE
    stop_file.unlink(missing_ok=True)
    if workers == 1:
        with stop_request() as asked:
            display = Display(plan.name)
            try:
                record = run_rank(plan, asked.is_set, display)
            finally:
                display.close()
    else:
        with stop_request(stop_file):
            record = _through_ray(plan, workers)
    if not record["finished"]:
        raise Interrupted(f"{plan.name} stopped at step {record['step']}; its state is saved", fix="run the same command to go on")
    return record


def _through_ray(plan: RunPlan, workers: int) -> dict[str, Any]:
    import ray
    import torch
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from infra.cluster import connect

    if not ray.is_initialized():
        connect(num_cpus=max(workers + 1, os.cpu_count() or 1))
    # of the cluster, not of this machine: a head node often has none
    gpu = ray.cluster_resources().get("GPU", 0) > 0 and bool(torch.version.cuda or torch.version.hip)
    trainer = TorchTrainer(
        _rank_in_ray, train_loop_config=asdict(plan),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=None if gpu else {"CPU": 1}),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(name=plan.key, storage_path=str(plan.run_dir / "ray")),
    )
    try:
        trainer.fit()
    except ray.exceptions.RayError as error:
        raise _first_cause(error) from None
    return json.loads((plan.run_dir / "outcome.json").read_text())


def _first_cause(error: BaseException) -> BaseException:
    """The user's error inside Ray's wrappers, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        for inner in getattr(seen, "worker_failures", {}).values():
            found = _first_cause(inner)
            if isinstance(found, LikenessError):
                return found
        if isinstance(seen, LikenessError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error


def _rank_in_ray(plan_fields: dict[str, Any]) -> None:
    """One worker's whole life inside Ray Train."""
    import ray.train

    plan = RunPlan(**plan_fields)
    logging.getLogger("ray").setLevel(logging.WARNING)
    stop_file = plan.run_dir / STOP_FILE
    display = Display(plan.name)
    try:
        record = run_rank(plan, stop_file.exists, display)
    finally:
        display.close()
    if ray.train.get_context().get_world_rank() == 0:
        part = plan.run_dir / "outcome.part"
        part.write_text(json.dumps(record))
        os.replace(part, plan.run_dir / "outcome.json")
