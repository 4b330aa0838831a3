"""How well the face is seen: both backends on small networks, the share outside by hand, the real network on the corpus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from astronaut_clips import fill, make_sample, portrait, swaying
from tiny_onnx import heat_maps

from infra import assets
from infra.errors import LikenessError
from models.perception.bisenet import BiSeNet
from preprocessing import catalogue, templates
from preprocessing.apply import run_in_memory
from preprocessing.fields import FACE_COVER, FACE_VALID, LANDMARKS_5, LANDMARKS_478
from preprocessing.operator import Operator
from preprocessing.operators.face_cover import Confidence, FaceCover, share_outside

ready = assets.locate(assets.get("openseeface")) and "LIKENESS_CORPUS" in os.environ
real = pytest.mark.skipif(not ready, reason="LIKENESS_ASSETS has no openseeface, or LIKENESS_CORPUS not set")


def operator(path: Path, backend: str = "openseeface", samples: int = 8) -> Operator:
    made = catalogue.producer(FACE_COVER.name, {"face_cover": {"backend": backend, "samples": samples}})
    assert made.assets == (backend,)
    made.asset_paths = {backend: path}
    made.setup()
    return made


def test_confidences_by_hand(tmp_path):
    """A network of constant maps: each point's confidence is its map's bias."""
    path, _, _ = heat_maps(tmp_path / "maps.onnx")
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    want = np.linspace(0.1, 0.9, 198).astype(np.float32)
    for held in model.graph.initializer:
        value = want if held.name == "bias" else np.zeros((198, 3, 1, 1), np.float32)
        held.CopyFrom(numpy_helper.from_array(value, held.name))
    onnx.save(model, path)
    frames = swaying(4)
    frames[1] = 0
    numbers = operator(path)(fill(make_sample(frames), LANDMARKS_478, LANDMARKS_5, FACE_VALID))[FACE_COVER]
    assert numbers["frames"] == 3
    parts = [want[17:48].mean(), want[27:36].mean(), want[48:66].mean()]
    assert [numbers[part] for part in ("eyes", "nose", "mouth")] == pytest.approx(parts, abs=2e-4)
    assert numbers["least"] == pytest.approx(min(parts), abs=2e-4)
    assert numbers["outside"] == 0
    assert operator(path, samples=2)(fill(make_sample(frames), LANDMARKS_478, LANDMARKS_5))[FACE_COVER]["frames"] == 2
    nobody = operator(path)(fill(make_sample(np.full((2, 64, 64, 3), 90, np.uint8)), LANDMARKS_478, LANDMARKS_5))[FACE_COVER]
    assert nobody == {"frames": 0, "eyes": 0.0, "nose": 0.0, "mouth": 0.0, "least": 0.0, "outside": 0.0}


def test_the_network_sees_the_whole_mesh(tmp_path):
    """The crop reaches a tenth of the width and an eighth of the height beyond the mesh."""
    path, weight, bias = heat_maps(tmp_path / "maps.onnx")
    frame = portrait()
    sample = fill(make_sample(frame[None]), LANDMARKS_478, LANDMARKS_5)
    m = templates.matrix("ffhq5", 512, points5=sample[LANDMARKS_5][0])
    mesh = templates.transform(m, sample[LANDMARKS_478][0, :, :2])
    low, high = mesh[:468].min(0), mesh[:468].max(0)
    corner, side = low - (0.1, 0.125) * (high - low), (1.2, 1.25) * (high - low)
    whole = np.column_stack([m[:, :2] * (224 / side)[:, None], (m[:, 2] - corner) * 224 / side])
    face = templates.warp(frame, whole, 224) / 255
    blocks = ((face - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).reshape(28, 8, 28, 8, 3).mean((1, 3))
    peaks = (np.einsum("yxc,mc->myx", blocks, weight) + bias[:, None, None])[:66].reshape(66, -1).max(1)
    found = Confidence(path)(frame, m, mesh)
    assert found == pytest.approx([peaks[17:48].mean(), peaks[27:36].mean(), peaks[48:66].mean()], abs=1e-3)


def test_parsed_shares(tmp_path):
    """A parser that answers one class everywhere sees all or nothing."""
    frames = fill(make_sample(swaying(1)), LANDMARKS_478, LANDMARKS_5)
    for label, share in ((1, 1.0), (16, 0.0)):
        network = BiSeNet()
        with torch.no_grad():
            network.conv_out.conv_out.weight.zero_()
            # Every channel that reaches the last layer is positive after ReLU with this bias, so the class with weights wins.
            network.conv_out.conv.bn.bias.fill_(10)
            network.conv_out.conv_out.weight[label] = 1
        torch.save(network.state_dict(), tmp_path / "parser.pth")
        numbers = operator(tmp_path / "parser.pth", "bisenet")(frames)[FACE_COVER]
        assert [numbers[part] for part in ("eyes", "nose", "mouth", "least")] == [share] * 4


def test_the_share_outside():
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    for shift, want in (((0, 0), 0), ((-5, 0), 0.5), ((-2.5, 0), 0.25), ((95, 0), 0.5), ((95, 45), 0.75), ((300, 0), 1)):
        assert share_outside(square + shift, (50, 100)) == pytest.approx(want, abs=0.02)


def test_other_networks_are_refused(tmp_path):
    made = operator(heat_maps(tmp_path / "few.onnx", maps=66)[0])
    with pytest.raises(LikenessError, match=r"gives \(1, 66, 28, 28\); allowed: \(1, 198, 28, 28\)"):
        made(fill(make_sample(swaying(1)), LANDMARKS_478, LANDMARKS_5))
    with pytest.raises(LikenessError, match="openseeface | bisenet"):
        catalogue.producer(FACE_COVER.name, {"face_cover": {"backend": "eye"}})
    assert FaceCover().assets == ("openseeface",)


@real
def test_masks_and_hands_are_noticed():
    folder = Path(os.environ["LIKENESS_CORPUS"])
    for file, low, high in (
        ("hard/img_real_masked_face.png", 0.4, 0.65), ("faces/obama_1.jpg", 0.7, 1), ("faces/stock_a_3.jpg", 0.7, 1),
        ("hard/real_occluded_lowres.avi", 0.4, 0.65),
    ):  # fmt: skip
        numbers = run_in_memory(folder / file, [FACE_COVER], {"ingest": {"sound": "ignored"}})[FACE_COVER]
        assert low < numbers["least"] < high, file
