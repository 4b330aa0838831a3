"""An operator whose output moves must raise its version, or columns of old and new output would carry one digest.

`golden/operators.json` keeps a summary of each operator's output on one clip, under "name/version". After raising a version,
`python tests/preprocessing/test_operators_golden.py` adds the new entry; it never changes one that is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from astronaut_clips import burst_audio, fill, make_sample, swaying, write_clip

from preprocessing import catalogue
from preprocessing.fields import GIVEN, SYNC, VIDEO, Field
from preprocessing.frame_sequence import FrameSequence
from preprocessing.operator import Operator

GOLDEN = Path(__file__).parent / "golden" / "operators.json"
# Networks and codecs round differently on other processors; a changed definition moves far more than this.
TOLERANCE = {
    "face_detections": 1.0, "face_track": 1.0, "landmarks_478": 0.5, "landmarks_68": 0.5, "landmarks_5": 0.5, "face_box": 0.5,
    "tube_box": 1.01, "head_pose": 0.3, "mel80": 0.002, "face_box_96": 2.0, "face_tube_256": 2.0, "image_512": 2.0,
    "face_arcface_112": 2.0, "align_arcface_112": 0.5, "pose_133": 1.0, "flow_speed": 0.01, "frames_256": 2.0,
    "person_mask_256": 3.0, "foreground_256": 3.0, "background_256": 3.0, "pose_map_openpose_256": 6.0, "key_points_256": 30.0,
    "parsing_ffhq_512": 6.0, "part_masks_image_512": 0.05, "face_features_336": 3.0, "degraded_pasd_512": 2.0,
    "sharpened_512": 2.0, "colours_512": 2.0, "mfcc13": 0.002,
}  # fmt: skip
RELATIVE = 0.03  # for measures


def needs_assets(operator: Operator) -> bool:
    """Whether it, or what makes a field it reads, needs a file that is not part of the project."""
    made = [f.name for f in operator.reads if f.stored and f not in catalogue.ingest().writes]
    return bool(operator.assets) or any(needs_assets(catalogue.producer(name)) for name in made)


OPERATORS = [operator for operator in catalogue.operators() if not needs_assets(operator)]
def makeable(operator: Operator) -> bool:
    """Neither it nor what it reads needs files that are not here."""
    given = {field.name for field in catalogue.ingest().writes} | {VIDEO.name, GIVEN.name}
    reads = [field.name for field in operator.reads if field.name not in given]
    return not operator.assets and all(makeable(catalogue.producer(name)) for name in reads)
OPERATORS = [operator for operator in catalogue.operators() if makeable(operator)]


def summary(value: Any) -> Any:
    """A few numbers that any change of definition moves."""
    if isinstance(value, (dict, str)):
        return value
    if isinstance(value, FrameSequence):
        pictures = value[:]
        small = cv2.resize(pictures[-1], (4, 4), interpolation=cv2.INTER_AREA)
        fine = [cv2.Laplacian(p, cv2.CV_64F).std() for p in pictures]  # moves with the way of resizing
        return {"shape": list(value.shape), "values": [round(float(v), 3) for v in (*small.ravel(), *fine)]}
    flat = np.asarray(value, np.float64).ravel()
    picked = flat[np.linspace(0, len(flat) - 1, min(24, len(flat))).astype(int)]
    numbers = [flat.mean(), flat.std(), *picked] if len(flat) else []
    return {"shape": list(value.shape), "dtype": value.dtype.name, "values": [round(float(v), 4) for v in numbers]}


def outputs(operator: Operator) -> dict[str, Any]:
    sample = make_sample(swaying(10), burst_audio(10, range(3, 8)))
    # what operators without assets read of those with some
    sample[SYNC] = {"offset_frames": 2, "confidence": 4.5, "min_distance": 7.25, "n_windows": 45}
    return {field.name: summary(fill(sample, field)[field]) for field in operator.writes}


def ingest_outputs(folder: Path) -> dict[str, Any]:
    path = write_clip(folder / "golden.mp4", 36, burst_audio(30, range(30)), fps=30)
    rows = catalogue.ingest({"ingest": {"max_clip_s": 1}})(path, {"path": "golden.mp4"})

    def plain(field: Field, value: Any) -> Any:
        return summary(value) if field.codec == "json" else {"shape": list(value.shape), "dtype": value.dtype.name}

    return {f"{field.name}/{segment}": plain(field, value) for segment, row in rows for field, value in row.items()}


def compare(entry: dict[str, Any], kept: dict[str, Any], tolerance: float) -> None:
    assert {k: v for k, v in entry.items() if k != "values"} == {k: v for k, v in kept.items() if k != "values"}
    assert np.abs(np.array(entry.get("values", [])) - kept.get("values", [])).max(initial=0) <= tolerance


MOVED = "output moved: raise its version, then run this file as a script; or find what changed by accident"


def check(name: str, version: int, found: dict[str, Any]) -> None:
    kept = json.loads(GOLDEN.read_text()).get(f"{name}/{version}")
    assert kept is not None, f"{name} version {version} has no golden output: run this file as a script"
    assert found.keys() == kept.keys(), MOVED
    for field, entry in found.items():
        try:
            if field.endswith("measures"):
                assert entry.keys() == kept[field].keys()
                for measure, number in entry.items():
                    slack = TOLERANCE["head_pose"] if measure in ("yaw", "pitch", "roll") else 0.01
                    assert number == pytest.approx(kept[field][measure], rel=RELATIVE, abs=slack), measure
            elif isinstance(entry, dict) and "values" in entry:
                compare(entry, kept[field], TOLERANCE.get(field, 0))
            else:
                assert entry == kept[field]
        except AssertionError as error:
            raise AssertionError(f"{name} {field}: {MOVED}\n{error}") from error


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.name)
def test_operators_give_what_their_version_gave(operator):
    check(operator.name, operator.version, outputs(operator))


def test_ingest_gives_what_its_version_gave(tmp_path):
    ingest = catalogue.ingest()
    check(ingest.name, ingest.version, ingest_outputs(tmp_path))


def test_a_moved_output_is_noticed():
    crops = next(o for o in OPERATORS if o.name == "face_box_crops")
    moved = outputs(crops)
    moved["face_box_96"]["values"][0] += 3
    with pytest.raises(AssertionError, match="raise its version"):
        check(crops.name, crops.version, moved)
    with pytest.raises(AssertionError, match="no golden output"):
        check(crops.name, crops.version + 1, outputs(crops))


def write() -> None:
    import tempfile

    kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        ingest = catalogue.ingest()
        kept.setdefault(f"{ingest.name}/{ingest.version}", ingest_outputs(Path(folder)))
    for operator in OPERATORS:
        kept.setdefault(f"{operator.name}/{operator.version}", outputs(operator))
    entries = ",\n".join(f"{json.dumps(key)}: {json.dumps(kept[key])}" for key in sorted(kept))
    GOLDEN.write_text("{\n" + entries + "\n}\n")


if __name__ == "__main__":
    write()
