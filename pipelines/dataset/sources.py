"""Which sources there are, who is in them, what is said about them, and which split each belongs to.

Every file below the roots is a source and ends as ingested, refused or quarantined. A tar stands for the samples in it (a
WebDataset). Not counted: hidden files, sidecars (see `folders`), the source list itself, and the dataset when it lies below a
root.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infra import digest
from infra.errors import LikenessError
from infra.storage.manifest import SourceEntry
from infra.storage.objects import as_path
from infra.storage.tombstones import TAKEN_DOWN, Tombstones, is_anonymous
from pipelines.dataset.folders import Found, walk
from pipelines.dataset.request import Request
from pipelines.dataset.source_list import Line, read_list

NOT_LISTED = "not in the source list"
NOT_FOUND = "in the source list, but no such file below the roots"
NO_SOURCE = "no longer among the sources"
SLUG_LENGTH = 48


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        path: label of its root, then its place below it; the name of the source wherever the folder lies.
        file: where it lies.
        bytes, mtime_ns: from stat (of an object the second stands for its ETag); bytes -1 where the file is gone.
        person, split, tags: from the list or the last build; split "" where none is given yet (see `assign_splits`).
        caption: from a sidecar or the list.
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
    caption: str = ""
    part: tuple[int, int] | None = None
    refusal: str = ""

    @property
    def key(self) -> str:
        return source_key(self.path)

    @property
    def given(self) -> dict[str, Any]:
        """The value of GIVEN: what came with it besides its bytes."""
        return ({"caption": self.caption} if self.caption else {}) | ({"tags": dict(self.tags)} if self.tags else {})

    def sha256(self) -> str:
        """Of its bytes.

        Raises:
            OSError: they can't be read.
        """
        return digest.of_file(self.file) if self.part is None else digest.of_part(self.file, *self.part)


def source_key(path: str) -> str:
    """First part of the keys of a source's rows: readable, and unique through six hex digits of its path's digest."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", path.rpartition(".")[0].lower() or path.lower()).strip("-")[:SLUG_LENGTH]
    return f"{slug or 'file'}-{hashlib.blake2b(path.encode(), digest_size=3).hexdigest()}"


def row_key(source: str, segment: int | str) -> str:
    return f"{source}-{segment:04d}" if isinstance(segment, int) else f"{source}-{segment}"


def given_digest(sources: Iterable[Source]) -> str:
    """What operators that read GIVEN depend on besides."""
    return digest.of_json(sorted(([s.path, s.given] for s in sources), key=lambda fact: str(fact[0])))


def content_digest(sources: Iterable[Source], sha256: Mapping[str, str]) -> str:
    """What an ingested shard depends on: its sources' names and bytes; not who is in them, nor their splits."""
    facts = [[s.path, sha256.get(s.path, ""), s.refusal] for s in sources]
    return digest.of_json(sorted(facts, key=lambda fact: str(fact[0])))


def find_sources(root: Path, request: Request, known: Iterable[SourceEntry]) -> list[Source]:
    """All sources below the request's roots, sorted by path, with their people; those that must not be ingested say so.

    Args:
        root: folder of the dataset.
        known: sources of the last build; they keep their person and split unless the list says otherwise, and stay when
            their file is gone, with `bytes` -1, also when the whole root is.

    Raises:
        LikenessError: a root nothing is known of, or the list, is missing; the list is wrong, roots overlap, two sources would
            share a key.
    """
    known_by_path = {entry.path: entry for entry in known if entry.reason not in (NOT_LISTED, NOT_FOUND)}
    files = walk(root, request, {path.partition("/")[0] for path in known_by_path})
    listed = read_list(request, files) if request.source_list else None
    splits = _listed_splits(listed or {}, request)
    sources = []
    for path in sorted({*files, *known_by_path, *(listed or ())}):
        found, line = files.get(path), (listed or {}).get(path, Line())
        there = found or Found(_place(request, path), -1, 0)
        about: dict[str, Any] = {"file": there.file, "bytes": there.bytes, "mtime_ns": there.mtime_ns, "part": there.part}
        if listed is not None and path not in listed:
            sources.append(Source(path, **about, refusal=NOT_LISTED))
        elif found is None and path not in known_by_path:
            sources.append(Source(path, **about, refusal=NOT_FOUND))
        else:
            before = known_by_path.get(path)
            person = line.person or (before.person if before else "") or default_person(path, request.people)
            split = splits.get(person) or (before.split if before else "")
            tags, caption = {**there.tags, **line.tags}, line.caption or there.caption
            if found is None and before:
                tags, caption = {**before.tags, **tags}, caption or before.caption
            sources.append(Source(path, **about, person=person, split=split, tags=tags, caption=caption))
    _check_keys(sources)
    return sources


def as_taken_down(sources: Iterable[Source], known: Iterable[SourceEntry], stones: Tombstones) -> list[Source]:
    """The sources, sorted by path, with those refused that are taken down; purged ones without their name.

    Args:
        known: sources of the last build that shards were cut from. They keep their place in it, whatever has become of them.
    """
    found: dict[str, Source] = {}
    for source in sources:
        if is_anonymous(source.path):
            continue
        if not stones.covers_source(source.path, source.person):
            found[source.path] = source
        elif (name := stones.name(source.path, source.person)) == source.path:
            found[name] = replace(source, refusal=TAKEN_DOWN)
        else:
            found[name] = Source(name, Path(), 0, 0, refusal=TAKEN_DOWN)
    for entry in known:
        refusal = TAKEN_DOWN if is_anonymous(entry.path) else NO_SOURCE
        found.setdefault(entry.path, Source(entry.path, Path(), 0, 0, refusal=refusal))
    return [found[path] for path in sorted(found)]


def _place(request: Request, path: str) -> Path:
    label, _, inner = path.partition("/")
    return as_path(request.roots.get(label, label)) / inner


def default_person(path: str, rule: str = "folder") -> str:
    """Who is in a source of which nothing is known but its path; see `Request.people`. The root's label goes before, so that two
    folders never share people by accident."""
    label, parts = path.partition("/")[0], path.split("/")
    whole = path.rpartition(".")[0] or path
    if rule == "folder":
        return "/".join(parts[:2]) if len(parts) > 2 else whole
    if rule != "file" and (match := re.search(rule, path.partition("/")[2])):
        return f"{label}/{match[1] if match.groups() else match[0]}"
    return whole


def _listed_splits(listed: Mapping[str, Line], request: Request) -> dict[str, str]:
    """Person -> split, where the list gives one; it holds for all files of the person."""
    splits: dict[str, str] = {}
    for path, line in listed.items():
        person = line.person or default_person(path, request.people)
        if line.split and splits.setdefault(person, line.split) != line.split:
            raise LikenessError(f"--list {request.source_list}: person {person} is in split {splits[person]} and in {line.split}",
                                fix="a person belongs to one split, or what is learnt about them leaks; mend the list")
    return splits


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
