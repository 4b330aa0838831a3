"""Bundles: what generates. One registered version of METHOD holds a copy of each component's artefact and says whose it is."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from infra.errors import LikenessError
from infra.registry import Registry, Version
from models.method import Method
from training.artefact import StageArtefact, open_artefact

FILE = "bundle.json"


def register_bundle(method: Method, stage: str, registry: Registry, run_id: str) -> Version | None:
    """A new bundle with the newest version of each component, if `stage` provides one and all others are there."""
    chosen: dict[str, Version] = {}
    for component, stages in method.bundle.items():
        # the stage just trained wins; otherwise the best that is registered
        for candidate in ([stage] if stage in stages else []) + list(stages):
            versions = registry.versions(f"{method.name}-{candidate}")
            if versions:
                chosen[component] = versions[0]
                break
    provides = any(stage in stages for stages in method.bundle.values())
    if not provides or len(chosen) < len(method.bundle):
        return None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        for component, version in chosen.items():
            shutil.copytree(registry.fetch(version), folder / component)
        record = {"method": method.name, "components": {c: v.uri for c, v in chosen.items()}, "licence": method.licence}
        (folder / FILE).write_text(json.dumps(record, indent=1, sort_keys=True))
        tags = {"method": method.name} | {f"component.{c}": v.uri for c, v in chosen.items()}
        return registry.register(method.name, folder, run_id, tags, open_bundle, artifact_path="bundle")


def open_bundle(folder: Path) -> dict[str, StageArtefact]:
    """Component -> artefact of a bundle directory, each verified.

    Raises:
        LikenessError: not a bundle, or damaged.
    """
    file = folder / FILE
    if not file.is_file():
        raise LikenessError(f"{folder} is no bundle (no {FILE})", allowed="a version of METHOD: models:/wav2lip@champion")
    components = json.loads(file.read_text())["components"]
    artefacts = {name: open_artefact(folder / name) for name in components}
    for artefact in artefacts.values():
        artefact.verify()
    return artefacts
