"""Whether people of the held-out splits were seen in training, judged by their faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from infra.storage import Dataset, Row
from preprocessing.codecs import decode
from preprocessing.fields import identity
from preprocessing.fits.identity_clusters import MIN_COSINE
from preprocessing.fits.pairs import nearest, unit

TRAIN, MOST_PAIRS = "train", 1000


def leakage(
    dataset: Dataset, variant: str, min_cosine: float = MIN_COSINE, splits: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Held-out rows whose nearest row of split train is likely the same person.

    Args:
        variant: of the identity embedding.
        min_cosine: from which on two embeddings count as one person.
        splits: person -> split, instead of the manifest's.

    Returns:
        - variant, min_cosine.
        - share: of the held-out rows with a face, how many leak; None where there are none, or no row with a face in train.
        - rows, leaking: the two numbers it is made of. by_split: the same for each held-out split.
        - without_face: held-out rows that can't be judged.
        - pairs: up to 1000, closest first: key, split, person, nearest (key in train), nearest_person, cosine.

    Raises:
        LikenessError: the dataset has no such embedding.
    """
    rows, vectors = face_vectors(dataset, variant)
    where = np.array([_split(row, splits) for row in rows], str)
    train, held = np.flatnonzero(where == TRAIN), np.flatnonzero((where != TRAIN) & (where != ""))
    seen = {rows[place].key for place in held}
    unjudged = [row for row in dataset.rows() if _split(row, splits) not in (TRAIN, "") and row.key not in seen]
    facts: dict[str, Any] = {
        "variant": variant, "min_cosine": min_cosine, "share": None, "rows": len(held), "leaking": 0,
        "without_face": len(unjudged), "by_split": {}, "pairs": [],
    }  # fmt: skip
    if len(held) == 0 or len(train) == 0:
        return facts
    places, cosines = nearest(vectors[held], vectors[train])
    leaks = cosines >= min_cosine
    for name in sorted(set(where[held])):
        own = where[held] == name
        facts["by_split"][name] = {"rows": int(own.sum()), "leaking": int(leaks[own].sum())}
    for n in sorted(np.flatnonzero(leaks), key=lambda n: (-cosines[n], rows[held[n]].key))[:MOST_PAIRS]:
        row, other = rows[held[n]], rows[train[places[n]]]
        facts["pairs"].append({
            "key": row.key, "split": str(where[held[n]]), "person": row.source["person"], "nearest": other.key,
            "nearest_person": other.source["person"], "cosine": round(float(cosines[n]), 4),
        })  # fmt: skip
    return facts | {"leaking": int(leaks.sum()), "share": float(leaks.mean())}


def face_rows(dataset: Dataset, field: str) -> list[Row]:
    """Rows that have a value of an identity embedding."""
    return [row for row in dataset.rows() if dataset.has(row, field)]


def face_vectors(dataset: Dataset, variant: str) -> tuple[list[Row], np.ndarray]:
    """Rows with a face, and their (n, d) float32 embeddings of length 1.

    Raises:
        LikenessError: the dataset has no such embedding.
    """
    name = f"identity_{variant}"
    dataset.field(name)
    field = identity(variant)
    rows = face_rows(dataset, name)
    vectors = np.array([decode(field, dataset.read(row, name)) for row in rows], np.float32).reshape(len(rows), -1)
    shown = vectors.any(axis=1)
    return [row for row, has in zip(rows, shown, strict=True) if has], unit(vectors[shown])


def _split(row: Row, splits: Mapping[str, str] | None) -> str:
    return str(row.source.get("split", "")) if splits is None else splits.get(str(row.source["person"]), "")
