"""The demo: runs the commands a user would type, shows each, and says where the results lie."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from rich.console import Console

from infra.errors import LikenessError
from infra.jobs import likeness_program
from infra.storage.dataset import Dataset, open_dataset


class Demo:
    """Runs `likeness` commands in a folder and keeps their times."""

    def __init__(self, out: Path) -> None:
        self.out, self.console, self.times = out.absolute(), Console(highlight=False), dict[str, float]()
        self.environment = os.environ | {"LIKENESS_WORKSPACE": str(self.out / "workspace")}

    def step(self, title: str, *words: str, capture: bool = False) -> str:
        """One command; what it prints goes to the terminal, or comes back with `capture`."""
        self.console.rule(title, align="left")
        self.console.print("[dim]$ likeness " + " ".join(words) + "[/]")
        started = time.perf_counter()
        command = [likeness_program(), *words]
        done = subprocess.run(command, env=self.environment, text=True, stdout=subprocess.PIPE if capture else None)
        self.times[title] = time.perf_counter() - started
        if done.returncode:
            raise LikenessError(f"the demo's step {title!r} failed with exit code {done.returncode}", fix="see the message above")
        return done.stdout or ""


def run_demo(source: Path | None, out: Path, workers: int) -> None:
    """Clips -> dataset -> expert, generator, generator against critic -> registered bundle -> a video with sound."""
    demo = Demo(out)
    demo.out.mkdir(parents=True, exist_ok=True)
    dataset, video = demo.out / "dataset", demo.out / "generated.mp4"
    listed: tuple[str, ...] = ()
    if source is None:
        source = demo.out / "clips"
        _make_clips(demo, source, workers)
        listed = ("--list", str(source / "sources.tsv"))
    build = ("data", "build", str(dataset), "--source", str(source), *listed, "--recipe", "talking", "--workers", str(workers))
    demo.step("build the dataset", *build)
    demo.step("train", "train", "wav2lip", "--data", str(dataset), "--preset", "small")
    newest = json.loads(demo.step("look at what is registered", "model", "list", "wav2lip", "--json", capture=True))[0]
    demo.step("promote", "model", "promote", "wav2lip", str(newest["version"]))
    face, audio = _held_out(open_dataset(dataset), source)
    # a face that turns away for some frames must not end the demo: such frames stay as filmed
    demo.step("generate", "generate", "wav2lip", f"face={face}", f"audio={audio}", "on_missing=keep", "--out", str(video))
    _summary(demo, dataset, video, face, audio)


def _make_clips(demo: Demo, folder: Path, workers: int) -> None:
    from pipelines.demo.clips import make_demo_clips

    demo.console.rule("make talking clips", align="left")
    started = time.perf_counter()
    if not (folder / "sources.tsv").is_file():
        made = make_demo_clips(folder, speakers=12, clips_per_speaker=4, held_out_speakers=3, workers=workers)
        demo.console.print(f"{len(made.videos)} clips in {folder}; how far each mouth is open, frame by frame, in {made.truth}")
    demo.times["make talking clips"] = time.perf_counter() - started


def _held_out(dataset: Dataset, source: Path) -> tuple[Path, Path]:
    """A face that no stage was trained on, and the speech of another held-out clip (or its own, where there is one only)."""
    rows = [row for row in dataset.rows() if row.source["split"] == "val" and dataset.has(row, "face_box_96")]
    rows = rows or [row for row in dataset.rows() if dataset.has(row, "face_box_96")]
    if not rows:
        fix = f"see: likeness data show {dataset.root}"
        raise LikenessError(f"no clip of {source} has a face that could be followed", fix=fix)
    inside = (Path(*Path(row.source["path"]).parts[1:]) for row in rows)  # the first part is the folder's label
    files = [source / path for path in dict.fromkeys(inside)]
    return files[0], files[-1]


def _summary(demo: Demo, dataset: Path, video: Path, face: Path, audio: Path) -> None:
    show = demo.console.print
    demo.console.rule("done", align="left")
    for title, seconds in demo.times.items():
        show(f"  {seconds:7.1f} s  {title}")
    show(f"  {sum(demo.times.values()):7.1f} s  in all\n")
    workspace = demo.environment["LIKENESS_WORKSPACE"]
    for what, where in (
        ("generated video", video), ("made of face", face), ("and speech", audio), ("dataset", dataset),
        ("runs, models, MLflow store", workspace),
    ):  # fmt: skip
        show(f"  {what:28} {where}")
    show("\nwhat to type next:")
    for line in (
        f"likeness ui --workspace {workspace}", f"likeness data show {dataset}", f"likeness data verify {dataset}",
        f"likeness model list --workspace {workspace}", f"likeness methods --data {dataset}",
        f"likeness train wav2lip --data {dataset} --workspace {workspace} --preset full --dry-run",
    ):  # fmt: skip
        show(f"  {line}")
