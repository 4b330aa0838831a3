"""Deep3DFaceRecon's 5-point alignment: the crop that 3DMM coefficients are regressed from and rendered onto.

Points and `transform_params` that leave this module follow that code base and have **y pointing up** (y_up = H - 1 - y);
points that enter it have y pointing down, like everything else here.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from infra.errors import LikenessError

CROP_SIZE = 224
FACE_SCALE = 102.0  # pixels per unit of STANDARD_POINTS in the crop
_LONGEST_SIDE = 16_384

# Left eye, right eye, nose, left and right mouth corner of the mean face, y up (BFM/similarity_Lm3D_all.mat, as five_points).
STANDARD_POINTS: NDArray[np.float64] = np.array(
    [
        [-0.3114865720272064, 0.29036077857017517, 0.13377952575683594],
        [0.30979886651039124, 0.289720356464386, 0.1317952573299408],
        [0.003253498813137412, -0.04617932438850403, 0.5524424314498901],
        [-0.25216928124427795, -0.3813391625881195, 0.22405731678009033],
        [0.24846619367599487, -0.38128235936164856, 0.22235769033432007],
    ]
)


class Deep3DAlignment(NamedTuple):
    """An aligned face.

    Attributes:
        crop: (224, 224, 3) uint8, channels as they came; black where the picture ends.
        points: (5, 2) float64 in the crop, y up.
        transform_params: (5,) float64: width, height, scale, tx, ty; t in source pixels, y up. The layout that PIRenderer and
            DreamTalk read.
    """

    crop: NDArray[np.uint8]
    points: NDArray[np.float64]
    transform_params: NDArray[np.float64]


def five_points(landmarks: ArrayLike) -> NDArray[np.float64]:
    """(68, 2) iBUG landmarks -> (5, 2): left eye, right eye, nose, mouth corners.

    An eye is the mean of its two corners, points 37 and 40, 43 and 46 counted from 1.
    """
    points = _points(landmarks, 68)
    return np.stack([points[[36, 39]].mean(0), points[[42, 45]].mean(0), points[30], points[48], points[54]])


def points_without_face(height: int, width: int) -> NDArray[np.float64]:
    """(5, 2) y-down points for a frame in which no face was found: the mean face stretched over the frame."""
    up = (STANDARD_POINTS[:, :2] + 1) / 2 * (width, height)
    return _flip(up, height)


def deep3d_alignment(
    image: NDArray[np.uint8], points: ArrayLike, size: int = CROP_SIZE, face_scale: float = FACE_SCALE
) -> Deep3DAlignment:
    """Scales and crops a picture so that its five points lie on the mean face's (Deep3DFaceRecon, `align_img`).

    Args:
        image: (H, W, 3) uint8.
        points: (5, 2) pixels, x right and y **down**, in the order of `five_points`.
        size: side of the crop in pixels.
        face_scale: pixels per unit of `STANDARD_POINTS` in the crop.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise LikenessError(f"a picture of shape {image.shape} and type {image.dtype}", allowed="(H, W, 3) uint8")
    height, width = image.shape[:2]
    up = _flip(_points(points, 5), height)
    shift, scale, (new_width, new_height), (left, top) = _placement(up, width, height, size, face_scale)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BICUBIC)
    crop = np.asarray(resized.crop((left, top, left + size, top + size)))
    centred = (up - shift + (width / 2, height / 2)) * scale
    aligned = centred - (new_width / 2 - size / 2, new_height / 2 - size / 2)
    return Deep3DAlignment(crop, aligned, np.array([width, height, scale, *shift], dtype=np.float64))


def deep3d_transform(points: ArrayLike, height: int, width: int, face_scale: float = FACE_SCALE) -> NDArray[np.float64]:
    """(5,) `transform_params` of `deep3d_alignment` for a picture of this height and width, without cutting it."""
    up = _flip(_points(points, 5), height)
    shift, scale, _, _ = _placement(up, width, height, CROP_SIZE, face_scale)
    return np.array([width, height, scale, *shift], np.float64)


def deep3d_matrix(
    points: ArrayLike, height: int, width: int, size: int = CROP_SIZE, face_scale: float = FACE_SCALE
) -> NDArray[np.float64]:
    """(2, 3): where `deep3d_alignment` puts each pixel of a picture of this height and width, its rounding included.

    Both sides y down, pixel centres at .5. The scales along x and y differ by that rounding alone.
    """
    up = _flip(_points(points, 5), height)
    _, _, (new_width, new_height), (left, top) = _placement(up, width, height, size, face_scale)
    return np.array([[new_width / width, 0, -left], [0, new_height / height, -top]], np.float64)


def _placement(
    up: NDArray[np.float64], width: int, height: int, size: int, face_scale: float
) -> tuple[NDArray[np.float64], float, tuple[int, int], tuple[int, int]]:
    """The mean face's place (2,) and scale, the scaled picture's width and height, and the crop's left and top in it."""
    shift, face = _weak_perspective(up)
    scale = face_scale / face if face > 0 else np.inf
    if not max(height, width) * scale <= _LONGEST_SIDE:
        raise LikenessError(
            f"the five points span too little to align a face by: the {width} x {height} picture would grow {scale:.3g} times",
            allowed=f"a scaled picture of at most {_LONGEST_SIDE} pixels a side",
            fix="check the landmarks, or mark the frame as having no face",
        )
    new_width, new_height = int(width * scale), int(height * scale)
    # Truncated towards zero, and from the already truncated size: the published crop is off by up to a pixel in the same way.
    left = int(new_width / 2 - size / 2 + (shift[0] - width / 2) * scale)
    top = int(new_height / 2 - size / 2 + (height / 2 - shift[1]) * scale)
    return shift, scale, (new_width, new_height), (left, top)


def _weak_perspective(up: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Least squares of `up` = rows @ STANDARD_POINTS + shift: the shift (2,) and the mean length of the two rows."""
    homogeneous = np.hstack([STANDARD_POINTS, np.ones((5, 1))])
    solution = np.linalg.lstsq(homogeneous, up, rcond=None)[0]
    return solution[3], float(np.linalg.norm(solution[:3], axis=0).mean())


def _points(points: ArrayLike, count: int) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.shape != (count, 2) or not np.isfinite(array).all():
        raise LikenessError(f"face points of shape {array.shape}", allowed=f"({count}, 2) finite pixel coordinates")
    return array


def _flip(points: NDArray[np.float64], height: int) -> NDArray[np.float64]:
    return np.stack([points[:, 0], height - 1 - points[:, 1]], axis=1)
