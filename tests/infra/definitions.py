"""What stands in infra/*.yaml, the Containerfile and docs/cluster.md, for the tests that check it."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from pipelines.cli.main import NOUNS, new_app

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERNETES = sorted((INFRA / "kubernetes").glob("*.yaml"))
COMPOSE = INFRA / "mlflow" / "compose.yaml"
RAY_UP = INFRA / "ray" / "cluster.yaml"
CONTAINERFILE = INFRA / "Containerfile"
PAGE = ROOT / "docs" / "cluster.md"
WITH_COMMANDS = [*KUBERNETES, COMPOSE, RAY_UP, CONTAINERFILE, PAGE]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
COMMAND = re.compile(rf"(?<![\w/.:-])likeness ((?:{'|'.join(NOUNS)})\b[^`;#\n]*)")


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def of_kind(*kinds: str) -> list[tuple[str, dict[str, Any]]]:
    """(file name, document) of the Kubernetes definitions."""
    return [(file.name, document) for file in KUBERNETES for document in documents(file) if document["kind"] in kinds]


def commands(file: Path) -> list[list[str]]:
    """The words after `likeness`, of every command in a file."""
    return [shlex.split(found.rstrip("\\ ")) for found in COMMAND.findall(file.read_text())]


def parse(words: list[str]) -> None:
    """Have the command line take words as if typed, without doing anything.

    Raises:
        click.ClickException: it does not take them.
    """
    command: Any = typer.main.get_command(new_app([words[0]]))
    context = command.make_context("likeness", list(words))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*getattr(context, "_protected_args", ()), *context.args])
        context = command.make_context(name, rest, parent=context)
    if words[:2] == ["job", "submit"]:
        parse(context.params["command"])


def pod_specs(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every pod template in a document, however deep."""
    if isinstance(document, dict):
        if "template" in document and "spec" in document["template"]:
            yield document["template"]
        for value in document.values():
            yield from pod_specs(value)
    elif isinstance(document, list):
        for value in document:
            yield from pod_specs(value)


def images() -> set[str]:
    """Of all containers and services."""
    found = {container["image"] for _, document in of_kind("RayJob", "RayCluster", "Deployment", "StatefulSet")
             for pod in pod_specs(document) for container in pod["spec"]["containers"]}  # fmt: skip
    found |= {service["image"] for service in documents(COMPOSE)[0]["services"].values()}
    return found | {documents(RAY_UP)[0]["docker"]["image"]}


def ray_cluster(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


def workers_of(group: dict[str, Any], resource: str) -> int:
    """What all pods of a worker group have of a resource, at most."""
    (container,) = group["template"]["spec"]["containers"]
    return group["maxReplicas"] * int(container["resources"]["limits"].get(resource, 0))
