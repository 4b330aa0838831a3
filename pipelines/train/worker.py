"""One rank of a run: build, load, train; on rank 0 also track, export, check and register."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from infra.errors import LikenessError
from infra.registry import Registry, Version
from infra.settings import describe
from infra.storage.dataset import open_dataset
from infra.workspace import Workspace
from models.registry import method_named
from pipelines.media import write_media
from pipelines.train.bundle import register_bundle
from pipelines.train.plan import RunPlan
from training import distributed
from training.artefact import StageArtefact, export, open_artefact
from training.loader import Loader
from training.loop import Loop, Observer, Outcome, train
from training.stage import Evaluation
from training.tracking import Tracker


class Both(Observer):
    """Tells the tracker and the progress display."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def started(self, done: int, total: int) -> None:
        for each in self.observers:
            each.started(done, total)

    def logged(self, step: int, values: Any) -> None:
        for each in self.observers:
            each.logged(step, values)

    def validated(self, step: int, evaluation: Evaluation) -> None:
        for each in self.observers:
            each.validated(step, evaluation)

    def stepped(self, step: int) -> None:
        for each in self.observers:
            each.stepped(step)

    def saved(self, step: int) -> None:
        for each in self.observers:
            each.saved(step)


def run_rank(plan: RunPlan, stop: Callable[[], bool], display: Observer) -> dict[str, Any]:
    """Train on this rank; collective over the group. Returns a record of the outcome (the same on every rank but `version`)."""
    distributed.setup(plan.loop.threads)
    stage = plan.make_stage()
    datasets = {source: open_dataset(path) for source, (path, _) in plan.datasets.items()}
    for source, (path, digest) in plan.datasets.items():
        if (datasets[source].digest, datasets[source].view) != (digest, plan.views.get(source, {})):
            raise LikenessError(f"dataset {path} changed while the run was starting", fix="run the command again")
    loader = Loader(stage, datasets, plan.loop)
    if distributed.rank() != 0:
        outcome, _ = train(stage, plan.artefacts(), loader, plan.loop, plan.run_dir, Observer(), stop)
        return {"step": outcome.step, "finished": outcome.finished, "metrics": outcome.metrics}
    plan.run_dir.mkdir(parents=True, exist_ok=True)
    (plan.run_dir / "config.json").write_text(json.dumps(plan.settings, indent=1, sort_keys=True))
    space = Workspace(Path(plan.workspace))
    tracker = Tracker(space, plan.run_dir, write_media)
    tracker.open(
        plan.method, f"{plan.name}-{plan.key}", plan.settings, {key: value for key, _, value in describe(stage.config)},
        plan.datasets, {"method": plan.method, "stage": plan.stage, "run_key": plan.key}
        | {f"upstream.{name}": reference for name, (_, reference) in plan.upstream.items()}
        | {f"base.{name}": value for name, value in plan.base.items()}
        | {f"data.{source}.{name}": value for source, view in plan.views.items() for name, value in view.items()},
    )  # fmt: skip
    status = "FAILED"
    try:
        outcome, loop = train(stage, plan.artefacts(), loader, plan.loop, plan.run_dir, Both(tracker, display), stop)
        status = "FINISHED" if outcome.finished else "KILLED"
        version = _register(plan, loop, outcome, tracker.run_id, Registry(space)) if outcome.finished else None
    finally:
        tracker.close(status)
    record = {"step": outcome.step, "finished": outcome.finished, "metrics": outcome.metrics, "run_id": tracker.run_id}
    if version:
        record["version"] = version.uri
        (plan.run_dir / "result.json").write_text(json.dumps(record))
    return record


def _register(plan: RunPlan, loop: Loop, outcome: Outcome, run_id: str, registry: Registry) -> Version:
    facts = {
        "method": plan.method, "stage": plan.stage, "stage_config": {k: v for k, v in plan.settings.items() if k != "loop"},
        "loop_config": plan.settings["loop"], "datasets": {s: d for s, (_, d) in plan.datasets.items()},
        "upstream": {name: reference for name, (_, reference) in plan.upstream.items()}, "run_id": run_id,
        "run_key": plan.key, "steps": outcome.step, "metrics": outcome.metrics,
        "licence": method_named(plan.method).licence,
    }  # fmt: skip
    if plan.views:
        facts["dataset_rows"] = plan.views
    if plan.base:
        facts["base"] = {"reference": plan.settings["base"], **plan.base}
    weights, averages = {}, {}
    for role, names in loop.stage.roles.items():
        with loop.engines.whole(role) as module:
            for name in names:
                if name in loop.stage.components():
                    weights[name] = {k: v.clone() for k, v in module[name].state_dict().items()}
        if role in loop.averages:
            for name in names:
                own = loop.averages[role].values
                averages[name] = {k.removeprefix(name + "."): v for k, v in own.items() if k.startswith(name + ".")}
    artefact = export(plan.run_dir / "artefact", facts, weights, averages)
    tags = {"method": plan.method, "stage": plan.stage, "run_key": plan.key} | {
        f"val.{name}": f"{value:.5g}" for name, value in outcome.metrics.items()
    }
    version = registry.register(plan.name, artefact.path, run_id, tags, lambda folder: reload_check(plan, folder, weights))
    register_bundle(method_named(plan.method), plan.stage, registry, run_id)
    return version


def reload_check(plan: RunPlan, folder: Path, expected: dict[str, dict[str, torch.Tensor]]) -> StageArtefact:
    """The artefact as the registry hands it out loads into freshly built networks and holds exactly what was trained.

    Raises:
        LikenessError: it does not.
    """
    artefact = open_artefact(folder)
    artefact.verify()
    networks = plan.make_stage().build(plan.artefacts())
    for component, state in expected.items():
        networks[component].load_state_dict(artefact.weights(component, averaged=False), strict=True)
        for key, value in networks[component].state_dict().items():
            if not torch.equal(value.cpu(), state[key].cpu().to(value.dtype)):
                raise LikenessError(f"artefact {folder}: {component} {key} differs from the trained weights after reloading")
    return artefact
