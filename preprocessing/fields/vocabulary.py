"""All fields there are. `python -m preprocessing.fields` prints them as the Markdown table kept in `docs/fields.md`.

A new field stands in the module of its theme, in that module's FIELDS or FAMILIES; a new theme is one word in `THEMES`.
"""

from __future__ import annotations

from preprocessing.fields import (
    bodies,
    conditions,
    expressions,
    face_parts,
    faces,
    latents,
    morphable,
    pictures,
    quality,
    sound,
    source,
    text,
    video,
)
from preprocessing.fields.contract import Family, Field

THEMES = (
    source, faces, face_parts, expressions, morphable, bodies, sound, pictures, video, conditions, quality, text, latents,
)  # fmt: skip
FIELDS: tuple[Field, ...] = tuple(field for theme in THEMES for field in theme.FIELDS)
FAMILIES: tuple[Family, ...] = tuple(family for theme in THEMES for family in getattr(theme, "FAMILIES", ()))


def by_name(name: str) -> Field | None:
    """The field called `name`, or None."""
    for known in FIELDS:
        if known.name == name:
            return known
    for family in FAMILIES:
        if match := family.pattern.fullmatch(name):
            return family.make(match)
    return None


def known_names() -> list[str]:
    """Names to offer when one is not known; families by their pattern."""
    return [f.name for f in FIELDS] + [family.shown for family in FAMILIES]


def markdown() -> str:
    """The vocabulary as a Markdown table."""
    rows = ["| field | type | per | stored as | meaning |", "|---|---|---|---|---|"]
    examples = [by_name(family.example) for family in FAMILIES]
    for f in (*FIELDS, *(found for found in examples if found)):
        shape = " × ".join(str(axis) for axis in f.shape)
        kind = f"{f.dtype} {shape}".strip() + (f", {f.unit}" if f.unit else "") + (f", {f.colour}" if f.colour else "")
        where = f" ({f.coordinates})" if f.coordinates else ""
        rows.append(f"| `{f.name}` | {kind} | {f.rate} | {f.codec if f.stored else 'not stored'} | {f.meaning}{where} |")
    return "\n".join(rows) + "\n"
