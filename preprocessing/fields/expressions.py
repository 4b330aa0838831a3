"""What a face does: blendshapes and action units."""

from __future__ import annotations

import re
from typing import Literal, get_args

from preprocessing.fields.contract import Family, Field

ActionUnitVariant = Literal["blendshapes", "megraphau"]
_VARIANTS = "|".join(get_args(ActionUnitVariant))

BLENDSHAPES_52 = Field(
    "blendshapes_52", "npy", "float32", ("frames", 52), "frame",
    "how far each of ARKit's blendshapes is on, 0 to 1, by MediaPipe's network on the face mesh, in its order (the first is "
    "neutral, the last noseSneerRight); zeros where not valid",
)


def action_units(variant: str) -> Field:
    """Facial action units of a clip as seen by one named detector; variants do not agree and are not to be mixed."""
    return Field(
        f"action_units_{variant}", "json", "object", (), "clip",
        f"facial action units by {variant}: frames (up to 3, drawn at random), per_frame (those seen in each) and labels (those "
        "seen in all of them), of the 41 of OpenGraphAU, such as AU12 or AUL2",
    )


FIELDS: tuple[Field, ...] = (BLENDSHAPES_52,)

FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(f"action_units_({_VARIANTS})"), lambda m: action_units(m[1]), f"action_units_({_VARIANTS})",
        "action_units_blendshapes",
    ),
)
