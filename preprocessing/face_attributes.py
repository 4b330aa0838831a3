"""A face's proportions and what its mouth and eyes do, from the 478 points of its mesh, as numbers and as words.

Lengths are taken in space (the mesh has a depth), so that turning the head changes them little. The words' limits are about the
outer quarters or tenths of 52 portraits of many people: they say how a face differs from the others, not what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOP, CHIN, CHEEKS, JAW = 10, 152, (234, 454), (172, 397)
EYES = ((33, 133, 159, 145), (362, 263, 386, 374))  # two corners, upper and lower lid
INNER_CORNERS, NOSTRILS = (133, 362), (98, 327)
MOUTH_CORNERS, INNER_LIPS, UPPER_LIP, LOWER_LIP = (61, 291), (13, 14), (0, 13), (14, 17)


@dataclass(frozen=True)
class FaceAttributes:
    """Ratios, from one frame's mesh.

    Attributes:
        width: of the face by its height.
        jaw: its width by the face's.
        eye_opening: of the lids by the width of the eye.
        eye_distance: between the inner corners by the face's width.
        nose: width by the face's.
        mouth: width by the face's.
        lips: thickness of both by the mouth's width.
        gap: between the lips by the mouth's width.
        smile: how far the corners lie above the middle of the mouth, by its width.
    """

    width: float
    jaw: float
    eye_opening: float
    eye_distance: float
    nose: float
    mouth: float
    lips: float
    gap: float
    smile: float


def face_attributes(mesh: np.ndarray) -> FaceAttributes:
    """Of (478, 3) points in px, y down."""
    points = mesh.astype(np.float64)

    def length(a: int, b: int) -> float:
        return float(np.linalg.norm(points[a] - points[b]))

    width, height, mouth = length(*CHEEKS), length(TOP, CHIN), length(*MOUTH_CORNERS)
    down = (points[CHIN] - points[TOP]) / height
    middle, corners = points[list(INNER_LIPS)].mean(0), points[list(MOUTH_CORNERS)].mean(0)
    return FaceAttributes(
        width=width / height,
        jaw=length(*JAW) / width,
        eye_opening=float(np.mean([length(up, low) / length(a, b) for a, b, up, low in EYES])),
        eye_distance=length(*INNER_CORNERS) / width,
        nose=length(*NOSTRILS) / width,
        mouth=mouth / width,
        lips=(length(*UPPER_LIP) + length(*LOWER_LIP)) / mouth,
        gap=length(*INNER_LIPS) / mouth,
        smile=float((middle - corners) @ down) / mouth,
    )


SMILE, FROWN, PARTED, OPEN = 0.055, -0.055, 0.06, 0.3
SHUT, NARROW, WIDE = 0.17, 0.25, 0.375


def mouth_words(face: FaceAttributes) -> str:
    """What the mouth does: "smiling with parted lips", "with the mouth open"; "" where nothing is to be said."""
    if face.gap >= OPEN:
        return "with the mouth wide open"
    parted = face.gap >= PARTED
    if face.smile >= SMILE:
        return "smiling with parted lips" if parted else "smiling with closed lips"
    if face.smile <= FROWN and not parted:
        return "with the corners of the mouth turned down"
    return "with parted lips" if parted else ""


def description(face: FaceAttributes, yaw_degrees: float) -> str:
    """One sentence that names face, ears, eyes, nose and mouth once each, in this order (ConsistentID's part words)."""
    shape = _word(face.width, 0.79, "a long face", 0.835, "a wide face", "an oval face")
    jaw = _word(face.jaw, 0.777, " with a narrow jaw", 0.818, " with a broad jaw", "")
    ears = "ears of which one is turned away" if abs(yaw_degrees) > 20 else "two ears"
    lids = "nearly shut" if face.eye_opening < SHUT else _word(face.eye_opening, NARROW, "narrowed", WIDE, "wide-open", "open")
    apart = _word(face.eye_distance, 0.238, " close-set", 0.259, " wide-set", "")
    nose = _word(face.nose, 0.235, "a narrow nose", 0.28, "a broad nose", "a nose of medium width")
    size = _word(face.mouth, 0.36, "small ", 0.49, "wide ", "")
    lips = _word(face.lips, 0.225, "thin lips", 0.4, "full lips", "lips")
    state = "wide apart" if face.gap >= OPEN else "parted" if face.gap >= PARTED else "closed"
    mood = " that smiles" if face.smile >= SMILE and face.gap < OPEN else ""
    return f"The person has {shape}{jaw}, {ears}, {lids}{apart} eyes, {nose}, and a {size}mouth{mood} with {lips} {state}."


def _word(value: float, low: float, below: str, high: float, above: str, between: str) -> str:
    return below if value < low else above if value > high else between
