"""Morphable models: rotations and shading against other libraries and laws, the renderer against brute force, files."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from synthetic_heads import write_bfm, write_flame

from infra import assets
from infra.errors import LikenessError
from models.perception.deca import DecaEncoder, load_deca
from models.perception.deep3d import Deep3DRegressor, load_deep3d
from models.perception.morphable import files, flame, linear, shading
from models.perception.morphable.raster import rasterise
from models.perception.morphable.rotations import from_angles, from_axis_angle, turn_about_y
from preprocessing.fields import DECA, DEEP3D, DRIVING, PIRENDERER
from preprocessing.morphable.heads import FlameHead

needs_ict = pytest.mark.skipif(assets.locate(assets.get("ict_facekit")) is None, reason="LIKENESS_ASSETS has no ict_facekit")


def ball(rings: int = 9, around: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A sphere's vertices and triangles, counter-clockwise from outside."""
    tilt, turn = np.linspace(0.3, np.pi - 0.3, rings), np.arange(around) * 2 * np.pi / around
    points = np.stack(
        [np.outer(np.sin(tilt), np.sin(turn)), np.outer(np.cos(tilt), np.ones(around)), np.outer(np.sin(tilt), np.cos(turn))], -1
    ).reshape(-1, 3)
    here = np.arange((rings - 1) * around).reshape(rings - 1, around)
    aside, below = np.roll(here, -1, 1), here + around
    halves = [np.stack([here, below, aside], -1), np.stack([aside, below, np.roll(below, -1, 1)], -1)]
    return points, np.concatenate([half.reshape(-1, 3) for half in halves])


@pytest.fixture(scope="module")
def basis() -> linear.FaceBasis:
    rng = np.random.default_rng(0)
    mean, triangles = ball()
    albedo, albedo_basis = files.one_colour(len(mean))
    directions = [rng.standard_normal((len(mean), 3, count)).astype(np.float32) * 0.05 for count in (5, 4)]
    landmarks = rng.choice(len(mean), 68, replace=False)
    return linear.FaceBasis(mean.astype(np.float32), *directions, triangles, landmarks, albedo, albedo_basis)


def test_rotations_are_those_of_scipy():
    vectors = np.random.default_rng(1).standard_normal((20, 3))
    turned = from_axis_angle(torch.from_numpy(vectors)).numpy()
    assert np.abs(turned - Rotation.from_rotvec(vectors).as_matrix()).max() < 1e-7
    turned = from_angles(torch.from_numpy(vectors))
    assert np.abs(turned.numpy() - Rotation.from_euler("xyz", vectors).as_matrix()).max() < 1e-12
    angles = np.radians([[10.0, -35.0, 20.0]])
    assert turn_about_y(from_angles(torch.from_numpy(angles))).numpy() == pytest.approx(angles[:, 1])
    assert np.abs(from_axis_angle(torch.zeros(1, 3)).numpy() - np.eye(3)).max() < 1e-7


def test_layouts_number_their_parts():
    assert (DEEP3D.size, PIRENDERER.size, DRIVING.size, DECA.size) == (257, 260, 73, 236)
    places = DEEP3D.slices()
    assert [places[name] for name in ("expression", "angles", "light", "translation")] == [
        slice(80, 144), slice(224, 227), slice(227, 254), slice(254, 257)
    ]  # fmt: skip
    assert DECA.slices()["pose"] == slice(200, 206)
    assert PIRENDERER.slices()["crop"] == slice(257, 260)


@pytest.mark.parametrize("order", ["deca", "deep3d"])
def test_constant_light_is_flat_and_the_harmonics_are_orthogonal(order):
    normals = torch.nn.functional.normalize(torch.randn(1, 20000, 3, dtype=torch.float64, generator=torch.manual_seed(0)), dim=-1)
    light = torch.zeros(1, 9, 3, dtype=torch.float64)
    light[:, 0] = 2
    flat = shading.shade(normals, light, order)
    assert float(flat.std()) < 1e-9
    functions = shading.harmonics(normals[0], order)
    gram = (functions.T @ functions / len(functions)).numpy()
    scale = np.sqrt(np.outer(gram.diagonal(), gram.diagonal()))
    assert np.abs(gram / scale - np.eye(9)).max() < 0.05
    # Spherical harmonics alone have a mean square of 1 / 4 pi; reflectance scales orders by pi, 2 pi / 3, pi / 4 (squared here).
    share = gram.diagonal() / gram[0, 0]
    assert share[1:4] == pytest.approx(share[1], rel=0.05)
    assert share[4:] == pytest.approx(share[4], rel=0.06)


def test_light_is_read_in_its_own_order():
    numbers = torch.arange(27.0)[None]
    assert shading.light_of(numbers, "deca")[0, 1].tolist() == [3, 4, 5]
    deep3d = shading.light_of(numbers, "deep3d")[0]
    assert deep3d[1].tolist() == [1, 10, 19]
    assert deep3d[0].tolist() == pytest.approx([0.8, 9.8, 18.8])
    assert numbers[0, 0] == 0


