"""The 68- and 5-point subsets that published methods were trained with."""

from __future__ import annotations

from typing import Any

import numpy as np

from preprocessing.fields import LANDMARKS_5, LANDMARKS_68, LANDMARKS_478, Field
from preprocessing.operator import Operator, Sample

# Mesh vertices in the iBUG 300-W order. Left and right are the picture's.
# fmt: off
IBUG_68 = (
    # jaw, from the left ear to the right
    127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,
    # left brow, outside to inside; right brow, inside to outside
    70, 63, 105, 66, 107,    336, 296, 334, 293, 300,
    # bridge of the nose down to its tip; below the nose
    168, 197, 5, 4,    98, 97, 2, 326, 327,
    # left eye, clockwise from its outer corner; right eye, clockwise from its inner corner
    33, 160, 158, 133, 153, 144,    362, 385, 387, 263, 373, 380,
    # outer and inner lips, clockwise from the left corner
    61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91,    78, 81, 13, 311, 308, 402, 14, 178,
)
# fmt: on
LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS = (33, 133), (362, 263)
NOSE_TIP, MOUTH_CORNERS = 4, (61, 291)


class LandmarkSubsets(Operator):
    """LANDMARKS_68 and LANDMARKS_5 by selection from the mesh; zeros stay zeros.

    The 68 points are the mesh vertices closest in meaning to iBUG's; the jaw line is the mesh's silhouette in equal steps. An
    eye of the 5 points is the mean of its corners, as in Deep3DFaceRecon: it moves neither with the gaze nor with a blink.
    """

    name = "landmark_subsets"
    version = 1

    @property
    def reads(self) -> tuple[Field, ...]:
        return (LANDMARKS_478,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (LANDMARKS_68, LANDMARKS_5)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        mesh = sample[LANDMARKS_478][:, :, :2]
        eyes = [mesh[:, LEFT_EYE_CORNERS].mean(1), mesh[:, RIGHT_EYE_CORNERS].mean(1)]
        five = [*eyes, mesh[:, NOSE_TIP], *(mesh[:, corner] for corner in MOUTH_CORNERS)]
        return {LANDMARKS_68: mesh[:, IBUG_68], LANDMARKS_5: np.stack(five, 1).astype(np.float32)}
