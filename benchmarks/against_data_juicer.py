"""Motion and faces of clips, here and in data-juicer; prints Markdown.

    python benchmarks/against_data_juicer.py FOLDER --python PYTHON [--repeats 3] [--copies 1] [--workers 1] [--only own same]

PYTHON belongs to an environment of its own, with `py-data-juicer av==13.1.0 aiohttp dlib-bin opencv-contrib-python<5` from PyPI
(at its first run data-juicer installs torch into that environment; a run before the first turn, which does not count, takes care of
that).

- own: each with what it has, at its defaults. data-juicer: `video_motion_score_filter` (Farnebäck's optical flow, two frames
  a second at full size) and `video_face_ratio_filter` (share of frames with a face; dlib's HOG detector on every frame). Here:
  `picture_measures` (the flow of eight pairs of neighbouring frames at 128 px, and seven other numbers) and `face_detections`
  (MediaPipe on every frame). The algorithms differ, so this compares what one gets, not how the work is organised.
- same: the same arithmetic on both sides. data-juicer: `video_motion_score_filter`, then `video_extract_frames_mapper` (eight
  frames) with `image_face_ratio_filter` (area of the largest face over the picture's, OpenCV's Haar cascade). Here: two operators,
  `Motion` and `FaceArea` below, that compute just that, run by `likeness data build`.

Each run is a process of its own; "work" leaves out its imports (not those of the processes that data-juicer starts for some
operators), "whole" is the process. Peak memory is the proportional set size of all its processes together, sampled. Nothing is
dropped: both only measure. How well the values agree is printed: the sides take frames at slightly different times, data-juicer's
pictures went through JPEG, and it finds no frames to extract in containers that do not tell their number (MPEG-PS), so that there
it looks for no face at all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from common import LABEL, Facts, copied, finished, leave, scratch_folder, spread, start

from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.graph import Toolbox, standard
from pipelines.dataset.request import updated
from pipelines.dataset.threads import ONE_THREAD, one_thread
from preprocessing.codecs import decode
from preprocessing.fields import FACE_DETECTIONS, PICTURE_MEASURES, VIDEO, Field
from preprocessing.operator import Operator, Sample

MOTION = Field("motion_score", "json", "object", (), "clip", "mean length of the optical flow in px, two frames a second")
FACE_AREA = Field("face_area", "json", "object", (), "clip", "area of the largest face over the picture's, of eight frames")
FRAMES = 8
PER_S = 2
SAMPLED_S = 0.5
MEASURES = {"own": (PICTURE_MEASURES, FACE_DETECTIONS), "same": (MOTION, FACE_AREA)}


class Motion(Operator):
    """`video_motion_score_filter` at its defaults; it looks at frame 1 too, since it skips none after the first."""

    name, version = "motion_score", 1
    reads, writes = (VIDEO,), (MOTION,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        step = max(min(round(video.fps / min(PER_S, video.fps)), video.n_frames - 1), 1)
        scores: list[float] = []
        before: np.ndarray | None = None
        for place, frame in enumerate(video):
            if place % step and place != 1:
                continue
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            if before is not None:
                flow = cv2.calcOpticalFlowFarneback(before, grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload]
                scores.append(float(cv2.cartToPolar(flow[..., 0], flow[..., 1])[0].mean()))
            before = grey
        return {MOTION: {"score": float(np.mean(scores or [-1]))}}


class FaceArea(Operator):
    """`image_face_ratio_filter` at its defaults, on frames from the first to the last, evenly spread."""

    name, version = "face_area", 1
    reads, writes = (VIDEO,), (FACE_AREA,)

    def setup(self) -> None:
        self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt.xml")

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        places = {round(place) for place in np.linspace(0, video.n_frames - 1, FRAMES)}
        shares = [self._share(frame) for place, frame in enumerate(video) if place in places]
        return {FACE_AREA: {"shares": shares}}

    def _share(self, frame: np.ndarray) -> float:
        boxes = self._cascade.detectMultiScale(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), scaleFactor=1.1, minNeighbors=3)
        return max((float(w) * float(h) for _, _, w, h in boxes), default=0.0) / (frame.shape[0] * frame.shape[1])


def toolbox() -> Toolbox:
    """The project's own operators and the two above."""
    own, extra = standard(), {MOTION.name: (MOTION, Motion), FACE_AREA.name: (FACE_AREA, FaceArea)}

    def producer(name: str, settings: Mapping[str, Mapping[str, Any]]) -> Operator:
        return extra[name][1]() if name in extra else own.producer(name, settings)

    return replace(own, field=lambda name: extra[name][0] if name in extra else own.field(name), producer=producer)


# One run of either


def build_run(clips: Path, out: Path, measures: str, workers: int) -> None:
    tools = toolbox()
    request = updated(None, sources=[f"{LABEL}={clips}"], fields=[field.name for field in MEASURES[measures]],
                      settings=["ingest.sound=ignored"])  # fmt: skip
    begun = time.monotonic()
    report = build(out / "dataset", request, tools, runner="ray" if workers > 1 else "serial", workers=workers)
    work_s = time.monotonic() - begun
    print(*report.problems, sep="\n")
    leave(out, work_s=work_s, values=values_of(out / "dataset", clips, measures))


def values_of(root: Path, clips: Path, measures: str) -> dict[str, Any]:
    """By path: the motion score and the face ratio, those of the first piece where a long clip was cut."""
    dataset, found = open_dataset(root), dict[str, Any]()
    motion, face = MEASURES[measures]
    for row in dataset.rows():
        if row.source["segment"]:
            continue
        score, value = (decode(field, dataset.read(row, field.name)) for field in (motion, face))
        if measures == "own":
            places = np.unique(value[:, 0])
            facts = {"motion": score["motion"], "face": len(places) / row.source["n_frames"]}
        else:
            facts = {"motion": score["score"], "face": value["shares"]}
        found[str(clips / row.source["path"].partition("/")[2])] = facts
    return found