def test_normals_of_a_ball_point_outwards():
    points, triangles = ball(17, 24)
    found = shading.vertex_normals(torch.from_numpy(points)[None], torch.from_numpy(triangles))[0].numpy()
    inner = slice(24, -24)  # rims have triangles on one side only
    assert (found[inner] * points[inner]).sum(1).min() > 0.99
    lone = shading.vertex_normals(torch.zeros(1, 4, 3), torch.tensor([[0, 1, 2]]))
    assert not lone.any()


def test_zero_coefficients_give_the_mean_face(basis):
    face = linear.LinearFace(basis)
    assert not face.state_dict()
    found = face(torch.zeros(1, 257))
    assert np.abs(found["vertices"][0].numpy() - basis.mean * (1, 1, -1) - (0, 0, 10)).max() < 1e-6
    coefficients = torch.zeros(1, 257)
    coefficients[0, 0], coefficients[0, 80], coefficients[0, 225], coefficients[0, 254] = 1, 2, 0.3, 0.5
    want = (basis.mean + basis.identity[..., 0] + 2 * basis.expression[..., 0]) @ Rotation.from_euler("y", 0.3).as_matrix().T
    found = face(coefficients)["vertices"][0].numpy()
    assert np.abs(found - (want + (0.5, 0, 0)) * (1, 1, -1) - (0, 0, 10)).max() < 1e-5


@pytest.fixture(scope="module")
def head(basis, tmp_path_factory) -> flame.FlameBasis:
    jaw = (basis.mean[:, 1] < -0.2).astype(np.float64)
    written = write_flame(tmp_path_factory.mktemp("flame"), basis, jaw)
    return files.read_flame(written["flame_model"], written["flame_landmarks"], n_identity=5, n_expression=4)


def test_flame_at_rest_is_its_template(basis, head):
    network = flame.Flame(head)
    vertices, joints = network(torch.zeros(1, 9), torch.zeros(1, 5, 3))
    assert np.abs(vertices[0].numpy() - basis.mean / 10).max() < 1e-6
    assert np.abs(joints[0].numpy() - head.joints @ head.template).max() < 1e-6
    assert np.allclose(head.directions[..., :5], basis.identity / 10, atol=1e-6)
    assert np.allclose(head.directions[..., 5:], basis.expression / 10, atol=1e-6)


def test_flame_turns_as_a_whole_and_its_jaw_alone(head):
    network, shape = flame.Flame(head), torch.randn(1, 9, generator=torch.manual_seed(0))
    rest, joints = network(shape, torch.zeros(1, 5, 3))
    turned, _ = network(shape, flame.full_pose(torch.tensor([[0, 0.4, 0, 0, 0, 0]])))
    want = (rest[0] - joints[0, 0]).numpy() @ Rotation.from_euler("y", 0.4).as_matrix().T + joints[0, 0].numpy()
    assert np.abs(turned[0].numpy() - want).max() < 1e-6
    bitten, _ = network(shape, flame.full_pose(torch.tensor([[0, 0, 0, 0.3, 0, 0]])))
    moved = (bitten - rest)[0].norm(dim=1).numpy()
    assert moved[head.weights[:, 2] == 1].mean() > 50 * moved[head.weights[:, 2] == 0].max()


def test_the_jaw_line_follows_the_turn():
    degrees = torch.tensor([0.0, 12.4, 39.0, 70.0, -1.0, -20.0, -80.0])
    rows = flame.contour_row(from_angles(torch.stack([0 * degrees, degrees.deg2rad(), 0 * degrees], 1)))
    assert rows.tolist() == [0, 12, 39, 39, 40, 59, 78]


def test_a_bfm_file_is_read_as_written(basis, tmp_path):
    found = files.read_bfm(write_bfm(tmp_path / "BFM_model_front.mat", basis))
    assert np.abs(found.mean - (basis.mean - basis.mean.mean(0))).max() < 1e-6
    assert found.identity.shape == (len(basis.mean), 3, 80)
    assert np.array_equal(found.identity[..., :5], basis.identity)
    assert np.array_equal(found.triangles, basis.triangles)
    assert np.array_equal(found.landmarks, basis.landmarks)
    assert np.allclose(found.albedo, basis.albedo, atol=1e-6)
    face, plain = linear.LinearFace(found), linear.LinearFace(basis)
    listed, summed = face.normals(face.mean[None])[0], plain.normals(face.mean[None])[0]
    assert float((listed * summed).sum(1).min()) > 0.98
    (tmp_path / "other.mat").write_bytes(b"no .mat")
    with pytest.raises(LikenessError, match=r"does not read as a \.mat file"):
        files.read_bfm(tmp_path / "other.mat")


