"""How well identity embeddings tell people apart on a folder of labelled photos; prints Markdown (docs/faces.md keeps one report).

    python benchmarks/identity.py FOLDER [--variant mobileface] [--points mesh yunet scrfd] [--pairs labels/pairs.csv ...]

FOLDER/INDEX.tsv has columns `path` and `identity`; rows without an identity are left out. --pairs files (file_x, file_y, same) say
more: their positives join people, and where one states all pairs of its files it is also reported alone. Photos below --under are
used. `mesh` is the dataset's own way (face_track, then the mesh's five points); the others use the detector's own points of the
same face: largest area x score.
"""

import argparse
import csv
import itertools
from pathlib import Path

import cv2
import numpy as np

from infra import assets
from infra.errors import LikenessError
from preprocessing.apply import run_in_memory
from preprocessing.detectors import Detector, open_detector
from preprocessing.fields import FACE_VALID, LANDMARKS_5, VIDEO
from preprocessing.media.probe import MediaProblem
from preprocessing.operators.identity import Embedder, aligned

STATED = 0.21  # cosine at which the converted network was checked


def five_points(path: Path, detector: Detector | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The photo and the points of its main face, (5, 2); None without one."""
    if detector is None:
        sample = run_in_memory(path, [LANDMARKS_5, FACE_VALID])
        return (next(iter(sample[VIDEO])), sample[LANDMARKS_5][0]) if sample[FACE_VALID][0] else None
    picture = next(iter(run_in_memory(path, [])[VIDEO]))
    boxes, points = detector(picture)
    if not len(boxes) or points is None:
        return None
    weights = (boxes[:, 2:4] - boxes[:, :2]).prod(1) * boxes[:, 4]
    return picture, points[int(weights.argmax())]


def people(folder: Path, under: list[str]) -> dict[str, str]:
    with open(folder / "INDEX.tsv", newline="") as table:
        rows = [row for row in csv.DictReader(table, delimiter="\t") if row["identity"]]
    photos = {".jpg", ".jpeg", ".png", ".webp"}
    return {r["path"]: r["identity"] for r in rows if Path(r["path"]).suffix in photos and Path(r["path"]).parts[0] in under}


def join(identities: dict[str, str], pairs: list[tuple[str, str, bool]]) -> dict[str, str]:
    """Positives make one person of two names."""
    for a, b, same in pairs:
        if same and a in identities and b in identities and identities[a] != identities[b]:
            gone = identities[b]
            identities = {path: identities[a] if name == gone else name for path, name in identities.items()}
    return identities


def report(title: str, cosines: np.ndarray, same: np.ndarray) -> None:
    """One line: counts, means, balanced accuracy at the best threshold and at STATED, and what is wrong there."""
    def accuracy(threshold: float) -> float:
        return float(((cosines[same] >= threshold).mean() + (cosines[~same] < threshold).mean()) / 2)

    best = max(np.unique(cosines), key=accuracy)
    print(
        f"| {title} | {same.sum()} / {(~same).sum()} | {cosines[same].mean():.3f} | {cosines[~same].mean():.3f} "
        f"| {accuracy(best):.1%} at {best:.2f} | {accuracy(STATED):.1%} "
        f"| {(cosines[same] < STATED).sum()} missed, {(cosines[~same] >= STATED).sum()} false |", flush=True,
    )  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--variant", default="mobileface")
    options.add_argument("--points", nargs="+", default=["mesh", "yunet"])
    options.add_argument("--pairs", nargs="*", default=["labels/deepface_pairs.csv"])
    options.add_argument("--under", nargs="+", default=["faces"])
    options.add_argument("--wrong", action="store_true", help="list the pairs that are wrong at the stated threshold")
    chosen = options.parse_args()
    cv2.setNumThreads(1)
    pairs: list[tuple[str, str, bool]] = []
    for file in chosen.pairs:
        with open(chosen.folder / file, newline="") as table:
            pairs += [(row["file_x"], row["file_y"], row["same"] == "1") for row in csv.DictReader(table)]
    identities = join(people(chosen.folder, chosen.under), pairs)
    embed = Embedder(chosen.variant, assets.find(chosen.variant))
    print(f"### {chosen.variant}\n\n| points, pairs | same / different | mean cosine, same | different "
          f"| balanced accuracy, best | at {STATED} | at {STATED} |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for kind in chosen.points:
        detector = None if kind == "mesh" else open_detector(kind, assets.find(kind))
        vectors: dict[str, np.ndarray] = {}
        without: list[str] = []
        for path in identities:
            try:
                found = five_points(chosen.folder / path, detector)
            except (LikenessError, MediaProblem):
                found = None
            if found is None:
                without.append(path)
            else:
                vectors[path] = embed.mean([aligned(*found)])
        units = {path: v / np.linalg.norm(v) for path, v in vectors.items()}
        both = [(a, b, identities[a] == identities[b]) for a, b in itertools.combinations(units, 2)]
        given = [(a, b, same) for a, b, same in pairs if a in units and b in units]
        for title, wanted in ((f"{kind}, all", both), (f"{kind}, listed", given)):
            same = np.array([s for _, _, s in wanted])
            cosines = np.array([float(units[a] @ units[b]) for a, b, _ in wanted])
            if same.any() and not same.all():
                report(title, cosines, same)
            if chosen.wrong:
                for (a, b, s), c in zip(wanted, cosines, strict=True):
                    if s != (c >= STATED):
                        print(f"    {a} {b} same={s} {c:.2f}")
        if without:
            print(f"\nno face by {kind}: {', '.join(without)}\n")


if __name__ == "__main__":
    main()
