"""What a dataset is asked to hold, and from where: `DATASET/request.json`.

It is remembered so that a rerun needs no flags. It names machine paths, so it is part of no digest; what shaped the data
stands in the manifest.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import LikenessError
from infra.storage.atomic import write_whole
from infra.storage.objects import as_path

DEFAULT_RECIPE = "talking"


class Recipe(BaseModel):
    """A YAML file of `pipelines/recipes/`, or one of the user's own."""

    model_config = ConfigDict(extra="forbid")

    fields: list[str]
    operators: dict[str, dict[str, Any]] = {}


class Request(BaseModel):
    """See the module.

    Attributes:
        roots: label -> absolute path of a folder or file, or s3://BUCKET/KEY.
        people: who is in a source where no list says so: "folder" (the first below the root; the file where there is none),
            "file", or a regular expression found in the source's path, whose first group (or all of it) names the person.
        operators: name -> settings.
        parent, expander: of a derived dataset: absolute path of the dataset it is made from, and what makes its rows.
    """

    model_config = ConfigDict(extra="forbid")

    roots: dict[str, str] = {}
    source_list: str = ""
    people: str = "folder"
    fields: list[str] = []
    operators: dict[str, dict[str, Any]] = {}
    val_fraction: float = Field(default=0.1, ge=0, le=1)
    parent: str = ""
    expander: str = ""


def load_request(root: Path) -> Request | None:
    """The remembered request, or None.

    Raises:
        LikenessError: the file is damaged.
    """
    path = root / "request.json"
    try:
        return Request.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problem = error.errors()[0]
        raise LikenessError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                            fix="mend it, or delete it and name --source again") from None


def save_request(root: Path, request: Request) -> None:
    write_whole(root, root / "request.json", request.model_dump_json(indent=1).encode() + b"\n")


def updated(
    request: Request | None,
    *,
    sources: list[str] = [],  # noqa: B006  (never changed)
    source_list: str = "",
    people: str = "",
    recipe: str = "",
    fields: list[str] = [],  # noqa: B006
    settings: list[str] = [],  # noqa: B006
    val_fraction: float | None = None,
) -> Request:
    """The request with a command's flags laid over it: sources and fields are added, a recipe replaces fields and settings.

    Args:
        sources: folders or files, each `PATH` or `LABEL=PATH`.
        settings: `operator.setting=value`, values read as YAML.

    Raises:
        LikenessError: no such source, recipe or setting.
    """
    new = request.model_copy(deep=True) if request else Request()
    for text in sources:
        label, path = _label(text, new.roots)
        new.roots[label] = str(path)
    if new.parent and (sources or source_list):
        raise LikenessError(f"a dataset derived from {new.parent} takes its sources from there",
                            fix=f"add them to it: likeness data build {new.parent} --source FOLDER")
    if source_list:
        new.source_list = str(as_path(source_list).resolve())
    if people:
        new.people = _people(people)
    if recipe or not (new.fields or fields):
        chosen = load_recipe(recipe or DEFAULT_RECIPE)
        new.fields, new.operators = list(chosen.fields), dict(chosen.operators)
    new.fields += [name for name in dict.fromkeys(fields) if name not in new.fields]
    for text in settings:
        operator, setting, value = _setting(text)
        new.operators.setdefault(operator, {})[setting] = value
    if val_fraction is not None:
        if not 0 <= val_fraction <= 1:
            raise LikenessError(f"--val-fraction is {val_fraction}", allowed="0 to 1")
        new.val_fraction = val_fraction
    return new


def _people(rule: str) -> str:
    try:
        re.compile(rule)
    except re.error as error:
        raise LikenessError(f"--people {rule}: {error}", allowed="folder, file, or a regular expression") from None
    return rule


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or by the path of a YAML file."""
    folder = resources.files("pipelines.recipes")
    known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    path = Path(name) if name.endswith((".yaml", ".yml")) else None
    if path is None and name not in known:
        raise LikenessError(f"unknown recipe {name!r}", allowed=", ".join(known), fix="or pass the path of a YAML file")
    try:
        text = path.read_text() if path else (folder / f"{name}.yaml").read_text()
        return Recipe.model_validate(yaml.safe_load(text))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        said = str(error).splitlines()[0]
        raise LikenessError(f"recipe {name}: {said}", allowed="fields: [NAME, ...] and operators: {}") from None


def _label(text: str, roots: dict[str, str]) -> tuple[str, Path]:
    """A source's label: given, kept from before, that of the same folder at its old place, or a new one."""
    given, equals, rest = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+", given) or as_path(text).exists():
        given, rest = "", text
    path = as_path(rest).expanduser().resolve()
    if not path.exists():
        raise LikenessError(f"--source {text}: no such folder or file", fix="check the path")
    if given:
        return given, path
    for label, known in roots.items():
        if as_path(known) == path:
            return label, path
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.name if path.is_dir() else path.stem).strip("-") or "source"
    for n in range(1, 1000):
        label = name if n == 1 else f"{name}-{n}"
        if label not in roots or not as_path(roots[label]).exists():  # the folder was moved: keep its rows' keys
            return label, path
    raise LikenessError(f"--source {text}: no free label", fix="name one: --source LABEL=PATH")


def _setting(text: str) -> tuple[str, str, Any]:
    key, equals, value = text.partition("=")
    operator, dot, setting = key.partition(".")
    if not (equals and dot and operator and setting):
        raise LikenessError(f"--set {text}", allowed="OPERATOR.SETTING=VALUE", fix="for example: --set mel80.bins=80")
    try:
        return operator, setting, yaml.safe_load(value)
    except yaml.YAMLError:
        return operator, setting, value
