"""Fits of a dataset: found by operators, left alone by new data, made anew on request."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import dataset_toy as toy
import fit_toy
import pytest
from fit_toy import by_person, make, stats, values, write_photos
from typer.testing import CliRunner, Result

from infra.errors import LikenessError
from infra.storage import open_dataset
from infra.storage.fits import find_fit, read_record
from pipelines.cli.data import app
from pipelines.dataset.build import plan_build
from pipelines.dataset.fit import run_fit
from pipelines.dataset.plan import Plan
from pipelines.dataset.request import load_request, updated
from preprocessing.fits.catalogue import fit

PEOPLE = {"anna": (1, 1, 1), "bert": (2, 2), "carl": (3,), "nobody": (0,)}
CLUSTERS, COPIES = "identity_clusters", "duplicates"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "set", write_photos(tmp_path / "photos", PEOPLE))
    return tmp_path / "set"


def fitted(root: Path, name: str = CLUSTERS, *settings: str) -> str:
    return run_fit(root, fit(name, settings))[0].made.sha256


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, (LikenessError, SystemExit)):
        raise result.exception
    return result


def planned(root: Path, *fields: str) -> Plan:
    return plan_build(root, updated(load_request(root), fields=list(fields)), fit_toy.toolbox(root))


def clusters(root: Path) -> dict[str, list[int]]:
    return {name: [entry["cluster"] for entry in entries] for name, entries in by_person(root, "identity_cluster").items()}


def test_a_field_of_a_fit_wants_the_fit_first(root: Path) -> None:
    with pytest.raises(LikenessError, match=r"has no fit identity_clusters; run: likeness data fit .*set identity_clusters"):
        make(root, fields=("identity_cluster",))
    with pytest.raises(LikenessError, match=r"data add .* --field identity_buffalo_l"):
        fitted(root, CLUSTERS, "variant=buffalo_l")
    with pytest.raises(LikenessError, match="is not a dataset|does not exist"):
        fitted(root.parent / "nothing")
    assert not (root.parent / "nothing").exists()


def test_people_and_copies_are_told_apart(root: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "bert" / "copy.jpg").write_text((tmp_path / "photos" / "bert" / "1.jpg").read_text())
    make(root)
    fitted(root)
    fitted(root, COPIES)
    report = make(root, fields=("identity_cluster", "duplicate"))
    assert report.notices == []
    assert clusters(root) == {"anna": [0, 0, 0], "bert": [1, 1, 1], "carl": [2], "nobody": [-1]}
    copies = by_person(root, "duplicate")
    assert [entry["first"] for entry in copies["bert"]] == [1, 1, 0]
    assert copies["bert"][2]["group"] == copies["bert"][1]["group"] != copies["bert"][0]["group"]
    assert all(entry["first"] for name in ("anna", "carl", "nobody") for entry in copies[name])
    manifest = open_dataset(root).manifest
    column = manifest.columns[manifest.fields["identity_cluster"].column]
    assert column.assets == {"fit:identity_clusters": read_record(root, CLUSTERS).made.sha256}
    assert manifest.fits.keys() == {CLUSTERS, COPIES}
    assert manifest.fits[CLUSTERS].reads == {fit_toy.FACE.name: manifest.fields[fit_toy.FACE.name].column}
    assert (manifest.fits[CLUSTERS].rows, manifest.fits[CLUSTERS].params["min_cosine"]) == (8, 0.38)


def test_the_same_rows_give_the_same_bytes_wherever(root: Path, tmp_path: Path) -> None:
    first, before = fitted(root), stats(root)
    file = root / "fits" / CLUSTERS / f"{first[:8]}.npz"
    data = file.read_bytes()
    make(root, fields=("identity_cluster",))
    assert fitted(root) == first
    assert file.read_bytes() == data
    assert (again := make(root)).units == 0
    assert not again.changed
    assert before.items() <= stats(root).items()
    other = tmp_path / "elsewhere" / "set"
    make(other, write_photos(tmp_path / "elsewhere" / "photos", PEOPLE))
    assert fitted(other) == first
    assert (other / "fits" / CLUSTERS / file.name).read_bytes() == data
    make(other, fields=("identity_cluster",))
    assert open_dataset(other).digest == open_dataset(root).digest
    assert str(tmp_path) not in (other / "fits" / CLUSTERS / "current.json").read_text()


def test_new_sources_leave_fits_and_old_columns_alone(root: Path, tmp_path: Path) -> None:
    sha256 = fitted(root)
    make(root, fields=("identity_cluster",))
    before, found = stats(root), values(root, "identity_cluster")
    write_photos(tmp_path / "photos", {"zoe": (1, 4)})
    toy.calls.clear()
    report = make(root)
    assert report.units == 1
    assert {key for name, key in toy.calls if name == "faces"} == {row.key for row in open_dataset(root).rows()} - found.keys()
    assert before.items() <= stats(root).items()
    assert found.items() <= values(root, "identity_cluster").items()
    assert clusters(root)["zoe"] == [0, -1]  # Anna is known again, the other one nobody has seen
    assert open_dataset(root).manifest.fits[CLUSTERS].sha256 == sha256


def test_fitting_anew_makes_its_columns_stale_and_no_other(root: Path, tmp_path: Path) -> None:
    first = fitted(root)
    make(root, fields=("identity_cluster",))
    write_photos(tmp_path / "photos", {"zoe": (4, 4)})
    make(root)
    before = open_dataset(root)
    tars, old_digest = stats(root), before.fields["identity_cluster"].digest
    second = fitted(root)
    assert second != first
    plan = planned(root)
    reasons = {node.name: dict(plan.reasons(node)) for node in plan.graph.nodes if plan.reasons(node)}
    why = f"assets changed: fit:identity_clusters {first} -> {second}"
    assert reasons == {"identity_cluster": {why: len(before.manifest.shards)}}
    assert clusters(root)["zoe"] == [-1, -1]  # until it is built, the old values are there
    toy.calls.clear()
    make(root)
    assert toy.calls == []
    assert clusters(root)["zoe"] == [3, 3]
    assert open_dataset(root).fields["identity_cluster"].digest != old_digest
    assert tars.items() <= stats(root).items()
    assert fitted(root, CLUSTERS, "min_cosine=0.99") not in (first, second)


def test_rows_of_a_split_or_selection(root: Path) -> None:
    splits = {row.key: row.source["split"] for row in open_dataset(root).rows()}
    record, _ = run_fit(root, fit(CLUSTERS), split="train")
    assert (record.made.rows, record.made.rows_of) == (list(splits.values()).count("train"), {"split": "train"})
    with pytest.raises(LikenessError, match=r"--split nowhere; allowed: train, val, test"):
        run_fit(root, fit(CLUSTERS), split="nowhere")
    with pytest.raises(LikenessError, match="none of 7 rows"):
        run_fit(root, fit(CLUSTERS), split="test")
    assert run("select", root, "anna", "--where", "source.person == photos/anna").exit_code == 0
    record, arrays = run_fit(root, fit(CLUSTERS), selection="anna")
    assert (record.made.rows, arrays["counts"].tolist(), record.made.rows_of["selection"]) == (3, [3], "anna")


def test_damage_is_named(root: Path) -> None:
    sha256 = fitted(root)
    file = root / "fits" / CLUSTERS / f"{sha256[:8]}.npz"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(LikenessError, match=rf"{sha256[:8]}\.npz: .*allowed: {sha256}; run: likeness data fit"):
        make(root, fields=("identity_cluster",))
    assert fitted(root) == sha256
    (root / "fits" / CLUSTERS / "current.json").write_text("{}")
    with pytest.raises(LikenessError, match=r"current.json: .*run: likeness data fit"):
        make(root, fields=("identity_cluster",))


def test_a_fit_that_is_stopped_leaves_the_one_before(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = fitted(root)
    real, done = os.replace, 0

    def stopped(*places: Any) -> None:
        nonlocal done
        done += 1
        if done > 1:
            raise KeyboardInterrupt
        real(*places)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            fitted(root, CLUSTERS, "min_cosine=0.9")
    assert len(list((root / "fits" / CLUSTERS).glob("*.npz"))) == 2  # the new one is there, and does not count
    assert find_fit(root, CLUSTERS)[1] == sha256
    assert fitted(root, CLUSTERS, "min_cosine=0.9") != sha256


def test_a_replaced_embedding_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(root)
    assert make(root, fields=("identity_cluster",)).notices == []
    monkeypatch.setattr(fit_toy.Faces, "version", 2)
    assert any("fit identity_clusters was made from another identity_mobileface" in line for line in make(root).notices)
    assert "made from a column that was replaced" in run("fit", root).output
    fitted(root)
    assert make(root).notices == []


def test_command(root: Path) -> None:
    assert "identity_clusters: not fitted" in run("fit", root).output
    done = run("fit", root, CLUSTERS)
    assert "fit identity_clusters of 7 rows: rows with a face 6, clusters 3, largest 3" in done.output
    assert f"likeness data add {root} --field identity_cluster\n" in done.output
    facts: dict[str, Any] = json.loads(run("fit", root, COPIES, "--set", "max_bits=3", "--json").output)
    assert (facts["made"]["params"], facts["numbers"]["copies"]) == ({"max_bits": 3}, 0)
    lines = {line["name"]: line for line in json.loads(run("fit", root, "--json").output)}
    assert lines[CLUSTERS]["rows"] == lines[CLUSTERS]["rows_now"] == 7
    assert (lines[CLUSTERS]["outdated"], lines[COPIES]["fitted"]) == (False, True)
    for words, said in (
        (("fit", root, "cluster"), "unknown fit 'cluster'"), (("fit", root, COPIES, "--set", "bits=3"), "bits"),
        (("fit", root, "--split", "val"), "no fit named"),
    ):  # fmt: skip
        result = run(*words)
        assert isinstance(result.exception, LikenessError)
        assert said in str(result.exception)


def test_a_purge_leaves_nothing_in_fits(root: Path) -> None:
    old = fitted(root, CLUSTERS, "min_cosine=0.5")
    fitted(root, CLUSTERS)
    fitted(root, COPIES)
    make(root, fields=("identity_cluster", "duplicate"))
    carl = by_person(root, fit_toy.FACE.name)["carl"][0].tobytes()
    file = find_fit(root, CLUSTERS)[0]
    assert carl[:64] in file.read_bytes()  # Carl's cluster is himself
    assert run("takedown", root, "--person", "photos/carl").exit_code == 0
    assert carl[:64] in file.read_bytes()
    done = run("takedown", root, "--purge")
    assert done.exit_code == 0, done.output
    everything = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    assert carl[:64] not in everything
    assert sorted(path.name for path in (root / "fits").rglob("*.npz")) == sorted(
        find_fit(root, name)[0].name for name in (CLUSTERS, COPIES)
    )
    assert find_fit(root, CLUSTERS)[1] != old
    record = read_record(root, CLUSTERS)
    assert (record.made.rows, record.made.params["min_cosine"]) == (6, 0.38)
    make(root)
    assert clusters(root) == {"anna": [0, 0, 0], "bert": [1, 1], "nobody": [-1]}
    again = {path: path.read_bytes() for path in (root / "fits").rglob("*") if path.is_file()}
    assert run("takedown", root, "--purge").exit_code == 0
    assert {path: path.read_bytes() for path in (root / "fits").rglob("*") if path.is_file()} == again
