"""Files that appear whole or not at all.

Everything is written under a unique name in `DATASET/tmp/`, then renamed to its place (same file system, so the rename is
atomic). A process killed at any point leaves at most files in `tmp/`, which the next build sweeps.

For a dataset on object storage `tmp/` is a folder of this machine, and the rename an upload: an object appears whole by itself.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.storage.copies import scratch_folder
from infra.storage.object_transfers import drop_unfinished_uploads, upload
from infra.storage.objects import ObjectPath

TEMPORARY = "tmp"
SYNCS_AT_ONCE = 16


def temporary(root: Path, suffix: str = "") -> Path:
    """A path in `root/tmp/` that no other process or thread uses."""
    folder = temporary_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{suffix}"


def temporary_folder(root: Path) -> Path:
    """Where what is being written for the dataset at `root` lies: a local folder."""
    return scratch_folder(root) if isinstance(root, ObjectPath) else root / TEMPORARY


def move_into_place(temporary_file: Path, final: Path) -> None:
    """Rename a finished file to its place; its bytes are on the disk before its name is."""
    if isinstance(final, ObjectPath):
        upload(temporary_file, final)
        temporary_file.unlink()
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary_file, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary_file, final)


def sync(path: Path) -> None:
    """Make a file's bytes, or the renames inside a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(paths: Iterable[Path]) -> None:
    """`sync` of many files at once: a file system writes its journal once for all that wait for it."""
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
        list(pool.map(sync, paths))


def write_whole(root: Path, final: Path, data: bytes) -> None:
    """Write a small file of the dataset at `root` in one step."""
    if isinstance(final, ObjectPath):
        final.put(data)
        return
    scratch = temporary(root, final.suffix)
    scratch.write_bytes(data)
    move_into_place(scratch, final)
    sync(final.parent)


def sweep(root: Path) -> None:
    """Remove what killed processes left. Only the holder of the build lock may call this."""
    shutil.rmtree(temporary_folder(root), ignore_errors=True)
    if isinstance(root, ObjectPath):
        drop_unfinished_uploads(root)


def remove_tree(folder: Path) -> None:
    """Delete a folder with all that is in it."""
    if isinstance(folder, ObjectPath):
        for path in folder.files():
            path.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder)