def juicer_start(clips: Path, out: Path, measures: str, workers: int, python: str) -> subprocess.Popen[str]:
    out.mkdir(exist_ok=True)
    request = {"clips": sorted(str(path) for path in clips.iterdir()), "measures": measures, "workers": workers, "frames": FRAMES,
               "out": str(out)}  # fmt: skip
    (out / "request.json").write_text(json.dumps(request))
    settings = os.environ | ONE_THREAD | {"HF_HOME": str(out / "cache"), "HF_DATASETS_CACHE": str(out / "cache")}
    command = [python, "-P", str(Path(__file__).with_name("data_juicer_side.py")), str(out / "request.json")]
    with open(out / "log", "w") as log:
        return subprocess.Popen(command, env=settings, cwd=out, stdout=log, stderr=subprocess.STDOUT, text=True)


class Memory(threading.Thread):
    """Samples the proportional set size of a process and all its children; `peak_bytes` is the most seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak_bytes = psutil.Process(pid), 0

    def run(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            total = 0
            for member in self._family():
                try:
                    total += member.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)
            time.sleep(SAMPLED_S)

    def _family(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.Error:
            return []


def run(side: str, clips: Path, out: Path, measures: str, workers: int, python: str) -> Facts:
    os.sync()
    begun = time.monotonic()
    if side == "ours":
        process = start(__file__, measures, out, clips, "--workers", workers)
    else:
        process = juicer_start(clips, out, measures, workers, python)
    memory = Memory(process.pid)
    memory.start()
    facts = finished(process, side, out)
    return facts | {"whole_s": time.monotonic() - begun, "peak_bytes": memory.peak_bytes}


# All runs


def series(clips: Path, scratch: Path, measures: str, workers: int, repeats: int, python: str) -> None:
    """Runs in turns, and their table."""
    run("juicer", clips, scratch / "warm", measures, workers, python)
    shutil.rmtree(scratch / "warm")
    runs: dict[str, list[Facts]] = {"ours": [], "juicer": []}
    for _ in range(repeats):
        for side, found in runs.items():
            found.append(run(side, clips, scratch / "run", measures, workers, python))
            shutil.rmtree(scratch / "run")
    count = len(list(clips.iterdir()))
    print(f"### {measures}\n\n{count} clips; workers: {workers}; runs of each: {repeats}.\n")
    print("| | clips/s, work | clips/s, whole | peak memory, MiB |\n|---|---|---|---|")
    for side, title in (("ours", "`likeness data build`"), ("juicer", "data-juicer")):
        work, whole = (spread([count / facts[name] for facts in runs[side]], ".2f") for name in ("work_s", "whole_s"))
        print(f"| {title} | {work} | {whole} | {spread([facts['peak_bytes'] / 2**20 for facts in runs[side]], '.0f')} |")
    pairs = list(zip(runs["ours"], runs["juicer"], strict=True))
    work, whole = (spread([b[name] / a[name] for a, b in pairs], ".2f") for name in ("work_s", "whole_s"))
    less = spread([b["peak_bytes"] / a["peak_bytes"] for a, b in pairs], ".2f")
    print(f"| ours: times faster, times less memory | {work} | {whole} | {less} |\n")
    for line in agreement(*(runs[side][-1]["values"] for side in runs), measures):
        print(line)
    print(flush=True)


def agreement(ours: Mapping[str, Any], theirs: Mapping[str, Any], measures: str) -> Iterator[str]:
    """How well the values agree, in words."""
    both = [path for path in theirs if path in ours]
    yield f"Measured here: {len(ours)} clips, there: {len(theirs)}."
    motions = np.array([[ours[path]["motion"], theirs[path]["motion"]] for path in both])
    if measures == "own":
        yield f"Rank correlation of the motion scores: {ranks(motions):.2f}."
        shares = np.array([[ours[path]["face"], theirs[path]["face"]] for path in both])
        yield f"Share of frames with a face, mean over clips: {shares[:, 0].mean():.2f} here, {shares[:, 1].mean():.2f} there."
        return
    apart = np.abs(motions[:, 0] / motions[:, 1] - 1)
    yield f"Motion scores: {spread(apart, '.1%')} apart, rank correlation {ranks(motions):.2f}."
    pictures = [path for path in both if theirs[path]["face"]]
    here = sum(bool(ours[path]["face"]) for path in both)
    yield f"Frames to look for faces in were found here in {here} clips, there in {len(pictures)}."
    if pictures:
        means = np.array([[np.mean(side[path]["face"]) for side in (ours, theirs)] for path in pictures])
        yield f"Mean face area of a clip: {spread(np.abs(means[:, 0] - means[:, 1]), '.3f')} apart, as shares of the picture."


def ranks(pairs: np.ndarray) -> float:
    """Spearman's correlation of two columns."""
    places = pairs.argsort(0).argsort(0)
    return float(np.corrcoef(places.T)[0, 1]) if len(pairs) > 1 else float("nan")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--python", default="", help="of the environment with data-juicer")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--copies", type=int, default=1, help="of each file")
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    options.add_argument("--run", choices=list(MEASURES), help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run:
        with one_thread():
            build_run(chosen.folder, chosen.out, chosen.run, chosen.workers)
        return
    if not chosen.python:
        options.error("--python: want the python of an environment that has data-juicer")
    with scratch_folder() as scratch:
        clips = copied(chosen.folder, scratch / "clips", chosen.copies)
        for measures in chosen.only:
            series(clips, scratch, measures, chosen.workers, chosen.repeats, chosen.python)


if __name__ == "__main__":
    main()
