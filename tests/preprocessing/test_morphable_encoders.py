"""Coefficients by Deep3DFaceRecon's and DECA's encoders, with made-up weights in the layout of the released files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from astronaut_clips import fill, make_sample, swaying
from synthetic_heads import write_bfm, write_flame
from test_morphable_fit import learned, learned_file, ready  # noqa: F401  (fixtures)

from infra.errors import LikenessError
from models.perception.deca import DecaEncoder, load_deca
from models.perception.deep3d import Deep3DRegressor, load_deep3d
from models.perception.morphable import files
from pipelines.dataset.graph import Node, resolve, standard
from preprocessing import catalogue, templates
from preprocessing.alignment import deep3d_alignment, five_points
from preprocessing.fields import (
    FACE_VALID,
    KEY_FRAME,
    LANDMARKS_68,
    LANDMARKS_478,
    TUBE_BOX,
    VIDEO,
    coefficients,
    face_map,
    image,
    morphable_fit,
)  # fmt: skip
from preprocessing.morphable import encoders, places
from preprocessing.operator import Sample

ENCODERS = {"bfm": (Deep3DRegressor, load_deep3d, "net_recon"), "flame": (DecaEncoder, load_deca, "E_flame")}


@pytest.fixture(scope="module")
def clip() -> Sample:
    frames = swaying(5)
    frames[2] = 0
    return fill(make_sample(frames), LANDMARKS_478, LANDMARKS_68, FACE_VALID, TUBE_BOX, KEY_FRAME)


@pytest.fixture(scope="module", params=["bfm", "flame"])
def model(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory) -> Path:
    """The released file's layout at its real width, numbers made up: a network that answers differently to each picture."""
    kind, _, key = ENCODERS[model]
    torch.manual_seed(0)
    network = kind()
    for name, parameter in network.named_parameters():
        # Wide enough that pictures differ in what is said of them, which PyTorch's own beginning levels out.
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
        elif "bn3" in name:
            torch.nn.init.constant_(parameter, 0.3)
    path = tmp_path_factory.mktemp("weights") / "released.file"
    torch.save({key: network.state_dict(), "opt_00": {"state": {}}}, path)
    return path


def said(network, crops: list[np.ndarray]) -> np.ndarray:
    """The network called by hand on RGB crops, 0..1."""
    with torch.no_grad():
        return network(torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2)).float() / 255).numpy()


def fit_fields(model: str) -> list:
    return list(catalogue.producer(f"morphable_{model}_fit").writes)


@pytest.fixture(scope="module")
def encoded(model, weights, clip) -> dict:
    operator = ready(f"morphable_{model}_fit", {encoders.ASSETS[model]: weights}, by="encoder")
    return {field.name: value for field, value in operator(clip).items()}


def test_the_encoder_sees_the_published_crop(model, weights, clip, encoded):
    rows, crops, facts = (encoded[field.name] for field in fit_fields(model))
    network, valid = ENCODERS[model][1](weights), clip[FACE_VALID]
    assert valid.tolist() == [True, True, False, True, True]
    assert rows.dtype == np.float32
    assert not rows[~valid].any()
    assert not crops[~valid].any()
    x0, y0, x1, y1 = clip[TUBE_BOX].astype(int)  # within the picture, and smaller than 256 px
    cut, after = [], []
    for place in np.flatnonzero(valid):
        frame, marks = list(clip[VIDEO])[place], clip[LANDMARKS_68][place].astype(np.float64)
        if model == "bfm":
            tube = cv2.resize(frame[y0:y1, x0:x1], (256, 256), interpolation=cv2.INTER_LINEAR)
            aligned = deep3d_alignment(tube, five_points((marks - (x0, y0)) * 256 / (x1 - x0)) - 0.5)
            cut.append(aligned.crop)
            after.append(aligned.transform_params[2:])
            # The stored matrix is where those pixels come from: a crop cut by it differs less than one that lies a pixel aside.
            off = {}
            for shift in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
                seen = templates.warp(frame, crops[place] + np.array([[0, 0, shift[0]], [0, 0, shift[1]]]), 224).astype(float)
                off[shift] = float(np.abs(seen - aligned.crop)[8:-8, 8:-8].mean())
            assert min(off, key=off.__getitem__) == (0, 0), off
        else:
            matrix = places.deca(marks).matrix
            assert np.array_equal(crops[place], matrix)
            cut.append(templates.warp(frame, matrix, 224, antialias=False))
            after.append(np.zeros(0))
    want = said(network, cut)
    assert np.array_equal(rows[valid, : want.shape[1]], want)
    assert rows[valid, want.shape[1] :] == pytest.approx(np.stack(after))
    assert np.abs(want[0] - want[1]).max() > 3e-4 * np.abs(want).max() > 0  # far more than rounding
    assert facts == {
        "morphable_model": model, "layout": "pirenderer_260" if model == "bfm" else "deca_236", "encoder": encoders.ASSETS[model],
        "camera": facts["camera"], "harmonics": "deep3d" if model == "bfm" else "deca", "frames": 4,
        "identity_components": 80 if model == "bfm" else 100, "expression_components": 64 if model == "bfm" else 50,
        "texture_components": 80 if model == "bfm" else 50, "frame": "tube at 256 px" if model == "bfm" else "picture",
    }  # fmt: skip


