"""Splits: nobody in two of them by name or face, tars untouched, and the leakage figure tells when it is otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fit_toy
import pytest
from fit_toy import make, person, stats, write_photos
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from infra.errors import LikenessError
from infra.storage import open_dataset
from pipelines.cli.data import app
from pipelines.dataset.fit import run_fit
from pipelines.dataset.split import Wanted, assign, leakage, split
from preprocessing.fits.catalogue import fit

# Eve calls herself three names; Finn stands on one of Gina's photos.
PEOPLE = {
    "anna": (1, 1), "bert": (2, 2), "carl": (3, 3), "dora": (4, 4), "eve": (5, 5), "eva": (5,), "ewa": (5,), "finn": (6, 6),
    "gina": (7, 6, 0), "nobody": (0, 0),
}  # fmt: skip
SAME = ({"eve", "eva", "ewa"}, {"finn", "gina"})


def write_list(folder: Path, splits: Mapping[str, str], people: Mapping[str, tuple[int, ...]] = PEOPLE) -> Path:
    lines = [f"{name}/{n}.jpg\t{name}\t{splits.get(name, 'train')}" for name, faces in people.items() for n in range(len(faces))]
    path = folder / "list.tsv"
    path.write_text("\n".join(["path\tperson\tsplit", *lines]) + "\n")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "set", write_photos(tmp_path / "photos", PEOPLE))
    return tmp_path / "set"


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Eva, who is Eve, is held out, and so is Gina, one of whose photos shows Finn."""
    photos = write_photos(tmp_path / "photos", PEOPLE)
    make(tmp_path / "set", photos, source_list=str(write_list(tmp_path, {"eva": "val", "gina": "test"})))
    return tmp_path / "set"


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, (LikenessError, SystemExit)):
        raise result.exception
    return result


def splits_of(root: Path) -> dict[str, str]:
    """Person -> split; one each, or the test fails."""
    found: dict[str, str] = {}
    for row in open_dataset(root).rows():
        assert found.setdefault(person(row), row.source["split"]) == row.source["split"]
    return found


def test_people_with_one_face_share_a_split_and_no_tar_is_touched(root: Path) -> None:
    before = stats(root)
    facts = split(root, Wanted(val_fraction=0.3, test_fraction=0.2))
    found = splits_of(root)
    assert set(found.values()) == {"train", "val", "test"}
    assert all(len({found[name] for name in names}) == 1 for names in SAME)
    assert (facts["by"], facts["people"], facts["components"]) == ("identity_mobileface", 10, 7)
    assert {name: counts["people"] for name, counts in facts["splits"].items()} == {
        name: list(found.values()).count(name) for name in ("train", "val", "test")
    }
    assert sum(counts["rows"] for counts in facts["splits"].values()) == len(open_dataset(root).rows()) == 19
    assert facts["leakage"]["leaking"] == 0
    assert (facts["changed"], facts["digest"]) == (True, open_dataset(root).digest)
    assert stats(root) == before


@pytest.mark.parametrize("seed", range(6))
def test_nothing_leaks_whatever_the_seed(root: Path, seed: int) -> None:
    split(root, Wanted(val_fraction=0.3, test_fraction=0.3, seed=seed))
    figure = leakage(open_dataset(root), "mobileface")
    assert figure["rows"] > 0
    assert (figure["share"], figure["pairs"]) == (0, [])
    again = split(root, Wanted(val_fraction=0.3, test_fraction=0.3, seed=seed))
    assert (again["changed"], again["moved"]) == (False, 0)


def test_another_seed_holds_out_others(root: Path) -> None:
    found = []
    for seed in range(4):
        split(root, Wanted(val_fraction=0.3, seed=seed))
        found.append(splits_of(root))
    assert any(other != found[0] for other in found[1:])


