"""How near body_pose comes to people's own marks: OKS and PCK on the corpus's COCO photos.

    python benchmarks/body_pose.py CORPUS [--backend dwpose]

Two ways: the person that the operator picks on the whole photo against the annotation it fits best, and every person with at least
8 marked points on a cut of 1.5 times their box, which says what the networks do once somebody is found. PCK: share of marked points
within a tenth of the longer side of the person's box.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from preprocessing.apply import run_in_memory
from preprocessing.body_layouts import BODY, object_keypoint_similarity
from preprocessing.clip import InMemory
from preprocessing.fields import POSE_133, VIDEO
from preprocessing.media.photo import read_photo
from preprocessing.operator import Sample
from preprocessing.operators.body_pose import BodyPose

MARGIN, LEAST_POINTS, PCK_SHARE = 1.5, 8, 0.1


def scores(found: np.ndarray, person: dict) -> tuple[float, float]:
    """OKS and PCK of (17, 3) points for one annotation."""
    truth = np.array(person["keypoints"], np.float64).reshape(17, 3)
    truth[:, :2] += 0.5  # COCO counts whole pixels, we count their corners
    labelled = truth[:, 2] > 0
    far = np.linalg.norm(found[labelled, :2] - truth[labelled, :2], axis=1)
    return object_keypoint_similarity(found, truth, person["area"]), float((far < PCK_SHARE * max(person["bbox"][2:])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--backend", default="mediapipe")
    args = parser.parse_args()
    labels = json.loads((args.corpus / "labels" / "coco_keypoints.json").read_text())
    cuts = BodyPose(BodyPose.Params(backend=args.backend))
    cuts.setup()
    picked, all_people = [], []
    for entry in labels["images"]:
        people = [p for p in labels["annotations"] if p["image_id"] == entry["id"] and p["num_keypoints"] >= LEAST_POINTS]
        path = args.corpus / entry["file_name"]
        found = run_in_memory(path, [POSE_133], {"body_pose": {"backend": args.backend}})[POSE_133][0, BODY]
        best = max(people, key=lambda p: scores(found, p)[0])
        picked.append(scores(found, best))
        print(f"{entry['file_name']}: picked OKS {picked[-1][0]:.3f} PCK {picked[-1][1]:.3f}")
        picture = read_photo(path)[0]
        for person in people:
            x, y, w, h = person["bbox"]
            half, cx, cy = MARGIN * max(w, h) / 2, x + w / 2, y + h / 2
            x0, y0 = max(0, int(cx - half)), max(0, int(cy - half))
            part = np.ascontiguousarray(picture[y0 : int(cy + half), x0 : int(cx + half)])
            pose = cuts(Sample("cut", {VIDEO.name: InMemory(part[None])}))[POSE_133][0, BODY].astype(np.float64)
            pose[pose[:, 2] > 0, :2] += (x0, y0)
            all_people.append(scores(pose, person))
            print(f"  person of {h:.0f} px: OKS {all_people[-1][0]:.3f} PCK {all_people[-1][1]:.3f}")
    for name, values in (("picked", picked), ("each on a cut", all_people)):
        oks, pck = np.mean(values, 0)
        found = np.mean(np.array(values)[:, 0] > 0.5)
        print(f"{name}: {len(values)} people, mean OKS {oks:.3f}, PCK@{PCK_SHARE} {pck:.3f}, OKS > 0.5: {found:.2f}")


if __name__ == "__main__":
    main()