def test_batches_change_nothing(model, weights, clip, encoded, monkeypatch):
    monkeypatch.setattr(encoders, "BATCH", 3)
    operator = ready(f"morphable_{model}_fit", {encoders.ASSETS[model]: weights}, by="encoder")
    name = fit_fields(model)[0].name
    found = {field.name: value for field, value in operator(clip).items()}
    assert np.abs(found[name] - encoded[name]).max() < 1e-5 * np.abs(encoded[name]).max()  # but the rounding of sums


def test_the_crop_may_come_from_the_picture(weights, clip, model, encoded):
    operator = ready(f"morphable_{model}_fit", {encoders.ASSETS[model]: weights}, by="encoder", frame="picture")
    rows, crops, facts = operator(clip).values()
    if model == "flame":  # its crop always does
        assert np.array_equal(rows, encoded[coefficients("flame", 236).name])
        return
    marks = clip[LANDMARKS_68][0].astype(np.float64)
    cut = deep3d_alignment(next(iter(clip[VIDEO])), five_points(marks) - 0.5)
    want = said(load_deep3d(weights), [cut.crop])[0]
    assert np.abs(rows[0] - np.r_[want, cut.transform_params[2:]]).max() < 1e-5 * np.abs(want).max()
    assert crops[0, 0, 0] == pytest.approx(cut.transform_params[2], rel=0.01)
    assert facts["frame"] == "picture"


def test_without_a_face_rows_stay(model, weights):
    empty = fill(make_sample(np.full((3, 64, 96, 3), 127, np.uint8)), LANDMARKS_68, FACE_VALID, TUBE_BOX, KEY_FRAME)
    operator = ready(f"morphable_{model}_fit", {encoders.ASSETS[model]: weights}, by="encoder")
    rows, crops, facts = operator(empty).values()
    assert rows.shape == (3, 260 if model == "bfm" else 236)
    assert not rows.any()
    assert not crops.any()
    assert facts["frames"] == 0


def model_files(model: str, learned_file: Path, folder: Path) -> dict[str, Path]:  # noqa: F811
    basis = files.read_learned(learned_file)
    if model == "bfm":
        return {"bfm_deep3d": write_bfm(folder / "BFM_model_front.mat", basis)}
    return write_flame(folder, basis, (basis.mean[:, 1] < basis.mean[basis.landmarks[48], 1]).astype(np.float64))


