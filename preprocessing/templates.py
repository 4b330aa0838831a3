"""Alignment templates: where published methods want a face to lie in a square crop, as matrices from the picture to the crop.

Everything here counts as the fields do: x right, y down, pixel centres at .5, in the picture and in the crop. OpenCV and most
published code count centres at whole numbers; `opencv_matrix` turns a matrix into theirs.

| template | points | least squares to | used by |
|---|---|---|---|
| arcface | five | insightface's 112 px template | recognition networks, identity losses |
| five | five | the best of SimSwap's five, profile to profile | SimSwap at 224 px |
| ffhq5 | five | facexlib's 512 px template | SimSwap at 512 px, GFPGAN, PuLID |
| ffhq | eyes and mouth of 68 | FFHQ's rule (Karras et al., CVPR 2019), no template | StyleGAN crops, StableIdentity |
| facenet | box | the box stretched to the square | FaceNet behind MTCNN (facenet-pytorch), CapHuman |
| deep3d | five | Deep3DFaceRecon's mean face, upright | 3DMM coefficients (see `preprocessing.alignment`) |
| latentsync | brows and nose of 68 | LatentSync's three points, stretched | LatentSync (see `preprocessing.latentsync`) |
"""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from infra.errors import LikenessError
from preprocessing import latentsync
from preprocessing.alignment import CROP_SIZE, FACE_SCALE, deep3d_matrix
from preprocessing.fields import FACE_BOX, LANDMARKS_5, LANDMARKS_68, Field, Template

Matrix = NDArray[np.float64]
CENTRE = 0.5  # published templates count pixel centres at whole numbers
# Left eye, right eye, nose tip, left and right mouth corner, as seen in the picture.
ARCFACE_112: Matrix = np.array([
    [38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041],
])  # fmt: skip
# Turned far left, left, frontal, right, far right.
SIMSWAP_112: Matrix = np.array([
    [[51.642, 50.115], [57.617, 49.990], [35.740, 69.007], [51.157, 89.050], [57.025, 89.702]],
    [[45.031, 50.118], [65.568, 50.872], [39.677, 68.111], [45.177, 86.190], [64.246, 86.758]],
    [[39.730, 51.138], [72.270, 51.138], [56.000, 68.493], [42.463, 87.010], [69.537, 87.010]],
    [[46.845, 50.872], [67.382, 50.118], [72.737, 68.111], [48.167, 86.758], [67.236, 86.190]],
    [[54.796, 49.990], [60.771, 50.115], [76.673, 69.007], [55.388, 89.702], [61.257, 89.050]],
])  # fmt: skip
FACEXLIB_512: Matrix = np.array([
    [192.98138, 239.94708], [318.90277, 240.19360], [256.63416, 314.01935], [201.26117, 371.41043], [313.08905, 371.15118],
])  # fmt: skip
POINTS: dict[Template, Field] = {
    "arcface": LANDMARKS_5, "five": LANDMARKS_5, "ffhq5": LANDMARKS_5, "deep3d": LANDMARKS_5,
    "ffhq": LANDMARKS_68, "facenet": FACE_BOX, "latentsync": LANDMARKS_68,
}  # fmt: skip
LEAST_SPREAD_PX = 1e-3  # of the points around their mean: less is one point
LARGEST_SCALE = 1e3


