"""Groups against brute force, the fits and the operators that read them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from infra.errors import LikenessError
from infra.storage.fits import packed
from preprocessing.fields import DUPLICATE, FACE_VALID, IDENTITY_CLUSTER, LANDMARKS_478, NEAR_DUPLICATE, PERCEPTUAL_HASH, identity
from preprocessing.fits import pairs
from preprocessing.fits.catalogue import FITS, fit
from preprocessing.fits.duplicates import Duplicates, signs
from preprocessing.fits.identity_clusters import IdentityClusters
from preprocessing.fits.near_duplicates import NearDuplicates
from preprocessing.operator import Operator, Sample
from preprocessing.operators.clusters import IdentityCluster
from preprocessing.operators.duplicates import Duplicate
from preprocessing.operators.near_duplicates import NearDuplicate

FACE = identity("mobileface")


def people(counts: Iterable[int], spread: float, seed: int = 0, dims: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around a random direction per person, shuffled, and whose each is."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(len(list(counts))), list(counts))
    rng.shuffle(who)
    centres = pairs.unit(rng.standard_normal((who.max() + 1, dims)))
    return pairs.unit(centres[who] + spread / dims**0.5 * rng.standard_normal((len(who), dims))), who


def same_groups(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@pytest.fixture(params=[7, 2048], ids=["many blocks", "one block"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [0.2, 0.5, 0.8])
def test_linkages_are_those_of_scipy(seed: int, least: float):
    vectors, _ = people([1, 1, 2, 3, 5, 8, 20], 1.0, seed)
    distances = squareform((1 - vectors @ vectors.T).astype(float) * (1 - np.eye(len(vectors))), checks=False)
    for method, found in (("average", pairs.average_linkage(vectors, least)), ("single", pairs.linked(vectors, least))):
        assert same_groups(found, fcluster(linkage(distances, method), 1 - least, "distance")), method
        firsts = [int(np.flatnonzero(found == group)[0]) for group in range(found.max() + 1)]
        assert firsts == sorted(firsts)


@pytest.mark.usefixtures("block")
def test_equal_vectors_and_single_ones_are_no_trouble():
    vectors = pairs.unit(np.repeat(np.eye(8, dtype=np.float32)[:3], 11, axis=0))
    for found in (pairs.average_linkage(vectors, 0.5), pairs.linked(vectors, 0.5)):
        assert found.tolist() == np.repeat([0, 1, 2], 11).tolist()
    assert pairs.average_linkage(vectors[:1], 0.5).tolist() == [0]
    assert pairs.linked(vectors[:0], 0.5).tolist() == []
    assert pairs.unit(np.zeros((2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.usefixtures("block")
def test_nearest_is_the_first_of_the_closest():
    vectors, _ = people([9, 9, 9], 1.0)
    products = vectors[:10] @ vectors[10:].T
    places, best = pairs.nearest(vectors[:10], vectors[10:])
    assert places.tolist() == products.argmax(1).tolist()
    assert np.allclose(best, products.max(1))
    assert pairs.nearest(vectors[:2], np.repeat(vectors[:1], 20, 0))[0].tolist() == [0, 0]


def test_average_linkage_is_not_fooled_by_a_chain():
    turns = np.radians(np.arange(0, 90, 15))
    chain = np.stack([np.cos(turns), np.sin(turns)], 1).astype(np.float32)
    assert pairs.linked(chain, 0.95).max() == 0
    assert pairs.average_linkage(chain, 0.95).max() == 2


def faces(vectors: np.ndarray) -> list[Sample]:
    return [Sample(f"row-{n:04d}", {FACE.name: vector.astype(np.float32)}) for n, vector in enumerate(vectors)]


def ready(operator: Operator, arrays: dict[str, np.ndarray], folder: Path) -> Operator:
    path = folder / "fit.npz"
    path.write_bytes(packed(arrays))
    operator.asset_paths = {operator.assets[0]: path}
    operator.setup()
    return operator


def test_people_are_found_and_known_again(tmp_path: Path):
    vectors, who = people([4, 5, 6, 7, 1], 0.6, dims=256)
    vectors[3] = 0
    arrays = IdentityClusters()(faces(20 * vectors))  # raw embeddings are as good as normalised ones
    assert (arrays["counts"].sum(), len(arrays["counts"])) == (22, 5)
    operator = ready(IdentityCluster(), arrays, tmp_path)
    found = [operator(sample)[IDENTITY_CLUSTER] for sample in faces(vectors)]
    assert found[3] == {"cluster": -1, "cosine": 0, "rows": 0}
    seen = np.arange(23) != 3
    clusters = np.array([entry["cluster"] for entry in found])
    assert same_groups(clusters[seen], who[seen])
    assert clusters[0] == 0
    assert all(entry["rows"] == arrays["counts"][entry["cluster"]] for entry in np.array(found)[seen])
    stranger = operator(faces(people([1], 0, seed=9, dims=256)[0])[0])[IDENTITY_CLUSTER]
    assert (stranger["cluster"], stranger["rows"]) == (-1, 0)
    assert abs(stranger["cosine"]) < 0.38


def test_cosine_is_to_the_nearest_centre(tmp_path: Path):
    arrays = IdentityClusters(IdentityClusters.Params(min_cosine=0.5))(faces(np.eye(256)[[4, 4, 7]]))
    operator = ready(IdentityCluster(), arrays, tmp_path)
    assert (operator.version, IdentityClusters.version) == (1, 1)
    vector = np.zeros(256)
    vector[[4, 7]] = 3, 4
    assert operator(faces(vector[None])[0]) == {IDENTITY_CLUSTER: {"cluster": 1, "cosine": 0.8, "rows": 1}}


def test_a_fit_of_another_embedding_is_refused(tmp_path: Path):
    arrays = IdentityClusters()(faces(np.eye(256)[:2]))
    with pytest.raises(LikenessError, match="identity_cluster.variant=mobileface"):
        ready(IdentityCluster(IdentityCluster.Params(variant="buffalo_l")), arrays, tmp_path)
    with pytest.raises(LikenessError, match="none of 2 rows has a face"):
        IdentityClusters()(faces(np.zeros((2, 256))))


def hashed(key: str, *flipped: int, of: int = 0) -> Sample:
    bits = np.random.default_rng(of).integers(0, 2, 64).astype(np.uint8)
    bits[list(flipped)] ^= 1
    return Sample(key, {PERCEPTUAL_HASH.name: np.packbits(bits)})


def test_copies_are_found_and_known_again(tmp_path: Path):
    chain = [hashed("d", *range(4)), hashed("b", *range(10)), hashed("c", *range(8))]
    rows = [*chain, hashed("a", of=1), hashed("e", *range(4)), hashed("f", of=2)]
    arrays = Duplicates(Duplicates.Params(max_bits=4))(rows)
    assert arrays["counts"].tolist() == [1, 4, 1]
    assert Duplicates().numbers(arrays) == {"pictures": 3, "with copies": 1, "copies": 3}
    operator = ready(Duplicate(), arrays, tmp_path)
    found = {row.key: operator(row)[DUPLICATE] for row in rows}
    assert found["a"] == {"group": 0, "distance": 0, "first": 1, "rows": 1}
    assert found["b"] == {"group": 1, "distance": 0, "first": 1, "rows": 4}
    assert found["c"] == {"group": 1, "distance": 2, "first": 0, "rows": 4}
    assert found["d"] == found["e"] == {"group": 1, "distance": 6, "first": 0, "rows": 4}
    assert operator(hashed("new", 63, of=2))[DUPLICATE] == {"group": 2, "distance": 1, "first": 0, "rows": 1}
    assert operator(hashed("new", of=3))[DUPLICATE] == {"group": -1, "distance": 0, "first": 1, "rows": 0}
    assert (operator.version, Duplicates.version) == (1, 1)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=12), st.integers(0, 8))
def test_groups_are_the_components_of_close_hashes(values: list[int], most: int):
    rows = [Sample(f"k{n:02d}", {PERCEPTUAL_HASH.name: np.array([value] * 8, np.uint8)}) for n, value in enumerate(values)]
    arrays = Duplicates(Duplicates.Params(max_bits=most))(rows)
    groups = list(range(len(values)))
    for _ in values:
        groups = [min(groups[m] for m, w in enumerate(values) if 8 * (v ^ w).bit_count() <= most) for v in values]
    assert arrays["counts"].tolist() == [groups.count(group) for group in sorted(set(groups))]
    assert arrays["firsts"][:, 0].tolist() == [values[group] for group in sorted(set(groups))]


def test_products_of_signs_count_bits():
    a, b = np.random.default_rng(0).integers(0, 256, (2, 5, 8)).astype(np.uint8)
    differing = np.unpackbits(a[:, None] ^ b, axis=2).sum(2, dtype=int)
    assert (64 - 2 * differing == signs(a) @ signs(b).T).all()


def test_near_copies_are_found_and_known_again(tmp_path: Path):
    vectors, who = people([3, 2, 1], 0.3)
    vectors = np.concatenate([vectors, np.zeros((1, 64), np.float32)])  # a row without a face
    rows = [Sample(f"{place:02d}", {FACE.name: 5 * vector}) for place, vector in enumerate(vectors)]
    kind = NearDuplicates(NearDuplicates.Params(min_cosine=0.8))
    assert kind.reads == (FACE,)
    assert kind.makes == (NEAR_DUPLICATE, {})
    arrays = kind(reversed(rows))
    assert same_groups(arrays["groups"], who)
    assert kind.numbers(arrays) == {"rows": 6, "with near copies": 2, "near copies": 3}
    operator = ready(NearDuplicate(), arrays, tmp_path)
    found = [operator(row)[NEAR_DUPLICATE] for row in rows]
    assert found[-1] == {"group": -1, "cosine": 0.0, "first": 1, "rows": 0}
    for place in range(6):
        first = int(np.flatnonzero(who == who[place])[0])
        assert found[place]["first"] == int(place == first)
        assert found[place]["rows"] == int((who == who[place]).sum())
        assert found[place]["cosine"] == pytest.approx(float(vectors[place] @ vectors[first]), abs=1e-4)
        assert found[place]["group"] == found[first]["group"]
    stranger = Sample("99", {FACE.name: -vectors[0]})
    assert operator(stranger)[NEAR_DUPLICATE]["group"] == -1


def test_near_duplicates_of_another_embedding(tmp_path: Path):
    other = NearDuplicates(NearDuplicates.Params(field="identity_buffalo_l"))
    assert other.makes == (NEAR_DUPLICATE, {"field": "identity_buffalo_l"})
    assert other.reads == (identity("buffalo_l"),)
    arrays = other([Sample("a", {identity("buffalo_l").name: np.ones(512, np.float32)})])
    operator = NearDuplicate()
    operator.asset_paths = {operator.assets[0]: tmp_path / "fit.npz"}
    (tmp_path / "fit.npz").write_bytes(packed(arrays))
    with pytest.raises(LikenessError, match="was made from identity_buffalo_l"):
        operator.setup()
    for wrong in ("landmarks_68", "measures", "nothing"):
        with pytest.raises(LikenessError, match=f"near_duplicates.field={wrong}"):
            NearDuplicates(NearDuplicates.Params(field=wrong))([])
    with pytest.raises(LikenessError, match="has anything in identity_mobileface"):
        NearDuplicates()([Sample("a", {FACE.name: np.zeros(256, np.float32)})])


@pytest.mark.parametrize("kind", FITS, ids=lambda kind: kind.name)
def test_the_same_rows_give_the_same_bytes(kind: type):
    vectors, _ = people([3, 4, 5], 0.5, dims=256)
    meshes = np.random.default_rng(0).standard_normal((len(vectors), 2, 478, 3)).astype(np.float32)
    rows = [Sample(s.key, {FACE.name: s[FACE], PERCEPTUAL_HASH.name: np.packbits(v[:64] > 0), LANDMARKS_478.name: mesh,
                           FACE_VALID.name: np.ones(2, bool)})
            for s, v, mesh in zip(faces(vectors), vectors, meshes, strict=True)]  # fmt: skip
    first, second = (packed(kind()(iter(rows))) for _ in range(2))
    assert first == second


def test_packed_arrays_are_an_npz_without_dates(tmp_path: Path):
    arrays = {"b": np.arange(6).reshape(2, 3)[:, ::-1], "a": np.array("text"), "c": np.array(0.5)}
    data = packed(arrays)
    assert data == packed(dict(reversed(arrays.items())))
    (tmp_path / "x.npz").write_bytes(data)
    with np.load(tmp_path / "x.npz") as back:
        assert back.files == ["a", "b", "c"]
        assert all(np.array_equal(back[name], arrays[name]) and back[name].shape == arrays[name].shape for name in arrays)
    with pytest.raises(ValueError, match="Object arrays"):
        packed({"a": np.array([None])})


def test_fits_by_name():
    assert fit("duplicates", ["max_bits=2"]).params.max_bits == 2
    assert fit("duplicates", ["duplicates.max_bits=3"]).params.max_bits == 3
    with pytest.raises(LikenessError, match=r"unknown fit 'identity_cluster' \(nearest: identity_clusters\)"):
        fit("identity_cluster")
    with pytest.raises(LikenessError, match="max_bit"):
        fit("duplicates", ["max_bit=2"])


@pytest.mark.long
def test_many_rows_need_little_memory():
    vectors, who = people([20] * 1000, 0.6)  # a table of all pairs would take 1.6 GB
    import tracemalloc

    tracemalloc.start()
    for found in (pairs.average_linkage(vectors, 0.62), pairs.linked(vectors, 0.62)):
        assert len(np.unique(np.stack([found, who]), axis=1).T) < 1500
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


@pytest.mark.long
def test_pairs_beyond_32_bits_are_numbered_rightly():
    # Copies at both ends: 46 000 groups times 48 001 rows pass 2^31.
    numbers = np.concatenate([[0], np.arange(46_000), np.arange(46_000, 47_000).repeat(2)])
    vectors = np.unpackbits(numbers.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1).astype(np.float32) * 2 - 1
    assert pairs.linked(vectors, 16).tolist() == numbers.tolist()
