"""3D morphable face models: coefficients in published layouts, where they lie in the picture, and maps rendered from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from preprocessing.fields.contract import SOURCE_PX, Family, Field

MorphableModel = Literal["learned", "ict", "bfm", "flame"]
RenderedMap = Literal["normal", "albedo", "shaded", "depth"]


@dataclass(frozen=True)
class Layout:
    """What the numbers of one frame are, in their order.

    Attributes:
        name: as stored with the data.
        parts: name -> how many.
    """

    name: str
    parts: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return sum(count for _, count in self.parts)

    def slices(self) -> dict[str, slice]:
        """Where each part lies."""
        found, start = {}, 0
        for name, count in self.parts:
            found[name] = slice(start, start + count)
            start += count
        return found


_DEEP3D_PARTS = (("identity", 80), ("expression", 64), ("texture", 80), ("angles", 3), ("light", 27), ("translation", 3))
DEEP3D = Layout("deep3d_257", _DEEP3D_PARTS)
PIRENDERER = Layout("pirenderer_260", (*_DEEP3D_PARTS, ("crop", 3)))
DRIVING = Layout("driving_73", (("expression", 64), ("angles", 3), ("translation", 3), ("crop", 3)))
DECA = Layout("deca_236", (("identity", 100), ("texture", 50), ("expression", 50), ("pose", 6), ("camera", 3), ("light", 27)))
LAYOUTS = {layout.size: layout for layout in (DEEP3D, PIRENDERER, DRIVING, DECA)}

# FLAME's jaw is a joint, which Deep3DFaceRecon's layouts have no place for; the other models have no joints.
LAYOUTS_OF: dict[MorphableModel, tuple[int, ...]] = {
    "learned": (257, 260, 73), "ict": (257, 260, 73), "bfm": (257, 260, 73), "flame": (236,),
}  # fmt: skip
STORED_LAYOUT: dict[MorphableModel, Layout] = {"learned": PIRENDERER, "ict": PIRENDERER, "bfm": PIRENDERER, "flame": DECA}
_LINEAR = "|".join(model for model, sizes in LAYOUTS_OF.items() if 257 in sizes)
_MODELS, _MAPS = "|".join(get_args(MorphableModel)), "|".join(get_args(RenderedMap))


def coefficients(model: MorphableModel, size: int) -> Field:
    """Coefficients of one model in the layout of that many numbers; models are not interchangeable, whatever the layout."""
    layout = LAYOUTS[size]
    parts = ", ".join(f"{name} {count}" for name, count in layout.parts)
    return Field(
        f"morphable_{model}_{size}", "npy", "float32", ("frames", size), "frame",
        f"coefficients of the morphable model {model}, layout {layout.name}: {parts}; angles in radians; zeros where "
        "`face_valid` is 0",
    )


def morphable_crop(model: MorphableModel) -> Field:
    """Where the 224 px pictures lie that the coefficients are about."""
    return Field(
        f"morphable_{model}_crop", "npy", "float64", ("frames", 2, 3), "frame",
        f"matrix M from the picture to the 224 px crop that the coefficients of {model} are about: (x', y') = M (x, y, 1), "
        "counted from either's corner; zeros where not valid", unit="px", coordinates=SOURCE_PX,
    )


def morphable_fit(model: MorphableModel) -> Field:
    """What the coefficients are and how well they fit, per clip; an encoder's are compared with landmarks on request only."""
    return Field(
        f"morphable_{model}_fit", "json", "object", (), "clip",
        "morphable_model, layout, camera and harmonics of the coefficients, and the encoder where they are one's; frames with a "
        "face; error_percent of the 51 inner landmarks and contour_error_percent of the jaw line, mean distances in per "
        "cent of the outer eye corners' distance, and worst_error_percent of any frame",
    )


def face_map(model: MorphableModel, kind: RenderedMap, size_px: int) -> Field:
    """The key frame's fitted face rendered as a map that lies on `image_SIZE`."""
    meaning = {
        "normal": "normals turned with the head, x right, y up, z to the viewer, as (n + 1) / 2",
        "albedo": "colour of the surface without light, as (a + 1) / 2",
        "shaded": "colour of the surface in the estimated light, as (c + 1) / 2",
        "depth": "nearness: 1 at the nearest point of the face, 0.1 at the farthest, in all channels; above 0 is the face's mask",
    }[kind]
    outside = "0" if kind == "depth" else "(0 + 1) / 2"
    return Field(
        f"map_{kind}_{model}_{size_px}", "png", "uint8", ("height", "width", 3), "clip",
        f"the key frame's face by the morphable model {model}, on image_{size_px}: {meaning}; {outside} outside; 255 is 1",
        colour="RGB",
    )


FIELDS: tuple[Field, ...] = ()
FAMILIES: tuple[Family, ...] = (
    Family(
        re.compile(f"morphable_({_LINEAR})_(257|260|73)"), lambda m: coefficients(cast(MorphableModel, m[1]), int(m[2])),
        f"morphable_({_LINEAR})_(257|260|73)", "morphable_learned_260",
    ),
    Family(
        re.compile(r"morphable_flame_236"), lambda m: coefficients("flame", 236), "morphable_flame_236", "morphable_flame_236",
    ),
    Family(
        re.compile(f"morphable_({_MODELS})_crop"), lambda m: morphable_crop(cast(MorphableModel, m[1])),
        f"morphable_({_MODELS})_crop", "morphable_learned_crop",
    ),
    Family(
        re.compile(f"morphable_({_MODELS})_fit"), lambda m: morphable_fit(cast(MorphableModel, m[1])),
        f"morphable_({_MODELS})_fit", "morphable_learned_fit",
    ),
    Family(
        re.compile(f"map_({_MAPS})_({_MODELS})_([1-9][0-9]{{1,3}})"),
        lambda m: face_map(cast(MorphableModel, m[2]), cast(RenderedMap, m[1]), int(m[3])),
        f"map_({_MAPS})_({_MODELS})_SIZE", "map_normal_learned_512",
    ),
)  # fmt: skip
