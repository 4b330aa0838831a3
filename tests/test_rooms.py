"""Every line of code knows its room: what each package may import (docs/architecture.md), read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("preprocessing", "models", "training", "pipelines", "infra")
# room -> our modules it may import besides its own; a trailing "()" allows it inside functions only
MAY: dict[str, tuple[str, ...]] = {
    "infra": (),
    "preprocessing": ("infra", "models.perception()"),
    # plain formulas that operators, training examples and generation must share exactly;
    # degradation: restoration methods degrade afresh each time a picture is seen; face_words: ConsistentID's marked captions
    "models": (
        "infra", "training.stage", "preprocessing.fields", "preprocessing.audio_features", "preprocessing.degradation",
        "preprocessing.drawing", "preprocessing.face_words", "preprocessing.frame_sampling",
    ),
    # frame_sequence: the type that codecs decode frames to
    "training": ("infra", "preprocessing.fields", "preprocessing.codecs", "preprocessing.frame_sequence"),
    "pipelines": ROOMS,
}
# the contracts that everybody imports pull in nothing of ours
ALONE = ("preprocessing/fields/", "training/stage.py")
NEVER: dict[str, tuple[str, ...]] = {
    "models": ("ray", "deepspeed", "mlflow"),
    "preprocessing": ("ray", "deepspeed", "mlflow"),
    "infra": ("deepspeed",),
}


@dataclass(frozen=True)
class Import:
    """One import statement's module: at the top of a file or inside a function; for the type checker only, or not."""

    module: str
    line: int
    inside: bool
    typing_only: bool


def imports(tree: ast.AST, inside: bool = False, typing_only: bool = False) -> Iterator[Import]:
    """All imports below a node. `from a import b` counts as both `a` and `a.b`, since b may be a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, inside, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno, inside, typing_only) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(node.body, []), inside, True)
            yield from imports(ast.Module(node.orelse, []), inside, typing_only)
        else:
            yield from imports(node, inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)), typing_only)


def within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(allowed + ".")


def allowed(found: Import, room: str) -> bool:
    return found.typing_only or any(
        within(found.module, rule.removesuffix("()")) and (found.inside or not rule.endswith("()")) for rule in (room, *MAY[room])
    )


FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_keep_to_their_room(file: Path):
    name = file.relative_to(ROOT).as_posix()
    room = name.partition("/")[0]
    found = list(imports(ast.parse(file.read_text())))
    ours = [i for i in found if i.module.partition(".")[0] in ROOMS]
    wrong = [i for i in ours if not allowed(i, room)]
    if name.startswith(ALONE):
        wrong += [i for i in ours if not i.typing_only and not within(i.module, "preprocessing.fields")]
    wrong += [i for i in found if any(within(i.module, banned) for banned in NEVER.get(room, ()))]
    if room == "infra":  # Ray and MLflow take seconds to import: they are wanted by those who use them only
        wrong += [i for i in found if not i.inside and not i.typing_only and i.module.partition(".")[0] in ("ray", "mlflow")]
    assert not wrong, "\n".join(f"{name}:{i.line} may not import {i.module}" for i in wrong)


@pytest.mark.parametrize("file", [f for f in FILES if f.name == "__init__.py"], ids=lambda f: str(f.relative_to(ROOT)))
def test_package_files_declare_only(file: Path):
    for node in ast.parse(file.read_text()).body:
        declares = isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        )
        assert declares, f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:60]} belongs in a module of its own"


def test_the_checks_see_what_they_should():
    source = """
from typing import TYPE_CHECKING
import ray.data
if TYPE_CHECKING:
    from preprocessing.codecs import x
def f():
    from models.perception import syncnet
class A:
    import models.perception.syncnet
"""
    found = {(i.module, i.inside, i.typing_only) for i in imports(ast.parse(source))}
    assert ("ray.data", False, False) in found
    assert ("preprocessing.codecs.x", False, True) in found
    in_function = Import("models.perception.syncnet", 0, inside=True, typing_only=False)
    assert allowed(in_function, "preprocessing")
    assert not allowed(Import("models.perception.syncnet", 0, inside=False, typing_only=False), "preprocessing")
    assert not allowed(Import("models.perception_of", 0, inside=True, typing_only=False), "preprocessing")
    assert not allowed(Import("training.loop", 0, inside=True, typing_only=False), "models")
