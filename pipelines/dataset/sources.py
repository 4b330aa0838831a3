"""Which files there are, who is in them, and which split each belongs to.

Every file below the roots is a source and ends as ingested, refused or quarantined. Not counted: hidden files, the source
list itself, and the dataset when it lies below a root.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra import digest
from infra.errors import LikenessError
from infra.storage.manifest import SourceEntry
from pipelines.dataset.request import Request

SPLITS = ("train", "val", "test")
NOT_LISTED = "not in the source list"
NOT_FOUND = "in the source list, but no such file below the roots"
SLUG_LENGTH = 48


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        path: label of its root, then its place below it; the name of the source wherever the folder lies.
        file: where it lies on this machine.
        bytes, mtime_ns: from stat; bytes -1 where the file is gone.
        person, split, tags: from the list or the last build; split "" where none is given yet (see `assign_splits`).
        given: what came with it besides its bytes: caption, tags.
        part: (offset, size) of its bytes in `file` when that is a tar.
        refusal: why it must not be ingested, "" otherwise.
    """

    path: str
    file: Path
    bytes: int
    mtime_ns: int
    person: str = ""
    split: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    part: tuple[int, int] | None = None
    refusal: str = ""

    @property
    def key(self) -> str:
        return source_key(self.path)


def source_key(path: str) -> str:
    """First part of the keys of a source's rows: readable, and unique through six hex digits of its path's digest."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", path.rpartition(".")[0].lower() or path.lower()).strip("-")[:SLUG_LENGTH]
    return f"{slug or 'file'}-{hashlib.blake2b(path.encode(), digest_size=3).hexdigest()}"


def row_key(source: str, segment: int) -> str:
    return f"{source}-{segment:04d}"


def given_digest(sources: Iterable[Source]) -> str:
    """What operators that read GIVEN depend on besides."""
    return digest.of_json(sorted(([s.path, dict(s.given)] for s in sources), key=lambda fact: str(fact[0])))


def content_digest(sources: Iterable[Source], sha256: Mapping[str, str]) -> str:
    """What an ingested shard depends on: its sources' names and bytes; not who is in them, nor their splits."""
    facts = [[s.path, sha256.get(s.path, ""), s.refusal] for s in sources]
    return digest.of_json(sorted(facts, key=lambda fact: str(fact[0])))


def find_sources(root: Path, request: Request, known: Iterable[SourceEntry]) -> list[Source]:
    """All files below the request's roots, sorted by path, with their people; those that must not be ingested say so.

    Args:
        root: folder of the dataset.
        known: sources of the last build; they keep their person and split unless the list says otherwise, and stay when
            their file is gone, with `bytes` -1.

    Raises:
        LikenessError: a root or the list is missing, the list is wrong, roots overlap, two files would share a key.
    """
    files = _walk(root, request)
    known_by_path = {entry.path: entry for entry in known if entry.reason not in (NOT_LISTED, NOT_FOUND)}
    listed = _read_list(request, files) if request.source_list else None
    splits = _listed_splits(listed or {}, request.source_list)
    sources = []
    for path in sorted({*files, *known_by_path, *(listed or ())}):
        file, size, mtime = files.get(path) or (_place(request, path), -1, 0)
        if listed is not None and path not in listed:
            sources.append(Source(path, file, size, mtime, refusal=NOT_LISTED))
        elif path not in files and path not in known_by_path:
            sources.append(Source(path, file, size, mtime, refusal=NOT_FOUND))
        else:
            line, before = (listed or {}).get(path, {}), known_by_path.get(path)
            person = line.get("person") or (before.person if before else "") or _default_person(path)
            split = splits.get(person) or (before.split if before else "")
            tags = {k: v for k, v in line.items() if k not in ("path", "person", "split")}
            sources.append(Source(path, file, size, mtime, person, split, tags))
    _check_keys(sources)
    return sources


def _walk(root: Path, request: Request) -> dict[str, tuple[Path, int, int]]:
    skip = {root.resolve(), Path(request.source_list).resolve() if request.source_list else root.resolve()}
    roots = {label: Path(path) for label, path in request.roots.items()}
    if not roots:
        raise LikenessError(f"dataset {root} has no sources", fix="name a folder of clips: --source FOLDER")
    for label, path in roots.items():
        if not path.exists():
            raise LikenessError(f"source {label}: {path} is gone", fix=f"if it was moved, pass --source {label}=NEW_PLACE")
        for other, place in roots.items():
            if other != label and path.is_relative_to(place):
                raise LikenessError(f"--source {path} lies below --source {place}", fix="name only one of them")
    found = {}
    for label, place in roots.items():
        for file in [place] if place.is_file() else _files_below(place, skip):
            inner = file.name if place.is_file() else file.relative_to(place).as_posix()
            stat = file.stat() if file.exists() else file.lstat()  # a dangling link is a source too, and will be named
            found[f"{label}/{inner}"] = (file, stat.st_size, stat.st_mtime_ns)
    return found


