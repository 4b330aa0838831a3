"""The installed `likeness`, run from folders that are not the project's: it finds its own packages, and a mistake on the
command line gets one line and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipelines.cli.main import NOUNS

PROGRAM = Path(sys.executable).with_name("likeness")
MISSING = [noun for noun in NOUNS if find_spec(f"pipelines.cli.{noun}") is None]
pytestmark = pytest.mark.long
whole = pytest.mark.skipif(bool(MISSING), reason=f"commands not written yet: {MISSING}")


@pytest.fixture(params=["empty", "own packages"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty working directory, or one whose names are those of our packages."""
    if request.param == "own packages":
        for name in ("models", "infra"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise ImportError('not the project's')")
        (tmp_path / "training.py").write_text("raise ImportError('not the project's')")
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`likeness WORDS` as a user types it: from `folder`, nothing added to the import path."""
    assert PROGRAM.exists(), "install the project first: pip install -e .[dev]"
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    env |= {"HOME": str(folder), "COLUMNS": "100"}
    return subprocess.run([PROGRAM, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


@whole
def test_help_names_every_noun(folder: Path):
    done = run(folder, "--help")
    assert done.returncode == 0, done.stderr
    for noun in NOUNS:
        assert noun in done.stdout
    assert not list(folder.glob("*.db")), "asking for help must not leave files"


@pytest.mark.parametrize("noun", [noun for noun in NOUNS if noun not in MISSING])
def test_every_noun_has_help(noun: str, tmp_path: Path):
    done = run(tmp_path, noun, "--help")
    assert done.returncode == 0, done.stderr
    assert f"likeness {noun}" in done.stdout
    assert not done.stderr


def test_methods(folder: Path):
    done = run(folder, "methods")
    assert done.returncode == 0, done.stderr
    assert "wav2lip" in done.stdout


def test_one_method(tmp_path: Path):
    done = run(tmp_path, "methods", "wav2lip")
    assert done.returncode == 0, done.stderr
    assert "generator" in done.stdout


@pytest.mark.parametrize("words", [
    pytest.param(["trian"], marks=whole), pytest.param(["--bogus"], marks=whole), ["assets", "lsit"], ["assets", "list", "--bogus"],
    ["assets", "fetch"], ["assets", "fetch", "nothing"], ["methods", "wave2lip"], ["job", "list", "--address", "127.0.0.1:1"],
    ["train"], ["train", "wav2lip", "--data", "no-such-folder"], ["train", "wav2lip", "--bogus"],
], ids=" ".join)
def test_a_mistake_gets_one_line(words: list[str], tmp_path: Path):
    done = run(tmp_path, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert not done.stdout
