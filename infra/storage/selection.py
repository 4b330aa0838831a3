"""Selections: rules over stored numbers that say which rows count, `DATASET/selections/NAME.json`.

Operators measure, a selection decides: moving a threshold reads numbers and computes nothing again. The file holds the rules and
what came of them for one manifest; a reader of another manifest decides anew by the same rules.
"""

from __future__ import annotations

import io
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from infra import digest
from infra.errors import LikenessError
from infra.storage.tombstones import of_text

if TYPE_CHECKING:
    from infra.storage.dataset import Dataset, Row

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
SOURCE = "source"  # rules may ask for the row's SOURCE record, which needs no tar
_RULE = re.compile(r"\s*([a-z][a-z0-9_]*)((?:\.[^\s.<>=!]+)*)\s*(<=|>=|==|!=|<|>)\s*(.*?)\s*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_ABSENT = object()


@dataclass(frozen=True)
class Rule:
    """`field.name op threshold`; a row is kept when it holds. `name` is "" for a field that is one number."""

    field: str
    name: str
    op: str
    threshold: float | str

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Raises:
        LikenessError: not a rule, or an order asked of text.
        """
        match = _RULE.fullmatch(text)
        if not match or not match[4]:
            raise LikenessError(f"rule {text!r}", allowed="FIELD.NAME OP VALUE with OP one of < <= > >= == !=",
                                fix="for example: --where \"measures.blur >= 50\"")
        threshold = _number(match[4])
        if threshold is None:
            if match[3] not in ("==", "!="):
                raise LikenessError(f"rule {text!r} compares with {match[4]!r}", allowed=f"a number, with {match[3]}")
            return cls(match[1], match[2][1:], match[3], match[4].strip("\"'"))
        return cls(match[1], match[2][1:], match[3], threshold)

    @property
    def measure(self) -> str:
        """`field.name`."""
        return f"{self.field}.{self.name}" if self.name else self.field

    def __str__(self) -> str:
        return f"{self.measure} {self.op} {_text(self.threshold)}"

    def holds(self, value: Any) -> bool | None:
        """Whether the rule holds for a measured value; None where the two can't be compared, which counts as missing.

        Text is compared as text; against `sha256:HEX` by its digest, for names that must not stand in the rule.
        """
        if isinstance(value, (bool, int, float)) and isinstance(self.threshold, float):
            return None if math.isnan(value) else _COMPARE[self.op](float(value), self.threshold)
        if self.op not in ("==", "!=") or value is None or isinstance(value, (list, dict)):
            return None
        text, wanted = _text(value), _text(self.threshold)
        return _COMPARE[self.op](f"sha256:{of_text(text)}" if _DIGEST.fullmatch(wanted) else text, wanted)


def _text(value: Any) -> str:
    """The shortest text that stands for the value: `50`, `0.9`, `true`."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dropped(_Part):
    """A row that the first failing rule dropped: `value` is its own, `threshold` the rule's."""

    key: str
    measure: str
    value: float | str | bool
    threshold: float | str


class Missing(_Part):
    """A row that can't be decided: it has no such value."""

    key: str
    measure: str


class RuleCount(_Part):
    """How many rows a rule fails, and how many lack its value, whatever the other rules say."""

    rule: str
    fails: int
    lacks: int


class Selection(_Part):
    """What rules came to: `all = kept + dropped + missing`.

    Attributes:
        rules_sha256, kept_sha256: digests of the rules and of the kept rows' keys in order.
        manifest, tombstones: digests of what was decided on.
    """

    name: str
    rules: tuple[str, ...]
    rules_sha256: str
    manifest: str
    tombstones: str
    all: int
    kept: int
    kept_sha256: str
    per_rule: tuple[RuleCount, ...]
    dropped: tuple[Dropped, ...]
    missing: tuple[Missing, ...]

    def encoded(self) -> bytes:
        """The file: itself and its digest, so that a flipped bit is noticed."""
        facts = self.model_dump(mode="json")
        return digest.canonical_json({"selection": facts, "sha256": digest.of_json(facts)}) + b"\n"


def selection_file(root: Path, name: str) -> Path:
    """Raises:
    LikenessError: not a name.
    """
    if not NAME.fullmatch(name):
        raise LikenessError(f"selection name {name!r}", allowed="lower-case letters, digits, - and _")
    return root / "selections" / f"{name}.json"


def selection_names(root: Path) -> list[str]:
    """Of the dataset at `root`, sorted."""
    return sorted(file.stem for file in (root / "selections").glob("*.json"))


def read_selection(root: Path, name: str) -> Selection:
    """The stored selection.

    Raises:
        LikenessError: there is none of that name, or it is damaged.
    """
    path = selection_file(root, name)
    try:
        data = path.read_bytes()
        stored = Selection.model_validate(json.loads(data)["selection"])
    except FileNotFoundError:
        fix = f"make it with: likeness data select {root} {name} --where \"MEASURE >= VALUE\""
        raise LikenessError(f"dataset {root} has no selection {name!r}", allowed=", ".join(selection_names(root)) or "none yet",
                            fix=fix) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from None
    if stored.encoded() != data or stored.name != name:
        raise _damaged(path, "bytes changed since it was written")
    return stored


def _damaged(path: Path, what: str) -> LikenessError:
    return LikenessError(f"{path}: damaged: {what}", fix="decide again: likeness data select DATASET NAME --where RULE")


def decide(dataset: Dataset, name: str, rules: Sequence[Rule], strict: bool = True) -> Selection:
    """Apply the rules to all rows that are not taken down; in the order given, the first that does not hold decides.

    Args:
        strict: refuse a measure that no row has; else all rows lack it.

    Raises:
        LikenessError: a field or measure that is not there, with the nearest name; a field that is no number.
    """
    readers = {rule.field: _Values(dataset, rule.field) for rule in rules}
    rows = dataset.standing_rows()
    fails, lacks = [0] * len(rules), [0] * len(rules)
    kept: list[str] = []
    dropped: list[Dropped] = []
    missing: list[Missing] = []
    for row in rows:
        verdicts = [readers[rule.field].value(row, rule.name) for rule in rules]
        first = None
        for n, (rule, value) in enumerate(zip(rules, verdicts, strict=True)):
            holds = None if value is _ABSENT else rule.holds(value)
            lacks[n] += holds is None
            fails[n] += holds is False
            if not holds and first is None:
                first = (Missing(key=row.key, measure=rule.measure) if holds is None else
                         Dropped(key=row.key, measure=rule.measure, value=value, threshold=rule.threshold))
        if first is None:
            kept.append(row.key)
        elif isinstance(first, Dropped):
            dropped.append(first)
        else:
            missing.append(first)
    if strict:
        for rule in rules:
            readers[rule.field].check(rule)
    texts = tuple(map(str, rules))
    return Selection(
        name=name, rules=texts, rules_sha256=digest.of_json(texts), manifest=dataset.digest,
        tombstones=dataset.tombstones.digest, all=len(rows), kept=len(kept), kept_sha256=digest.of_json(kept),
        per_rule=tuple(RuleCount(rule=t, fails=f, lacks=m) for t, f, m in zip(texts, fails, lacks, strict=True)),
        dropped=tuple(dropped), missing=tuple(missing),
    )  # fmt: skip


def current(dataset: Dataset, stored: Selection) -> Selection:
    """The stored selection where it was decided on just this manifest and these tombstones, else decided anew."""
    if (stored.manifest, stored.tombstones) == (dataset.digest, dataset.tombstones.digest):
        return stored
    return decide(dataset, stored.name, [Rule.parse(rule) for rule in stored.rules], strict=False)


class _Values:
    """The values of one field, row by row; remembers one row, since rules often ask several numbers of one field."""

    def __init__(self, dataset: Dataset, field: str) -> None:
        self.dataset, self.field = dataset, field
        info = None if field == SOURCE else dataset.field(field)
        if info and not (info.codec == "json" or (info.codec == "npy" and info.shape == ())):
            raise LikenessError(f"field {field} ({info.codec}) is no number to select by",
                                allowed=", ".join(sorted(f.name for f in dataset.fields.values() if f.codec == "json")))
        self.names: set[str] = set()
        self._seen: set[tuple[str, ...]] = set()
        self._last: tuple[str, Any] = ("", None)

    def value(self, row: Row, name: str) -> Any:
        if self._last[0] != row.key:
            self._last = row.key, self._read(row)
        value = self._last[1]
        return _look_up(value, name) if name and value is not _ABSENT else value

    def _read(self, row: Row) -> Any:
        if self.field == SOURCE:
            value: Any = dict(row.source)
        elif not self.dataset.has(row, self.field):
            return _ABSENT
        else:
            data = self.dataset.read(row, self.field)
            value = (json.loads(data) if self.dataset.field(self.field).codec == "json" else
                     np.load(io.BytesIO(data), allow_pickle=False).item())
        if isinstance(value, Mapping) and (names := tuple(value)) not in self._seen:
            self._seen.add(names)
            self.names |= set(names)
        if isinstance(value, Mapping):  # tags differ from row to row where their names don't
            self.names |= {f"{outer}.{inner}" for outer, part in value.items() if isinstance(part, Mapping) for inner in part}
        return value

    def check(self, rule: Rule) -> None:
        """Raises:
        LikenessError: no row has the measure, though rows have the field.
        """
        if not rule.name and self.names:
            raise LikenessError(f"rule {str(rule)!r}: {rule.field} holds several numbers",
                                allowed=", ".join(f"{self.field}.{name}" for name in sorted(self.names)))
        if rule.name and self.names and rule.name not in self.names:
            near = get_close_matches(rule.name, self.names, n=1, cutoff=0.4)
            raise LikenessError(f"no row has a measure {rule.measure!r}" + (f" (nearest: {rule.field}.{near[0]})" if near else ""),
                                allowed=", ".join(f"{self.field}.{name}" for name in sorted(self.names)))


def _look_up(value: Any, name: str) -> Any:
    """`a.b` of nested objects; a name with a dot in it is tried whole first."""
    if not isinstance(value, Mapping):
        return _ABSENT
    if name in value:
        return value[name]
    outer, dot, inner = name.partition(".")
    return _look_up(value[outer], inner) if dot and outer in value else _ABSENT