def test_a_planted_leak_is_found_and_mended(leaky: Path) -> None:
    figure = leakage(open_dataset(leaky), "mobileface")
    assert (figure["rows"], figure["leaking"], figure["without_face"]) == (3, 2, 1)
    assert figure["share"] == pytest.approx(2 / 3)
    assert figure["by_split"] == {"val": {"rows": 1, "leaking": 1}, "test": {"rows": 2, "leaking": 1}}
    pairs = {pair["person"].rpartition("/")[2]: pair for pair in figure["pairs"]}
    assert pairs["eva"]["nearest_person"].rpartition("/")[2] in ("eve", "ewa")
    assert pairs["gina"]["nearest_person"].rpartition("/")[2] == "finn"
    assert all(pair["cosine"] >= 0.38 for pair in figure["pairs"])
    assert leakage(open_dataset(leaky), "mobileface", 0.999)["leaking"] == 0
    names = split(leaky, Wanted(by="person", val_fraction=0.3), dry_run=True)
    assert names["components"] == 10
    facts = split(leaky, Wanted(val_fraction=0.3))
    assert facts["leakage"]["leaking"] == 0
    assert any("puts" in line and "take its column split out" in line for line in facts["notices"])


def test_splits_survive_builds(root: Path, tmp_path: Path) -> None:
    digest = split(root, Wanted(val_fraction=0.4, test_fraction=0.2, seed=3))["digest"]
    found = splits_of(root)
    report = make(root)
    assert (report.digest, report.changed, report.units) == (digest, False, 0)
    write_photos(tmp_path / "photos", {"anna": (1, 1, 1, 1), "hans": (8,)})
    make(root)
    assert found.items() <= splits_of(root).items()
    held = {name for name, where in found.items() if where == "val"}
    assert {name for name, where in splits_of(root).items() if where == "val"} - held <= {"hans"}


def test_keep_moves_nobody_and_places_the_new(root: Path, tmp_path: Path) -> None:
    split(root, Wanted(val_fraction=0.3, test_fraction=0.2))
    found = splits_of(root)
    write_photos(tmp_path / "photos", {"hans": (8, 8), "ida": (9,), "eveline": (5,)})
    make(root)
    facts = split(root, Wanted(val_fraction=0.3, test_fraction=0.2, seed=99, keep=True))
    now = splits_of(root)
    assert {name: now[name] for name in found.keys() - SAME[0]} == {name: found[name] for name in found.keys() - SAME[0]}
    assert len({now[name] for name in (*SAME[0], "eveline")}) == 1
    assert facts["leakage"]["leaking"] == 0


def test_keep_leaves_in_train_what_was_trained_on(leaky: Path) -> None:
    split(leaky, Wanted(val_fraction=0.1, test_fraction=0.1, keep=True))
    assert {splits_of(leaky)[name] for name in ("eve", "eva", "ewa", "finn", "gina")} == {"train"}


def test_dry_run_changes_nothing(root: Path) -> None:
    digest = open_dataset(root).digest
    facts = split(root, Wanted(val_fraction=0.5), dry_run=True)
    assert (facts["digest"], facts["changed"]) == (digest, False)
    assert facts["moved"] > 0
    assert open_dataset(root).digest == digest


def test_by_clusters(root: Path) -> None:
    with pytest.raises(LikenessError, match=r"data add .* --field identity_cluster"):
        split(root, Wanted(by="identity_cluster"))
    run_fit(root, fit("identity_clusters"))
    make(root, fields=("identity_cluster",))
    facts = split(root, Wanted(by="identity_cluster", val_fraction=0.3))
    assert (facts["components"], facts["leakage"]["variant"], facts["leakage"]["leaking"]) == (7, "mobileface", 0)


def test_strangers_taken_for_one_person_are_noticed(root: Path) -> None:
    facts = split(root, Wanted(min_cosine=0.01, val_fraction=0.2), dry_run=True)
    assert facts["largest"] > 0.5
    assert any("raise --min-cosine" in line for line in facts["notices"])
    assert split(root, Wanted(), dry_run=True)["notices"] == []


