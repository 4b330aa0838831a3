"""The code of the pages that say how to add things, as it stands there, does what they say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from typed import likeness

import models

DOCS = Path(__file__).parents[2] / "docs"


def files(page: str) -> dict[str, str]:
    """Path -> contents: the block of code under each heading that ends with a path."""
    found: dict[str, str] = {}
    for section in (DOCS / page).read_text().split("\n## ")[1:]:
        path = re.search(r"`([\w./]+)`$", section.partition("\n")[0])
        block = re.search(r"```(?:python|yaml)\n(.*?)```", section, re.S)
        if path and block:
            found[path[1]] = block[1]
    return found


@pytest.fixture
def added(tmp_path, monkeypatch) -> Path:
    """A folder beside `models` in which the page's method lies."""
    for name, contents in files("adding-a-method.md").items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(contents)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "models")])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("models.facecode")]:
        del sys.modules[name]


def test_the_method_of_the_page_trains_and_generates(added, dataset, clips, tmp_path):
    assert len(files("adding-a-method.md")) == 5
    listed = json.loads(likeness("methods", "--data", dataset, "--json").stdout)
    mine = next(entry for entry in listed if entry["name"] == "facecode")
    assert "likeness data add" in mine["stages"][0]["data"]
    likeness("data", "add", dataset, "--field", "face_box_64", "--runner", "serial")
    space = tmp_path / "workspace"
    space.mkdir()
    words = ("train", "facecode", "--data", dataset, "--preset", "tiny", "--json")
    (result,) = json.loads(likeness(*words, workspace=space).stdout)
    assert (result["version"], result["step"]) == ("models:/facecode-code/1", 4)
    assert 0 < result["metrics"]["l1"] < 2
    (again,) = json.loads(likeness(*words, workspace=space).stdout)
    assert again["already"]
    import av
    from PIL import Image

    with av.open(str(next(clips.glob("**/*.mp4")))) as clip:
        next(clip.decode(video=0)).to_image().save(tmp_path / "me.png")
    likeness("generate", "facecode", f"face={tmp_path / 'me.png'}", "--out", tmp_path / "drawn.png", workspace=space)
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.size == (64, 64)
