"""Assets: found in folders, fetched whole or not at all, named when absent. Downloads come from file:// addresses."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra import assets
from infra.assets import Asset
from infra.errors import LikenessError
from pipelines.cli.assets import app

DATA = b"weights" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of our own, a home of our own; gives the folder that files are downloaded from."""
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "a.bin").write_bytes(DATA)
    url = (origin / "a.bin").as_uri()
    rows: dict[str, tuple[str, str | None, int | None]] = {
        "known": (url, SHA, len(DATA)), "unknown_sum": (url, None, None), "wrong_sum": (url, "0" * 64, None),
        "gone": (url + "x", None, None), "by_hand": ("", None, None),
    }
    table = tuple(
        Asset(name, f"{name}.bin", *row, licence="MIT", used_by=("tests",), page="https://example.org/weights")
        for name, row in rows.items()
    )
    monkeypatch.setattr(assets, "ASSETS", table)
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "home"))
    monkeypatch.delenv("LIKENESS_ASSETS", raising=False)
    return origin


def test_folders_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "unknown_sum.bin").write_bytes(folder.encode())
    monkeypatch.setenv("LIKENESS_ASSETS", os.pathsep.join(str(tmp_path / folder) for folder in ("none", "two", "one")))
    assert assets.find("unknown_sum") == tmp_path / "two" / "unknown_sum.bin"


def test_an_absent_asset_says_what_to_place_where():
    with pytest.raises(LikenessError, match=r"likeness assets fetch known; or place known.bin from file://.*MIT.*assets"):
        assets.find("known")
    with pytest.raises(LikenessError, match=r"place by_hand.bin from https://example.org/weights"):
        assets.find("by_hand")
    with pytest.raises(LikenessError, match="did you mean known"):
        assets.find("knwon")


def test_fetch_leaves_the_whole_file_or_nothing():
    seen: list[tuple[int, int | None]] = []
    path = assets.fetch("known", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert assets.find("known") == path
    for name, message in (("wrong_sum", "sha256"), ("gone", "could not be fetched"), ("by_hand", "no address")):
        with pytest.raises(LikenessError, match=message):
            assets.fetch(name)
    assert [p.name for p in path.parent.iterdir()] == ["known.bin"]


def test_checksum_is_checked_and_cached(monkeypatch: pytest.MonkeyPatch):
    path = assets.fetch("known")
    assert assets.checksum("known") == SHA
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert assets.checksum("known") == SHA
    path.write_bytes(DATA[::-1])
    with pytest.raises(LikenessError, match="has sha256"):
        assets.checksum("known")
    path.write_bytes(DATA[:-1])
    with pytest.raises(LikenessError, match=f"has {len(DATA) - 1} bytes"):
        assets.find("known")


def test_command_line(tmp_path: Path):
    run = CliRunner().invoke
    assert run(app, ["fetch", "known", "unknown_sum"]).exit_code == 0
    rows = {row["name"]: row for row in json.loads(run(app, ["list", "--json"]).stdout)}
    assert rows["known"]["state"] == "here"
    assert rows["gone"]["state"] == "absent"
    rows = {row["name"]: row for row in json.loads(run(app, ["verify", "--json"]).stdout)}
    assert rows["known"]["state"] == "right"
    assert rows["unknown_sum"]["sha256_found"] == SHA
    assert "known" in run(app, ["list"]).stdout
    failed = run(app, ["fetch", "gone"])
    assert isinstance(failed.exception, LikenessError)
    assert isinstance(run(app, ["verify", "by_hand"]).exception, LikenessError)
    assert (tmp_path / "home" / "assets" / "known.bin").exists()


def test_the_real_table_is_sound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    names = [a.name for a in assets.ASSETS]
    assert len(set(names)) == len(names)
    for asset in assets.ASSETS:
        assert asset.licence
        assert asset.used_by
        assert asset.url or asset.page
