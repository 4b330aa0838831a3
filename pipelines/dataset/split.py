"""Splits in which no person is twice: by the names that sources give people, and by their faces."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from infra.errors import LikenessError
from infra.storage import Dataset, open_dataset
from infra.storage.lock import build_lock
from infra.storage.manifest import commit_manifest
from pipelines.dataset.build import write_sources_table
from pipelines.dataset.leakage import face_rows, face_vectors, leakage
from pipelines.dataset.request import load_request, save_request
from pipelines.dataset.select import refresh
from pipelines.dataset.source_list import SPLITS
from pipelines.dataset.sources import find_sources
from preprocessing.codecs import decode
from preprocessing.fields import IDENTITY_CLUSTER, IDENTITY_DIMS, identity
from preprocessing.fits.identity_clusters import MIN_COSINE
from preprocessing.fits.pairs import linked

PEOPLE = "person"  # `by` names alone
_KNOWN = (PEOPLE, IDENTITY_CLUSTER.name, *(identity(variant).name for variant in IDENTITY_DIMS))
LARGEST_SHARE = 0.5  # of rows in one component, above which the faces' threshold is doubted


@dataclass(frozen=True)
class Wanted:
    """What a split is to be.

    Attributes:
        by: field that tells who is who besides the sources' names: an identity embedding or `identity_cluster`; "person" for the
            names alone; "" for the first embedding that the dataset has, or the names.
        val_fraction, test_fraction: shares of rows; of the first None for the dataset's remembered one.
        min_cosine: two embeddings this close are one person.
        seed: another one gives other people to the splits.
        keep: people stay where they are, new ones are added.
    """

    by: str = ""
    val_fraction: float | None = None
    test_fraction: float = 0.0
    min_cosine: float = MIN_COSINE
    seed: int = 0
    keep: bool = False


def split(root: Path, wanted: Wanted, dry_run: bool = False) -> dict[str, Any]:
    """Give every person one split, people who look alike the same one, and commit a manifest that says so; no tar is touched.

    Returns:
        by, components and people (numbers), largest (share of rows of the largest component), splits (name -> rows, people),
        moved (people whose split changed), leakage (see `leakage`; None without an embedding), digest, changed, notices.

    Raises:
        LikenessError: no such dataset or field, fractions that don't fit, or a build is running.
    """
    root = root.absolute()
    dataset = open_dataset(root)
    request = load_request(root)
    val = wanted.val_fraction if wanted.val_fraction is not None else request.val_fraction if request else 0.1
    if not (0 <= val <= 1 and 0 <= wanted.test_fraction <= 1 and val + wanted.test_fraction < 1):
        what = f"--val-fraction {val:g} and --test-fraction {wanted.test_fraction:g}"
        raise LikenessError(what, allowed="0 or more, together under 1")
    by = wanted.by or next(iter(_embeddings(dataset)), PEOPLE)
    people = components(dataset, by, wanted.min_cosine)
    rows = Counter(str(row.source["person"]) for row in dataset.rows())
    sizes: Counter[str] = Counter()
    for person, component in people.items():
        sizes[component] += rows[person]
    before = {entry.person: entry.split for entry in dataset.manifest.sources if entry.person in people}
    stay = _stay(people, before) if wanted.keep else {}
    placed = assign(sizes, {"test": wanted.test_fraction, "val": val}, wanted.seed, stay)
    splits = {person: placed[component] for person, component in people.items()}
    facts: dict[str, Any] = {
        "by": by, "min_cosine": wanted.min_cosine, "components": len(sizes), "people": len(people),
        "largest": max(sizes.values(), default=0) / max(1, sum(sizes.values())),
        "splits": {
            name: {"rows": sum(rows[p] for p, s in splits.items() if s == name), "people": list(splits.values()).count(name)}
            for name in SPLITS
        },
        "moved": sum(before[person] != name for person, name in splits.items()), "leakage": None,
        "digest": dataset.digest, "changed": False, "notices": [],
    }  # fmt: skip
    if embedding := _embedding_of(dataset, by):
        facts["leakage"] = leakage(dataset, embedding.removeprefix("identity_"), wanted.min_cosine, splits)
    if by != PEOPLE and facts["largest"] > LARGEST_SHARE and len(people) > 2:
        facts["notices"].append(f"one component holds {facts['largest']:.0%} of the rows: if these are strangers taken for one "
                                "person, raise --min-cosine, or fit identity_clusters and pass --by identity_cluster")  # fmt: skip
    if not dry_run:
        _commit(root, dataset.digest, splits, facts, wanted.val_fraction)
    return facts


def components(dataset: Dataset, by: str, min_cosine: float) -> dict[str, str]:
    """Person -> the smallest name among all who must share a split: same name, same cluster, or linked by close embeddings.

    Raises:
        LikenessError: `by` is no field of the dataset, or not one that tells who is who.
    """
    if by not in _KNOWN:
        raise LikenessError(f"--by {by}", allowed=", ".join(_KNOWN))
    rows = dataset.rows()
    people = sorted({str(row.source["person"]) for row in rows})
    number = {person: n for n, person in enumerate(people)}
    if by == PEOPLE:
        return {person: person for person in people}
    if by == IDENTITY_CLUSTER.name:
        dataset.field(by)
        known = [(row, decode(IDENTITY_CLUSTER, dataset.read(row, by))["cluster"]) for row in rows if dataset.has(row, by)]
        found = [(row, cluster) for row, cluster in known if cluster >= 0]
    else:
        variant = by.removeprefix("identity_")
        shown, vectors = face_vectors(dataset, variant)
        found = list(zip(shown, linked(vectors, min_cosine).tolist(), strict=True))
    # A graph of people and groups of faces; who hangs together is one component.
    ends = np.array([(number[str(row.source["person"])], len(people) + group) for row, group in found], np.int64).reshape(-1, 2)
    nodes = max(len(people), int(ends.max(initial=0)) + 1)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(nodes, nodes))
    labels = connected_components(graph, directed=False)[1]
    first: dict[int, str] = {}
    for person in people:
        first.setdefault(int(labels[number[person]]), person)
    return {person: first[int(labels[number[person]])] for person in people}


def assign(sizes: Mapping[str, int], fractions: Mapping[str, float], seed: int, stay: Mapping[str, str]) -> dict[str, str]:
    """Component -> split. Components are taken in the order of their digests with the seed; each wanted split takes those that
    still fit into its share of all rows, the rest is "train". A split for which every component is too large gets the smallest. No
    split takes what those after it, and train, need to have one component each.

    Args:
        sizes: component -> rows.
        fractions: split -> share of rows; without train.
        stay: components that have a split already.
    """
    placed = dict(stay)
    left = sorted(sizes.keys() - stay.keys(), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    total = sum(sizes.values())
    waiting = [*(name for name, fraction in fractions.items() if fraction > 0), "train"]
    for name, fraction in fractions.items():
        if name in waiting:
            waiting.remove(name)
        spare = len(left) - sum(other not in placed.values() for other in waiting)  # each split after this one needs one
        held = sum(sizes[component] for component, where in placed.items() if where == name)
        fitting: list[str] = []
        for component in left:
            if len(fitting) < spare and held + sizes[component] <= fraction * total + 1e-9:
                fitting.append(component)
                held += sizes[component]
        if not held and fraction > 0 and spare > 0:
            fitting = [min(left, key=lambda component: (sizes[component], left.index(component)))]
        placed |= dict.fromkeys(fitting, name)
        left = [component for component in left if component not in placed]
    return placed | dict.fromkeys(left, "train")


def _stay(people: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Splits of components that have one. Where people of one component are in several, what was seen in training stays there."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for person, component in people.items():
        if before.get(person):
            found[component].add(before[person])
    return {component: next(name for name in SPLITS if name in names) for component, names in found.items()}


def _embeddings(dataset: Dataset) -> list[str]:
    return sorted(dataset.fields.keys() & set(_KNOWN[2:]))


def _embedding_of(dataset: Dataset, by: str) -> str:
    """The embedding by which leakage is told: the one asked for, that of the clusters, or the first there is."""
    if by in _embeddings(dataset):
        return by
    if by == IDENTITY_CLUSTER.name:
        return identity(str(dataset.manifest.columns[dataset.field(by).column].params["variant"])).name
    return next((name for name in _embeddings(dataset) if face_rows(dataset, name)), "")


def _commit(root: Path, read: str, splits: Mapping[str, str], facts: dict[str, Any], val_fraction: float | None) -> None:
    with build_lock(root):
        dataset = open_dataset(root)
        if dataset.digest != read:
            raise LikenessError(f"dataset {root} was built anew meanwhile", fix="run it again")
        entries = tuple(s.model_copy(update={"split": splits.get(s.person, "")}) for s in dataset.manifest.sources)
        manifest = dataset.manifest.model_copy(update={"sources": entries})
        facts["digest"] = commit_manifest(root, manifest)
        facts["changed"] = facts["digest"] != read
        write_sources_table(root, manifest)
        request = load_request(root)
        if request and val_fraction is not None:
            save_request(root, request.model_copy(update={"val_fraction": val_fraction}))
        facts["notices"] += refresh(root)
    if request and request.source_list:
        try:
            listed = [s for s in find_sources(root, request, entries) if s.person in splits and s.split != splits[s.person]]
        except LikenessError:
            return  # the next build will say what is wrong with the list
        if listed:
            facts["notices"].append(f"{request.source_list} puts {len({s.person for s in listed})} people into other splits, and "
                                    "will do so at the next build: take its column split out")  # fmt: skip
