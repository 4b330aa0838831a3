"""Face parsing: the coarse parser on a real face, BiSeNet's operator on random weights, masks and grey faces by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from astronaut_clips import fill, make_sample, portrait, swaying

from infra.errors import LikenessError
from models.perception.bisenet import BiSeNet, load_bisenet
from preprocessing import catalogue, parsers, templates
from preprocessing.codecs import decode, encode
from preprocessing.fields import (
    FACE_LABELS,
    FACE_VALID,
    KEY_FRAME,
    LANDMARKS_478,
    SOURCE,
    UNKNOWN_LABEL,
    aligned_face,
    alignment,
    by_name,
    face_features,
    face_parsing,
    image,
    image_parsing,
    part_masks,
)
from preprocessing.operators.face_parts import grey_features, part_mask
from preprocessing.operators.mediapipe_parts import mesh_triangles

PARSING = face_parsing("ffhq", 256)
# A vertex that lies well inside each part: forehead, brows, nose, upper and lower lip.
INSIDE = {1: 151, 2: 105, 3: 334, 10: 4, 12: 0, 13: 17}


@pytest.fixture(scope="module")
def talker():
    frames = swaying(4)
    frames[2] = 0
    return fill(make_sample(frames), PARSING, aligned_face("ffhq", 256), alignment("ffhq", 256))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "parsing_bisenet.pth"
    torch.save(BiSeNet().state_dict(), path)
    return path


def test_parts_lie_where_the_mesh_says(talker):
    labels = talker[PARSING]
    assert labels.shape == (4, 256, 256)
    assert labels.present.tolist() == talker[FACE_VALID].tolist() == [True, True, False, True]
    assert not labels[2].any()
    for place in (0, 3):
        points = templates.transform(talker[alignment("ffhq", 256)][place], talker[LANDMARKS_478][place, :, :2])
        for label, vertex in INSIDE.items():
            x, y = np.floor(points[vertex]).astype(int)
            assert labels[place][y, x] == label, FACE_LABELS[label]
        for label, corners in ((4, [33, 133, 159, 145]), (5, [362, 263, 386, 374])):
            x, y = np.floor(points[corners].mean(0)).astype(int)
            assert labels[place][y, x] == label
    shares = np.bincount(labels[0].ravel(), minlength=256) / 256**2
    assert 0.15 < shares[1] < 0.5  # the face fills a good part of FFHQ's square
    assert shares[UNKNOWN_LABEL] > 0.1  # her hair and suit
    assert shares[0] > 0.1  # the wall behind her
    assert set(np.flatnonzero(shares)) <= {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, UNKNOWN_LABEL}


def test_left_is_the_pictures(talker):
    columns = {label: np.nonzero(talker[PARSING][0] == label)[1].mean() for label in (2, 3, 4, 5)}
    assert columns[2] < columns[3]
    assert columns[4] < columns[5]


def test_label_maps_are_kept_to_the_bit(talker):
    data = encode(PARSING, talker[PARSING])
    assert np.array_equal(decode(PARSING, data)[:], talker[PARSING][:])
    again = fill(make_sample(swaying(4)[:1]), PARSING)[PARSING]
    assert np.array_equal(again[0], talker[PARSING][0])  # whatever came before


def test_what_lies_outside_the_picture_is_background():
    frame = np.ascontiguousarray(portrait()[:, 150:])  # half of her face
    sample = make_sample(frame[None])
    mesh = fill(make_sample(portrait()[None]), LANDMARKS_478)[LANDMARKS_478] - np.float32([150, 0, 0])
    sample[LANDMARKS_478], sample[FACE_VALID] = mesh, np.array([True])
    fill(sample, PARSING)
    back = templates.invert(sample[alignment("ffhq", 256)][0])
    x = templates.transform(back, np.stack(np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5), -1))[..., 0]
    assert (x < -1).sum() > 10_000
    assert not sample[PARSING][0][x < -1].any()
    assert (sample[PARSING][0][x > 1] == 1).sum() > 1000


def test_a_turned_head_has_no_gap_between_nose_and_mouth():
    """Nose and lips seen from the side lie outside the oval; the mesh's triangles close what is between."""
    triangles = mesh_triangles()
    assert triangles.shape[1] == 3
    assert 800 < len(triangles) < 950
    assert np.array_equal(triangles, np.unique(triangles, axis=0))
    mesh = fill(make_sample(portrait()[None]), LANDMARKS_478)[LANDMARKS_478][0].astype(float)
    centre = mesh.mean(0)
    turn = np.radians(75)
    x, z = (mesh - centre)[:, 0], (mesh - centre)[:, 2]
    side = np.column_stack([x * np.cos(turn) - z * np.sin(turn), (mesh - centre)[:, 1]]) + centre[:2]
    labels = parsers.open_parser("coarse")(np.zeros((288, 288, 3), np.uint8), side)
    between = (side[2] + side[0]) / 2  # below the nose, above the lip: at the silhouette
    assert labels[int(between[1]), int(np.floor(between[0] + (1 if side[2, 0] < centre[0] else -1)))] in (1, 10, 12)