def test_a_pickle_that_runs_code_is_refused(tmp_path, head):
    class Bad:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "ran"),)

    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps({"v_template": Bad()}))
    with pytest.raises(LikenessError, match=r"generic_model.pkl holds a pickled (posix|os)\.system, which could run code"):
        files.read_flame(path, path)
    path.write_bytes(b"nothing")
    with pytest.raises(LikenessError, match="does not read as a pickle"):
        files.read_flame(path, path)
    assert not (tmp_path / "ran").exists()


def test_the_renderer_draws_what_brute_force_draws():
    rng = np.random.default_rng(3)
    height, width = 23, 31
    points = np.column_stack([rng.uniform(-5, width + 5, 40), rng.uniform(-5, height + 5, 40), rng.uniform(0, 9, 40)])
    triangles = np.stack([rng.choice(40, 3, replace=False) for _ in range(30)])
    triangles[4] = triangles[3]  # equally near: the first is seen
    triangles[7, 1] = triangles[7, 0]  # no area
    found = rasterise(points, triangles, height, width)
    for row in range(height):
        for column in range(width):
            seen, nearest = -1, -np.inf
            for number, corners in enumerate(points[triangles]):
                matrix = np.vstack([corners[:, :2].T, np.ones(3)])
                if abs(np.linalg.det(matrix)) < 1e-9:
                    continue
                shares = np.linalg.solve(matrix, [column + 0.5, row + 0.5, 1])
                if shares.min() >= 0 and shares @ corners[:, 2] > nearest + 1e-9:
                    seen, nearest = number, shares @ corners[:, 2]
            assert found.triangle[row, column] == seen, (row, column)
            assert seen < 0 or found.depth[row, column] == pytest.approx(nearest)
    places = found.interpolate(points[triangles])
    rows, columns = np.nonzero(found.mask)
    assert np.abs(places[rows, columns, :2] - np.column_stack([columns, rows]) - 0.5).max() < 1e-9
    assert not places[~found.mask].any()


def test_the_renderer_does_the_same_in_small_pieces(monkeypatch):
    points, triangles = ball()
    seen = points * 20 + 30
    whole = rasterise(seen, triangles, 60, 60)
    monkeypatch.setattr("models.perception.morphable.raster.FRAGMENTS", 50)
    pieces = rasterise(seen, triangles, 60, 60)
    assert np.array_equal(whole.triangle, pieces.triangle)
    assert whole.mask.mean() == pytest.approx(np.pi * 400 / 3600, rel=0.1)
    assert not rasterise(seen + 1000, triangles, 60, 60).mask.any()


