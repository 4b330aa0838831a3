"""A trained stage's own validation, on any dataset and split, without training it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from infra.errors import LikenessError
from infra.registry import Registry
from infra.settings import apply_overrides, merge
from infra.storage.dataset import open_dataset
from models.method import Method
from pipelines.imports import artefact_from_file, imported_folder
from pipelines.train.bundle import FILE as BUNDLE_FILE
from pipelines.train.bundle import open_bundle
from pipelines.train.plan import open_sources, settings_model
from training import distributed
from training.artefact import StageArtefact, open_artefact
from training.config import LoopConfig
from training.loader import check_rows, in_batches, open_examples
from training.loop import StepContext, to_device
from training.stage import Batch, Stage


@dataclass(frozen=True)
class StageScore:
    """A stage's validation over one split.

    Attributes:
        weights: what names them: models:/NAME/VERSION, or sha256:CHECKSUM of a published file.
        upstream: component -> reference of earlier stages that took part.
        datasets: source -> (path, manifest digest).
    """

    weights: str
    upstream: dict[str, str]
    datasets: dict[str, tuple[str, str]]
    split: str
    examples: int
    metrics: dict[str, float]


def evaluate_stage(
    method: Method, stage: type[Stage], reference: str, *, data: Sequence[str], registry: Registry, split: str = "val",
    starts: Mapping[str, str] | None = None, overrides: Sequence[str] = (),
) -> StageScore:  # fmt: skip
    """A stage's `validate` on a dataset, without training it.

    Settings are those it was trained with, so that on the training's own dataset and split "val" the numbers are those of its
    last validation (but always in fp32).

    Args:
        reference: models:/NAME@ALIAS of the stage, or of a bundle that holds it; an artefact's folder; or a published file.
        data: datasets as for training.
        starts: component -> reference, where another upstream artefact is to be used than the one it was trained with.
        overrides: `key=value` words: loop.validation_examples, loop.batch_size, loop.seed, ...

    Raises:
        LikenessError: weights of another stage, or not to be found; no rows in the split; a wrong setting.
    """
    name, artefact = _open(method, stage.name, reference, registry)
    facts = artefact.facts
    if facts["method"] != method.name or facts["stage"] not in (stage.name, "published"):
        raise LikenessError(
            f"{reference} is of {facts['method']} {facts['stage']}, not of {method.name} {stage.name}",
            fix=f"run: likeness evaluate stage {facts['method']} {facts['stage']} --model {reference}",
        )
    trained_with = {**facts["stage_config"], "loop": facts.get("loop_config", {})}
    made = stage(apply_overrides(merge(settings_model(stage)(), trained_with), overrides))
    loop: LoopConfig = made.config.loop
    missing = [component for component in made.components() if component not in artefact.components]
    if missing:
        has, needs = ", ".join(artefact.components), ", ".join(made.components())
        raise LikenessError(f"{reference} holds {has}, and stage {stage.name} needs {needs}", fix="name the stage it is of")
    sources = open_sources(made, data)
    batches = _batches(made, sources, loop, split)
    upstream = _upstream(method, stage, {**facts.get("upstream", {}), **(starts or {})}, registry)
    _restore(made, artefact, {component: found for component, (_, found) in upstream.items()}, loop)
    # gates that were open at the end of training are open here
    gates = [key.removeprefix("gate_") for key, value in facts.get("metrics", {}).items() if key.startswith("gate_") and value]
    context = StepContext(gates, distributed.device(), loop.seed)
    context.begin(facts.get("steps", 0), facts.get("steps", 0) * loop.batch_size)
    with torch.no_grad():
        metrics = made.validate(batches, context).metrics
    references = {component: ref for component, (ref, _) in upstream.items()}
    return StageScore(name, references, sources, split, loop.validation_examples, metrics)


def _open(method: Method, stage: str, reference: str, registry: Registry) -> tuple[str, StageArtefact]:
    """The artefact that a reference names, and the reference that names exactly it."""
    if reference.startswith("models:/"):
        version = registry.find(reference)
        folder = registry.fetch(version)
        if not (folder / BUNDLE_FILE).is_file():
            return version.uri, open_artefact(folder)
        parts = {part.facts["stage"]: part for part in open_bundle(folder).values()}
        if stage not in parts:
            raise LikenessError(f"bundle {reference} holds nothing of stage {stage!r}", allowed=", ".join(sorted(parts)))
        return version.uri, parts[stage]
    if Path(reference).is_dir():
        return "folder:" + Path(reference).name, open_artefact(Path(reference))
    if reference.startswith("sha256:"):  # a published file, imported for training
        folder = imported_folder(method, reference.removeprefix("sha256:"), registry.space)
        if not folder.is_dir():
            raise LikenessError(f"the published file with {reference} is not imported here", fix="pass --from COMPONENT=FILE")
        return reference, open_artefact(folder)
    artefact = artefact_from_file(method, Path(reference), registry.space)
    return "sha256:" + artefact.facts["imported_sha256"], artefact


def _upstream(
    method: Method, stage: type[Stage], references: Mapping[str, str], registry: Registry
) -> dict[str, tuple[str, StageArtefact]]:
    """What `build` cannot do without: component -> (reference, artefact). Weights only started from are left out."""
    unknown = [component for component in references if component not in stage.upstream]
    if unknown:
        allowed = ", ".join(stage.upstream) or "none"
        raise LikenessError(f"stage {stage.name} builds on no {unknown[0]!r}", allowed=allowed)
    found = {}
    for component, need in stage.upstream.items():
        if not need.required and need.use == "init":
            continue
        if component in references:
            found[component] = _open(method, need.stage, references[component], registry)
            has = found[component][1].components
            if component not in has:
                raise LikenessError(f"{references[component]} holds {', '.join(has)}", allowed=f"weights of the {component}")
        elif need.required:
            raise LikenessError(
                f"{method.name} {stage.name} is measured with {component} of stage {need.stage!r}, and these weights name none",
                fix=f"pass --from {component}=models:/{method.name}-{need.stage}, or a published file in its place",
            )
    return found


def _restore(stage: Stage, artefact: StageArtefact, upstream: Mapping[str, StageArtefact], loop: LoopConfig) -> None:
    """The stage's networks with the artefact's weights, in the modes in which training validates."""
    torch.set_num_threads(loop.threads)
    torch.manual_seed(loop.seed)
    trained = {module for modules in stage.roles.values() for module in modules}
    for name, module in stage.build(upstream).items():
        if name in stage.components():
            artefact.load(name, module)
        module.train(name not in trained and stage.frozen_mode(name) == "train")
        setattr(stage, name, module.to(distributed.device()))


def _batches(stage: Stage, sources: Mapping[str, tuple[str, str]], loop: LoopConfig, split: str) -> Iterator[Batch]:
    """Validation batches as in training, of any split."""
    datasets = {name: open_dataset(path, digest) for name, (path, digest) in sources.items()}
    examples = open_examples(stage, datasets, loop, split)
    examples.training = False  # also of split "train"
    check_rows(examples, split)
    size = max(1, loop.batch_size // loop.accumulation)
    device = distributed.device()
    return (to_device(batch, device) for batch in in_batches(examples, loop.validation_examples, size))