def test_without_faces_names_alone_count(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make(root, write_photos(tmp_path / "photos", PEOPLE), fields=("perceptual_hash",))
    facts = split(root, Wanted(val_fraction=0.2))
    assert (facts["by"], facts["components"], facts["leakage"]) == ("person", 10, None)
    with pytest.raises(LikenessError, match=r"data add .* --field identity_mobileface"):
        split(root, Wanted(by="identity_mobileface"))
    with pytest.raises(LikenessError, match=r"--by perceptual_hash; allowed: person, identity_cluster, identity_"):
        split(root, Wanted(by="perceptual_hash"))


def test_selections_by_split_are_decided_again(root: Path) -> None:
    assert run("select", root, "held", "--where", "source.split == val").exit_code == 0
    split(root, Wanted(val_fraction=0.5, seed=1))
    held = sum(where == "val" for where in (row.source["split"] for row in open_dataset(root).rows()))
    assert len(open_dataset(root, selection="held").rows()) == held
    assert json.loads((root / "selections" / "held.json").read_text())["selection"]["manifest"] == open_dataset(root).digest


def test_command(leaky: Path) -> None:
    shown = run("split", leaky, "--val-fraction", 0.2, "--dry-run").output
    assert "10 people, 7 joined by name and identity_mobileface" in shown
    assert "leakage: 0.0% (0 of " in shown
    assert "not stored (--dry-run)" in shown
    facts: dict[str, Any] = json.loads(run("split", leaky, "--by", "person", "--keep", "--json").output)
    assert facts["leakage"]["leaking"] == 2
    assert "0 people moved" in (kept := run("split", leaky, "--by", "person", "--keep").output)
    assert "leakage: 66.7% (2 of 3 held-out rows" in kept
    assert "(eva) ~ " in kept
    for words in (("--val-fraction", 0.6, "--test-fraction", 0.4), ("--val-fraction", -1), ("--by", "mel80")):
        assert isinstance(run("split", leaky, *words).exception, LikenessError)


SIZES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 50), min_size=1, max_size=20)


@given(SIZES, st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 5), st.data())
@settings(deadline=None)
def test_assignment(sizes: dict[str, int], val: float, test: float, seed: int, data: st.DataObject) -> None:
    stay = data.draw(st.dictionaries(st.sampled_from(sorted(sizes)), st.sampled_from(("train", "val", "test")), max_size=3))
    fractions = {"test": test, "val": val}
    placed = assign(sizes, fractions, seed, stay)
    assert placed == assign(dict(reversed(sizes.items())), fractions, seed, stay)
    assert placed.keys() == sizes.keys()
    assert stay.items() <= placed.items()
    assert set(placed.values()) <= {"train", "val", "test"}
    total = sum(sizes.values())
    for name, fraction in fractions.items():
        new = [c for c, where in placed.items() if where == name and c not in stay]
        held = sum(sizes[c] for c, where in placed.items() if where == name)
        if new and held > fraction * total + 1e-6:  # only where nothing fitted: the smallest, alone
            assert len(new) == 1
            assert sizes[new[0]] == held
    if len(sizes) > len(stay) + 2:
        assert "train" in placed.values()
        assert all(name in placed.values() for name, fraction in fractions.items() if fraction > 0)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple), min_size=2))
@settings(deadline=None, max_examples=12)
def test_no_component_is_in_two_splits(tmp_path_factory: pytest.TempPathFactory, people: dict[str, tuple[int, ...]]) -> None:
    folder = tmp_path_factory.mktemp("random")
    make(folder / "set", write_photos(folder / "photos", people), fields=(fit_toy.FACE.name,))
    split(folder / "set", Wanted(val_fraction=0.3, test_fraction=0.3))
    found = splits_of(folder / "set")
    for name, faces in people.items():
        for other, others in people.items():
            if (set(faces) & set(others)) - {0}:
                assert found[name] == found[other]
