"""Typed settings: `key=value` from the command line and YAML presets onto pydantic models.

Keys are dotted and reach into nested models, dicts and sequences: `optim.generator.lr=3e-4`, `groups.0.lr_factor=10`.
A shorter key works where exactly one setting ends with it. Nothing is ignored: an unknown key or a wrong value fails.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from infra.errors import LikenessError

M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `3e-4` is a number, `on` and dates are text (PyYAML follows YAML 1.1)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern in (
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)"),
    ("null", r"~|null|Null|NULL|none|None|"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), None)


@dataclass(frozen=True)
class _Typed:
    """A value as typed on the command line: read as YAML, or as plain text where the setting wants text (`name=12`)."""

    value: Any
    text: str


def apply_overrides(model: M, overrides: Sequence[str]) -> M:
    """A copy of `model` with `["key=value", ...]` applied together, the last one of a key winning.

    Raises:
        LikenessError: a word without "=", an unknown or ambiguous key, or a value that the setting does not take.
    """
    patch: dict[str, Any] = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise LikenessError(f"setting {word!r}", allowed="key=value", fix="for example: lr=1e-4")
        try:
            value = yaml.load(text, _Loader)  # a SafeLoader
        except yaml.YAMLError as error:
            raise LikenessError(f"{key}={text!r} does not read as YAML ({str(error).splitlines()[0]})") from None
        _put(patch, _full_key(model, key).split("."), _Typed(value, text), key)
    return _onto_model(model, patch, "")


def merge(model: M, mapping: Mapping[str, Any]) -> M:
    """A copy of `model` with a nested mapping (a preset) laid over it, key by key; sequences are replaced as a whole."""
    return _onto_model(model, mapping, "")


def describe(model: BaseModel) -> list[tuple[str, str, Any]]:
    """Every setting as (full key, type in words, current value), in the order of declaration."""
    return list(_leaves(model, "", type(model)))


def type_name(annotation: Any) -> str:
    """An annotation in words for messages: `float | none`, `adam | adamw`, `[float, float]`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "none"
    if origin is Literal:
        return " | ".join(str(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(a) for a in args)
    if origin is typing.Annotated:
        return type_name(args[0])
    if origin in (list, tuple, set, frozenset, Sequence):
        fixed_length = origin is tuple and Ellipsis not in args
        inner = ", ".join(type_name(a) for a in args if a is not Ellipsis)
        return f"[{inner}]" if fixed_length else f"[{inner}, ...]"
    if origin in (dict, Mapping):
        return f"{{{type_name(args[0])}: {type_name(args[1])}}}"
    return "anything" if annotation is Any else getattr(annotation, "__name__", str(annotation))


def _leaves(value: Any, key: str, annotation: Any) -> Iterator[tuple[str, str, Any]]:
    inner: list[tuple[str, Any, Any]] = []
    if isinstance(value, BaseModel):
        inner = [(name, getattr(value, name), f.annotation) for name, f in type(value).model_fields.items()]
    elif isinstance(value, Mapping) and value:
        inner = [(str(k), v, _inner(annotation)) for k, v in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(v, BaseModel) for v in value):
        inner = [(str(i), v, type(v)) for i, v in enumerate(value)]
    elif key:
        yield key, type_name(annotation), value
    for name, part, part_annotation in inner:
        yield from _leaves(part, f"{key}.{name}" if key else name, part_annotation)


def _inner(annotation: Any) -> Any:
    """The type of a dict's values."""
    args = typing.get_args(annotation)
    return args[1] if len(args) == 2 else Any


def _full_key(model: BaseModel, key: str) -> str:
    """`key` itself where it starts at the top, else the one setting that ends with it."""
    if key.partition(".")[0] in type(model).model_fields:
        return key
    matches = [name for name, _, _ in describe(model) if name.endswith("." + key)]
    if len(matches) > 1:
        raise LikenessError(f"setting {key!r} could mean {len(matches)} settings", allowed=", ".join(matches))
    if not matches:
        raise _unknown(model, key)
    return matches[0]


def _unknown(model: BaseModel, key: str, at: str = "") -> LikenessError:
    known = describe(model)
    if not known:
        return LikenessError(f"unknown setting {at + key!r}", allowed="none here")

    def likeness(entry: tuple[str, str, Any]) -> float:
        last_words = SequenceMatcher(None, key.rpartition(".")[2], entry[0].rpartition(".")[2]).ratio()
        return SequenceMatcher(None, key, entry[0]).ratio() + last_words

    name, kind, value = max(known, key=likeness)
    return LikenessError(f"unknown setting {at + key!r}", fix=f"the nearest is {at + name} ({kind}, now {value!r})")


def _put(tree: dict[str, Any], path: list[str], value: _Typed, key: str) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        if isinstance(inner, _Typed) and isinstance(inner.value, dict):
            inner = tree[part] = dict(inner.value)
        if not isinstance(inner, dict):
            raise LikenessError(f"{key} is set both as a whole and in part", fix="give one of the two")
        tree = inner
    tree[path[-1]] = value


def _onto_model(model: M, patch: Mapping[str, Any], at: str) -> M:
    fields = type(model).model_fields
    values: dict[str, Any] = {name: getattr(model, name) for name in fields}
    for name, given in patch.items():
        if name not in fields:
            raise _unknown(model, str(name), at)
        values[name] = _onto(values[name], given, f"{at}{name}")
    try:
        # sub-models are taken as they are: pydantic does not validate or copy instances again
        return type(model).model_validate(_plain(values, as_text=[]), by_name=True)
    except ValidationError as first:
        try:
            return type(model).model_validate(_plain(values, [e["loc"] for e in first.errors()]), by_name=True)
        except ValidationError:
            raise _wrong_value(model, first, at) from None


def _onto(value: Any, given: Any, at: str) -> Any:
    """`given` laid over the current value; what pydantic must still check stays raw."""
    plain = given.value if isinstance(given, _Typed) else given
    if isinstance(value, BaseModel) and isinstance(plain, Mapping):
        return _onto_model(value, plain, at + ".")
    if isinstance(value, Mapping) and isinstance(plain, Mapping):
        merged = dict(value)
        for name, inner in plain.items():
            if value and name not in value:  # an empty dict takes any key: nobody knows its keys yet
                near = max(value, key=lambda k: SequenceMatcher(None, str(k), str(name)).ratio())
                raise LikenessError(f"unknown setting {at}.{name}", allowed=f"{at}.({'|'.join(map(str, value))})",
                                    fix=f"the nearest is {at}.{near}")
            merged[name] = _onto(value.get(name), inner, f"{at}.{name}")
        return merged
    if isinstance(value, (list, tuple)) and isinstance(plain, Mapping):
        items = list(value)
        for index, inner in plain.items():
            if not str(index).isdigit() or int(index) >= len(items):
                raise LikenessError(f"unknown setting {at}.{index}", allowed=f"{at}.0 to {at}.{len(items) - 1}" if items
                                    else f"{at} is empty", fix=f"or set it as a whole: {at}=[...]")
            items[int(index)] = _onto(items[int(index)], inner, f"{at}.{index}")
        return items
    return given


def _plain(tree: Any, as_text: list[tuple[int | str, ...]]) -> Any:
    """Typed values read as YAML, those on a path of `as_text` as text."""
    if isinstance(tree, _Typed):
        return tree.text if as_text else tree.value
    if isinstance(tree, dict):
        return {k: _plain(v, [loc[1:] for loc in as_text if loc and loc[0] == k]) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_plain(v, [loc[1:] for loc in as_text if loc and loc[0] == i]) for i, v in enumerate(tree)]
    return tree


def _wrong_value(model: BaseModel, error: ValidationError, at: str) -> LikenessError:
    problems = error.errors()
    problem = problems[0]
    loc = [str(part) for part in problem["loc"]]
    said = problem["msg"].removeprefix("Value error, ")
    if not loc:  # a rule between several settings
        return LikenessError(f"{'settings of ' + at.rstrip('.') if at else 'settings'}: {said}")
    annotation = type(model).model_fields[loc[0]].annotation
    if problem["type"] == "extra_forbidden":
        near = [f"{at}{loc[0]}.{name}" for part in (annotation, *typing.get_args(annotation))
                if isinstance(part, type) and issubclass(part, BaseModel) for name in part.model_fields]
        return LikenessError(f"unknown setting {at}{'.'.join(loc)}", allowed=", ".join(near))
    if problem["type"] == "missing" or len(problems) > 1:
        loc = loc[:1]  # the whole is wrong, or no member of a union took it; members' names stand in `loc`
    value: Any = model
    for part in loc:
        if isinstance(value, BaseModel):
            value = getattr(value, part)
        elif isinstance(value, Mapping) and part in value:
            value, annotation = value[part], _inner(annotation)
        elif isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
            annotation = type(value)
        else:
            break
    now = repr(value)
    return LikenessError(f"{at}{'.'.join(loc)}={problem['input']!r}: {said[:1].lower()}{said[1:]}",
                         allowed=type_name(annotation) + (f" (now {now})" if len(now) < 60 else ""))
