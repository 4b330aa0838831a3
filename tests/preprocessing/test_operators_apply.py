"""The catalogue of operators, and one file in memory: videos, silent videos and photos."""

import cv2
import numpy as np
import pytest
from astronaut_clips import burst_audio, portrait, swaying
from PIL import Image

from infra.errors import LikenessError
from preprocessing import catalogue, fields
from preprocessing.apply import run_in_memory
from preprocessing.clip import open_clip
from preprocessing.codecs import encode
from preprocessing.fields import AUDIO, FACE_BOX, FACE_VALID, MEL80, SOURCE, TIMELINE, TUBE_BOX, VIDEO, VOICED, face_crop
from preprocessing.media.mux import write_video
from preprocessing.media.photo import read_photo
from preprocessing.operator import Sample

BOX = face_crop(96, "box")


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "talk.mp4"
    write_video(path, swaying(12), 25, burst_audio(12, range(5, 12)))
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(portrait()).save(path)
    return path


def test_the_same_as_a_build(video):
    sample = run_in_memory(video, [BOX, MEL80, VOICED])
    ((_, row),) = catalogue.ingest()(video, {"path": "talk.mp4"})
    built = Sample("row", {field.name: value for field, value in row.items()})
    built[VIDEO] = open_clip(video, row[SOURCE], row[TIMELINE])
    for name in ("face_detections", "face_track", "face_box", "face_box_96", "mel80", "voiced"):
        operator = catalogue.producer(name)
        operator.setup()
        for field, value in operator(built).items():
            built[field] = value
    assert sample[FACE_VALID].all()
    for field in (TIMELINE, AUDIO, FACE_BOX, BOX, MEL80, VOICED):
        assert encode(field, sample[field]) == encode(field, built[field])
    assert sample[VIDEO].decodes == 1


def test_the_picture_is_never_cut(tmp_path):
    for sound, length in ((4, 12), (40, 12)):
        path = tmp_path / f"{sound}.mp4"
        write_video(path, swaying(12), 25, burst_audio(sound, range(sound)))
        sample = run_in_memory(path, [])
        assert sample[VIDEO].n_frames == len(sample[TIMELINE]) == length
        assert len(sample[AUDIO]) == 640 * length


def test_a_video_without_sound(tmp_path):
    path = tmp_path / "mute.mp4"
    write_video(path, swaying(3), 25)
    sample = run_in_memory(path, [BOX, TUBE_BOX], keep_video=False)
    assert sample[BOX].present.all()
    assert VIDEO not in sample
    assert AUDIO not in sample
    with pytest.raises(LikenessError, match=r"mute.mp4 has no sound"):
        run_in_memory(path, [MEL80])


def test_a_photo_is_a_clip_of_one_frame(photo):
    sample = run_in_memory(photo, [BOX, face_crop(256, "tube")])
    assert sample[FACE_VALID].tolist() == [True]
    assert sample[BOX].shape == (1, 96, 96, 3)
    assert sample[SOURCE]["n_frames"] == 1
    assert np.array_equal(next(iter(sample[VIDEO])), portrait())
    with pytest.raises(LikenessError, match="photo.png has no sound"):
        run_in_memory(photo, [VOICED])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_are_turned_upright(tmp_path, orientation):
    path = tmp_path / "photo.jpg"
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.rot90(portrait(), turns)).save(path, exif=exif, quality=95)
    assert np.abs(read_photo(path)[0].astype(int) - portrait()).mean() < 2
    assert run_in_memory(path, [FACE_VALID])[FACE_VALID].all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_any_kind_of_photo_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    Image.fromarray(portrait()).convert(mode).save(path)
    assert read_photo(path)[0].shape == (288, 288, 3)


def test_sixteen_bit_grey_is_scaled(tmp_path):
    grey = portrait()[:, :, 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "photo.png")
    assert np.array_equal(read_photo(tmp_path / "photo.png")[0][:, :, 0], grey)


def test_files_of_no_use_are_named(tmp_path, photo):
    data = cv2.imencode(".jpg", portrait())[1].tobytes()
    for name, content in (("empty.mp4", b""), ("text.png", b"hello " * 50), ("half.jpg", data[: len(data) // 2])):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(LikenessError, match=name):
            run_in_memory(path, [FACE_BOX])


def test_wrong_settings_are_named(photo):
    with pytest.raises(LikenessError, match=r"unknown operator 'face_detct' \(nearest: face_detect\)"):
        run_in_memory(photo, [], {"face_detct": {}})
    with pytest.raises(LikenessError, match="unknown setting 'min_scor'; the nearest is min_score"):
        run_in_memory(photo, [FACE_BOX], {"face_detect": {"min_scor": 0.1}})
    assert not run_in_memory(photo, [FACE_VALID], {"face_detect": {"min_score": 1.0}})[FACE_VALID].any()


def test_every_stored_field_has_a_producer():
    variants = [catalogue.producer(name) for family in catalogue.FAMILIES for name in family.variants()]
    made = {field.name for operator in [*catalogue.operators(), *variants] for field in operator.writes}
    ingested = {field.name for field in catalogue.ingest().writes}
    assert {f.name for f in fields.FIELDS if f.stored} <= made | ingested
    for family in fields.FAMILIES:
        assert family.pattern.fullmatch(family.example)
        assert family.example in {field.name for field in catalogue.producer(family.example).writes}
    for name in made:
        assert name in {field.name for field in catalogue.producer(name).writes}


def test_crops_of_any_size():
    crops = catalogue.producer("face_tube_512")
    assert crops.writes == (face_crop(512, "tube"),)
    assert crops.params.size == 512
    with pytest.raises(LikenessError, match="face_tube_512 says it already"):
        catalogue.producer("face_tube_512", {"face_tube_crops": {"size": 9}})


@pytest.mark.parametrize(
    ("field", "message"),
    [("face_bux", r"'face_bux' \(nearest: face_box\)"), ("audio", "comes from ingest"), ("video", "comes from ingest")],
)
def test_fields_without_a_producer(field, message):
    with pytest.raises(LikenessError, match=message):
        catalogue.producer(field)


def test_names_and_versions_are_unique_and_plain():
    operators = catalogue.operators()
    assert len({operator.name for operator in operators}) == len(operators)
    assert {operator.name for operator in operators} <= set(catalogue.operator_names())
    for operator in operators:
        assert operator.version >= 1
        assert type(operator).__doc__
