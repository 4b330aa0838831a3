"""What a training command means, resolved and checked before anything starts: settings, datasets, upstream artefacts.

The plan of the same command is the same, and its run directory is named by it: that is how rerunning a command resumes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import create_model

from infra.digest import of_json
from infra.errors import LikenessError
from infra.registry import Registry
from infra.settings import apply_overrides, merge
from infra.storage.copies import SIZE_VARIABLE, cache_bytes
from infra.storage.dataset import Dataset, open_dataset
from infra.storage.objects import as_path, is_object
from infra.workspace import Workspace
from models.diffusion.bases import open_base
from models.method import Method
from models.registry import method_named
from pipelines.imports import artefact_from_file
from preprocessing.fields import AnyOf
from training.artefact import StageArtefact, open_artefact
from training.config import LoopConfig
from training.loader import check_fields
from training.stage import Stage


@dataclass(frozen=True)
class RunPlan:
    """One stage's run; plain values, so that it can be sent to workers.

    Attributes:
        settings: the stage's resolved settings, with the loop's under "loop".
        datasets: source -> (path, or path:selection; manifest digest).
        upstream: component -> (artefact directory, what names it).
        views: source -> which of the dataset's rows (`Dataset.view`); only sources of which some are left out.
        base: of methods with a base model: its family and its checksum.
    """

    method: str
    stage: str
    settings: dict[str, Any]
    datasets: dict[str, tuple[str, str]]
    upstream: dict[str, tuple[str, str]]
    workspace: str
    views: dict[str, dict[str, str]] = field(default_factory=dict)
    base: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Registered model's name."""
        return f"{self.method}-{self.stage}"

    @property
    def key(self) -> str:
        """Names the run: equal for equal methods, settings, data and upstream."""
        facts = asdict(self)
        facts["datasets"] = {source: digest for source, (_, digest) in self.datasets.items()}
        facts["upstream"] = {name: reference for name, (_, reference) in self.upstream.items()}
        del facts["workspace"]
        for name in ("views", "base"):
            if not facts[name]:
                del facts[name]
        # how data are fetched and how much is kept or logged does not change what is computed
        facts["settings"] = facts["settings"] | {
            "loop": {k: v for k, v in facts["settings"]["loop"].items() if k not in ("loader_workers", "keep_checkpoints")}
        }
        if self.base:  # told apart by contents, wherever it lies
            facts["settings"].pop("base")
        return of_json(facts)[:12]

    @property
    def run_dir(self) -> Path:
        """Checkpoints, metrics, media and artefact of the run."""
        return Workspace(Path(self.workspace)).runs / f"{self.name}-{self.key}"

    @property
    def loop(self) -> LoopConfig:
        """The loop's settings."""
        return LoopConfig.model_validate(self.settings["loop"])

    def make_stage(self) -> Stage:
        """The stage with its settings."""
        stage = method_named(self.method).stage(self.stage)
        return stage(settings_model(stage)(**self.settings))

    def artefacts(self) -> dict[str, StageArtefact]:
        """The upstream artefacts, opened."""
        return {name: open_artefact(Path(path)) for name, (path, _) in self.upstream.items()}


def settings_model(stage: type[Stage]) -> type[Stage.Config]:
    """A stage's settings with the loop's under `loop`."""
    return create_model(f"{stage.__name__}Settings", __base__=stage.Config, loop=(LoopConfig, LoopConfig()))


def resolve_settings(method: Method, stage: type[Stage], preset: str, overrides: Sequence[str]) -> Stage.Config:
    """Defaults, then the preset, then `key=value` words.

    Raises:
        LikenessError: an unknown preset, key, or a value of the wrong type.
    """
    presets = method.presets()
    if preset not in presets:
        raise LikenessError(f"{method.name} has no preset {preset!r}", allowed=", ".join(presets) or "none")
    settings = merge(settings_model(stage)(), presets[preset].get(stage.name, {}))
    return apply_overrides(settings, overrides)


def words_for(method: Method, stage: type[Stage], words: Sequence[str]) -> list[str]:
    """The `key=value` words meant for a stage: those without a stage's name in front, and `STAGE.key=value` of this one."""
    names = {s.name for s in method.stages}
    own = [word.removeprefix(stage.name + ".") for word in words if word.partition(".")[0] == stage.name]
    return [word for word in words if word.partition(".")[0] not in names] + own


