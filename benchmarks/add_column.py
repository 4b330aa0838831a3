"""Adding a field to a finished dataset against rewriting a wide one; prints Markdown.

    python benchmarks/add_column.py FOLDER [--repeats 3] [--copies 1] [--rows 1000] [--field head_pose face_arcface_112]

A dataset is built from the clips once, with the recipe `talking` less the fields to add and what needs them, and exported as wide
tars with all its fields (`likeness data export`). Then each field is added twice, by the same operator: with `likeness data add`
(serial runner), and by the hand-written way: read the wide tars one after the other, compute the field from what is in them (and
from the source video where the operator looks at frames), and write new tars with the old members and the new one.

Both in a process of their own with one thread; timed from before the first file is opened to the end of the last, imports done.
Ours reads and checks its ledgers, and flushes what it writes to disk; for the rewriting both are given, until all is written and
until it is flushed. Bytes written are those of files that are new or changed afterwards. The new values of both are compared: equal
bytes. Ours has fixed costs of some tenths of a second, so the size of the dataset decides; --rows N tiles the small dataset's rows
(`benchmarks/tiled.py`) to a large one, for fields whose operators look at no frames.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from common import LABEL, Facts, Members, compare, copied, leave, measured, minutes, scratch_folder, spread, stored
from tiled import tiled, toolbox

from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.export import export
from pipelines.dataset.graph import Node, Toolbox, resolve, standard
from pipelines.dataset.request import load_recipe, load_request, updated
from pipelines.dataset.threads import one_thread
from preprocessing.clip import open_clip
from preprocessing.codecs import EXTENSION, decode, encode
from preprocessing.fields import SOURCE, TIMELINE, VIDEO, by_name
from preprocessing.operator import Lazy, Sample

WAYS = {"ours": "`likeness data add`", "wide": "rewriting wide tars"}


def tools(base: Path) -> Toolbox:
    """Of the dataset that is added to: tiled rows come from `base`/small where that is there."""
    return toolbox(base / "small") if (base / "small").exists() else standard()


def new_nodes(base: Path, field: str) -> list[Node]:
    """The operators that the dataset lacks for this field. Imports what either way would import while it works."""
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    dataset, request = open_dataset(base / "dataset"), load_request(base / "dataset")
    assert request
    nodes = resolve(tools(base), [*dataset.manifest.wanted, field], request.operators).nodes
    return [node for node in nodes if node.column not in dataset.manifest.columns]


def add_run(base: Path, out: Path, field: str) -> None:
    shutil.copytree(base / "dataset", out / "dataset")
    before = {path: path.stat() for path in (out / "dataset").rglob("*") if path.is_file()}
    new_nodes(base, field)
    request = updated(load_request(out / "dataset"), fields=[field])
    os.sync()
    begun = time.monotonic()
    build(out / "dataset", request, tools(base), runner="serial")
    work_s = time.monotonic() - begun
    new = [path for path in (out / "dataset").rglob("*") if path.is_file() and _changed(path, before)]
    leave(out, work_s=work_s, flushed_s=work_s, bytes=sum(path.stat().st_size for path in new), files=len(new))


def _changed(path: Path, before: dict[Path, os.stat_result]) -> bool:
    then, now = before.get(path), path.stat()
    return then is None or (then.st_ino, then.st_mtime_ns, then.st_size) != (now.st_ino, now.st_mtime_ns, now.st_size)


def wide_run(base: Path, out: Path, field: str) -> None:
    missing = new_nodes(base, field)
    tars = sorted((base / "tars").glob("*.tar"))
    os.sync()
    begun = time.monotonic()
    for node in missing:
        node.operator.setup()
    for path in tars:
        with tarfile.open(path, "r:") as old, tarfile.open(out / f"{path.name}.part", "w", format=tarfile.USTAR_FORMAT) as new:
            for key, members in samples(old):
                members |= computed(base / "clips", key, members, missing)
                for name, data in members.items():
                    info = tarfile.TarInfo(f"{key}.{name}")
                    info.size = len(data)
                    new.addfile(info, io.BytesIO(data))
        os.replace(out / f"{path.name}.part", out / path.name)
    work_s = time.monotonic() - begun
    for path in out.glob("*.tar"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    flushed_s = time.monotonic() - begun
    written = [path.stat().st_size for path in out.glob("*.tar")]
    leave(out, work_s=work_s, flushed_s=flushed_s, bytes=sum(written), files=len(written))


def samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Row after row: key, and bytes by member name."""
    key, members = "", {}
    for info in tar:
        row, _, name = info.name.partition(".")
        if row != key and members:
            yield key, members
            members = {}
        key = row
        members[name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    if members:
        yield key, members


def computed(clips: Path, key: str, members: dict[str, bytes], nodes: list[Node]) -> dict[str, bytes]:
    """The members that are to be added to a row."""
    sample = Sample(key)
    for name, data in members.items():
        if field := by_name(name.partition(".")[0]):
            sample[field] = Lazy(partial(decode, field), data)
    found = {}
    for node in nodes:
        if VIDEO in node.reads and VIDEO not in sample:
            source = sample[SOURCE]
            sample[VIDEO] = open_clip(clips / source["path"].partition("/")[2], source, sample[TIMELINE])
        for field, value in node.operator(sample).items():
            sample[field] = value
            found[f"{field.name}.{EXTENSION[field.codec]}"] = encode(field, value)
    return found


def base_of(folder: Path, scratch: Path, copies: int, rows: int, added: list[str]) -> None:
    """`dataset` and its `tars`, of `clips`; the dataset without the fields to add and without what is made from them. With `rows`
    that is `small`, and the dataset is tiled from it."""
    clips = copied(folder, scratch / "clips", copies)
    kept = []
    for name in load_recipe("talking").fields:
        nodes = resolve(standard(), [name], {}).nodes
        if not {f.name for node in nodes for f in node.writes} & set(added):
            kept.append(name)
    built = scratch / ("small" if rows else "dataset")
    build(built, updated(None, sources=[f"{LABEL}={clips}"], fields=kept), standard(), runner="serial")
    if rows:
        tiled(built, scratch, rows, kept)
    export(scratch / "dataset", scratch / "tars", sorted(open_dataset(scratch / "dataset").fields))


def values_of(out: Path, fields: list[str]) -> Members:
    found = {}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for key, members in samples(tar):
                found |= {(key, name.partition(".")[0]): data for name, data in members.items() if name.partition(".")[0] in fields}
    return found


def line(scratch: Path, field: str, repeats: int) -> None:
    """Runs in turns, and their lines of the table."""
    runs: dict[str, list[Facts]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            runs[way].append(measured(__file__, way, scratch / way, scratch, "--field", field))
        added = sorted(set(open_dataset(scratch / "ours" / "dataset").fields) - set(open_dataset(scratch / "dataset").fields))
        ours = stored(scratch / "ours" / "dataset", added)
        compare(ours, values_of(scratch / "wide", added))
        if not ours:
            raise SystemExit(f"{field} has no values")
        for way in WAYS:
            shutil.rmtree(scratch / way)
    own = sum(map(len, ours.values()))
    for way, title in WAYS.items():
        written, flushed = (spread([run[fact] for run in runs[way]], ".2f") for fact in ("work_s", "flushed_s"))
        size, files = runs[way][0]["bytes"] / 1e6, runs[way][0]["files"]
        print(f"| `{field}` ({own / 1e6:.3g} MB) | {title} | {written} | {flushed} | {size:.3g} | {files} |")
    pairs = list(zip(runs["ours"], runs["wide"], strict=True))
    faster = [spread([wide[fact] / one[fact] for one, wide in pairs], ".2f") for fact in ("work_s", "flushed_s")]
    fewer = runs["wide"][0]["bytes"] / runs["ours"][0]["bytes"]
    print(f"| | ours: times faster, times fewer bytes | {faster[0]} | {faster[1]} | {fewer:.1f} | |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--copies", type=int, default=1, help="of each file")
    options.add_argument("--rows", type=int, default=0, help="tile the rows to so many; for fields that need no frames")
    options.add_argument("--field", nargs="+", default=["head_pose", "face_arcface_112"])
    options.add_argument("--run", choices=list(WAYS), help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run:
        with one_thread():
            (add_run if chosen.run == "ours" else wide_run)(chosen.folder, chosen.out, chosen.field[0])
        return
    with scratch_folder() as scratch:
        with one_thread():
            base_of(chosen.folder, scratch, chosen.copies, chosen.rows, chosen.field)
        there = stored(scratch / "dataset")
        sizes = sum(path.stat().st_size for path in (scratch / "tars").glob("*.tar"))
        clips, names = ({name[place] for name in there} for place in (0, 1))
        print(f"{len(clips)} clips, {minutes(there):.1f} minutes, {len(names)} fields in {sizes / 1e6:.0f} MB of wide tars; "
              f"runs of each: {chosen.repeats}; new values compared, all equal.\n")  # fmt: skip
        print("| field added | way | seconds | s until flushed | MB written | files written |\n|---|---|---|---|---|---|")
        for field in chosen.field:
            line(scratch, field, chosen.repeats)


if __name__ == "__main__":
    main()
