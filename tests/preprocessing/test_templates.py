"""Alignment templates: the published matrices, exact templates left alone, the way back, and refusals."""

from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut
from skimage.transform import SimilarityTransform

from infra.errors import LikenessError
from preprocessing import templates
from preprocessing.alignment import deep3d_alignment
from preprocessing.fields import Template
from preprocessing.templates import CENTRE, invert, matrix, opencv_matrix, similarity, transform, warp

IDENTITY = np.eye(3)[:2]
FRONTAL = [[210, 230], [300, 222], [262, 280], [222, 330], [296, 325]]
SIDE = [[205, 230], [240, 222], [190, 280], [212, 330], [240, 325]]
# What SimSwap's estimate_norm gives for these points (pixel centres at whole numbers).
SIMSWAP = [
    (FRONTAL, "five", 224,
     [[0.710805644, -0.039467342, -60.439615562], [0.039467342, 0.710805644, -69.444451852]]),
    (FRONTAL, "ffhq5", 512,
     [[1.347475298, -0.070877800, -71.413419466], [0.070877800, 1.347475298, -84.731783882]]),
    (SIDE, "five", 224,
     [[0.760883667, -0.049647704, -50.371431963], [0.049647704, 0.760883667, -82.716935721]]),
    (SIDE, "ffhq5", 512,
     [[1.389936877, -0.072232220, -25.561345395], [0.072232220, 1.389936877, -93.927437409]]),
]  # fmt: skip


