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


@pytest.fixture
def operator_added(tmp_path, monkeypatch):
    """The field, the operator and the catalogue's line of the page, where each says it goes."""
    import preprocessing.fields
    import preprocessing.operators
    from preprocessing import catalogue
    from preprocessing.fields import faces, vocabulary

    pieces = files("adding-an-operator.md")
    defined: dict = {"Field": faces.Field}
    exec(pieces["preprocessing/fields/faces.py"], defined)
    monkeypatch.setattr(preprocessing.fields, "SMILE", defined["SMILE"], raising=False)
    monkeypatch.setattr(vocabulary, "FIELDS", (*vocabulary.FIELDS, defined["SMILE"]))
    folder = tmp_path / "operators"
    folder.mkdir()
    (folder / "smile.py").write_text(pieces["preprocessing/operators/smile.py"])
    monkeypatch.setattr(preprocessing.operators, "__path__", [*preprocessing.operators.__path__, str(folder)])
    from preprocessing.operators.smile import Smile  # type: ignore[import-not-found]

    listed = {"OPERATORS": catalogue.OPERATORS, "Smile": Smile}
    exec(pieces["preprocessing/catalogue.py"], listed)
    monkeypatch.setattr(catalogue, "OPERATORS", listed["OPERATORS"])
    monkeypatch.setattr(catalogue, "_BY_FIELD", {**catalogue._BY_FIELD, "smile": Smile})
    yield defined["SMILE"]
    del sys.modules["preprocessing.operators.smile"]


def test_the_operator_of_the_page_makes_a_column(operator_added, dataset):
    from infra.storage import open_dataset
    from preprocessing.codecs import decode

    def smiles() -> list:
        made = open_dataset(dataset)
        return [decode(operator_added, made.read(row, "smile")) for row in made.rows()]

    likeness("data", "add", dataset, "--field", "smile", "--runner", "serial")
    plain = smiles()
    assert all(0.3 < float(values.mean()) < 1.5 for values in plain)
    planned = likeness("data", "plan", dataset, "--set", "smile.window=5").stdout
    assert "smile" in planned
    likeness("data", "add", dataset, "--field", "smile", "--set", "smile.window=5", "--runner", "serial")
    assert all(smooth.std() < rough.std() for smooth, rough in zip(smiles(), plain, strict=True))
