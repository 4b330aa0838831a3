"""The model registry: versions of artefact directories in MLflow, with aliases, checked before they count.

MLflow itself accepts a version whose path does not exist, so a version is made only after its files were downloaded from
where the registry will look for them and passed a check. Names: METHOD-STAGE for stages, METHOD for bundles.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra import digest
from infra.errors import LikenessError
from infra.workspace import Workspace

ALIASES = ("candidate", "champion", "previous")
REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))?")


@dataclass(frozen=True)
class Version:
    """One registered version; `aliases` are those that point at it now."""

    name: str
    version: int
    run_id: str
    source: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        """The reference that names exactly this version."""
        return f"models:/{self.name}/{self.version}"


class Registry:
    """The registry of one workspace."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.client = space.mlflow_client()

    def register(
        self, name: str, folder: Path, run_id: str, tags: Mapping[str, str], check: Callable[[Path], object],
        alias: str | None = "candidate", artifact_path: str = "model",
    ) -> Version:
        """Log an artefact directory to its run, download it again, check it, and make it a version.

        Raises:
            LikenessError: when the check fails; no version exists then.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        self.client.log_artifacts(run_id, str(folder), artifact_path)
        source = f"{self.client.get_run(run_id).info.artifact_uri}/{artifact_path}"
        with tempfile.TemporaryDirectory() as temporary:
            check(Path(download_artifacts(source, dst_path=temporary, tracking_uri=self.space.tracking_uri)))
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self.client.create_model_version(name, source=source, run_id=run_id, tags=dict(tags) | {"reload": "passed"})
        if alias:
            self.client.set_registered_model_alias(name, alias, made.version)
        return self.version(name, int(made.version))

    def version(self, name: str, version: int) -> Version:
        """One version by number."""
        made = self.client.get_model_version(name, str(version))
        aliases = tuple(a for a, v in self.client.get_registered_model(name).aliases.items() if int(v) == version)
        return Version(name, version, made.run_id or "", made.source or "", made.tags, aliases)

    def versions(self, name: str | None = None) -> list[Version]:
        """All versions, newest first per name."""
        names = [name] if name else sorted(m.name for m in self.client.search_registered_models(max_results=1000))
        found = []
        for each in names:
            numbers = sorted((int(v.version) for v in self.client.search_model_versions(f"name='{each}'")), reverse=True)
            found += [self.version(each, number) for number in numbers]
        return found

    def find(self, reference: str) -> Version:
        """The version that `models:/NAME@ALIAS`, `models:/NAME/3` or `models:/NAME` (the newest) names.

        Raises:
            LikenessError: naming what there is.
        """
        match = REFERENCE.fullmatch(reference)
        if not match:
            raise LikenessError(f"{reference!r} is no model reference", allowed="models:/NAME@ALIAS or models:/NAME/VERSION")
        name = match["name"]
        versions = self.versions(name)
        if not versions:
            names = sorted({v.name for v in self.versions()})
            near = get_close_matches(name, names, 1)
            raise LikenessError(
                f"no model {name!r} is registered in {self.space.shown_uri}", allowed=", ".join(names) or "none yet",
                fix=f"did you mean models:/{near[0]}?" if near else "train it: likeness train METHOD --data DATASET",
            )
        for version in versions:
            if match["version"] and version.version != int(match["version"]):
                continue
            if match["alias"] and match["alias"] not in version.aliases:
                continue
            return version
        there = "; ".join(f"version {v.version}{' @' + ', @'.join(v.aliases) if v.aliases else ''}" for v in versions)
        raise LikenessError(
            f"{reference} does not exist", allowed=there, fix=f"promote one: likeness model promote {name} VERSION"
        )

    def fetch(self, version: Version) -> Path:
        """A local directory with the version's files; those of a remote store are downloaded once per version."""
        scheme = urlsplit(version.source).scheme
        if scheme in ("", "file"):
            folder = Path(version.source.removeprefix("file://"))
        else:
            # the source names the run: another server's version 3 is another folder
            place = self.space.path / "fetched" / version.name
            folder = place / f"{version.version}-{digest.of_bytes(version.source.encode())[:8]}"
            if not folder.is_dir():
                self._download(version.source, folder)
        if not folder.is_dir():
            raise LikenessError(f"{version.uri}: its files are gone from {version.source}", fix="train or register it again")
        return folder

    def _download(self, source: str, folder: Path) -> None:
        """All of it or nothing: a folder that is there is whole."""
        from mlflow.artifacts import download_artifacts

        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            got = Path(download_artifacts(source, dst_path=temporary, tracking_uri=self.space.tracking_uri))
            if not folder.is_dir():
                os.replace(got, folder)

    def promote(self, name: str, version: int, alias: str = "champion") -> None:
        """Point an alias at a version; the champion so far becomes `previous`."""
        if alias not in ALIASES:
            raise LikenessError(f"alias {alias!r} is not used here", allowed=", ".join(ALIASES))
        wanted = self.find(f"models:/{name}/{version}")
        if wanted.tags.get("reload") != "passed":
            raise LikenessError(f"{wanted.uri} never passed its reload check", fix="register it again by training")
        if alias == "champion":
            current = [v for v in self.versions(name) if "champion" in v.aliases and v.version != version]
            for old in current:
                self.client.set_registered_model_alias(name, "previous", str(old.version))
        self.client.set_registered_model_alias(name, alias, str(version))

    def lineage(self, version: Version) -> dict[str, Any]:
        """Registry version -> run -> resolved config -> dataset digests, as far as the run's record says."""
        run = self.client.get_run(version.run_id) if version.run_id else None
        datasets = [
            {"name": i.dataset.name, "digest": {t.key: t.value for t in i.tags}.get("digest", i.dataset.digest)}
            for i in (run.inputs.dataset_inputs if run and run.inputs else [])
        ]
        return {
            "version": version.uri, "aliases": list(version.aliases), "tags": dict(version.tags), "run": version.run_id,
            "params": dict(run.data.params) if run else {}, "datasets": datasets,
        }
