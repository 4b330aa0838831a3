"""What lies below the roots: files, samples inside tars, and the sidecars that speak about them.

A sidecar is a text or JSON file with the same name as another file beside it, but for the ending: `a.txt` or `a.caption` holds
the caption of `a.jpg`, `a.json` an object with tags, and maybe a caption. In a tar, files that share their name up to the first
dot are one sample, as WebDataset has it: a picture or a video, and its sidecars.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import LikenessError
from infra.storage.copies import local, local_all
from infra.storage.objects import ObjectPath, as_path, listed
from pipelines.dataset.request import Request

CAPTION_ENDINGS = (".txt", ".caption")
SIDECAR_ENDINGS = (*CAPTION_ENDINGS, ".json")
LARGEST_SIDECAR_BYTES = 1 << 20
PHOTO_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
MEDIA_ENDINGS = PHOTO_ENDINGS | {
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v", ".ts",
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A file, or a member of a tar.

    Attributes:
        part: (offset, size) of its bytes in `file` when that is a tar.
        caption, tags: from its sidecars.
    """

    file: Path
    bytes: int
    mtime_ns: int
    part: tuple[int, int] | None = None
    caption: str = ""
    tags: dict[str, str] = field(default_factory=dict)


def walk(root: Path, request: Request, known: Collection[str]) -> dict[str, Found]:
    """Source path (label of its root, then its place below it) -> what lies there.

    Args:
        root: folder of the dataset, left out.
        known: labels of roots from which rows were made before; such a root may be gone.

    Raises:
        LikenessError: a root is missing and not known, or lies below another.
    """
    skip = {root.resolve(), as_path(request.source_list).resolve() if request.source_list else root.resolve()}
    roots = {label: as_path(path) for label, path in request.roots.items()}
    if not roots:
        raise LikenessError(f"dataset {root} has no sources", fix="name a folder of clips or photos: --source FOLDER")
    found: dict[str, Found] = {}
    for label, where in roots.items():
        if not where.exists():
            if label in known:
                continue
            raise LikenessError(f"source {label}: {where} is gone", fix=f"if it was moved, pass --source {label}=NEW_PLACE")
        for other, above in roots.items():
            if other != label and where.is_relative_to(above):
                raise LikenessError(f"--source {where} lies below --source {above}", fix="name only one of them")
        if where.is_file():
            found |= _file(f"{label}/{where.name}", where, {})
            continue
        with listed(where):
            for folder, names in _folders(where, skip):
                inner = folder.relative_to(where).as_posix()
                found |= _folder(label if inner == "." else f"{label}/{inner}", folder, names)
    return found


def _folders(place: Path, skip: set[Path]) -> Iterable[tuple[Path, list[str]]]:
    if isinstance(place, ObjectPath):
        yield from _object_folders(place, skip)
        return
    for name, folders, files in os.walk(place):
        folder = Path(name)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (folder / f).resolve() not in skip)
        yield folder, sorted(f for f in files if not f.startswith(".") and (folder / f).resolve() not in skip)


def _object_folders(place: ObjectPath, skip: set[Path]) -> Iterable[tuple[Path, list[str]]]:
    folders: dict[Path, list[str]] = defaultdict(list)
    for file in place.files():
        hidden = any(part.startswith(".") for part in file.relative_to(place).parts)
        if not hidden and not skip.intersection((file, *file.parents)):
            folders[file.parent].append(file.name)
    texts = [folder / name for folder, names in folders.items() for name in names if Path(name).suffix.lower() in SIDECAR_ENDINGS]
    local_all([(file, "") for file in texts])  # together, since each takes a round trip
    yield from ((folder, sorted(folders[folder])) for folder in sorted(folders))