def open_sources(stage: Stage, data: Sequence[str]) -> dict[str, tuple[str, str]]:
    """`--data DATASET` (for the only source) or `--data SOURCE=DATASET` words -> source -> (path, digest), fields checked.

    `DATASET:SELECTION` means only the rows that the selection keeps.
    """
    named: dict[str, str] = {}
    for word in data:
        source, equals, path = word.partition("=")
        if not equals:
            source, path = next(iter(stage.reads())), word
        named[source] = path
    opened = {source: open_dataset(path) for source, path in named.items()}
    check_fields(stage, opened)
    _check_cache(stage, opened)
    return {source: (str(as_path(named[source]).absolute()), dataset.digest) for source, dataset in opened.items()}


def _check_cache(stage: Stage, opened: Mapping[str, Dataset]) -> None:
    """Say when the columns to be read from object storage are larger than the cache that should hold them."""
    wanted = {(dataset.digest, dataset.fields[option.name].column): dataset for name, dataset in opened.items()
              if is_object(dataset.root) for field in stage.reads()[name].fields
              for option in (field.options if isinstance(field, AnyOf) else (field,)) if option.name in dataset.fields}  # fmt: skip
    size = sum(shard.bytes for (_, column), dataset in wanted.items() for shard in dataset.manifest.columns[column].shards)
    if size > cache_bytes():
        logging.getLogger(__name__).warning(
            "stage %s reads %.1f GB from object storage, and copies may take %.1f GB: shards will be fetched again and again; "
            "raise %s", stage.name, size / 1e9, cache_bytes() / 1e9, SIZE_VARIABLE)  # fmt: skip


def find_upstream(
    method: Method, stage: type[Stage], starts: Sequence[str], registry: Registry
) -> dict[str, tuple[str, str]]:
    """Component -> (directory, reference) of what the stage builds on.

    Args:
        starts: `--from` words: a published file, `models:/NAME@ALIAS`, or `COMPONENT=` before either.
    """
    found: dict[str, tuple[str, str]] = {}
    for word in starts:
        component, equals, reference = word.partition("=")
        if not equals:
            component, reference = "", word
        if reference.startswith("models:/"):
            version = registry.find(reference)
            artefact = open_artefact(registry.fetch(version))
            given = [component] if component else [c for c in artefact.components if c in stage.upstream]
            for name in given:
                found[name] = (str(artefact.path), version.uri)
        else:
            artefact = artefact_from_file(method, Path(reference), registry.space)
            name = component or artefact.components[0]
            found[name] = (str(artefact.path), "sha256:" + artefact.facts["imported_sha256"])
    unused = [name for name in found if name not in stage.upstream]
    for name in unused:
        del found[name]
    for name, need in stage.upstream.items():
        if name in found or need.stage == stage.name:
            continue
        registered = registry.versions(f"{method.name}-{need.stage}")
        if registered:
            found[name] = (str(registry.fetch(registered[0])), registered[0].uri)
        elif need.required:
            raise LikenessError(
                f"{method.name} {stage.name} builds on {name} of stage {need.stage!r}, and none is registered",
                fix=f"run: likeness train {method.name} --stage {need.stage} --data DATASET, or pass --from FILE",
            )
    return found


def make_plan(
    method: Method, stage: type[Stage], *, data: Sequence[str], preset: str, overrides: Sequence[str],
    starts: Sequence[str], registry: Registry,
) -> RunPlan:
    """Resolve one stage's run.

    Raises:
        LikenessError: anything that would make the run fail later.
    """
    settings = resolve_settings(method, stage, preset, overrides)
    sources = open_sources(stage(settings), data)
    views = {source: open_dataset(path, digest).view for source, (path, digest) in sources.items()}
    upstream = find_upstream(method, stage, starts, registry)
    return RunPlan(
        method.name, stage.name, settings.model_dump(mode="json"), sources, upstream, str(registry.space.path),
        {s: view for s, view in views.items() if view}, base_facts(method, settings),
    )


def base_facts(method: Method, settings: Any) -> dict[str, str]:
    """Family and checksum of the base model that a stage's settings name; {} for methods without one.

    Raises:
        LikenessError: it is absent (says how to get it), or of a family that the method does not run on.
    """
    if not method.families:
        return {}
    backbone = open_base(settings.base, method.families)
    return {"family": backbone.family, "sha256": backbone.checksum}
