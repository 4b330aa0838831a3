"""Published checkpoints as artefacts: converted once per file, then used like any stage's result."""

from __future__ import annotations

from pathlib import Path

from infra.digest import of_file
from infra.errors import LikenessError
from infra.model_files import find_model
from infra.workspace import Workspace
from models.method import Method, resolve
from training.artefact import StageArtefact, export, open_artefact


def imported_folder(method: Method, checksum: str, space: Workspace) -> Path:
    """Where a published file with this sha256 is kept once imported."""
    return space.path / "imported" / f"{method.name}-{checksum[:16]}"


def artefact_from_file(method: Method, file: Path, space: Workspace) -> StageArtefact:
    """The artefact made of a published file (or folder), kept in the workspace under its checksum.

    Raises:
        LikenessError: no such file, or not one of the method's.
    """
    if not file.exists():
        raise LikenessError(f"there is no file {file}", allowed="a published checkpoint, or models:/NAME@ALIAS")
    if method.importer is None:
        raise LikenessError(f"{method.name} reads no published checkpoints", fix="train it: likeness train " + method.name)
    checksum = find_model(str(file))[1] if file.is_dir() else of_file(file)
    folder = imported_folder(method, checksum, space)
    if folder.is_dir():
        return open_artefact(folder)
    component, weights, config = resolve(method.importer)(file)
    folder.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "method": method.name, "stage": "published", "stage_config": config, "imported_file": file.name,
        "imported_sha256": checksum, "licence": method.licence,
    }  # fmt: skip
    return export(folder, facts, {component: weights})