def test_decas_encoder_is_found_in_its_file(tmp_path):
    network, rng = DecaEncoder().eval(), np.random.default_rng(0)
    # One number for all weights of a tensor: the file then holds no more than that.
    weights = {
        name: torch.tensor(rng.uniform(0.01, 0.02), dtype=value.dtype).expand(value.shape)
        for name, value in network.state_dict().items() if value.is_floating_point()
    }  # fmt: skip
    weights = {name: weights.get(name, value) for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    torch.save({"E_flame": weights, "E_detail": {}}, tmp_path / "deca_model.tar")
    picture = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_deca(tmp_path / "deca_model.tar")(picture), network(picture))
    torch.save({"other": weights}, tmp_path / "other.tar")
    with pytest.raises(LikenessError, match=r"no coarse encoder \(E_flame\)"):
        load_deca(tmp_path / "other.tar")
    with tarfile.open(tmp_path / "real.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    with pytest.raises(LikenessError, match="not a complete torch checkpoint"):
        load_deca(tmp_path / "real.tar")


def test_deep3ds_regressor_is_found_in_its_file(tmp_path):
    network, generator = Deep3DRegressor().eval(), torch.manual_seed(0)
    names = list(network.state_dict())
    assert [name for name in names if not name.startswith("backbone.")] == [
        f"final_layers.{number}.{kind}" for number in range(7) for kind in ("weight", "bias")
    ]
    assert {"backbone.conv1.weight", "backbone.layer4.2.bn3.running_var", "backbone.layer3.0.downsample.1.bias"} <= set(names)
    picture = torch.rand(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        assert not network(picture).any()  # the heads begin at zero
        for number, layer in enumerate(network.final_layers):
            layer.bias.fill_(number + 1)
    counts = [80, 64, 80, 3, 27, 2, 1]
    with torch.no_grad():
        found = network(picture)
    assert found.shape == (2, DEEP3D.size)
    assert found[1].tolist() == [number + 1.0 for number, count in enumerate(counts) for _ in range(count)]
    weights = {name: value[(0,) * value.ndim].clone().expand(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    path = tmp_path / "epoch_20.pth"
    torch.save({"net_recon": weights, "opt_00": {"state": {}, "param_groups": []}, "sched_00": {"last_epoch": 20}}, path)
    with torch.no_grad():
        assert torch.equal(load_deep3d(path)(picture), network(picture))
    torch.save({"net_recon": {name: value for name, value in weights.items() if name != "final_layers.6.bias"}}, path)
    with pytest.raises(LikenessError, match=r"no coefficient regressor \(net_recon\): 1 missing: final_layers.6.bias"):
        load_deep3d(path)
    torch.save({"net_recon": weights | {"backbone.fc.weight": torch.zeros(1)}}, path)
    with pytest.raises(LikenessError, match="1 unexpected: backbone.fc.weight"):
        load_deep3d(path)
    torch.save(weights, path)
    with pytest.raises(LikenessError, match="epoch_20.pth as published"):
        load_deep3d(path)


def test_flames_texture_is_taken_where_the_mesh_maps_onto_it(tmp_path):
    """A made-up space: the mean is redder to the right and greener below, one component is blue, one the left half's red."""
    place = np.arange(512) / 512 * 255
    mean = np.zeros((512, 512, 3))  # blue, green, red, as the published file has them
    mean[..., 1], mean[..., 2] = place[:, None], place[None]
    directions = np.zeros((512, 512, 3, 52), np.uint8)  # the published file has 200, of which 50 are taken
    directions[..., 0, 0], directions[:, :256, 2, 1] = 51, 102
    np.savez(tmp_path / "FLAME_texture.npz", mean=mean, tex_dir=directions)
    # Two triangles that cover the texture, v upwards from the lower edge; the picture of the mesh is the texture turned round.
    lines = ["# made up", "v 0 0 0", "vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", "f 1/1 2/2 3/3", "f 1/1 3/3 4/4"]
    (tmp_path / "head_template.obj").write_text("\n".join(lines))
    space = files.read_flame_texture(tmp_path / "FLAME_texture.npz", tmp_path / "head_template.obj")
    assert space["mean"].shape == (256, 256, 3)
    assert space["basis"].shape == (256, 256, 3, 50)
    assert space["mean"][0, 100].tolist() == pytest.approx([200 / 512, 0, 0], abs=1e-6)
    assert space["mean"][60, 0].tolist() == pytest.approx([0, 120 / 512, 0], abs=1e-6)
    assert space["corners"][0].tolist() == [[0, 1], [1, 1], [1, 0]]

    corners = np.array([[0, 64], [64, 64], [64, 0], [0, 0]], np.float64)  # of the square in a 64 px picture, as the texture lies
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    raster = rasterise(np.column_stack([corners, np.zeros(4)]), triangles, 64, 64)
    assert raster.mask.all()
    head = FlameHead.__new__(FlameHead)  # its mesh is of no matter here
    head.triangles, head._texture, head.n_texture = triangles, space, 50
    colour, change = (part.reshape(64, 64, *part.shape[1:]) for part in head.colours(raster))
    # A pixel of the picture is four of the texture wide, of which every second pixel of 512 was kept: its middle is at 4 x + 1.5.
    want = (4 * np.arange(64) + 1.5) * 2 / 512
    assert np.abs(colour[..., 0] - want[None]).max() < 1e-6
    assert np.abs(colour[..., 1] - want[:, None]).max() < 1e-6
    assert not colour[..., 2].any()
    assert change[..., 0].reshape(-1, 3).mean(0).tolist() == pytest.approx([0, 0, 0.2])
    assert change[:, :32, 0, 1].min() == pytest.approx(0.4)
    assert not change[:, 32:, :, 1].any()
    assert not change[..., 2:].any()

    (tmp_path / "head_template.obj").write_text("v 0 0 0")
    with pytest.raises(LikenessError, match="maps no triangle onto a texture"):
        files.read_flame_texture(tmp_path / "FLAME_texture.npz", tmp_path / "head_template.obj")


@needs_ict
def test_ict_stands_where_bfm_stands():
    basis = files.read_ict(assets.find("ict_facekit"))
    assert (basis.mean.shape, basis.identity.shape[2], basis.expression.shape[2]) == ((9409, 3), 80, 57)
    eyes = [basis.mean[basis.landmarks[list(corners)]].mean(0) for corners in (files.LEFT_EYE, files.RIGHT_EYE)]
    assert np.mean(eyes, 0) == pytest.approx(files.EYES_MIDDLE, abs=1e-5)
    assert eyes[0][0] < eyes[1][0]
    nose = basis.mean[basis.landmarks[30]]
    # BFM's nose, for comparison: 0.003, -0.046, 0.552.
    assert np.abs(nose - (0, 0, 0.5)).max() < 0.1
    face = linear.LinearFace(basis)
    assert float(face.normals(face.mean[None])[0, basis.landmarks[30], 2]) > 0.9
