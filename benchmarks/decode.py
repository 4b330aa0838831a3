"""Compare PyAV and decord on the videos of a folder; prints Markdown (docs/decoding.md keeps one such report).

    python benchmarks/decode.py FOLDER [--counts FOLDER ...] [--repeats 5]

Speed: one decoding thread each, the two in turns, on every file both can read. Opening is part of it: for PyAV probing and
reading, for decord its constructor, which also goes through all packets. Counts: how many frames, and of what shape, PyAV, decord
and OpenCV say a file has, for the folders after --counts as well.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import decord
import numpy as np
import psutil

from preprocessing.media.decode import PyAVReader
from preprocessing.media.probe import MediaInfo, MediaProblem, probe

SPARSE = 8  # frames read in the sparse test, evenly spread
NOT_VIDEO = {".png", ".jpg", ".jpeg", ".wav"}
decord.logging.set_level(decord.logging.QUIET)


def pyav_read(path: Path, indices: Callable[[int], list[int]], info: MediaInfo | None = None) -> int:
    info = info or probe(path)
    return sum(1 for _ in PyAVReader(path, info).frames(indices(info.n_frames)))


def decord_read(path: Path, indices: Callable[[int], list[int]]) -> int:
    video = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return sum(1 for i in indices(len(video)) if video[i].asnumpy() is not None)


def all_of(n: int) -> list[int]:
    return list(range(n))


def some_of(n: int) -> list[int]:
    return sorted({round(i * (n - 1) / (SPARSE - 1)) for i in range(SPARSE)})


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(processor, wall) time. The processor's is the fair one where other work runs beside."""
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - wall


def speed(files: list[Path], repeats: int) -> None:
    print("| file | frames | all frames: PyAV | decord | ratio (min..max) | sparse: PyAV | decord | ratio (min..max) |")
    print("|---|---|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {}
    for path in files:
        try:
            info = probe(path)
            decord_read(path, some_of)
        except Exception:  # counted in the other table
            continue
        row = f"| {path.name} | {info.n_frames} "
        for name, chosen in (("all frames", all_of), (f"{SPARSE} frames, evenly spread", some_of)):
            times = []
            for _ in range(repeats):
                ours = seconds(partial(pyav_read, path, chosen))
                theirs = seconds(partial(decord_read, path, chosen))
                known = seconds(partial(pyav_read, path, chosen, info))
                times.append((*ours, *theirs, *known))
            ours, our_wall, theirs, their_wall, known, _ = (statistics.median(column) for column in zip(*times, strict=True))
            pairs = [run[2] / run[0] for run in times]
            ratios.setdefault(f"{name}, processor time", []).append(theirs / ours)
            ratios.setdefault(f"{name}, wall time", []).append(their_wall / our_wall)
            ratios.setdefault(f"{name}, processor time, PyAV given a stored probe", []).append(theirs / known)
            row += f"| {ours * 1e3:.0f} | {theirs * 1e3:.0f} | {theirs / ours:.2f} ({min(pairs):.2f}..{max(pairs):.2f}) "
        print(row + "|", flush=True)
    print("\nProcessor milliseconds, medians. decord's time over PyAV's, over these files:\n")
    print("| | median | least | most |\n|---|---|---|---|")
    for name, values in ratios.items():
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


def counts(files: list[Path]) -> None:
    print("| file | PyAV | decord | OpenCV says | OpenCV reads | what differs |\n|---|---|---|---|---|---|")
    agreeing = 0
    for path in files:
        if path.suffix in NOT_VIDEO:
            continue
        notes: list[str] = []
        frames: list[np.ndarray] = []
        try:
            info = probe(path)
            reader = PyAVReader(path, info)
            frames = list(reader.frames(range(info.n_frames)))
            ours = f"{info.n_frames}, {info.shape[1]}x{info.shape[0]}"
            notes += [f"damaged frames: {len(reader.corrupt_frames)}"] if reader.corrupt_frames else []
            notes += [f"rotated by {info.rotation}"] if info.rotation else []
        except MediaProblem as problem:
            ours = problem.reason
        theirs = _decord_counts(path, frames, notes)
        said, read = _opencv_counts(path)
        if ours == theirs == read and ours.startswith(f"{said},") and not notes:
            agreeing += 1
        else:
            print(f"| {path.name} | {ours} | {theirs} | {said} | {read} | {'; '.join(notes)} |", flush=True)
    print(f"\n{agreeing} further files: all three agree on count and size, and decord's pictures are ours.")


def _decord_counts(path: Path, frames: list[np.ndarray], notes: list[str]) -> str:
    try:
        video = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        n, shape = len(video), video[0].shape
    except Exception:
        return "cannot open"
    try:
        theirs = [video[i].asnumpy() for i in range(n)]
    except Exception:
        notes.append("decord fails part way")
        return f"{n}, {shape[1]}x{shape[0]}"
    if len(frames) == n and frames[0].shape == shape:
        gaps = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, theirs, strict=True)]
        if max(gaps) > 0:
            notes.append(
                f"decord's pictures differ in {sum(g > 0 for g in gaps)} frames, by up to {max(gaps):.1f} levels on average"
            )
    return f"{n}, {shape[1]}x{shape[0]}"


def _opencv_counts(path: Path) -> tuple[str, str]:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        return "cannot open", "-"
    said, read, size = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0, "-"
    while (got := capture.read())[0]:
        read, size = read + 1, f"{got[1].shape[1]}x{got[1].shape[0]}"
    capture.release()
    return str(said), f"{read}, {size}"


def _grow(backend: str, files: list[Path], rounds: int, out: "multiprocessing.SimpleQueue[list[float]]") -> None:
    sizes = []
    for _ in range(rounds):
        for path in files:
            try:
                pyav_read(path, all_of) if backend == "PyAV" else decord_read(path, all_of)
            except Exception:
                continue
        sizes.append(psutil.Process().memory_info().rss / 2**20)
    out.put(sizes)


def memory(files: list[Path], rounds: int) -> None:
    print(f"| MiB resident after reading the folder | once | twice | {rounds} times | growth a round, from the second on |")
    print("|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    for backend in ("PyAV", "decord"):
        out = spawn.SimpleQueue()
        child = spawn.Process(target=_grow, args=(backend, files, rounds, out))
        child.start()
        sizes = out.get()
        child.join()
        growth = (sizes[-1] - sizes[1]) / (rounds - 2)
        print(f"| {backend} | {sizes[0]:.0f} | {sizes[1]:.0f} | {sizes[-1]:.0f} | {growth:+.1f} |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--counts", type=Path, nargs="*", default=[])
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    files = sorted(path for path in chosen.folder.iterdir() if path.is_file())
    print("### Speed\n")
    speed(files, chosen.repeats)
    print("\n### Memory\n")
    memory(files, 8)
    print("\n### Frame counts\n")
    counts(files + sorted(path for folder in chosen.counts for path in folder.iterdir() if path.is_file()))


if __name__ == "__main__":
    main()
