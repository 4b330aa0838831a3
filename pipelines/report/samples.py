"""The sample sheet: what the page shows of each chosen row, as values for its template."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from infra.storage import Row
from pipelines.report.choice import Chosen, choose
from pipelines.report.facts import Facts
from pipelines.report.ledgers import Problem, Status
from pipelines.report.preview import Preview, Previews
from pipelines.report.svg import waveform_svg
from pipelines.report.thumbnails import Thumbnail, thumbnails
from pipelines.report.words import number
from preprocessing.codecs import decode
from preprocessing.fields import by_name

# Shown on the card itself, as many as there are of these; all numbers stand in the large view.
KEY_MEASURES = (
    "measures.face_side_px", "measures.blur", "measures.yaw", "measures.valid_share", "measures.faces", "sync.confidence",
    "measures.voiced_share", "sound_measures.voiced_share", "picture_measures.blur", "picture_measures.motion",
)  # fmt: skip
MOST_KEY_MEASURES = 4
CAPTIONS = "caption_"


@dataclass(frozen=True)
class Shown:
    """One row of the sheet. `place` is its number among the rows, `why` what makes it stand out.

    `pictures` are thumbnails of its fields, `pictures_left_out` names of fields for which there was no room.
    """

    place: int
    row: Row
    status: Status
    why: list[str]
    captions: dict[str, str]
    numbers: dict[str, float]
    key_numbers: dict[str, float]
    problems: list[Problem]
    source: dict[str, str]
    fields: dict[str, int]
    preview: Preview
    wave: Markup
    pictures: list[Thumbnail]
    pictures_left_out: list[str]

    @property
    def poster_uri(self) -> str:
        return data_uri("image/jpeg", self.preview.poster) if self.preview.poster else ""

    @property
    def clip_uri(self) -> str:
        return data_uri("video/mp4", self.preview.clip) if self.preview.clip else ""

    @property
    def alt(self) -> str:
        """The picture in words."""
        source = self.row.source
        what = next(iter(self.captions.values()), "") or f"{source.get('kind', 'video')} of {source.get('person', '')}"
        return f"{what} ({source.get('path')})"


def make_samples(facts: Facts, count: int, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Shown]:
    """The sheet of at most `count` rows; decodes a few seconds of each of their sources."""
    chosen = choose(facts.rows, facts.numbers, facts.outcomes.rows, count)
    with tempfile.TemporaryDirectory() as scratch:
        previews = Previews(facts.dataset, Path(scratch))
        shown = []
        for done, one in enumerate(chosen):
            progress(done, len(chosen))
            shown.append(_shown(facts, one, previews.of(facts.rows[one.place])))
    return shown


def _shown(facts: Facts, chosen: Chosen, preview: Preview) -> Shown:
    row = facts.rows[chosen.place]
    numbers = facts.numbers.of_row(chosen.place)
    key = [name for name in KEY_MEASURES if name in numbers][:MOST_KEY_MEASURES]
    moving = int(row.source["n_frames"]) > 1
    wave = Markup("")
    if preview.audio is not None and len(preview.audio):
        wave = waveform_svg(preview.audio, preview.voiced, preview.part if moving else None)
    told = {name: value for name, value in sorted(row.source.items()) if value not in ("", None, [], {}) and name != "path"}
    fields = {name: facts.dataset.open_member(row, name)[2] for name in facts.dataset.fields if facts.dataset.has(row, name)}
    return Shown(
        chosen.place, row, facts.outcomes.rows[row.key], chosen.why, captions_of(facts, row), numbers,
        {name: numbers[name] for name in key}, facts.outcomes.by_row.get(row.key, []),
        {name: _text(value) for name, value in told.items()}, fields, preview, wave, *thumbnails(facts.dataset, row),
    )  # fmt: skip


def captions_of(facts: Facts, row: Row) -> dict[str, str]:
    """Caption field -> text; the caption that came with the source where no field holds it."""
    found = {}
    for name in sorted(n for n in facts.dataset.fields if n.startswith(CAPTIONS)):
        field = by_name(name)
        if field is not None and facts.dataset.has(row, name):
            found[name] = str(decode(field, facts.dataset.read(row, name)))
    given = facts.source_captions.get(str(row.source.get("path")), "")
    return found or ({"given with the source": given} if given else {})


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return number(value) if isinstance(value, float) else str(value)