def test_what_a_good_encoder_says_fits_and_is_drawn_on_the_face(model, weights, clip, learned_file, tmp_path, monkeypatch):  # noqa: F811
    """An encoder that says what the fit says: its errors are the fit's, and maps of it lie on the face."""
    paths = model_files(model, learned_file, tmp_path)
    fitted = ready(f"morphable_{model}_fit", paths)(clip)
    rows, _, facts = fitted.values()
    operator = ready(f"morphable_{model}_fit", {encoders.ASSETS[model]: weights, **paths}, by="encoder", errors=True)
    size = 257 if model == "bfm" else 236

    def says(crops):
        assert [crop.shape for crop in crops] == [(224, 224, 3)] * 4
        return rows[clip[FACE_VALID], :size]

    monkeypatch.setattr(operator, "_encode", says)
    found = operator(clip)
    about = found[morphable_fit(model)]
    for number in ("error_percent", "contour_error_percent", "worst_error_percent"):
        # Half a pixel, 0.6 % here, is between where FLAME's landmarks were fitted and where its mesh is drawn.
        assert about[number] == pytest.approx(facts[number], abs=0.05 if model == "bfm" else 0.8)
    assert np.array_equal(found[coefficients(model, rows.shape[1])], rows)
    # FLAME's encoder has numbers of a texture space that these maps are drawn without: they must not tint the one colour.
    sample = Sample("clip", dict(clip._values) | {field.name: value for field, value in found.items()})
    fill(sample, image(96))
    maps = ready(f"map_normal_{model}_96", paths)
    drawn = maps(sample)
    sample[coefficients(model, rows.shape[1])] = plain = rows.copy()
    plain[:, maps._head.layout.slices()["texture"]] = 0
    albedo = face_map(model, "albedo", 96)
    assert (drawn[face_map(model, "depth", 96)] > 0).mean() > 0.05
    assert np.array_equal(drawn[albedo], maps(sample)[albedo]) == (model == "flame")
    mask, mesh = drawn[face_map(model, "depth", 96)][..., 0] > 0, clip[LANDMARKS_478][0, :468, :2] * 96 / 288
    y, x = np.nonzero(mask)
    low, high = mesh.min(0), mesh.max(0)
    assert np.abs([x.min() - low[0], x.max() + 1 - high[0], y.min() - low[1], y.max() + 1 - high[1]]).max() < 6


def test_a_missing_weight_is_named(model, weights, tmp_path):
    _, load, key = ENCODERS[model]
    content = torch.load(weights, weights_only=True)
    last = list(content[key])[-1]
    del content[key][last]
    torch.save(content, tmp_path / "short.file")
    with pytest.raises(LikenessError, match=rf"short.file has no .*\({key}\): 1 missing: {last}"):
        load(tmp_path / "short.file")


# --- settings ---


def node(field: str, **settings: object) -> Node:
    model = field.split("_")[1]
    toolbox = replace(standard(), asset=lambda name: (Path(name), "0" * 64))
    return resolve(toolbox, [field], {f"morphable_{model}": settings} if settings else {}).producer(field)


def test_the_way_is_part_of_the_digest(model):
    field = f"morphable_{model}_fit"
    plain, encoded = node(field), node(field, by="encoder")
    assert plain.digest == node(field, by="landmarks").digest
    assert len({plain.digest, encoded.digest, node(field, by="encoder", errors=True).digest}) == 3
    assert "by" not in plain.params  # columns from before there were encoders are not made anew
    assert encoded.params["by"] == "encoder"
    assert tuple(encoded.assets) == (encoders.ASSETS[model],)
    assert encoders.ASSETS[model] not in plain.assets
    assert set(node(field, by="encoder", errors=True).assets) == {encoders.ASSETS[model], *plain.assets}
    assert encoded.writes == plain.writes
    assert encoded.operator.resources.gpus == 0.25
    assert plain.operator.resources.gpus == 0
    assert VIDEO in encoded.reads


def test_settings_of_the_other_way_are_refused():
    for wrong, said in (
        ({"by": "encoder", "noise_percent": 2}, "noise_percent=2.0 changes nothing with by=encoder: it is for by=landmarks"),
        ({"errors": True}, "errors=True changes nothing with by=landmarks: it is for by=encoder"),
    ):
        with pytest.raises(LikenessError, match=said):
            catalogue.producer("morphable_bfm_260", {"morphable_bfm": wrong})
    with pytest.raises(LikenessError, match="by=encoder is for bfm and flame: no network says ict's coefficients"):
        catalogue.producer("morphable_ict_260", {"morphable_ict": {"by": "encoder"}})


@pytest.mark.parametrize(("field", "said"), [
    ("morphable_bfm_260", r"deep3d is not here: .*place epoch_20.pth from https://github.com/sicxu/Deep3DFaceRecon_pytorch"),
    ("morphable_flame_236", r"deca is not here: .*place deca_model.tar from https://github.com/yfeng95/DECA"),
])  # fmt: skip
def test_without_weights_the_error_says_what_to_place_where(field, said, tmp_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    with pytest.raises(LikenessError, match=said):
        catalogue.producer(field, {field.rpartition("_")[0]: {"by": "encoder"}}).setup()
