"""Degraded pictures and maps as fields: chance belongs to the row, and every map is what its name says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
from astronaut_clips import fill, make_sample, portrait, swaying
from PIL import Image

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.codecs import decode, encode
from preprocessing.degradation import RECIPES, apply
from preprocessing.fields import (
    FACE_VALID,
    Degradation,
    aligned_face,
    by_name,
    colour_map,
    condition_frames,
    condition_map,
    degradation,
    degraded,
    grey_image,
    image,
    sharp_image,
)
from preprocessing.operator import Refused, Sample
from preprocessing.operators.condition_maps import luma


def row(key: str = "row", height: int = 96, width: int = 128) -> Sample:
    picture = skimage.data.astronaut()[20 : 20 + 2 * height : 2, 130 : 130 + 2 * width : 2]
    return Sample(key, {image(96).name: np.ascontiguousarray(picture)})


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r != "codeformer_face"])
def test_a_row_has_a_degradation_of_its_own(recipe: Degradation):
    operator = catalogue.producer(f"degraded_{recipe}_96")
    assert operator.reads == (image(96),)
    out, said = degraded(recipe, 96), degradation(recipe, 96)
    first, again, other = (operator(row(key)) for key in ("a", "a", "b"))
    assert encode(out, first[out]) == encode(out, again[out])
    assert np.array_equal(decode(out, encode(out, first[out])), first[out])
    assert first[said] != other[said]
    assert not np.array_equal(first[out], other[out])
    seeded = catalogue.producer(f"degradation_{recipe}_96", {operator.name: {"seed": 1}})(row("a"))
    assert seeded[said] != first[said]
    steps = decode(said, encode(said, first[said]))["steps"]
    remade = apply(row()[image(96)].astype(np.float32) / 255, steps)
    assert np.array_equal(np.rint(remade * 255).astype(np.uint8), first[out])


def test_the_face_recipe_is_for_aligned_faces():
    operator = catalogue.producer("degraded_codeformer_face_128")
    assert operator.reads[0] == aligned_face("ffhq5", 128)
    sample = make_sample(swaying(3))
    found = fill(sample, degraded("codeformer_face", 128))[degraded("codeformer_face", 128)]
    assert found.shape == (128, 128, 3)
    sample[FACE_VALID] = np.zeros(3, bool)
    with pytest.raises(Refused, match="no valid face in the key frame"):
        operator(sample)
    whole = catalogue.producer("degraded_codeformer_face_96", {"degraded_codeformer_face": {"of": "image"}})
    assert whole(row())[degraded("codeformer_face", 96)].shape == (96, 128, 3)


def test_sharpened_grey_and_colours():
    picture = row()[image(96)]
    sharp = catalogue.producer("sharpened_96")(row())[sharp_image(96)]
    assert cv2.Laplacian(sharp, cv2.CV_64F).std() > 1.2 * cv2.Laplacian(picture, cv2.CV_64F).std()
    grey = catalogue.producer("grey_96")(row())[grey_image(96)]
    assert np.array_equal(grey, np.asarray(Image.fromarray(picture).convert("L")))
    assert np.array_equal(decode(grey_image(96), encode(grey_image(96), grey)), grey)
    assert np.array_equal(luma(np.repeat(grey[..., None], 3, 2)), grey)  # of grey it is grey itself
    colours = catalogue.producer("colours_96", {"colours": {"shrink": 32}})(row())[colour_map(96)]
    assert colours.shape == picture.shape
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) <= 3 * 4
    assert (colours[:32, :32] == colours[0, 0]).all()


def test_canny_is_opencvs_with_the_published_thresholds():
    found = catalogue.producer("canny_96")(row())[condition_map("canny", 96)]
    assert np.array_equal(found, cv2.Canny(row()[image(96)], 100, 200))
    assert set(np.unique(found)) == {0, 255}
    fewer = catalogue.producer("canny_96", {"canny": {"low": 250, "high": 400}})(row())[condition_map("canny", 96)]
    assert 0 < (fewer > 0).sum() < (found > 0).sum()


def test_lines_run_along_the_dark_side_of_edges():
    picture = np.full((512, 512, 3), 200, np.uint8)
    picture[:, 256:] = 120
    picture[100, :200] = 150  # a dark stroke
    lines = catalogue.producer("lines_512")(Sample("a", {image(512).name: picture}))[condition_map("lines", 512)]
    assert lines[300, 254] == 0
    assert lines[300, 257] > 200
    assert lines[300, 275] == 0
    assert lines[100, 100] > 100
    assert lines[50, 100] == 0
    half = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
    small = catalogue.producer("lines_256")(Sample("a", {image(256).name: half}))[condition_map("lines", 256)]
    assert np.count_nonzero(small[150] > 127) == pytest.approx(np.count_nonzero(lines[300] > 127) / 2, abs=1)


@pytest.mark.parametrize("kind", ["canny", "lines"])
def test_maps_of_frames_are_of_the_middle_square(kind):
    frames = np.stack([portrait(dx)[:, :200] for dx in (0, 5, 9, 14, 20)])
    field = condition_frames(kind, 100)
    every = catalogue.producer(field.name)(make_sample(frames))[field]
    assert every.shape == (5, 100, 100, 3)
    assert every.present.all()
    third = catalogue.producer(field.name, {f"{kind}_frames": {"every": 3}})(make_sample(frames))[field]
    assert third.present.tolist() == [True, False, False, True, False]
    assert np.array_equal(third[3], every[3])
    square = cv2.resize(np.ascontiguousarray(frames[3, 44:244]), (100, 100), interpolation=cv2.INTER_AREA)
    want = catalogue.producer(f"{kind}_100")(Sample("a", {image(100).name: square}))[condition_map(kind, 100)]
    assert np.abs(every[3][..., 0].astype(int) - want).mean() < 4  # JPEG
    assert np.array_equal(every[3][..., 0], every[3][..., 1])
    flat = condition_frames(kind, "60x100")
    wide = catalogue.producer(flat.name)(make_sample(frames))[flat]
    assert wide.shape == (5, 60, 100, 3)
    cut = cv2.resize(np.ascontiguousarray(frames[3, 84:204]), (100, 60), interpolation=cv2.INTER_AREA)  # 200 x 3 / 5 = 120 rows
    operator = catalogue.producer(f"{kind}_60")
    want = operator(Sample("a", {image(60).name: cut}))[condition_map(kind, 60)]
    assert np.abs(wide[3][..., 0].astype(int) - want).mean() < 4
    assert by_name(f"{kind}_60x100") is None


def test_a_grey_png_stays_grey_and_damage_is_said():
    field = grey_image(96)
    with pytest.raises(LikenessError, match="grey_96 has shape"):
        encode(field, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(LikenessError, match="does not decode|no png"):
        decode(field, b"not a picture")
    with pytest.raises(LikenessError, match="has shape"):
        decode(field, encode(sharp_image(96), np.zeros((4, 4, 3), np.uint8)))
    assert by_name("canny_frames_96") == condition_frames("canny", 96)
    assert by_name("degraded_unknown_96") is None