def face68(turn: float = 0.0, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """68 points with eyes 40 px apart at (100, 100) and (140, 100) and mouth corners 30 px apart, 50 px below."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48], points[48:60], points[60:] = (100, 100), (140, 100), (120, 150), (120, 150)
    points[36:48] += np.tile([[-6, 0], [-2, -3], [2, -3], [6, 0], [2, 3], [-2, 3]], (2, 1))
    points[48], points[54] = (105, 150), (135, 150)
    points[17:22], points[22:27], points[27:36] = (98, 85), (142, 85), (120, 112)
    spin = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ spin.T + shift


def any_matrix(template: Template, size_px: int, turn: float = 0.3) -> np.ndarray:
    points5 = transform(similarity([[0, 0], [1, 0]], [[150, 90], [150 + 90 * np.cos(turn), 90 + 90 * np.sin(turn)]]),
                        templates.ARCFACE_112 / 50)  # fmt: skip
    return matrix(template, size_px, points5, face68(turn, 2, (10, 20)), [31, 42, 251, 333.5], (480, 640))


@pytest.mark.parametrize(("points", "template", "size_px", "published"), SIMSWAP)
def test_simswaps_matrices(points, template, size_px, published):
    found = matrix(template, size_px, np.array(points) + CENTRE)
    # The published templates are float32.
    np.testing.assert_allclose(opencv_matrix(found), published, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("template", "size_px", "exact"), [
    ("arcface", 112, templates.ARCFACE_112), ("arcface", 224, templates.ARCFACE_112 * 2),
    ("arcface", 128, templates.ARCFACE_112 + (8, 0)), ("arcface", 256, templates.ARCFACE_112 * 2 + (16, 0)),
    *(("five", 112, t) for t in templates.SIMSWAP_112), *(("five", 512, t * 512 / 112) for t in templates.SIMSWAP_112),
    ("ffhq5", 512, templates.FACEXLIB_512), ("ffhq5", 256, templates.FACEXLIB_512 / 2),
])  # fmt: skip
def test_a_face_already_in_place_is_left_alone(template, size_px, exact):
    np.testing.assert_allclose(matrix(template, size_px, exact + CENTRE), IDENTITY, atol=1e-9)
    found = matrix(template, size_px, 3 * exact[:, ::-1] * (1, -1) + 5)  # turned by a quarter, three times as large
    np.testing.assert_allclose(transform(found, 3 * exact[:, ::-1] * (1, -1) + 5), exact + CENTRE, atol=1e-9)


coordinate = st.floats(-2000, 2000, allow_nan=False)
clouds = st.lists(st.tuples(coordinate, coordinate), min_size=5, max_size=5).map(np.array).filter(lambda p: p.std(0).min() > 1)


@given(clouds, clouds)
def test_similarity_is_umeyamas(points, target):
    want = SimilarityTransform()
    want.estimate(points, target)
    try:
        found = similarity(points, target)
    except LikenessError:  # nothing but a mirror image would fit
        assert want.scale < 1e-2
        return
    errors = [((transform(m, points) - target) ** 2).sum() for m in (found, want.params[:2])]
    assert errors[0] <= errors[1] * (1 + 1e-9) + 1e-6
    turn = found[:, :2] @ found[:, :2].T
    np.testing.assert_allclose(turn, turn[0, 0] * np.eye(2), atol=1e-9 * max(1, turn[0, 0]))
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("template", get_args(Template))
@pytest.mark.parametrize("size_px", [112, 224, 160, 512])
def test_there_and_back(template, size_px):
    found = any_matrix(template, size_px)
    points = np.random.default_rng(0).uniform(-1000, 5000, (50, 2))
    assert np.abs(transform(invert(found), transform(found, points)) - points).max() < 1e-6
    assert found.dtype == np.float64
    # twice the size, twice the matrix (but for deep3d's whole pixels, arcface's other rule and latentsync's offset of about a px)
    if template not in ("deep3d", "arcface", "latentsync"):
        np.testing.assert_allclose(any_matrix(template, 2 * size_px), 2 * found + (0 if template in ("ffhq", "facenet") else
                                   np.array([[0, 0, -CENTRE]] * 2)), atol=1e-9)  # fmt: skip


def test_ffhqs_square_by_hand():
    # Eye line (40, 0), eyes to mouth (0, 50): axis (40 + 50, 0), half side max(2 * 40, 1.8 * 50) = 90, centre (120, 100 + 5).
    np.testing.assert_allclose(matrix("ffhq", 360, landmarks68=face68()), [[2, 0, -60], [0, 2, -30]], atol=1e-9)
    turned = matrix("ffhq", 360, landmarks68=face68(0.7, 3, (11, 12)))
    corners = [[0, 0], [360, 0], [360, 360], [0, 360]]
    spin = 3 * np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    want = np.array([[30, 15], [210, 15], [210, 195], [30, 195]]) @ spin.T + (11, 12)
    np.testing.assert_allclose(transform(invert(turned), corners), want, atol=1e-9)


def test_ffhq_cuts_what_pillows_quad_cuts():
    picture = astronaut()
    found = matrix("ffhq", 200, landmarks68=face68(0.3, 1, (150, 0)))
    quad = transform(invert(found), [[0, 0], [0, 200], [200, 200], [200, 0]])
    want = Image.fromarray(picture).transform((200, 200), Image.Transform.QUAD, quad.ravel().tolist(), Image.Resampling.BILINEAR)
    difference = np.abs(warp(picture, found, 200).astype(int) - np.asarray(want))[2:-2, 2:-2]
    assert difference.mean() < 0.5  # OpenCV places samples to 1/32 px


def test_facenet_stretches_the_box():
    picture = astronaut()
    found = matrix("facenet", 160, box=[170, 60, 290, 220])
    want = cv2.resize(picture[60:220, 170:290], (160, 160), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(warp(picture, found, 160).astype(int) - want)[4:-4, 4:-4]
    assert difference.mean() < 1
    np.testing.assert_allclose(transform(found, [[170, 60], [290, 220]]), [[0, 0], [160, 160]], atol=1e-9)


@pytest.mark.parametrize("size_px", [224, 448])
def test_deep3ds_matrix_is_where_its_crop_lies(size_px):
    picture = astronaut()
    points = np.array([[205.0, 109], [244, 108], [226, 135], [209, 153], [242, 152]])
    found = matrix("deep3d", size_px, points + CENTRE, height_width=picture.shape[:2])
    crop = deep3d_alignment(picture, points, size_px, 102 * size_px / 224).crop
    assert np.allclose(found[[0, 1], [1, 0]], 0)

    def difference(shift: tuple[float, float]) -> float:
        moved = found + np.column_stack([np.zeros((2, 2)), shift])
        return float(np.abs(warp(picture, moved, size_px).astype(int) - crop).mean())

    assert difference((0, 0)) < 0.75 * min(difference(s) for s in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)))


def test_plain_cuts_are_opencvs():
    picture = astronaut()
    points = np.array([[205.0, 109], [244, 108], [226, 135], [209, 153], [242, 152]])
    published = SimilarityTransform()
    published.estimate(points, templates.ARCFACE_112)  # insightface's norm_crop
    want = cv2.warpAffine(picture, published.params[:2], (112, 112), borderValue=0.0)
    found = warp(picture, matrix("arcface", 112, points + CENTRE), 112, antialias=False)
    assert np.abs(found.astype(int) - want).max() <= 1


def test_what_shrinks_a_lot_is_averaged():
    stripes = np.zeros((800, 801, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    m = np.array([[0.1, 0, 3], [0, 0.1, 2]])
    smooth, aliased = warp(stripes, m, 64), warp(stripes, m, 64, antialias=False)
    assert np.abs(smooth[3:-3, 4:-4].astype(int) - 127).max() <= 26  # a block of 10 px holds 4 to 6 white ones
    assert set(np.unique(aliased[3:-3, 4:-4])) == {0, 255}
    assert not smooth[:1].any()  # outside
    assert not smooth[:, :2].any()


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_averaging_moves_nothing(block):
    y, x = np.mgrid[:601, :803] + CENTRE
    ramps = np.stack([x / 4, y / 4, (x + y) / 8], 2)
    picture = np.rint(ramps).astype(np.uint8)
    m = np.array([[np.cos(0.4), -np.sin(0.4), 0], [np.sin(0.4), np.cos(0.4), 0]]) / (block + 0.3)
    m[:, 2] = 40 - m[:, :2] @ (400, 300)
    places = np.stack(np.mgrid[:80, :80][::-1], 2) + CENTRE
    there = transform(invert(m), places)
    inside = ((there > 20) & (there < (780, 580))).all(2)
    want = np.stack([there[..., 0] / 4, there[..., 1] / 4, there.sum(2) / 8], 2)
    assert inside.sum() > 500
    assert np.abs(warp(picture, m, 80)[inside] - want[inside]).max() < 1.1


def test_outside_the_picture_is_black():
    picture = np.full((40, 50, 3), 200, np.uint8)
    for m in ([[1, 0, 500], [0, 1, 0]], [[0.1, 0, 500], [0, 0.1, 0]], [[0.1, 0, -500], [0, 0.1, 0]]):
        assert not warp(picture, m, 32).any()
    half = warp(picture, [[0.2, 0, 16], [0, 0.2, 16]], 32)
    assert half[18:22, 18:24].min() == 200
    assert not half[:15].any()


def test_refusals():
    same = np.full((5, 2), 20.0)
    for template in ("arcface", "five", "ffhq5", "deep3d"):
        with pytest.raises(LikenessError, match="scaled|span too little"):
            matrix(template, 112, same, height_width=(50, 50))
        with pytest.raises(LikenessError, match="finite px"):
            matrix(template, 112, same * np.nan, height_width=(50, 50))
        with pytest.raises(LikenessError, match="give landmarks_5"):
            matrix(template, 112, height_width=(50, 50))
    with pytest.raises(LikenessError, match="no direction"):
        matrix("ffhq", 512, landmarks68=np.full((68, 2), 7.0))
    with pytest.raises(LikenessError, match="give landmarks_68"):
        matrix("ffhq", 512, points5=same)
    with pytest.raises(LikenessError, match="face box of 0 x 5"):
        matrix("facenet", 160, box=[3, 3, 3, 8])
    with pytest.raises(LikenessError, match="height_width"):
        matrix("deep3d", 224, points5=np.array(FRONTAL))
    with pytest.raises(LikenessError, match="unknown alignment template 'ffqh'"):
        matrix("ffqh", 224)  # type: ignore[arg-type]
    with pytest.raises(LikenessError, match="1 px or more"):
        matrix("arcface", 0, points5=np.array(FRONTAL))
    for wrong in (np.zeros((2, 3)), np.eye(3), IDENTITY * np.nan):
        with pytest.raises(LikenessError, match="cannot be inverted"):
            invert(wrong)
