"""insightface's own landmarks: 106 points in the picture, 68 in space."""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import numpy as np

from infra.errors import LikenessError
from preprocessing.fields import FACE_BOX, FACE_VALID, LANDMARKS_3D_68, LANDMARKS_106, VIDEO, Field
from preprocessing.operator import Operator, Resources, Sample

SIZE_PX = 192
MARGIN = 1.5  # the crop's side, in longer sides of the box
CENTRE = 0.5  # insightface counts pixel centres at whole numbers


class _Landmarks(Operator):
    """One network on a square around each valid face; zeros elsewhere.

    The square is 1.5 times the longer side of FACE_BOX, upright, brought to 192 px by plain bilinear sampling, black outside; RGB,
    0..255 (the networks scale it themselves). insightface takes its own detector's box, which follows the same convention.
    """

    field: ClassVar[Field]
    rows: ClassVar[int]  # that the network gives, of which the last are the points

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO, FACE_BOX, FACE_VALID)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (self.field,)

    def setup(self) -> None:
        """Load the network.

        Raises:
            LikenessError: its asset is not here (what to place where), or is another network.
        """
        from preprocessing.onnx_session import OnnxNetwork

        (name,) = self.assets
        self._network = OnnxNetwork(self.asset(name))
        shapes = list(self._network.inputs.values())
        if len(shapes) != 1 or shapes[0][1:] != (3, SIZE_PX, SIZE_PX) or len(self._network.outputs) != 1:
            what = f"asset {name} takes {shapes} and gives {len(self._network.outputs)} outputs"
            raise LikenessError(what, allowed=f"one input of (n, 3, {SIZE_PX}, {SIZE_PX}), one output")

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        boxes, valid = sample[FACE_BOX], sample[FACE_VALID]
        count, dims = self.field.shape[1:]
        points = np.zeros((len(valid), int(count), int(dims)), np.float32)
        for place, frame in enumerate(sample[VIDEO] if valid.any() else ()):
            if valid[place]:
                points[place] = self._points(frame, boxes[place])
        return {self.field: points}

    def _points(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        face, scale, shift = cut(frame, box)
        found = self._network(np.ascontiguousarray(face.transpose(2, 0, 1)[None], np.float32))[0]
        count, dims = (int(n) for n in self.field.shape[1:])
        if found.size != self.rows * dims:
            raise LikenessError(f"asset {self.assets[0]} gives {found.size} numbers", allowed=f"{self.rows * dims}")
        points = found.reshape(self.rows, dims)[-count:].astype(np.float64) * (SIZE_PX // 2)
        points[:, :2] += SIZE_PX // 2
        points[:, :2] = (points[:, :2] - shift) / scale + CENTRE
        points[:, 2:] /= scale
        return points


class Landmarks106(_Landmarks):
    """LANDMARKS_106 by 2d106det (insightface)."""

    name = "landmarks_106"
    version = 1
    resources = Resources(assets=("landmarks_106",))
    field = LANDMARKS_106
    rows = 106


class Landmarks3D68(_Landmarks):
    """LANDMARKS_3D_68 by 1k3d68 (insightface), which gives 1103 points; the last 68 are these."""

    name = "landmarks_3d_68"
    version = 1
    resources = Resources(assets=("landmarks_3d_68",))
    field = LANDMARKS_3D_68
    rows = 1103


def cut(frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """The (192, 192, 3) square around a box, and the scale and shift that put px counted at whole numbers into it.

    Raises:
        LikenessError: the box has no area.
    """
    low, high = np.asarray(box[:2], np.float64), np.asarray(box[2:4], np.float64)
    side = float((high - low).max())
    if not side > 0:
        raise LikenessError(f"a face box of {side:g} px", allowed="a box with some area")
    scale = SIZE_PX / (side * MARGIN)
    shift = SIZE_PX / 2 - ((low + high) / 2 - CENTRE) * scale
    m = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return np.asarray(cv2.warpAffine(frame, m, (SIZE_PX, SIZE_PX), flags=cv2.INTER_LINEAR)), scale, shift
