"""Toy faces for the tests of fits and splits: a "photo" is a text file with two numbers, who is on it and which picture it is.

Person 0 is nobody: no face. The embedding lies close to the person's direction, the hash is the picture's, up to three bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dataset_toy as toy
import numpy as np

from infra.storage import Dataset, Row, open_dataset
from pipelines.dataset.build import Report, build
from pipelines.dataset.graph import Toolbox, find_asset
from pipelines.dataset.request import load_request, updated
from preprocessing import catalogue
from preprocessing.codecs import decode
from preprocessing.fields import AUDIO, PERCEPTUAL_HASH, Field, by_name, identity
from preprocessing.operator import Operator, Sample

FACE = identity("mobileface")


class Faces(Operator):
    name, version = "faces", 1
    reads, writes = (AUDIO,), (FACE,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        toy.calls.append((self.name, sample.key))
        person, picture = (int(v) for v in sample[AUDIO][:2])
        return {FACE: embedding(person, picture)}


class Hashes(Operator):
    name, version = "hashes", 1
    reads, writes = (AUDIO,), (PERCEPTUAL_HASH,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        toy.calls.append((self.name, sample.key))
        _, picture = (int(v) for v in sample[AUDIO][:2])
        bits = np.random.default_rng(picture).integers(0, 2, 64).astype(np.uint8)
        bits[: len(sample.key) % 4] ^= 1
        return {PERCEPTUAL_HASH: np.packbits(bits)}


def embedding(person: int, picture: int) -> np.ndarray:
    if person == 0:
        return np.zeros(256, np.float32)
    face = np.random.default_rng(person).standard_normal(256) + 0.5 * np.random.default_rng([person, picture]).standard_normal(256)
    return (face / np.linalg.norm(face)).astype(np.float32)


def producer(field: str, settings: Mapping[str, Mapping[str, Any]]) -> Operator:
    for kind in (Faces, Hashes):
        if field in {f.name for f in kind.writes}:
            return kind()
    return catalogue.producer(field, settings)


def toolbox(root: Path) -> Toolbox:
    return Toolbox(by_name, toy.names, producer, toy.ingest, toy.ToyClip, 1, partial(find_asset, root))


def write_photos(folder: Path, people: Mapping[str, tuple[int, ...]]) -> Path:
    """`people`: name -> who is really on each of their photos. Pictures are numbered; each photo is another one."""
    for name, faces in people.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n, face in enumerate(faces):
            (folder / name / f"{n}.jpg").write_text(f"{face} {sum(name.encode()) % 300 * 10 + n}")
    return folder


def make(root: Path, *sources: Path, fields: tuple[str, ...] = (FACE.name, PERCEPTUAL_HASH.name), **options: Any) -> Report:
    """Build or extend; `options` go to `updated`."""
    request = updated(load_request(root), sources=[str(source) for source in sources], fields=list(fields), **options)
    return build(root, request, toolbox(root))


def values(root: Path, field: str) -> dict[str, Any]:
    """Row key -> value."""
    dataset, kind = open_dataset(root), by_name(field)
    assert kind is not None
    return {row.key: decode(kind, dataset.read(row, field)) for row in dataset.rows() if dataset.has(row, field)}


def person(row: Row) -> str:
    return str(row.source["person"]).rpartition("/")[2]


def by_person(root: Path, field: str) -> dict[str, list[Any]]:
    dataset: Dataset = open_dataset(root)
    found: dict[str, list[Any]] = {}
    everything = values(root, field)
    for row in dataset.rows():
        found.setdefault(person(row), []).append(everything.get(row.key))
    return found


def stats(root: Path) -> dict[Path, tuple[int, int]]:
    """Files of columns and when they were written: the same before and after, if nothing touched them."""
    return {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in sorted((root / "columns").rglob("*")) if f.is_file()}
