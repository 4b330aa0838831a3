"""`likeness data gc`: what goes, what stays, and that readers of what stays go on reading."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dataset_toy as toy
import numpy as np
import pytest
from dataset_toy import TOOLBOX
from typed import likeness

from infra.errors import LikenessError
from infra.storage import open_dataset
from infra.storage.fits import find_fit, write_fit
from infra.storage.lock import build_lock
from pipelines.dataset.build import build
from pipelines.dataset.collect import collect
from pipelines.dataset.request import load_request, updated
from pipelines.dataset.select import select
from pipelines.dataset.verify import verify


def make(root: Path, source: Path | None = None, **flags) -> str:
    request = updated(load_request(root), sources=[str(source)] if source else [], **flags)
    return build(root, request, TOOLBOX, runner="serial").digest


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, list[str]]:
    """A dataset and its manifests, oldest first: with another setting of `shift`, with an older clip, and now."""
    source, root = tmp_path / "clips", tmp_path / "set"
    toy.write_sources(source, 4)
    digests = [make(root, source, fields=["summed"], settings=["shift.by=2"]), make(root, settings=["shift.by=1"])]
    (source / "speaker0" / "Clip 0.mp4").write_text("9 9 9")
    digests.append(make(root))
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp" / "left by a kill").write_bytes(bytes(1000))
    (root / "columns" / "stray.link").write_bytes(bytes(500))
    return root, digests


def everything(root: Path, digest: str) -> list[bytes]:
    data = open_dataset(root, digest)
    return [data.read(row, name) for row in data.rows() for name in data.fields if data.has(row, name)]


def test_without_keep_only_leftovers_go(grown: tuple[Path, list[str]]) -> None:
    root, digests = grown
    before = {digest: everything(root, digest) for digest in digests}
    garbage = collect(root)
    assert garbage.kept == {digests[2]: "HEAD", digests[1]: "all are kept", digests[0]: "all are kept"}
    assert (garbage.manifests, garbage.files, garbage.temporary) == ([], ["columns/stray.link"], ["tmp/left by a kill"])
    assert garbage.bytes == 1500
    assert {digest: everything(root, digest) for digest in digests} == before
    assert collect(root).bytes == 0


@pytest.mark.parametrize("keep", [1, 2])
def test_older_manifests_go_and_readers_of_the_others_go_on(grown: tuple[Path, list[str]], keep: int) -> None:
    root, digests = grown
    before = {digest: everything(root, digest) for digest in digests}
    reader = open_dataset(root, digests[-1])
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    planned = json.loads(likeness("data", "gc", root, "--keep", keep, "--dry-run", "--json").stdout)
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) == size
    told = likeness("data", "gc", root, "--keep", keep).stdout
    assert f"keeps manifest {digests[-1][:12]}: HEAD" in told
    assert f"{3 - keep} old manifests: " in told
    assert size - sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) == planned["bytes"] > 1500
    assert sorted(planned["manifests"]) == sorted(digests[:-keep])
    for digest in digests[-keep:]:
        assert everything(root, digest) == before[digest]
    assert everything(root, digests[-1]) == [reader.read(r, f) for r in reader.rows() for f in reader.fields if reader.has(r, f)]
    for digest in digests[:-keep]:
        with pytest.raises(LikenessError, match="has no manifest"):
            open_dataset(root, digest)
    verdict = verify(root)
    assert verdict.problems == []
    assert verdict.others == (0, 0) if keep == 1 else verdict.others[0] > 0
    assert make(root) == digests[-1]


def test_what_models_and_selections_name_stays(grown: tuple[Path, list[str]]) -> None:
    root, digests = grown
    select(root, "some", ["summed.frames >= 0"])
    kept = collect(root, 1, [("models:/a/1", [digests[0], "f" * 64])], dry_run=True).kept
    assert kept == {digests[2]: "HEAD", digests[0]: "models:/a/1 was trained on it"}
    file = root / "selections" / "some.json"
    (root / "HEAD").write_text(digests[1] + "\n")
    assert collect(root, 1, dry_run=True).kept == {digests[1]: "HEAD", digests[2]: "selection some was decided on it"}
    file.unlink()
    assert collect(root, 1, dry_run=True).kept == {digests[1]: "HEAD"}


def test_only_the_current_fit_and_those_of_kept_manifests_stay(grown: tuple[Path, list[str]]) -> None:
    root, digests = grown
    facts = {"version": 1, "params": {}, "reads": {}, "rows": 4, "rows_sha256": "0" * 64}
    old = write_fit(root, "groups", {"a": np.zeros(3)}, digests[0], **facts).file(root)
    write_fit(root, "groups", {"a": np.ones(3)}, digests[0], **facts)
    assert collect(root).fits == [old.relative_to(root).as_posix()]
    assert not old.exists()
    assert find_fit(root, "groups")[0].exists()


def test_gc_waits_for_builds_and_stops_at_damage(grown: tuple[Path, list[str]]) -> None:
    root, digests = grown
    with build_lock(root), pytest.raises(LikenessError, match="another build"):
        collect(root)
    manifest = root / "manifests" / f"{digests[1]}.json"
    os.truncate(manifest, 100)
    with pytest.raises(LikenessError, match="bytes changed"):
        collect(root)
    (root / "manifests" / f"{digests[2]}.json").rename(root / "elsewhere")
    with pytest.raises(LikenessError, match="which HEAD names, is missing"):
        collect(root, 1)
    (root / "elsewhere").rename(root / "manifests" / f"{digests[2]}.json")
    assert len(list((root / "columns").rglob("*.tar"))) > 4
    assert digests[1] in collect(root, 1).manifests