def _folder(path: str, folder: Path, names: list[str]) -> dict[str, Found]:
    sidecars: dict[str, dict[str, str]] = defaultdict(dict)  # stem -> ending -> name
    others = {Path(name).stem for name in names if Path(name).suffix.lower() not in SIDECAR_ENDINGS}
    plain = []
    for name in names:
        stem, ending = Path(name).stem, Path(name).suffix.lower()
        if ending in SIDECAR_ENDINGS and (stem in others or stem in names):  # a.txt and a.jpg.txt both speak about a.jpg
            sidecars[stem][ending] = name
        else:
            plain.append(name)
    found: dict[str, Found] = {}
    for name in plain:
        beside = {**sidecars.get(Path(name).stem, {}), **sidecars.get(name, {})}
        found |= _file(f"{path}/{name}", folder / name, {ending: folder / other for ending, other in beside.items()})
    return found


def _file(path: str, file: Path, sidecars: dict[str, Path]) -> dict[str, Found]:
    stat = file.stat() if file.exists() else file.lstat()  # a dangling link is a source too, and will be named
    if file.suffix == ".tar" and tarfile.is_tarfile(local(file)):
        return _tar(path, file, stat.st_mtime_ns)

    def read(ending: str) -> bytes:
        with sidecars[ending].open("rb") as sidecar:
            return sidecar.read(LARGEST_SIDECAR_BYTES)

    caption, tags = _said(sidecars, read)
    return {path: Found(file, stat.st_size, stat.st_mtime_ns, caption=caption, tags=tags)}


def _tar(path: str, file: Path, mtime_ns: int) -> dict[str, Found]:
    """The samples of a tar; one without a picture or video is the source of its first member, and will be refused.

    A tar that ends too early is a source itself, beside the samples before its end, and will be refused with its name.
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = defaultdict(dict)
    found = {}
    end = 0
    try:
        with tarfile.open(local(file), "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                if member.isfile() and dot and stem:
                    samples[f"{folder}/{stem}".lstrip("/")][f".{ending.lower()}"] = member
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        cut = not _ends_whole(file, end)
    except tarfile.TarError:
        cut = True
    if cut:
        found[path] = Found(file, file.stat().st_size, mtime_ns)
    for key, members in samples.items():
        media = [ending for ending in members if f".{ending.rpartition('.')[2]}" in MEDIA_ENDINGS]
        ending = (media or sorted(members))[0]
        beside = {f".{other.rpartition('.')[2]}": member for other, member in members.items() if other != ending}
        sidecars = {other: member for other, member in beside.items() if other in SIDECAR_ENDINGS}

        def read(other: str, sidecars: dict[str, tarfile.TarInfo] = sidecars) -> bytes:
            member = sidecars[other]
            with file.open("rb") as data:
                return os.pread(data.fileno(), min(member.size, LARGEST_SIDECAR_BYTES), member.offset_data)

        caption, tags = _said(sidecars, read)
        member = members[ending]
        found[f"{path}/{key}{ending}"] = Found(file, member.size, mtime_ns, (member.offset_data, member.size), caption, tags)
    return found


def _ends_whole(file: Path, end: int) -> bool:
    """Whether nothing but zeros follows the last member that could be read; Python's tarfile takes a cut header for the end."""
    with file.open("rb") as data:
        data.seek(end)
        return file.stat().st_size >= end and not data.read(tarfile.BLOCKSIZE).strip(b"\0")


def _said(sidecars: Collection[str], read: Callable[[str], bytes]) -> tuple[str, dict[str, str]]:
    """Caption and tags of a source; a sidecar that can't be understood says nothing but that, in the tag `sidecar_error`."""
    caption, tags = "", dict[str, str]()
    for ending in sorted(sidecars, key=lambda ending: (ending == ".json", ending)):  # a caption's own file goes first
        try:
            text = read(ending).decode("utf-8-sig").strip()
            if ending in CAPTION_ENDINGS:
                caption = caption or text
            else:
                plain = json.loads(text)
                if not isinstance(plain, dict):
                    raise ValueError("not a JSON object")
                own = plain.pop("caption", "")
                caption = caption or str(own)
                tags |= {str(name): _text(value) for name, value in plain.items()}
        except (OSError, ValueError) as error:
            tags["sidecar_error"] = f"{ending}: {str(error).splitlines()[0][:200]}"
    return caption, tags


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