def matrix(
    template: Template,
    size_px: int,
    points5: ArrayLike | None = None,
    landmarks68: ArrayLike | None = None,
    box: ArrayLike | None = None,
    height_width: tuple[int, int] | None = None,
) -> Matrix:
    """(2, 3) float64 M from the picture to the crop: (x', y') = M (x, y, 1).

    Args:
        template: see the table above; what it is computed from must be given, the rest is not looked at.
        size_px: side of the crop.
        points5: (5, 2) px: left eye, right eye, nose tip, left and right mouth corner, as seen in the picture.
        landmarks68: (68, 2) px in the iBUG 300-W order.
        box: x0, y0, x1, y1 in px.
        height_width: the picture's; deep3d alone wants it, since its published crop is rounded to whole pixels of the scaled
            picture.

    Raises:
        LikenessError: what the template needs is missing, not finite, or spans no face.
    """
    if size_px < 1:
        raise LikenessError(f"a crop of {size_px} px", allowed="1 px or more")
    if template == "arcface":
        return similarity(_points(template, points5, 5), arcface(size_px))
    if template == "five":
        return _nearest(_points(template, points5, 5), SIMSWAP_112 * (size_px / 112) + CENTRE)
    if template == "ffhq5":
        return similarity(_points(template, points5, 5), FACEXLIB_512 * (size_px / 512) + CENTRE)
    if template == "ffhq":
        return _ffhq(_points(template, landmarks68, 68), size_px)
    if template == "facenet":
        return _stretch(_points(template, None if box is None else np.reshape(box, (2, 2)), 2), size_px)
    if template == "latentsync":
        return latentsync.align(latentsync.three_points(_points(template, landmarks68, 68)), size_px)[0]
    if template == "deep3d":
        if height_width is None:
            raise LikenessError("alignment deep3d without the picture's height and width", fix="give height_width")
        # Its points count centres at whole numbers, as published.
        points = _points(template, points5, 5) - CENTRE
        return deep3d_matrix(points, *height_width, size=size_px, face_scale=FACE_SCALE * size_px / CROP_SIZE)
    raise LikenessError(f"unknown alignment template {template!r}", allowed=", ".join(get_args(Template)))


def arcface(size_px: int) -> Matrix:
    """(5, 2): the ArcFace template in a crop of this size, pixel centres at .5.

    Multiples of 112 scale by size / 112. All others scale by size / 128 and lie 8 px of 128 further right, which is what
    insightface does to multiples of 128 (it refuses the rest): there the face is centred with a margin.
    """
    if size_px % 112 == 0:
        return ARCFACE_112 * (size_px / 112) + CENTRE
    return (ARCFACE_112 + (8, 0)) * (size_px / 128) + CENTRE


def similarity(points: ArrayLike, target: ArrayLike) -> Matrix:
    """(2, 3): the turn, scale and shift, without mirroring, that bring `points` closest to `target`, both (n, 2).

    Least squares in closed form, points read as complex numbers; in the plane it equals Umeyama's (PAMI 1991), which scikit-image
    and insightface use.

    Raises:
        LikenessError: the points lie on one spot, so that no scale brings them to the target.
    """
    p, q = (np.asarray(a, np.float64) @ (1, 1j) for a in (points, target))
    centred = p - p.mean()
    spread = float(np.sqrt((np.abs(centred) ** 2).mean()))
    turn = complex((centred.conj() * (q - q.mean())).sum() / max((np.abs(centred) ** 2).sum(), 1e-300))
    if spread < LEAST_SPREAD_PX or not 1 / LARGEST_SCALE < abs(turn) < LARGEST_SCALE:
        raise LikenessError(
            f"points that spread {spread:.3g} px around their mean would be scaled {abs(turn):.3g} times",
            allowed="the points of a face", fix="check the landmarks, or mark the frame as having no face",
        )  # fmt: skip
    shift = q.mean() - turn * p.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def invert(m: ArrayLike) -> Matrix:
    """(2, 3): from the crop back to the picture."""
    m = np.asarray(m, np.float64)
    if m.shape != (2, 3) or not np.isfinite(m).all() or abs(np.linalg.det(m[:, :2])) < 1e-12:
        raise LikenessError(f"a matrix of shape {m.shape} that cannot be inverted", allowed="(2, 3), not of an invalid frame")
    back = np.linalg.inv(m[:, :2])
    return np.column_stack([back, -back @ m[:, 2]])


def opencv_matrix(m: ArrayLike) -> Matrix:
    """The same transform where pixel centres count at whole numbers on both sides, as `cv2.warpAffine` and insightface do."""
    m = np.array(m, np.float64)
    m[:, 2] += m[:, :2] @ (CENTRE, CENTRE) - CENTRE
    return m


def transform(m: ArrayLike, points: ArrayLike) -> Matrix:
    """(..., 2) points taken along."""
    m = np.asarray(m, np.float64)
    return np.asarray(points, np.float64) @ m[:, :2].T + m[:, 2]


