"""Decode once against a chain of stages with files between them; prints Markdown.

    python benchmarks/decode_once.py FOLDER [--repeats 3] [--copies 1] [--stages 1 2 3 4 5 6] [--only separate recoded]

The first k of six operators that look at every frame (`STAGES`) on the same clips, in three ways:

- ours: one `likeness data build` (serial runner), all operators fused, each clip decoded once;
- separate: k passes, as scripts for one task each are run in turn: every pass decodes the video, reads what earlier passes left,
  computes, and writes a file per clip and field;
- recoded: the same, and each pass but the last leaves the clip as an mp4 at 25 frames per second (x264, crf 18, preset medium),
  which is what the next pass decodes, as chains of scripts do that normalise, cut or re-time video on the way.

Each run is a process of its own with one thread. Timed is the work, from the first file on, without imports and loading models,
and, for ours alone, with ledgers, checksums and flushing to disk. After each run the values of `separate` are compared with ours:
equal bytes. Those of `recoded` come from other pixels, so only their number is compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from build import noted_toolbox, work_began
from common import LABEL, Facts, Members, compare, copied, leave, measured, minutes, scratch_folder, spread, stored

from pipelines.dataset.build import build
from pipelines.dataset.graph import Node, resolve
from pipelines.dataset.request import updated
from pipelines.dataset.sources import row_key, source_key
from pipelines.dataset.threads import one_thread
from preprocessing.clip import open_clip
from preprocessing.codecs import EXTENSION, decode, encode
from preprocessing.fields import SOURCE, TIMELINE, VIDEO, by_name
from preprocessing.media.mux import write_video
from preprocessing.operator import Sample

# Fields asked for, one operator that reads the video each; what they need besides reads no video.
STAGES = ("picture_measures", "face_detections", "face_track", "landmarks_478", "face_box_96", "face_tube_256")
WAYS = {"ours": "`likeness data build`", "separate": "a pass and a file per stage",
        "recoded": "the same, with an mp4 between stages"}  # fmt: skip


def fused_run(clips: Path, out: Path, stages: int) -> None:
    request = updated(None, sources=[f"{LABEL}={clips}"], fields=list(STAGES[:stages]))
    report = build(out / "dataset", request, noted_toolbox(out / "began"), runner="serial")
    print(*report.problems, sep="\n")
    leave(out, work_s=time.monotonic() - work_began(out))


class Chain:
    """Stages with files between them: `ROW.FIELD.EXT` in one folder, and, recoded, `ROW.mp4`."""

    def __init__(self, clips: Path, out: Path, stages: int, recoded: bool) -> None:
        nodes: tuple[Node, ...] = resolve(noted_toolbox(out / "began"), list(STAGES[:stages]), {}).nodes
        self.ingest, self.passes = nodes[0].operator, passes(nodes)
        self.clips, self.out, self.recoded = clips, out / "values", recoded
        self.out.mkdir()

    def run(self) -> float:
        """Seconds of work."""
        begun = time.monotonic()
        files: dict[str, Path] = {}  # row key -> what the next pass decodes
        for path in sorted(self.clips.iterdir()):
            name = f"{LABEL}/{path.name}"
            for number, values in self.ingest(path, {"path": name, "bytes": path.stat().st_size, "sha256": ""}):
                key = row_key(source_key(name), number)
                files[key] = path
                self._write(key, values)
        spent = time.monotonic() - begun
        for place, nodes in enumerate(self.passes):
            for node in nodes:
                node.operator.setup()
            begun = time.monotonic()
            for key in list(files):
                frames = self._pass(key, files[key], nodes)
                if self.recoded and place + 1 < len(self.passes):
                    files[key] = self._recode(key, frames, place)
            spent += time.monotonic() - begun
        return spent

    def _pass(self, key: str, file: Path, nodes: list[Node]) -> Any:
        source, shown = self._read(key, "source"), self._read(key, "timeline")
        if file.parent == self.out:
            shown = np.arange(len(shown))
        sample = Sample(key, {SOURCE.name: source, TIMELINE.name: shown})
        sample[VIDEO] = open_clip(file, source, shown)
        for node in nodes:
            for field in node.reads:
                if field not in sample:
                    sample[field] = self._read(key, field.name)
            values = node.operator(sample)
            for field, value in values.items():
                sample[field] = value
            self._write(key, values)
        return sample[VIDEO]

    def _recode(self, key: str, frames: Any, place: int) -> Path:
        file = self.out / f"{key}.{place}.mp4"
        write_video(file, frames, Fraction(frames.fps))
        (self.out / f"{key}.{place - 1}.mp4").unlink(missing_ok=True)
        return file

    def _write(self, key: str, values: dict[Any, Any]) -> None:
        for field, value in values.items():
            if value is not None:
                (self.out / f"{key}.{field.name}.{EXTENSION[field.codec]}").write_bytes(encode(field, value))

    def _read(self, key: str, name: str) -> Any:
        field = by_name(name)
        assert field, name
        return decode(field, (self.out / f"{key}.{name}.{EXTENSION[field.codec]}").read_bytes())


def passes(nodes: tuple[Node, ...]) -> list[list[Node]]:
    """Operators after ingest, those that read no video in the pass of the one that needs them."""
    found: list[list[Node]] = []
    waiting: list[Node] = []
    for node in nodes[1:]:
        waiting.append(node)
        if VIDEO in node.reads:
            found.append(waiting)
            waiting = []
    return found


def values_of(out: Path) -> Members:
    members = {}
    for path in (out / "values").iterdir():
        key, field, _ = path.name.split(".")
        if not field.isdigit():  # no mp4
            members[key, field] = path.read_bytes()
    return members


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--copies", type=int, default=1, help="of each file")
    numbers = range(1, len(STAGES) + 1)
    options.add_argument("--stages", type=int, nargs="+", default=list(numbers), choices=numbers)
    options.add_argument("--only", nargs="+", choices=list(WAYS)[1:], default=list(WAYS)[1:], help="what to compare with")
    options.add_argument("--run", choices=list(WAYS), help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run:
        with one_thread():
            if chosen.run == "ours":
                fused_run(chosen.folder, chosen.out, chosen.stages[0])
            else:
                leave(chosen.out, work_s=Chain(chosen.folder, chosen.out, chosen.stages[0], chosen.run == "recoded").run())
        return
    with scratch_folder() as scratch:
        clips = copied(chosen.folder, scratch / "clips", chosen.copies)
        for place, stages in enumerate(chosen.stages):
            line(clips, scratch / "runs", stages, ["ours", *chosen.only], chosen.repeats, first=place == 0)


def line(clips: Path, scratch: Path, stages: int, ways: list[str], repeats: int, first: bool) -> None:
    """Runs in turns, and their line of the table."""
    runs: dict[str, list[Facts]] = {way: [] for way in ways}
    for _ in range(repeats):
        scratch.mkdir()
        for way in ways:
            runs[way].append(measured(__file__, way, scratch / way, clips, "--stages", stages))
        ours = stored(scratch / "ours" / "dataset")
        if "separate" in ways:
            compare(ours, values_of(scratch / "separate"), unhashed=SOURCE.name)
        if "recoded" in ways and values_of(scratch / "recoded").keys() != ours.keys():
            raise SystemExit("recoded: other rows or fields")
        shutil.rmtree(scratch)
    if first:
        frames = sum(json.loads(data)["n_frames"] for (_, field), data in ours.items() if field == SOURCE.name)
        print(f"{len({key for key, _ in ours})} clips, {minutes(ours):.1f} minutes, {frames} frames; runs of each: {repeats}.\n")
        names = " | ".join(f"{WAYS[way]}, s" for way in ways)
        ratios = " | ".join(f"ours is faster than {way}, times" for way in ways[1:])
        print(f"| k | operator added | {names} | {ratios} |\n|---|---|{'---|' * (2 * len(ways) - 1)}")
    times = {way: [run["work_s"] for run in found] for way, found in runs.items()}
    cells = [spread(times[way], ".1f") for way in ways]
    cells += [spread([b / a for a, b in zip(times["ours"], times[way], strict=True)], ".2f") for way in ways[1:]]
    print(f"| {stages} | `{STAGES[stages - 1]}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