def _files_below(place: Path, skip: set[Path]) -> Iterable[Path]:
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(folder, f).resolve() not in skip)
        for name in sorted(names):
            if not name.startswith(".") and Path(folder, name).resolve() not in skip:
                yield Path(folder, name)


def _place(request: Request, path: str) -> Path:
    label, _, inner = path.partition("/")
    return Path(request.roots.get(label, label)) / inner


def _default_person(path: str) -> str:
    """The first folder below the root where there is one, else the file itself."""
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else path.rpartition(".")[0] or path


def _read_list(request: Request, files: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Source path -> its line in the list. Paths may be absolute, or start at a root's label, or at a root."""
    file = Path(request.source_list)
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            lines = list(csv.DictReader(stream, delimiter="\t", restkey="", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LikenessError(f"--list {file}: {error}", allowed="a text table with tabs") from None
    if not lines or "path" not in lines[0]:
        header = ", ".join(map(repr, lines[0])) if lines else "nothing"
        raise LikenessError(f"--list {file}: first line has {header}", allowed="a line of column names with tabs between: "
                            "path, and if wanted person, split and tags of your own; then a line per file")
    entries: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, 2):
        if "" in line:
            raise LikenessError(f"--list {file}, line {number}: more cells than column names", fix="check its tabs")
        text, split = line["path"].strip(), line.get("split", "").strip()
        if split and split not in SPLITS:
            raise LikenessError(f"--list {file}, line {number}: split {split!r}", allowed=", ".join(SPLITS) + " or empty")
        matches = [p for p in _readings(text, request) if p in files] or [f"{next(iter(request.roots))}/{text.lstrip('/')}"]
        if len(matches) > 1:
            raise LikenessError(f"--list {file}, line {number}: {text} could be {' or '.join(matches)}",
                                fix="start the path with the label of its root")
        if matches[0] in entries:
            raise LikenessError(f"--list {file}, line {number}: {text} stands there twice", fix="keep one of the lines")
        cells = {k: v.strip() for k, v in line.items()}
        cells.setdefault("person", cells.pop("speaker", ""))  # either name will do for the column
        entries[matches[0]] = cells
    if not any(path in files for path in entries):
        what = f"--list {file}: none of its {len(entries)} paths is a file below the sources; the first is {lines[0]['path']}"
        raise LikenessError(what, allowed=f"paths as seen from {' or '.join(request.roots.values())}, or absolute ones")
    return entries


def _listed_splits(listed: Mapping[str, Mapping[str, str]], file: str) -> dict[str, str]:
    """Person -> split, where the list gives one; it holds for all files of the person."""
    splits: dict[str, str] = {}
    for path, line in listed.items():
        person, split = line.get("person") or _default_person(path), line.get("split", "")
        if split and splits.setdefault(person, split) != split:
            raise LikenessError(f"--list {file}: person {person} is in split {splits[person]} and in {split}",
                                fix="a person belongs to one split, or what is learnt about him leaks; mend the list")
    return splits


def _readings(text: str, request: Request) -> list[str]:
    """Source paths that a path of the list may mean."""
    if text.startswith("/"):
        file = Path(text).resolve()
        return [f"{label}/{file.name if Path(place).is_file() else file.relative_to(place).as_posix()}"
                for label, place in request.roots.items() if file.is_relative_to(place)]
    clean = os.path.normpath(text)
    return list(dict.fromkeys([clean, *(f"{label}/{clean}" for label in request.roots)]))


def _check_keys(sources: list[Source]) -> None:
    seen: dict[str, str] = {}
    for source in sources:
        if source.key in seen:
            raise LikenessError(f"{source.path} and {seen[source.key]} would get the same row key {source.key}",
                                fix="rename one of the files")
        seen[source.key] = source.path


def assign_splits(sources: Iterable[Source], ingested: set[str], val_fraction: float) -> dict[str, str]:
    """Split by person, so that no person is in two.

    People without one are taken in the order of their digests: the first to "val", as many as bring it to its share of all
    people, the others to "train". Only people with rows count (`ingested`, source paths), so that broken files don't use
    up the share; the others have no split.
    """
    splits = {s.person: s.split for s in sources if s.split}
    people = {s.person for s in sources if s.path in ingested}
    missing = math.ceil(val_fraction * len(people)) - sum(splits.get(name) == "val" for name in people)
    new = sorted(people - splits.keys(), key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = max(0, missing) if len(people) > 1 else 0
    return splits | dict.fromkeys(new[:held_out], "val") | dict.fromkeys(new[held_out:], "train")