def warp(picture: NDArray[np.uint8], m: ArrayLike, size_px: int, antialias: bool = True) -> NDArray[np.uint8]:
    """(size_px, size_px, 3) uint8: the crop; bilinear, black where the picture ends.

    Args:
        picture: (H, W, 3) uint8.
        m: (2, 3), see `matrix`.
        antialias: where the face shrinks to half or less, average whole blocks of pixels first, as many as fit (FFHQ's first
            step). insightface and facexlib never do: recognition networks have learnt from the aliasing of plain bilinear
            sampling.
    """
    m = np.asarray(m, np.float64)
    scale = float(np.sqrt(abs(np.linalg.det(m[:, :2]))))
    block = int(1 / scale + 1e-9) if antialias and scale > 0 else 1
    source: np.ndarray = picture
    if block > 1:
        source, m = _shrunk(picture, m, size_px, block)
    return np.asarray(cv2.warpAffine(source, opencv_matrix(m), (size_px, size_px), flags=cv2.INTER_LINEAR), np.uint8)


def _shrunk(picture: NDArray[np.uint8], m: Matrix, size_px: int, block: int) -> tuple[NDArray[np.uint8], Matrix]:
    """The part of the picture that the crop needs, `block` times smaller, and the matrix from there."""
    height, width = picture.shape[:2]
    corners = transform(invert(m), [[0, 0], [size_px, 0], [0, size_px], [size_px, size_px]])
    low = np.clip(np.floor(corners.min(0)) - 2 * block, 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 2 * block, low + 1, (width, height)).astype(int)
    part: np.ndarray = picture[low[1] : high[1], low[0] : high[0]]
    # What does not fill a block at the right and lower edge is repeated: less than one pixel of the crop.
    missing = -np.array(part.shape[:2]) % block
    part = cv2.copyMakeBorder(part, 0, int(missing[0]), 0, int(missing[1]), cv2.BORDER_REPLICATE)
    small = cv2.resize(part, (part.shape[1] // block, part.shape[0] // block), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), np.column_stack([m[:, :2] * block, transform(m, low)])


def _nearest(points: Matrix, templates: Matrix) -> Matrix:
    """Of several templates the one whose points are met best, by the sum of distances (the first of equals)."""
    found = [similarity(points, target) for target in templates]
    errors = [np.linalg.norm(transform(m, points) - t, axis=1).sum() for m, t in zip(found, templates, strict=True)]
    return found[int(np.argmin(errors))]


def _ffhq(points: Matrix, size_px: int) -> Matrix:
    """FFHQ's square: along the mean of the eye line and the turned eye-mouth line, 0.1 of the latter below the eyes.

    The published script makes the same square but other pixels: it shrinks in steps with antialiasing, samples at 4096 px and
    shrinks again, and where the square leaves the picture it mirrors and blurs instead of leaving black.
    """
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    eyes, mouth = (left + right) / 2, (points[48] + points[54]) / 2
    across, down = right - left, mouth - eyes
    axis = across - down[::-1] * (-1, 1)
    length = float(np.hypot(*axis))
    half = max(float(np.hypot(*across)) * 2.0, float(np.hypot(*down)) * 1.8)
    if length < LEAST_SPREAD_PX or half < LEAST_SPREAD_PX:
        raise LikenessError(
            f"eyes {np.hypot(*across):.3g} px apart and {np.hypot(*down):.3g} px from the mouth give FFHQ's square no direction",
            allowed="the landmarks of a face", fix="check the landmarks, or mark the frame as having no face",
        )  # fmt: skip
    x = axis / length * half
    y = x[::-1] * (-1, 1)
    centre = eyes + down * 0.1
    turn = np.stack([x, y]) * (size_px / 2 / half**2)  # x and y are perpendicular, of length `half`
    return np.column_stack([turn, size_px / 2 - turn @ centre])


def _stretch(corners: Matrix, size_px: int) -> Matrix:
    """facenet-pytorch's crop with its default margin of 0: the box alone, both sides stretched to the square."""
    width, height = corners[1] - corners[0]
    if not min(width, height) >= LEAST_SPREAD_PX:
        raise LikenessError(f"a face box of {width:.3g} x {height:.3g} px", allowed="a box with some area")
    scale = size_px / np.array([width, height])
    return np.column_stack([np.diag(scale), -corners[0] * scale])


def _points(template: Template, points: ArrayLike | None, count: int) -> Matrix:
    if points is None:
        raise LikenessError(f"alignment {template} without its points", fix=f"give {POINTS[template].name}")
    array = np.asarray(points, np.float64)
    if array.shape != (count, 2) or not np.isfinite(array).all():
        raise LikenessError(f"points of shape {array.shape} for alignment {template}", allowed=f"({count}, 2) finite px")
    return array
