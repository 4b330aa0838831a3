"""Aligned crops and their matrices: one operator for both, in place by the template, rows kept where no face is."""

from typing import get_args

import numpy as np
import pytest
from astronaut_clips import fill, make_sample, portrait, swaying

from infra.errors import LikenessError
from preprocessing import catalogue, latentsync, templates
from preprocessing.alignment import deep3d_alignment
from preprocessing.codecs import decode, encode
from preprocessing.fields import FACE_BOX, FACE_VALID, LANDMARKS_5, LANDMARKS_68, VIDEO, Template, aligned_face, alignment
from preprocessing.frame_sequence import FrameSequence

SIZES: dict[Template, int] = {"arcface": 112, "five": 224, "ffhq": 128, "ffhq5": 256, "facenet": 160, "deep3d": 224,
                              "latentsync": 256}  # fmt: skip


@pytest.fixture(scope="module")
def talker():
    frames = swaying(5)
    frames[3] = 0
    both = [kind(template, size) for template, size in SIZES.items() for kind in (aligned_face, alignment)]
    return fill(make_sample(frames), *both)


@pytest.mark.parametrize("template", get_args(Template))
def test_frames_without_a_face_stay_rows(talker, template):
    faces, matrices = talker[aligned_face(template, SIZES[template])], talker[alignment(template, SIZES[template])]
    assert faces.shape == (5, SIZES[template], SIZES[template], 3)
    assert matrices.shape == (5, 2, 3)
    assert matrices.dtype == np.float64
    assert faces.present.tolist() == talker[FACE_VALID].tolist() == [True, True, True, False, True]
    assert matrices.any((1, 2)).tolist() == talker[FACE_VALID].tolist()
    for field in (aligned_face(template, SIZES[template]), alignment(template, SIZES[template])):
        assert encode(field, decode(field, encode(field, talker[field]))) == encode(field, talker[field])


@pytest.mark.parametrize(("template", "names"), [
    ("arcface", "the ArcFace template"), ("five", "SimSwap's frontal one"), ("ffhq5", "facexlib's"),
])  # fmt: skip
def test_the_points_come_to_lie_on_the_template(talker, template, names):
    size = SIZES[template]
    target = {"five": 2 * templates.SIMSWAP_112[2] + 0.5, "ffhq5": templates.FACEXLIB_512 / 2 + 0.5}
    target["arcface"] = templates.arcface(size)
    for place in (0, 4):
        found = templates.transform(talker[alignment(template, size)][place], talker[LANDMARKS_5][place])
        assert np.abs(found - target[template]).max() < 0.06 * size, names


def test_ffhq_puts_the_face_in_the_middle(talker):
    points = templates.transform(talker[alignment("ffhq", 128)][0], talker[LANDMARKS_68][0])
    assert points[36:48].mean(0) == pytest.approx([64, 59], abs=4)
    corners = templates.transform(talker[alignment("facenet", 160)][0], talker[FACE_BOX][0].reshape(2, 2))
    np.testing.assert_allclose(corners, [[0, 0], [160, 160]], atol=1e-4)


def test_crops_are_what_the_matrices_cut(talker):
    frame = next(iter(talker[VIDEO]))
    for template, size in SIZES.items():
        crop, matrix = talker[aligned_face(template, size)][0], talker[alignment(template, size)][0]
        want = templates.warp(frame, matrix, size, antialias=template != "arcface")
        if template == "deep3d":
            want = deep3d_alignment(frame, talker[LANDMARKS_5][0].astype(float) - 0.5).crop
        if template == "latentsync":
            want = latentsync.crop(frame, matrix, size)
        assert np.array_equal(crop, FrameSequence.of([want], size, size)[0])
        assert np.abs(crop.astype(int) - templates.warp(frame, matrix, size)).mean() < 4


def test_the_crop_follows_the_head():
    """The camera moves; the face stays where it is in the crop."""
    still = fill(make_sample(swaying(6)), aligned_face("arcface", 112))[aligned_face("arcface", 112)][:].astype(int)
    box = fill(make_sample(swaying(6)), aligned_face("arcface", 112))[VIDEO]._frames[:, 60:172, 60:172].astype(int)
    middle = np.s_[:, 20:92, 20:92]
    assert np.abs(np.diff(still[middle], axis=0)).mean() < 0.5 * np.abs(np.diff(box[middle], axis=0)).mean()


def test_a_clip_without_any_face():
    sample = fill(make_sample(np.full((3, 64, 96, 3), 127, np.uint8)), aligned_face("five", 224), alignment("five", 224))
    assert not sample[aligned_face("five", 224)].present.any()
    assert not sample[alignment("five", 224)].any()


def test_one_operator_writes_both_fields():
    one, other = (catalogue.producer(name) for name in ("face_ffhq_512", "align_ffhq_512"))
    assert one.params == other.params
    assert one.writes == other.writes == (aligned_face("ffhq", 512), alignment("ffhq", 512))
    assert one.reads == (VIDEO, LANDMARKS_68, FACE_VALID)
    assert catalogue.producer("face_facenet_160").reads[1] == FACE_BOX
    for clash in ({"size": 256}, {"template": "five"}):
        with pytest.raises(LikenessError, match="ask for another field"):
            catalogue.producer("face_ffhq_512", {"aligned_faces": clash})
    photo = fill(make_sample(portrait()[None]), aligned_face("arcface", 112))
    assert photo[aligned_face("arcface", 112)].shape == (1, 112, 112, 3)