def test_outlines_are_filled_to_the_pixel():
    labels = np.zeros((10, 12), np.uint8)
    parsers.fill(labels, [[2, 3], [7, 3], [7, 8], [2, 8]], 9)
    assert set(np.unique(labels)) == {0, 9}
    # Pixels whose centres at .5 lie inside, and those that the outline itself touches (OpenCV draws it too).
    assert np.nonzero(labels.any(0))[0].tolist() == [2, 3, 4, 5, 6, 7]
    assert np.nonzero(labels.any(1))[0].tolist() == [3, 4, 5, 6, 7, 8]
    parsers.fill(labels, [[-1e9, -1e9], [1e9, -1e9], [0, 1e9]], 1)
    assert labels.any()


def test_bisenets_labels_are_those_of_the_stored_crop(talker, weights):
    operator = catalogue.producer("parsing_ffhq_256", {"face_parsing": {"backend": "bisenet"}})
    assert operator.assets == ("bisenet",)
    assert operator.resources.gpus == 0.25
    assert catalogue.producer("parsing_ffhq_256").resources.gpus == 0
    operator.asset_paths = {"bisenet": weights}
    operator.setup()
    labels = operator(talker)[PARSING]
    crop = parsers.stretched(talker[aligned_face("ffhq", 256)][0], 512)
    want = load_bisenet(weights).labels(torch.from_numpy(crop.copy())[None])[0].numpy()
    inside = templates.transform(templates.invert(talker[alignment("ffhq", 256)][0]), [[128, 128]])
    assert (inside > 0).all()
    assert np.array_equal(labels[0][100:156, 100:156], want[1::2, 1::2][100:156, 100:156])
    assert labels[0].max() < 19
    assert labels.present.tolist() == [True, True, False, True]
    with pytest.raises(LikenessError, match="parser bisenet without its file"):
        parsers.open_parser("bisenet")


def test_another_file_is_no_parser(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(LikenessError, match=r"does not fit BiSeNet: \d+ missing: cp"):
        load_bisenet(tmp_path / "x.pth")
    with pytest.raises(LikenessError, match="sides of 32 px"):
        BiSeNet().labels(torch.zeros((1, 16, 64, 3), dtype=torch.uint8))


def test_the_whole_picture_is_parsed_at_its_own_scale():
    sample = fill(make_sample(np.stack([portrait()] * 2)), image_parsing(144), image(144), part_masks(144), KEY_FRAME)
    labels = sample[image_parsing(144)]
    assert labels.shape == sample[image(144)].shape[:2] == (144, 144)
    x, y = (sample[LANDMARKS_478][0, 4, :2] / 2).astype(int)
    assert labels[y, x] == 10
    bits = sample[part_masks(144)]
    assert bits[y, x] == 1 | 8  # the nose lies in the face
    assert not bits[labels == 0].any()
    for field in (image_parsing(144), part_masks(144)):
        assert np.array_equal(decode(field, encode(field, sample[field])), sample[field])
    nobody = fill(make_sample(np.full((1, 96, 128, 3), 90, np.uint8)), image_parsing(64), part_masks(64))
    assert nobody[image_parsing(64)].shape == (64, 85)
    assert not nobody[part_masks(64)].any()


def test_part_masks_are_filled_and_one_of_each_pair():
    labels = np.zeros((40, 40), np.uint8)
    cv2.circle(labels, (20, 20), 15, 1, -1)
    labels[10:12, 12:16], labels[10:12, 24:28] = 4, 5  # two eyes, inside the skin
    labels[26:28, 16:24] = 13  # a lower lip alone
    sample = make_sample(np.zeros((1, 40, 40, 3), np.uint8))
    sample[image_parsing(40)] = labels
    bits = fill(sample, part_masks(40))[part_masks(40)]
    assert bits[11, 13] == 1 | 4
    assert bits[11, 25] == 1  # the other eye is part of the face alone
    assert bits[27, 20] == 1 | 16
    assert (bits & 1).sum() == (labels > 0).sum()  # the face has no holes
    assert not (bits & (2 | 8)).any()
    assert not part_mask(labels, (7, 8)).any()


def test_pulids_grey_face():
    picture = np.random.default_rng(0).random((4, 5, 3), np.float32)
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    labels[3, 4] = UNKNOWN_LABEL
    grey = grey_features(picture, labels)
    white = np.isin(labels, (0, 7, 8, 9, 14, 15, 16, 18, UNKNOWN_LABEL))
    assert (grey[white] == 1).all()
    np.testing.assert_allclose(grey[~white], (picture[~white] @ [0.299, 0.587, 0.114])[:, None].repeat(3, 1), atol=1e-6)
    sample = fill(make_sample(swaying(2)), face_features(96))
    made = sample[face_features(96)]
    assert made.shape == (96, 96, 3)
    assert (made[..., 0] == made[..., 1]).all()
    assert made[:8].min() > 250  # above the forehead
    assert 40 < made[40:60, 40:56].mean() < 220
    nobody = fill(make_sample(np.full((1, 64, 64, 3), 90, np.uint8)), face_features(96))
    assert (nobody[face_features(96)] == 255).all()


def test_one_setting_and_one_set_of_names():
    for name in ("parsing_ffhq_512", "parsing_latentsync_256", "parsing_image_512"):
        operator = catalogue.producer(name)
        assert operator.writes == (by_name(name),)
        assert operator.assets == ()
    assert SOURCE in catalogue.producer("parsing_ffhq_512").reads
    with pytest.raises(LikenessError, match="coarse"):
        catalogue.producer("parsing_ffhq_512", {"face_parsing": {"backend": "unet"}})
    with pytest.raises(LikenessError, match="unknown field"):
        catalogue.producer("parsing_tube_512")
