"""StyleID and MultiDiffusion from files to files, as they are typed: pictures that open and say where they came from."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from infra.digest import of_file
from models.diffusion.bases import open_base
from models.registry import method_named
from pipelines.cli import main as console


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path, cache, monkeypatch) -> Path:
    """The current folder, with pictures: two contents, two styles, two masks."""
    torch.set_num_threads(1)
    monkeypatch.setenv("LIKENESS_CACHE", str(cache))
    monkeypatch.setenv("LIKENESS_WORKSPACE", str(cache / "workspace"))
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name, size in (("anna", (70, 100)), ("ben", (64, 64)), ("oil", (128, 80)), ("ink", (64, 128))):
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(f"{name}.png")
    for name, box in (("left", np.s_[:, :40]), ("corner", np.s_[40:, 90:])):
        mask = np.zeros((64, 120), np.uint8)
        mask[box] = 255
        Image.fromarray(mask).save(f"{name}.png")
    return tmp_path


@pytest.fixture
def typed(here, monkeypatch, capsys):
    """(exit status, record or what was said) of `likeness generate ...`."""

    def run(words: str, *texts: str) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["likeness", "generate", *words.split(), *texts, "--json"])
        with pytest.raises(SystemExit) as stop:
            console.main()
        said = capsys.readouterr()
        return stop.value.code, json.loads(said.out) if stop.value.code == 0 else said.err.strip()

    return run


def opened(file: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with Image.open(file) as picture:
        return np.array(picture), json.loads(picture.info["comment"])


def test_each_content_in_each_style(here, typed):
    status, record = typed("styleid --preset tiny content=anna.png content=ben.png style=oil.png style=ink.png --out out.png")
    assert status == 0, record
    names = ["anna-oil", "anna-ink", "ben-oil", "ben-ink"]
    assert [(each["file"], each["width"], each["height"]) for each in record["output"]] == [(f"out-{n}.png", 64, 64) for n in names]
    assert json.loads(Path("out.png.json").read_text()) == record
    assert record["inputs"]["style"][1] == {"file": "ink.png", "sha256": of_file(here / "ink.png")}
    assert record["base"] == {"reference": "tiny-sd15", "sha256": open_base("tiny-sd15").checksum}
    assert (record["settings"]["steps"], record["settings"]["gamma"]) == (4, 0.75)
    assert str(here) not in Path("out.png.json").read_text()
    pictures = [opened(here / f"out-{name}.png") for name in names]
    assert pictures[3][1]["picture"] == "ben-ink"
    assert all(not np.array_equal(pictures[0][0], other) for other, _ in pictures[1:])

    status, again = typed("styleid --preset tiny content=ben.png style=ink.png --out one.png")
    assert status == 0, again
    assert np.abs(opened(here / "one.png")[0].astype(int) - pictures[3][0]).max() <= 1  # whatever else is drawn beside it


def test_styles_are_kept_and_recomputed_alike(here, typed, cache):
    words = "styleid --preset tiny content=anna.png style=oil.png features=full"
    made = {}
    for name, more in (("plain", ""), ("first", "cache=true"), ("second", "cache=true"), ("again", "features=recompute")):
        status, record = typed(f"{words} {more} --out {name}.png")
        assert status == 0, record
        made[name] = opened(here / f"{name}.png")[0]
        assert len(list((cache / "styleid").glob("*"))) == (0 if name == "plain" else 1)
    assert all(np.array_equal(made["plain"], picture) for picture in made.values())


def test_the_published_variants(typed):
    for preset, said in (
        ("main", {"schedule": "main", "steps": 50, "blocks": [6, 7, 8, 9, 10, 11], "encode": "sample", "adain_epsilon": 0.0}),
        ("diffusers", {"schedule": "diffusers", "steps": 20, "blocks": [7, 8, 9, 10, 11], "encode": "mean", "size_px": None}),
        ("high-style", {"schedule": "main", "gamma": 0.3, "temperature": 1.5}),
    ):
        status, plan = typed(f"styleid --preset {preset} --base tiny-sd21 content=ben.png style=ink.png --dry-run")
        assert status == 0, plan
        assert plan["settings"] | said == plan["settings"]
    status, record = typed("styleid --preset diffusers --base tiny-sd21 steps=2 content=ben.png style=ink.png --out port.png")
    assert status == 0, record
    assert [(each["width"], each["height"]) for each in record["output"]] == [(64, 64)]


def test_a_panorama(here, typed):
    status, record = typed("multidiffusion --preset tiny height_px=60 circular=true scheduler=euler", "prompt=a beach, at night")
    assert status == 0, record
    picture, carried = opened(here / "multidiffusion.png")
    assert picture.shape == (60, 160, 3)
    assert carried == {key: value for key, value in record.items() if key != "output"}
    assert carried["inputs"] == {"prompt": {"text": "a beach, at night"}}
    again = typed("multidiffusion --preset tiny height_px=60 circular=true scheduler=euler", "prompt=a beach, at night")[1]
    assert again == record
    other = typed("multidiffusion --preset tiny height_px=60 circular=true scheduler=euler --seed 1", "prompt=a beach, at night")[1]
    assert other["output"][0]["sha256"] != record["output"][0]["sha256"]


def test_a_control_panorama_whose_prompt_changes(here, typed):
    """Size and shape are the control picture's; what was given is told."""
    net = ControlNetModel.from_unet(open_base("tiny-sd15").unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    net.save_pretrained(here / "net")
    words = "multidiffusion --preset tiny height_px=null width_px=null control=ink.png nets=net net_scales=1.3 --out c.png"
    status, record = typed(words, "prompt=a photo", "window_prompt=a beach, at night", "window_prompt=a forest")
    assert status == 0, record
    assert opened(here / "c.png")[0].shape == (64, 128, 3)
    assert [entry["text"] for entry in record["inputs"]["window_prompt"]] == ["a beach, at night", "a forest"]
    assert record["inputs"]["control"] == [{"file": "ink.png", "sha256": of_file(here / "ink.png")}]
    assert (record["settings"]["nets"], record["settings"]["net_scales"]) == (["net"], [1.3])


def test_regions_from_masks(here, typed):
    words = (
        "multidiffusion --preset tiny height_px=null width_px=null --base tiny-sdxl region=left.png region=corner.png --out r.png"
    )
    status, record = typed(words, "prompt=a street", "region_prompt=a man in a coat", "region_prompt=a dog", "negative=blurry")
    assert status == 0, record
    assert opened(here / "r.png")[0].shape == (64, 120, 3)
    assert [entry["text"] for entry in record["inputs"]["region_prompt"]] == ["a man in a coat", "a dog"]
    assert record["inputs"]["region"][0]["sha256"] == of_file(here / "left.png")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("styleid --preset tiny content=ben.png", "styleid needs style= "),
        ("styleid --preset tiny content=ben.png style=none.png", "there is no such file"),
        ("styleid --preset tiny content=ben.png style=text.png", "text.png"),
        (
            "styleid --preset tiny size_px=null content=anna.png style=ink.png",
            r"anna.png has 100 x 70 px; allowed: multiples of 64",
        ),
        ("styleid --preset tiny size_px=100 content=anna.png style=ink.png", "size_px"),
        ("styleid --preset tiny blocks=[1,7] content=ben.png style=ink.png", r"no attn1 in output_blocks\.1"),
        ("styleid --base tiny-sdxl content=ben.png style=ink.png", "of the family sdxl; allowed: sd15, sd21"),
        ("styleid content=ben.png style=ink.png", "hf download stable-diffusion-v1-5"),
        ("multidiffusion --preset tiny", "multidiffusion needs prompt="),
        ("multidiffusion --preset tiny prompt=x scheduler=best", "scheduler='best'.*allowed: ddim"),
        ("multidiffusion --preset tiny prompt=x region=left.png", "1 regions and 0 prompts"),
        ("multidiffusion --preset tiny prompt=x height_px=0", "height_px"),
        ("multidiffusion --preset tiny prompt=x nets=absent control=ink.png", "control 1 of 128 x 64 px would be distorted"),
        ("multidiffusion --preset control --base tiny-sd15 prompt=x", "1 net_scales for 0 ControlNets"),
    ],
)
def test_what_cannot_be_used_gets_one_line(here, typed, words, said):
    Path("text.png").write_text("no picture")
    before = sorted(path.name for path in here.iterdir())
    status, told = typed(words)
    assert status == 2
    assert re.search(said, told), told
    assert "\n" not in told
    assert sorted(path.name for path in here.iterdir()) == before


def test_the_declarations():
    for name in ("styleid", "multidiffusion"):
        method = method_named(name)
        assert not method.stages
        assert not method.bundle
        assert "tiny" in method.presets()
