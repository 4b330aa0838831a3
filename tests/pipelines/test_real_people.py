"""Real faces through the real network: who is who, who leaks, what is there twice. Wants $LIKENESS_CORPUS and $LIKENESS_ASSETS."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from infra import assets
from infra.storage import open_dataset
from pipelines.dataset.build import build
from pipelines.dataset.fit import run_fit
from pipelines.dataset.graph import standard
from pipelines.dataset.request import load_request, updated
from pipelines.dataset.split import Wanted, leakage, split
from preprocessing.codecs import decode
from preprocessing.fields import DUPLICATE, IDENTITY_CLUSTER
from preprocessing.fits.catalogue import fit

CORPUS = Path(os.environ.get("LIKENESS_CORPUS", ""))
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (CORPUS / "INDEX.tsv").is_file(), reason="$LIKENESS_CORPUS names no corpus"),
    pytest.mark.skipif(assets.locate(assets.get("mobileface")) is None, reason="$LIKENESS_ASSETS has no mobileface"),
]
PEOPLE = ("df-1", "df-3", "df-13", "df-16", "df-20", "df-22", "obama", "biden", "stock-a")


def make(root: Path, *fields: str, **options: object) -> None:
    request = updated(load_request(root), fields=list(fields), **options)  # type: ignore[arg-type]
    build(root, request, standard(root), runner="serial")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A dataset of all photos of nine people, one of them twice in another size, and who is on each file."""
    folder = tmp_path_factory.mktemp("people")
    (folder / "photos").mkdir()
    with open(CORPUS / "INDEX.tsv", newline="") as index:
        lines = [line for line in csv.DictReader(index, delimiter="\t") if line["path"].startswith("faces/")]
    who = {Path(line["path"]).name: line["identity"] for line in lines if line["identity"] in PEOPLE}
    for name in who:
        shutil.copy(CORPUS / "faces" / name, folder / "photos")
    first = min(who)
    picture = cv2.imread(str(CORPUS / "faces" / first))
    copy = cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "photos" / "zz_copy.jpg"), copy, [cv2.IMWRITE_JPEG_QUALITY, 70])
    make(
        folder / "set", "identity_mobileface", "perceptual_hash", sources=[str(folder / "photos")],
        settings=["ingest.photos=true", "ingest.sound=ignored"],
    )  # fmt: skip
    return folder / "set", {**who, "zz_copy.jpg": who[first]}


def test_people_are_told_apart_and_copies_found(faces: tuple[Path, dict[str, str]]) -> None:
    root, who = faces
    run_fit(root, fit("identity_clusters"))
    run_fit(root, fit("duplicates"))
    make(root, "identity_cluster", "duplicate")
    dataset = open_dataset(root)
    rows = dataset.rows()
    names = np.array([who[Path(row.source["path"]).name] for row in rows])
    found = np.array([decode(IDENTITY_CLUSTER, dataset.read(row, "identity_cluster"))["cluster"] for row in rows])
    assert len(rows) == len(who) > 25
    assert (found >= 0).all()
    assert ((names[:, None] == names) == (found[:, None] == found)).mean() > 0.99
    copies = [decode(DUPLICATE, dataset.read(row, "duplicate")) for row in rows]
    twice = [row.key for row, entry in zip(rows, copies, strict=True) if entry["rows"] == 2]
    assert len(twice) == 2
    assert [entry["first"] for entry in copies].count(0) == 1


def test_names_of_files_leak_and_faces_do_not(faces: tuple[Path, dict[str, str]]) -> None:
    root, _ = faces
    split(root, Wanted(by="person", val_fraction=0.3))
    assert leakage(open_dataset(root), "mobileface")["share"] > 0.5
    facts = split(root, Wanted(val_fraction=0.3))
    assert facts["leakage"]["share"] == 0
    assert 7 <= facts["components"] <= len(PEOPLE) + 1
