"""Files that can't ship with the project (weights, mostly): where each is had, under which licence, and where it is kept.

A file is looked for in the folders of $LIKENESS_ASSETS, then in ~/.cache/likeness/assets. One that is absent is named in
an error that says what to place where. Everything works without any of them, at the sizes that tests and the demo use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from infra.errors import LikenessError

VARIABLE = "LIKENESS_ASSETS"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        file: its name in an asset folder.
        url: where it is downloaded from; "" where it must be had by hand (`page` says where).
        sha256: None where it is not known: the checksum of the file found is then recorded, not checked.
        bytes: its size, None where not known.
        used_by: methods, operators and metrics that want it.
    """

    name: str
    file: str
    url: str
    sha256: str | None
    bytes: int | None
    licence: str
    used_by: tuple[str, ...]
    page: str = ""
    note: str = ""


def _wav2lip(file: str, what: str) -> Asset:
    return Asset(
        name=file.removesuffix(".pth"), file=file, url="", sha256=None, bytes=None, used_by=("wav2lip",), note=what,
        page="https://github.com/Rudrabha/Wav2Lip", licence="no licence file; personal, research and non-commercial use only",
    )


ASSETS: tuple[Asset, ...] = (
    Asset(
        name="syncnet_v2", file="syncnet_v2.model", sha256=None, bytes=None, licence="MIT (code)",
        url="http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model", used_by=("sync operator", "evaluate"),
        page="https://github.com/joonson/syncnet_python", note="judge of lip sync: LSE-C, LSE-D, offset",
    ),
    _wav2lip("wav2lip.pth", "generator trained without the quality discriminator: most accurate lips"),
    _wav2lip("wav2lip_gan.pth", "generator trained with it: better looking"),
    _wav2lip("lipsync_expert.pth", "sync expert that teaches the generator"),
    _wav2lip("visual_quality_disc.pth", "quality discriminator, to go on with stage gan"),
)


def get(name: str) -> Asset:
    """The declaration of `name`."""
    for asset in ASSETS:
        if asset.name == name:
            return asset
    names = [a.name for a in ASSETS]
    near = get_close_matches(name, names, 1)
    raise LikenessError(
        f"unknown asset {name!r}", allowed=", ".join(names), fix=f"did you mean {near[0]}?" if near else "likeness assets list"
    )


def cache_folder() -> Path:
    """Where `fetch` puts files."""
    return Path.home() / ".cache" / "likeness" / "assets"


def folders() -> list[Path]:
    """Where files are looked for, in this order."""
    listed = [Path(part).expanduser() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return [*listed, cache_folder()]


def locate(asset: Asset) -> Path | None:
    """The file, or None where it is absent."""
    return next((folder / asset.file for folder in folders() if (folder / asset.file).is_file()), None)


def find(name: str) -> Path:
    """The file of an asset.

    Raises:
        LikenessError: absent, with what to place where; or of another size than the published file.
    """
    asset = get(name)
    path = locate(asset)
    if path is None:
        origin = f"from {asset.url or asset.page} (licence: {asset.licence})"
        by_hand = f"place {asset.file} {origin} in {folders()[0]}, or set {VARIABLE} to its folder"
        raise LikenessError(
            f"asset {name} is not here: {asset.note or asset.file}",
            fix=f"run: likeness assets fetch {name}; or {by_hand}" if asset.url else by_hand,
        )
    size = path.stat().st_size
    if asset.bytes not in (None, size):
        raise LikenessError(f"{path} has {size} bytes", allowed=f"{asset.bytes} bytes", fix=f"remove it and fetch {name} again")
    return path


def checksum(name: str) -> str:
    """sha256 of the file found, read again only when its size or time of change differ from last time.

    Raises:
        LikenessError: absent, or not the published file.
    """
    asset, path = get(name), find(name)
    found = _sha256(path)
    if asset.sha256 not in (None, found):
        allowed = f"{asset.sha256} for {name}"
        raise LikenessError(f"{path} has sha256 {found}", allowed=allowed, fix=f"remove it, then: likeness assets fetch {name}")
    return found


def fetch(name: str, folder: Path | None = None, progress: Callable[[int, int | None], None] | None = None) -> Path:
    """Download an asset unless it is here already; the file appears under its name only when complete and right.

    Args:
        folder: where to put it; by default the first of $LIKENESS_ASSETS, else the cache.
        progress: told bytes so far and in all.

    Raises:
        LikenessError: no address known, not reachable, or other bytes than published.
    """
    asset = get(name)
    if folder is None and locate(asset):
        return find(name)
    folder = folder or folders()[0]
    by_hand = f"place {asset.file} in {folder} by hand"
    if not asset.url:
        raise LikenessError(f"asset {name} has no address to download from", fix=f"see {asset.page}, then {by_hand}")
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{asset.file}.", suffix=".part", dir=folder)
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(asset.url, timeout=30) as response:
            length = response.headers.get("Content-Length")
            total, done = (int(length) if length else asset.bytes), 0
            while chunk := response.read(CHUNK):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
        if total not in (None, done) or asset.bytes not in (None, done):
            raise LikenessError(f"{asset.url} gave {done} of {asset.bytes or total} bytes", fix="try again")
        found = digest.hexdigest()
        if asset.sha256 not in (None, found):
            raise LikenessError(f"{asset.url} gave sha256 {found}", allowed=f"{asset.sha256} for {name}", fix=by_hand)
        os.chmod(partial, 0o644)
        os.replace(partial, folder / asset.file)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise LikenessError(f"asset {name} could not be fetched from {asset.url}: {reason}", fix=by_hand) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    return folder / asset.file


def _sha256(path: Path) -> str:
    """Cached beside the cache folder by path, size and time; gigabytes take seconds to read."""
    notes_file, stat = cache_folder() / ".checksums.json", path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    try:
        notes = json.loads(notes_file.read_text())
    except (OSError, ValueError):
        notes = {}
    known = notes.get(str(path.resolve()))
    if known and known[:2] == stamp:
        return known[2]
    with open(path, "rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    notes[str(path.resolve())] = [*stamp, found]
    with contextlib.suppress(OSError):  # a cache that can't be written costs time only
        notes_file.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=notes_file.parent)
        with os.fdopen(handle, "w") as out:
            json.dump(notes, out, indent=1)
        os.replace(partial, notes_file)
    return found
