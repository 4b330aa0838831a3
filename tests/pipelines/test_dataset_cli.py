"""`likeness data` with the project's own operators, on clips of noise: no faces, but pictures, sound and all commands."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from infra.errors import LikenessError
from infra.storage import open_dataset
from pipelines.cli.data import app
from preprocessing.media.mux import write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with sound, a text file, an empty file, a file cut in half."""
    folder = tmp_path_factory.mktemp("data") / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(3):
        frames = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(12)]
        write_video(folder / f"clip{n}.mp4", frames, Fraction(25), rng.integers(-9000, 9000, 7680).astype(np.int16))
    (folder / "notes.txt").write_text("hello")
    (folder / "zero.mp4").touch()
    whole = (folder / "clip0.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def dataset(clips: Path) -> Path:
    done = run("build", clips.parent / "set", "--source", clips, "--field", "voiced", "--workers", 1)
    assert done.exit_code == 0, done.output
    return clips.parent / "set"


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, (LikenessError, SystemExit)):
        raise result.exception
    return result


def test_bad_files_are_named_with_reasons_and_good_ones_kept(dataset: Path) -> None:
    data = open_dataset(dataset)
    by_status = {entry.path: (entry.status, entry.reason.partition(":")[0]) for entry in data.manifest.sources if entry.reason}
    assert by_status.keys() == {"clips/half.mp4", "clips/notes.txt", "clips/zero.mp4"}
    assert by_status["clips/notes.txt"] == ("refused", "not-media")
    assert by_status["clips/zero.mp4"] == ("refused", "empty-file")
    assert len(data.rows()) == 3
    assert {row.source["split"] for row in data.rows()} == {"train", "val"}
    assert all(data.has(row, "voiced") for row in data.rows())


def test_plan_changes_nothing_and_rebuild_does_nothing(dataset: Path, clips: Path, tmp_path: Path) -> None:
    planned = run("plan", tmp_path / "new", "--source", clips, "--field", "voiced", "--json")
    facts = json.loads(planned.output)
    assert [line["operator"] for line in facts["operators"]] == ["ingest", "voice_activity"]
    assert facts["units"] == 2
    assert facts["cpu_s"] is not None  # the fixture's build has measured this machine
    assert not (tmp_path / "new").exists()
    again = run("build", dataset)
    assert (again.exit_code, "nothing to compute" in again.output, "(unchanged)" in again.output) == (0, True, True)
    assert "clips/zero.mp4" in again.output
    assert "empty-file" in again.output
    assert run("build", dataset, "--strict", "--json").exit_code == 3


def test_add_show_and_verify(dataset: Path) -> None:
    planned = run("add", dataset, "--field", "mel80", "--dry-run")
    assert "mel80 v" in planned.output
    assert "there" in planned.output
    added = json.loads(run("add", dataset, "--field", "mel80", "--runner", "serial", "--json").output)
    assert (added["rows"], added["changed"]) == (3, True)
    facts = json.loads(run("show", dataset, "--json").output)
    assert facts["sources"] == {"ingested": 3, "refused": 2, "quarantined": 1}
    assert [f["written"] for f in facts["fields"] if f["name"] == "mel80"] == [3]
    assert "funnel: files 6 > ingested 3 > rows 3" in run("show", dataset).output
    key = run("show", dataset, "--rows").output.split()[0]
    shown = run("show", dataset, key).output
    assert "mel80" in shown
    assert "float32 80 x" in shown
    assert "split" in shown
    assert run("verify", dataset).exit_code == 0


def test_verify_names_a_flipped_byte(clips: Path, tmp_path: Path) -> None:
    assert run("build", tmp_path / "set", "--source", clips / "clip1.mp4", "--field", "voiced").exit_code == 0
    tar = next((tmp_path / "set" / "columns" / "voice_activity").rglob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    result = run("verify", tmp_path / "set")
    assert result.exit_code == 2
    assert f"{tar.relative_to(tmp_path / 'set')}: bytes changed" in result.output
    assert f"mend it with: rm {tar}" in result.output
    tar.unlink()
    assert run("build", tmp_path / "set").exit_code == 0
    assert json.loads(run("verify", tmp_path / "set", "--json").output)["problems"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "{set}", "--field", "face_bx_96"], r"unknown field 'face_bx_96' \(nearest: face_"),
        (["build", "{set}", "--set", "voice_activity.nothing=1"], "nothing"),
        (["build", "{set}", "--set", "nobody.x=1"], "operator 'nobody'"),
        (["build", "{set}", "--recipe", "walking"], "unknown recipe 'walking'; allowed: portrait, talking"),
        (["build", "{set}", "--runner", "slurm"], "--runner slurm; allowed: ray, serial"),
        (["build", "{new}"], "has no sources; name a folder of clips or photos: --source FOLDER"),
        (["build", "{new}", "--source", "/no/such/place"], "--source /no/such/place: no such folder"),
        (["add", "{new}", "--field", "voiced"], "is not a dataset; build one with: likeness data build"),
        (["add", "{set}"], "no field named"),
        (["show", "{new}"], "does not exist; build one with: likeness data build"),
        (["show", "{set}", "clip"], "has no row 'clip'; nearest: clips-"),
        (["verify", "{new}"], "has no finished build"),
    ],
)
def test_mistakes_get_one_line(dataset: Path, tmp_path: Path, words: list[str], said: str) -> None:
    result = run(*(word.format(set=dataset, new=tmp_path / "new") for word in words))
    assert isinstance(result.exception, LikenessError)
    with pytest.raises(LikenessError, match=said):
        raise result.exception
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "new").exists()
