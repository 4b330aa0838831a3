"""Fitting morphable models: the solver against faces that are known, the operators on an astronaut, the learned model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astronaut_clips import fill, make_sample, portrait, swaying
from scipy.spatial.transform import Rotation
from synthetic_heads import write_bfm, write_flame

from infra import assets
from infra.errors import LikenessError
from infra.storage.fits import packed
from models.perception.morphable import files
from models.perception.morphable.flame import Flame, full_pose, on_surface
from models.perception.morphable.linear import LinearFace
from preprocessing import catalogue, templates
from preprocessing.alignment import deep3d_alignment, deep3d_transform, five_points
from preprocessing.apply import run_in_memory
from preprocessing.codecs import CodecError, decode, encode
from preprocessing.fields import (
    DECA,
    FACE_VALID,
    KEY_FRAME,
    LANDMARKS_68,
    LANDMARKS_478,
    TUBE_BOX,
    VIDEO,
    coefficients,
    face_map,
    image,
    morphable_crop,
    morphable_fit,
)  # fmt: skip
from preprocessing.fits.catalogue import fit
from preprocessing.fits.face_mesh import LEFT, MIRRORED, RIGHT, triangles
from preprocessing.fits.morphable import Morphable, mirrored
from preprocessing.morphable import heads, light, places, solver
from preprocessing.morphable.cameras import Orthographic, Perspective
from preprocessing.morphable.shapes import FlameLandmarks, LinearLandmarks
from preprocessing.operator import Operator, Sample
from preprocessing.operators.morphable import as_layout, eye_distance

corpus = pytest.mark.skipif("LIKENESS_CORPUS" not in os.environ, reason="LIKENESS_CORPUS not set")
needs_ict = pytest.mark.skipif(assets.locate(assets.get("ict_facekit")) is None, reason="LIKENESS_ASSETS has no ict_facekit")


@pytest.fixture(scope="module")
def clip() -> Sample:
    frames = swaying(6)
    frames[2] = 0
    return fill(make_sample(frames), LANDMARKS_478, LANDMARKS_68, FACE_VALID, TUBE_BOX, KEY_FRAME)


def people(mesh: np.ndarray, count: int = 12, frames: int = 8) -> list[Sample]:
    """Rows of faces made from one mesh (478, 3): wider or longer ones, that open their mouth and lift their brows as they turn."""
    rng = np.random.default_rng(5)
    middle = mesh.mean(0)
    spread = np.ptp(mesh, 0)
    below = np.clip((mesh[:, 1] - mesh[13, 1]) / spread[1] * 4, 0, 1)
    above = np.clip((mesh[168, 1] - mesh[:, 1]) / spread[1] * 4, 0, 1)
    rows = []
    for number in range(count):
        own = (mesh - middle) * (1 + 0.06 * rng.standard_normal(3))
        opened, lifted = rng.uniform(0, 0.15, frames), rng.uniform(-0.05, 0.05, frames)
        bent = np.repeat(own[None], frames, 0)
        bent[..., 1] += spread[1] * (opened[:, None] * below - lifted[:, None] * above)
        turn = Rotation.from_euler("yxz", rng.uniform(-20, 20, (frames, 3)), degrees=True).as_matrix()
        seen = np.einsum("tij,tlj->tli", turn, bent) * rng.uniform(0.7, 1.4) + middle
        seen += 0.002 * spread[0] * rng.standard_normal(seen.shape)
        valid = np.ones(frames, bool)
        valid[0] = number != 3
        rows.append(Sample(f"row-{number}", {LANDMARKS_478.name: seen.astype(np.float32), FACE_VALID.name: valid}))
    return rows


@pytest.fixture(scope="module")
def learned(clip) -> dict[str, np.ndarray]:
    return Morphable()(people(clip[LANDMARKS_478][0].astype(np.float64)))


@pytest.fixture(scope="module")
def learned_file(learned, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "fit.npz"
    path.write_bytes(packed(learned))
    return path


@pytest.fixture(scope="module")
def flame_files(learned_file, tmp_path_factory) -> dict[str, Path]:
    basis = files.read_learned(learned_file)
    lips = basis.mean[basis.landmarks[[48, 54]], 1].mean()
    jaw = (basis.mean[:, 1] < lips).astype(np.float64)
    # The learned mesh has irises without triangles, which FLAME's file has no way to say: nothing hangs on them.
    return write_flame(tmp_path_factory.mktemp("flame"), basis, jaw)


def ready(field: str, paths: dict[str, Path], **settings: object) -> Operator:
    plain = catalogue.producer(field)
    operator = catalogue.producer(field, {plain.name: settings})
    operator.asset_paths = dict(paths)
    operator.setup()
    return operator


# --- the solver ---


@pytest.mark.parametrize("camera", [Perspective(), Orthographic()], ids=["perspective", "orthographic"])
def test_a_known_face_is_found_again(camera, learned_file):
    shape, rng, count = LinearLandmarks(files.read_learned(learned_file)), np.random.default_rng(0), 20
    identity = rng.standard_normal(shape.n_identity)
    expression = np.cumsum(rng.standard_normal((count, shape.n_expression)), 0) * 0.3
    turn = Rotation.from_euler("xyz", np.column_stack([0.1 * np.sin(np.arange(count)), np.linspace(-0.5, 0.5, count),
                                                       np.full(count, 0.2)])).as_matrix()  # fmt: skip
    view = camera.start(np.linspace(80, 110, count), np.tile([118.0, 105.0], (count, 1)))
    seen = camera.project(np.einsum("tij,tlj->tli", turn, shape.points(identity, expression)), view)[0]
    prior = solver.Prior(np.full(count, 0.01), np.ones(68), np.ones(shape.n_identity), np.ones(shape.n_expression))
    begun = solver.start(shape, camera, seen, np.ones(68))
    found = solver.fit(shape, camera, seen, np.arange(count), prior, begun, steps=30)
    assert np.abs(found.landmarks - seen).max() < 0.02
    off = np.degrees(Rotation.from_matrix(found.rotations @ turn.transpose(0, 2, 1)).magnitude())
    assert off.max() < 1
    assert np.abs(found.camera / view - 1)[:, 0].max() < 0.5 if camera.name.startswith("ortho") else True


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("with_identity", [False, True])
def test_a_step_solves_the_whole_system(linked, with_identity, learned_file):
    """The banded, bordered solution against one dense least-squares problem with numeric derivatives."""
    shape, rng, count = LinearLandmarks(files.read_learned(learned_file)), np.random.default_rng(1), 4
    camera = Perspective()
    e, k = shape.n_expression, shape.n_identity
    start = solver.FittedFace(
        rng.standard_normal(k) * 0.2, rng.standard_normal((count, e)) * 0.2,
        Rotation.from_rotvec(rng.standard_normal((count, 3)) * 0.02).as_matrix(),
        camera.start(np.full(count, 100.0), np.full((count, 2), 112.0)), np.zeros((count, 68, 2)),
    )  # fmt: skip
    landmarks = camera.project(np.tile(shape.mean(), (count, 1, 1)), start.camera)[0] + rng.standard_normal((count, 68, 2))
    prior = solver.Prior(np.full(count, 0.7), rng.uniform(0, 1, 68), np.full(k, 0.8), np.full(e, 1.2), 0.4, 0.05)
    links = np.array([True, False, True]) & linked
    problem = solver._Problem(shape, camera, landmarks, links, prior, with_identity)
    n = e + solver.POSE

    def residuals(delta: np.ndarray) -> np.ndarray:
        moved = problem._moved(start, delta[:k], delta[k:].reshape(count, n))
        parts = [(landmarks - problem.seen(moved)) * problem.weights[..., None], moved.expression / prior.expression,
                 moved.identity / prior.identity, problem._changes(moved) * np.sqrt(problem.hold)]  # fmt: skip
        return np.concatenate([part.ravel() for part in parts])

    h, zero = 1e-5, np.zeros(k + count * n)
    slope = np.stack([(residuals(h * one) - residuals(-h * one)) / (2 * h) for one in np.eye(len(zero))], 1)
    if not with_identity:
        slope[:, :k] = 0
    want = np.linalg.lstsq(slope, -residuals(zero), rcond=1e-12)[0]
    stepped = problem.step(start, 0.0)
    found = np.concatenate([stepped.identity - start.identity, np.column_stack([
        stepped.expression - start.expression,
        Rotation.from_matrix(stepped.rotations @ start.rotations.transpose(0, 2, 1)).as_rotvec(), stepped.camera - start.camera,
    ]).ravel()])  # fmt: skip
    assert problem.cost(stepped) < problem.cost(start)
    assert np.abs(found - want).max() < 2e-3 * np.abs(want).max()


def test_flames_derivatives_are_right(flame_files):
    shape = FlameLandmarks(files.read_flame(*flame_files.values(), n_identity=6, n_expression=4))
    rng = np.random.default_rng(2)
    identity, expression = rng.standard_normal(6), rng.standard_normal((3, 7)) * 0.3
    points, (by_identity, by_expression) = shape.points(identity, expression), shape.slopes(identity, expression, True)
    basis = files.read_flame(*flame_files.values(), n_identity=6, n_expression=4)
    pose = np.column_stack([np.zeros((3, 3)), expression[:, -3:]])
    both = np.concatenate([np.tile(identity, (3, 1)), expression[:, :-3]], 1)
    vertices, _ = Flame(basis)(_tensor(both).float(), full_pose(_tensor(pose).float()))
    onto = [_tensor(np.tile(array, (3, *[1] * array.ndim))) for array in (basis.landmark_triangles, basis.landmark_weights)]
    assert np.abs(points - on_surface(vertices, _tensor(basis.triangles), *onto).numpy()).max() < 1e-6
    h = 1e-6
    for number in range(6):
        moved = shape.points(identity + h * np.eye(6)[number], expression)
        assert np.abs((moved - points) / h - by_identity[..., number]).max() < 1e-5
    for number in range(7):
        moved = shape.points(identity, expression + h * np.eye(7)[number])
        assert np.abs((moved - points) / h - by_expression[..., number]).max() < 1e-5


def test_neighbours_steady_the_pose(learned_file):
    shape, rng, count = LinearLandmarks(files.read_learned(learned_file)), np.random.default_rng(0), 30
    camera = Perspective()
    view = camera.start(np.full(count, 100.0), np.full((count, 2), 112.0))
    still = camera.project(np.tile(shape.mean(), (count, 1, 1)), view)[0]
    shaken = still + rng.standard_normal(still.shape)
    free = solver.Prior(np.ones(count), np.ones(68), np.ones(shape.n_identity), np.ones(shape.n_expression))
    held = replace(free, expression_step=0.1, turn_step_rad=0.005)
    begun = solver.start(shape, camera, shaken, np.ones(68))
    shakes = []
    for prior in (free, held):
        found = solver.fit(shape, camera, shaken, np.arange(count), prior, begun, with_identity=False)
        shakes.append([np.abs(np.diff(found.expression, axis=0)).mean(), np.abs(np.diff(found.rotations, axis=0)).mean()])
    assert (np.array(shakes[1]) < 0.5 * np.array(shakes[0])).all()


# --- where crops lie ---


def test_the_crop_is_deep3ds_own():
    picture = portrait()
    marks = np.random.default_rng(0).uniform(80, 200, (68, 2))
    marks[[36, 39, 42, 45, 30, 48, 54]] = [[100, 100], [120, 100], [160, 101], [180, 100], [140, 130], [115, 160], [165, 161]]
    place = places.deep3d(marks, np.eye(3)[:2], *picture.shape[:2])
    published = deep3d_alignment(picture, five_points(marks) - 0.5)
    assert place.transform == pytest.approx(published.transform_params[2:])
    assert deep3d_transform(five_points(marks) - 0.5, *picture.shape[:2]) == pytest.approx(published.transform_params)
    ours = places.up(templates.transform(place.matrix, five_points(marks)))
    assert np.abs(ours - published.points + (0, 1 - 1)).max() < 2  # its points leave out the rounding of its crop
    assert places.down(places.up(marks)) == pytest.approx(marks)


def test_decas_crop_is_a_square_around_the_landmarks():
    marks = np.random.default_rng(0).uniform(100, 200, (68, 2))
    marks[0], marks[1] = (100, 100), (200, 180)
    marks = marks.clip((100, 100), (200, 180))
    place = places.deca(marks)
    side = int(1.1 * 90 * 1.25)
    assert place.matrix[0, 0] == pytest.approx(224 / side)
    assert templates.transform(place.matrix, np.array([150, 140])) == pytest.approx([112, 112])


# --- the learned model ---


def test_the_mesh_is_a_surface_with_a_mirror(learned):
    found = triangles(learned["mean"])
    assert found.shape == (852, 3)
    edges = np.sort(np.concatenate([found[:, [0, 1]], found[:, [1, 2]], found[:, [2, 0]]]), 1)
    assert np.unique(edges, axis=0, return_counts=True)[1].max() == 2
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(478))
    assert len(LEFT) == len(RIGHT) == 225
    mean = learned["mean"]
    assert mean[list(LEFT), 0].mean() < mean[list(RIGHT), 0].mean()
    assert np.abs(mirrored(mean[None])[0] - mean).max() < 1e-5  # symmetric, as the fit makes it


def test_identity_and_expression_are_told_apart(learned):
    """The made faces move in 2 ways and differ in 4: two of three axes (one is scale), and how far they open and lift on average.

    With mirror images that is twice as many at most; the rest is noise, spread over all components.
    """
    for part, most in (("identity", 8), ("expression", 4)):
        variance = np.square(learned[part]).sum((0, 1))
        assert variance[:most].sum() > 0.9 * variance.sum(), part
    assert (int(learned["clips"]), int(learned["frames"])) == (12, 95)
    mouth, brow = learned["expression"][[17, 10], 1, :2]
    assert np.abs(mouth).max() > 3 * np.abs(learned["expression"][4, 1, :2]).max()  # the chin's lip moves, the nose does not
    assert np.isfinite(brow).all()
    assert learned["landmarks"].shape == (68,)


def test_a_learned_model_does_not_depend_on_where_faces_are(clip, learned):
    again = Morphable()(people(clip[LANDMARKS_478][0].astype(np.float64)))
    assert all(np.array_equal(again[name], learned[name]) for name in learned)
    moved = people(clip[LANDMARKS_478][0].astype(np.float64) * 1.7 + (50, -20, 9))
    shifted = Morphable()(moved)
    assert np.abs(shifted["mean"] - learned["mean"]).max() < 1e-3


def test_without_faces_nothing_is_learnt(clip):
    rows = people(clip[LANDMARKS_478][0].astype(np.float64), 2)
    with pytest.raises(LikenessError, match="2 rows have a valid face in landmarks_478"):
        Morphable()(rows)
    assert fit("morphable", ["frames=8"]).params.frames == 8
    assert Morphable().makes[0] == coefficients("learned", 260)


# --- the operators ---


@pytest.mark.parametrize("model", ["learned", "bfm", "flame"])
def test_an_astronaut_is_fitted(model, clip, learned_file, flame_files, tmp_path):
    paths = {heads.FIT: learned_file, **flame_files}
    if model == "bfm":
        paths["bfm_deep3d"] = write_bfm(tmp_path / "BFM_model_front.mat", files.read_learned(learned_file))
    operator = ready(f"morphable_{model}_fit", paths)
    found = operator(clip)
    rows, crops, facts = (found[field] for field in operator.writes)
    valid = clip[FACE_VALID]
    assert valid.tolist() == [True, True, False, True, True, True]
    assert not rows[~valid].any()
    assert not crops[~valid].any()
    assert np.isfinite(rows).all()
    assert facts["morphable_model"] == model
    assert facts["layout"] == ("deca_236" if model == "flame" else "pirenderer_260")
    assert facts["frames"] == 5
    assert facts["error_percent"] < 3
    # What the numbers say, by the published formulas and not by the solver, lies on the landmarks they were fitted to.
    points, _ = operator._head.mesh(rows[0])
    basis = operator._head.basis
    corners = basis.triangles[basis.landmark_triangles] if model == "flame" else basis.landmarks[:, None]
    weights = basis.landmark_weights if model == "flame" else np.ones((68, 1))
    seen = np.einsum("lk,lkc->lc", weights, points[corners])[:, :2]
    wanted = templates.transform(crops[0], clip[LANDMARKS_68][0].astype(np.float64))
    off = 100 * np.linalg.norm(seen - wanted, axis=1) / eye_distance(wanted[None])[0]
    assert off[heads.JAW_LINE :].mean() == pytest.approx(facts["error_percent"], abs=1)
    if model != "flame":
        landmarks = LinearFace(basis)(_tensor(rows[:1, :257]))["landmarks"][0].numpy()
        assert np.abs(places.down(landmarks) - seen).max() < 0.01
        width = clip[TUBE_BOX][2] - clip[TUBE_BOX][0]
        assert crops[0, 0, 0] == pytest.approx(rows[0, 257] * 256 / width, rel=0.01)
    again = operator(clip)
    assert np.array_equal(again[operator.writes[0]], rows)


def _tensor(array: np.ndarray):
    import torch

    return torch.from_numpy(array)


def test_without_a_face_rows_stay(learned_file):
    empty = make_sample(np.full((3, 64, 96, 3), 127, np.uint8))
    fill(empty, LANDMARKS_68, FACE_VALID, TUBE_BOX, KEY_FRAME)
    operator = ready("morphable_learned_fit", {heads.FIT: learned_file})
    for field, value in operator(empty).items():
        empty[field] = value
    assert empty[coefficients("learned", 260)].shape == (3, 260)
    assert not empty[coefficients("learned", 260)].any()
    assert empty[morphable_fit("learned")]["frames"] == 0
    maps = ready("map_normal_learned_64", {heads.FIT: learned_file})(empty)
    assert maps[face_map("learned", "normal", 64)].shape == (64, 96, 3)
    assert (maps[face_map("learned", "normal", 64)] == 128).all()
    assert not maps[face_map("learned", "depth", 64)].any()


def test_layouts_are_parts_of_each_other():
    rows = np.tile(np.arange(260, dtype=np.float32), (2, 1))
    driving = as_layout(rows, 73)
    assert driving[0].tolist() == [*range(80, 144), *range(224, 227), *range(254, 257), *range(257, 260)]
    assert as_layout(rows, 257)[0].tolist() == list(range(257))
    with pytest.raises(LikenessError, match="layout deca_236 has no identity of 80 numbers, which deep3d_257 needs"):
        as_layout(np.zeros((2, 236)), 257)
    with pytest.raises(LikenessError, match="a layout of 12 numbers"):
        as_layout(np.zeros((2, 12)), 257)
    operator = catalogue.producer("morphable_ict_73")
    assert operator.reads == (coefficients("ict", 260),)
    sample = Sample("row", {"morphable_ict_260": rows})
    assert np.array_equal(operator(sample)[coefficients("ict", 73)], driving)
    for wrong in ("morphable_flame_257", "morphable_bfm_236", "morphable_ict_100"):
        with pytest.raises(LikenessError, match="unknown field"):
            catalogue.producer(wrong)


def test_maps_lie_on_the_picture(clip, learned_file):
    operator = ready("morphable_learned_fit", {heads.FIT: learned_file})
    sample = Sample("clip", dict(clip._values))
    for field, value in operator(sample).items():
        sample[field] = value
    fill(sample, image(96))
    maps = ready("map_normal_learned_96", {heads.FIT: learned_file})(sample)
    mask = maps[face_map("learned", "depth", 96)][..., 0] > 0
    assert mask.shape == sample[image(96)].shape[:2]
    place = int(sample[KEY_FRAME])
    mesh = sample[LANDMARKS_478][place, :468, :2] * 96 / 288
    low, high = mesh.min(0), mesh.max(0)
    rows, columns = np.nonzero(mask)
    assert np.abs([columns.min() - low[0], columns.max() + 1 - high[0], rows.min() - low[1], rows.max() + 1 - high[1]]).max() < 3
    normals = maps[face_map("learned", "normal", 96)][mask] / 255 * 2 - 1
    assert np.linalg.norm(normals, axis=1).mean() == pytest.approx(1, abs=0.03)
    assert normals[:, 2].mean() > 0.6
    shaded = maps[face_map("learned", "shaded", 96)][mask].astype(float) * 2 - 255
    photo = sample[image(96)][mask].astype(float)
    assert np.abs(shaded.mean(0) - photo.mean(0)).max() < 25  # light and colour were estimated from these pixels
    picture = maps[face_map("learned", "normal", 96)]
    assert np.array_equal(decode(face_map("learned", "normal", 96), encode(face_map("learned", "normal", 96), picture)), picture)
    with pytest.raises(CodecError, match="no png|does not decode"):
        decode(face_map("learned", "normal", 96), b"nothing")


def test_light_that_is_known_is_found_again(learned_file):
    import torch

    from models.perception.morphable.raster import rasterise
    from models.perception.morphable.shading import shade

    head = heads.load("learned", {heads.FIT: learned_file})
    row = np.zeros(257)
    points, normals = head.mesh(row)
    raster = rasterise(points, head.triangles, 224, 224)
    lit = np.zeros((9, 3))
    lit[0], lit[3] = (0.9, 0.85, 0.8), 0.25  # from the picture's left: the third harmonic is -x
    mean, basis = head.colours(raster)
    albedo = mean + basis @ np.array([0.3, 0.1, -0.2])
    normal = raster.interpolate(normals[head.triangles])[raster.mask]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    picture = np.zeros((224, 224, 3))
    picture[raster.mask] = albedo * shade(torch.from_numpy(normal[None]), torch.from_numpy(lit[None]), "deep3d")[0].numpy()
    marks = points[head.basis.landmarks, :2]
    texture, found = light.estimate(head, [(row, np.rint(255 * picture.clip(0, 1)).astype(np.uint8), marks)])
    again = (mean + basis @ texture) * shade(torch.from_numpy(normal[None]), torch.from_numpy(found[None]), "deep3d")[0].numpy()
    assert np.abs(again - picture[raster.mask]).mean() < 0.02
    assert found[3].mean() / found[0].mean() == pytest.approx(0.25 / 0.85, abs=0.1)


def test_models_are_operators_of_their_own():
    names = catalogue.operator_names()
    assert {f"morphable_{model}" for model in ("learned", "ict", "bfm", "flame")} <= set(names)
    operator = catalogue.producer("morphable_flame_236", {"morphable_flame": {"texture": True}})
    assert operator.assets == ("flame_model", "flame_landmarks", "flame_texture", "flame_template")
    assert operator.writes[0].shape == ("frames", DECA.size)
    assert VIDEO not in catalogue.producer("morphable_ict_crop", {"morphable_ict": {"light_frames": 0}}).reads
    assert morphable_crop("ict") in catalogue.producer("morphable_ict_260").writes


def test_without_the_files_the_error_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path))
    with pytest.raises(LikenessError, match=r"bfm_deep3d is not here.*place BFM_model_front.mat"):
        catalogue.producer("morphable_bfm_fit").setup()
    with pytest.raises(LikenessError, match=r"flame_model is not here.*place generic_model.pkl"):
        catalogue.producer("morphable_flame_fit").setup()


@corpus
@needs_ict
def test_ict_fits_photos_of_the_corpus():
    faces = Path(os.environ["LIKENESS_CORPUS"]) / "faces"
    for file in ("obama_1.jpg", "biden_1.jpg"):
        found = run_in_memory(faces / file, [morphable_fit("ict")])
        assert found[morphable_fit("ict")]["error_percent"] < 1.5
        assert np.abs(found[coefficients("ict", 260)][0, :80]).max() < 4
