"""`likeness assets make trained-tiny-FAMILY`: a tiny base model that has learnt faces from a dataset."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import torch

from infra.errors import LikenessError
from infra.storage import Dataset, open_dataset
from models.diffusion.backbone import FAMILIES
from models.diffusion.bases import TRAINED, own_bases
from models.diffusion.tiny_training import SIZE_PX, Face, TinyTraining, Watch, train_tiny
from preprocessing.codecs import decode
from preprocessing.fields import FACE_BOX, FACE_VALID, KEY_FRAME, Field, image

RECORD = "training.json"


def make(ref: str, data: str, settings: TinyTraining | None = None, watch: Watch = lambda *_: None) -> dict[str, Any]:
    """Trains the base called `ref` on a dataset and puts it where `--base REF` finds it; writes what was measured beside it.

    Args:
        ref: trained-tiny-sd15, trained-tiny-sd21 or trained-tiny-sdxl.
        data: dataset with `image_SIZE` (128 and more), `face_box`, `face_valid` and `key_frame`; rows of split "train" are learnt
            from, those of "val" are held out for the numbers.

    Raises:
        LikenessError: no such base, or a dataset without faces or fields.
    """
    family = ref.removeprefix(TRAINED)
    if not ref.startswith(TRAINED) or family not in FAMILIES:
        raise LikenessError(f"there is no base {ref!r} to make", allowed=", ".join(TRAINED + name for name in FAMILIES))
    faces = faces_of(data)
    folder = own_bases() / ref
    part = folder.with_name(f".{ref}.{os.getpid()}.part")
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings = settings or TinyTraining()
    begun = time.process_time()
    try:
        numbers = train_tiny(family, part, faces["train"], faces["val"], settings, watch)  # type: ignore[arg-type]
        record = {
            "base": ref, "dataset": open_dataset(data).digest, "faces": len(faces["train"]), "held_out_faces": len(faces["val"]),
            "settings": vars(settings), "threads": torch.get_num_threads(), "measured": numbers,
            "cpu_minutes": round((time.process_time() - begun) / 60, 1),
        }  # fmt: skip
        (part / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return record


def faces_of(data: str) -> dict[str, list[Face]]:
    """The key frames with a face, by split.

    Raises:
        LikenessError: fields are missing, or the split "train" has no face.
    """
    faces: dict[str, list[Face]] = {"train": [], "val": []}
    for split, face in _faces(open_dataset(data)):
        faces.setdefault(split, []).append(face)
    if not faces["train"]:
        what = f"dataset {data} has no row of split 'train' with a valid face"
        raise LikenessError(what, fix="build one with faces in it (recipe portrait)")
    return faces


def _faces(dataset: Dataset) -> Iterator[tuple[str, Face]]:
    picture_field = _pictures(dataset)
    for row in dataset.rows():
        wanted = (picture_field, FACE_BOX, FACE_VALID, KEY_FRAME)
        if not all(dataset.has(row, field.name) for field in wanted):
            continue
        picture, boxes, valid, place = (decode(field, dataset.read(row, field.name)) for field in wanted)
        if valid[int(place)]:
            yield str(row.source["split"]), Face(picture, boxes[int(place)] * (picture.shape[1] / row.source["width"]))


def _pictures(dataset: Dataset) -> Field:
    sizes = [int(name.removeprefix("image_")) for name in dataset.fields if name.startswith("image_")]
    lacking = [field.name for field in (FACE_BOX, FACE_VALID, KEY_FRAME) if field.name not in dataset.fields]
    if not (large := [size for size in sizes if size >= SIZE_PX]):
        lacking.insert(0, "image_256")
    if lacking:
        adds = " ".join(f"--field {name}" for name in lacking)
        what = f"dataset {dataset.root} lacks {', '.join(lacking)}"
        raise LikenessError(what, fix=f"run: likeness data add {dataset.root} {adds}")
    return image(min(large))
