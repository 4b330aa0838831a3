"""What was taken down: sources, people and rows that no reader of the dataset gives out any more.

`DATASET/tombstones.json` belongs to the folder, not to a manifest: it holds for every manifest that is opened from it, at once.
Names are matched by their sha256, so that a purge can remove the names themselves and the list still does its work: a build
refuses the same file, and a file with the same bytes under another name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra import digest
from infra.errors import LikenessError
from infra.storage.atomic import write_whole
from infra.storage.objects import as_path

FILE = "tombstones.json"
TAKEN_DOWN = "taken down"  # the reason a build gives
Kind = Literal["source", "person", "key"]


class Tombstone(BaseModel):
    """One thing taken down, and what it covered then. Names stand as sha256 of their UTF-8 bytes.

    Attributes:
        sha256, value: of the source's path, the person's name or the row's key; after a purge `value` is "".
        date: the day, for people's records.
        paths: names of the sources.
        contents: sha256 of the sources' bytes.
        rows: keys of the rows.
        segments: of a row, `SHA256/NUMBER`: its source's bytes and its place in them.
        purged: nothing of it is left in the dataset's files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    sha256: str
    value: str = ""
    reason: str = ""
    date: str = ""
    paths: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    purged: bool = False


class Tombstones:
    """All tombstones of a dataset; false where there are none."""

    def __init__(self, entries: tuple[Tombstone, ...] = ()) -> None:
        self.entries = entries

    @classmethod
    def load(cls, root: Path) -> Tombstones:
        """Those of the dataset at `root`.

        Raises:
            LikenessError: the file is damaged. Nothing is given out then: better no data than data taken down.
        """
        path = root / FILE
        try:
            data = path.read_bytes()
            file = json.loads(data)
            entries = tuple(Tombstone.model_validate(entry) for entry in file["tombstones"])
            if digest.of_json(file["tombstones"]) != file["sha256"] or _encoded(entries) != data:
                raise ValueError("bytes changed since it was written")
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise LikenessError(f"{path}: damaged: {str(error).splitlines()[0]}", fix="restore it from a backup: it says what "
                                "must not be used; or delete it and take down again: likeness data takedown") from None
        return cls(entries)

    @classmethod
    def over(cls, root: Path) -> Tombstones:
        """Those that hold for readers of the dataset at `root`: its own, and of a derived one those of the datasets above it."""
        entries, seen = cls.load(root).entries, {root}
        while (above := _parent(root)) and above not in seen:
            entries += cls.load(above).entries
            seen.add(above)
            root = above
        return cls(entries)

    def save(self, root: Path) -> None:
        """Write `tombstones.json` in one step."""
        write_whole(root, root / FILE, _encoded(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def digest(self) -> str:
        """Of what is covered, whether purged or not; "" where there is nothing."""
        facts = [entry.model_dump(mode="json", exclude={"value", "reason", "date", "purged"}) for entry in self.entries]
        return digest.of_json(facts) if facts else ""

    def covers_source(self, path: str, person: str = "", sha256: str = "") -> bool:
        """Whether a source is taken down: by its path, its person, or its bytes."""
        return bool(self.entries) and self._covers(self._named, path, person, sha256)

    def covers_key(self, key: str) -> bool:
        """Whether the row called `key` is taken down."""
        return bool(self.entries) and of_text(key) in self._named["rows"]

    def covers_row(self, key: str, source: Mapping[str, Any]) -> bool:
        """Whether a row is: by its key, or as the same segment of a file with the same bytes, whatever its name; or its parent is.

        Args:
            source: its SOURCE record.
        """
        parent = {name: value for name, value in source.items() if name != "parent"}
        return bool(self.entries) and (
            self.covers_key(key) or self.covers_key(str(source.get("parent", ""))) or segment_of(parent) in self._named["segments"]
        )

    def refusal(self, path: str, person: str = "", sha256: str = "") -> str:
        """The reason for which a build refuses the source, or ""."""
        return TAKEN_DOWN if self.covers_source(path, person, sha256) else ""

    def name(self, path: str, person: str = "", sha256: str = "") -> str:
        """The source's name in manifests: `path`, or what stands for it once it was purged."""
        return anonymous(path) if self.purged and self._covers(self.purged._named, path, person, sha256) else path

    @cached_property
    def purged(self) -> Tombstones:
        """Those of which nothing may be left."""
        return Tombstones(tuple(entry for entry in self.entries if entry.purged))

    @cached_property
    def _named(self) -> Mapping[str, frozenset[str]]:
        people = frozenset(entry.sha256 for entry in self.entries if entry.kind == "person")
        parts = ("paths", "contents", "rows", "segments")
        return {part: frozenset(d for entry in self.entries for d in getattr(entry, part)) for part in parts} | {"people": people}

    @staticmethod
    def _covers(named: Mapping[str, frozenset[str]], path: str, person: str, sha256: str) -> bool:
        by_name = of_text(path) in named["paths"] or (person != "" and of_text(person) in named["people"])
        return by_name or sha256 in named["contents"]


def of_text(text: str) -> str:
    """sha256 (64 hex digits) of a name."""
    return digest.of_bytes(text.encode())


def segment_of(source: Mapping[str, Any]) -> str:
    """`SHA256/NUMBER`: which piece of which bytes a row is, by its SOURCE record; "" for rows of a derived dataset."""
    whole = source.get("sha256") and "segment" in source and "parent" not in source
    return f"{source['sha256']}/{source['segment']}" if whole else ""


def anonymous(path: str) -> str:
    """What stands for a purged source's path in manifests; itself where it is that already."""
    return path if is_anonymous(path) else f"taken-down/{of_text(path)}"


def is_anonymous(path: str) -> bool:
    """Whether a name in a manifest stands for a purged source."""
    return re.fullmatch(r"taken-down/[0-9a-f]{64}", path) is not None


def _encoded(entries: tuple[Tombstone, ...]) -> bytes:
    lines: list[dict[str, Any]] = [entry.model_dump(mode="json") for entry in entries]
    return digest.canonical_json({"sha256": digest.of_json(lines), "tombstones": lines}) + b"\n"


def _parent(root: Path) -> Path | None:
    """The dataset from which the one at `root` is derived, as its request remembers."""
    try:
        parent = json.loads((root / "request.json").read_bytes()).get("parent")
    except (OSError, ValueError, AttributeError):
        return None
    return as_path(parent) if parent else None
