"""The methods there are: each folder of this package whose `__init__` declares a `METHOD`. Nothing else lists them."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

import models
from infra import libraries
from infra.errors import LikenessError
from models.method import Method


def method_names() -> list[str]:
    """Names of all methods, without importing them."""
    files = [file for folder in models.__path__ for file in Path(folder).glob("*/__init__.py")]
    return sorted(f.parent.name.replace("_", "-") for f in files if "\nMETHOD = Method(" in f.read_text())


def method_named(name: str) -> Method:
    """The method called `name`.

    Raises:
        LikenessError: naming the nearest.
    """
    names = method_names()
    if name not in names:
        near = get_close_matches(name, names, 1, 0.4)
        raise LikenessError(
            f"there is no method {name!r}", allowed=", ".join(names), fix=f"did you mean {near[0]}?" if near else ""
        )
    libraries.quiet()
    return import_module(f"models.{name.replace('-', '_')}").METHOD


def all_methods() -> list[Method]:
    """Every method."""
    return [method_named(name) for name in method_names()]
