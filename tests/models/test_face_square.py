"""Squares around faces: the face is in them, points go with the pixels, edges are no trouble."""

from __future__ import annotations

import numpy as np
import pytest

from infra.errors import LikenessError
from models.blocks.face_square import Square, random_square


def test_the_face_is_always_inside_and_scales_vary():
    box = np.array([100.0, 50, 140, 110])
    squares = [random_square(box, 64, np.random.default_rng(seed), (1.2, 2.0)) for seed in range(50)]
    for square in squares:
        corners = square.points(box.reshape(2, 2))
        assert (corners >= -1).all()
        assert (corners <= 65).all()
        assert 60 * 1.2 <= square.side <= 60 * 2.0
    assert np.ptp([square.side for square in squares]) > 30
    with pytest.raises(LikenessError, match="0 x 0 px"):
        random_square(np.zeros(4), 64, np.random.default_rng(0))


@pytest.mark.parametrize("square", [Square(10, 20, 32, 32), Square(10.6, 20.2, 64, 32), Square(-8, -8, 48, 96)])
def test_points_lie_on_the_pixels_they_lay_on(square):
    picture = np.zeros((120, 100, 3), np.uint8)
    picture[30:34, 24:28] = 255  # its middle at (26, 32), pixel centres at .5
    made = square.cut(picture).astype(float).sum(2)
    rows, columns = np.mgrid[: made.shape[0], : made.shape[1]] + 0.5
    middle = [(made * columns).sum() / made.sum(), (made * rows).sum() / made.sum()]
    assert np.allclose(square.points(np.array([[26, 32]])), [middle], atol=0.3)


def test_beyond_the_edge_the_edge_goes_on():
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    made = Square(-10, 0, 20, 20).cut(picture)
    assert np.array_equal(made[:, :10], np.repeat(picture[:, :1], 10, axis=1))
    assert np.array_equal(made[:, 10:], picture[:, :10])
