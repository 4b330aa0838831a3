"""Charts as inline SVG: histograms, waveforms and the graph of columns. Colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from pipelines.report.words import number

BINS = 24
CHART = (240, 64)  # px, the coordinates of a histogram
WAVE = (320, 48)


@dataclass(frozen=True)
class Histogram:
    """Numbers of the rows by split.

    Attributes:
        edges: (BINS + 1,) ascending.
        counts: split -> (BINS,) rows.
        quantiles: numbers at 5 %, 25 %, 50 %, 75 % and 95 % of the rows.
        missing: rows without a number.
    """

    name: str
    edges: np.ndarray
    counts: Mapping[str, np.ndarray]
    quantiles: tuple[float, ...]
    missing: int

    @property
    def constant(self) -> bool:
        """Whether all rows have the same number."""
        return bool(self.edges[0] == self.edges[-1])

    @property
    def sentence(self) -> str:
        """The chart in words."""
        if self.constant:
            return f"{self.name}: {number(self.edges[0])} for all rows"
        low, _, middle, _, high = (number(q) for q in self.quantiles)
        return f"{self.name}: median {middle}, nine in ten rows from {low} to {high}"


def histogram(name: str, values: np.ndarray, splits: Sequence[str]) -> Histogram | None:
    """`values` (rows,), NaN for rows without one; None where no row has one."""
    there = ~np.isnan(values)
    known = values[there]
    if not len(known):
        return None
    edges = np.linspace(known.min(), known.max(), BINS + 1)
    own = np.array(splits)[there]
    counts = {}
    for split in sorted(set(splits)):
        counts[split] = np.bincount(_bin(known[own == split], edges), minlength=BINS)
    quantiles = tuple(float(q) for q in np.quantile(known, (0.05, 0.25, 0.5, 0.75, 0.95)))
    return Histogram(name, edges, counts, quantiles, int((~there).sum()))


def _bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """As the page's script counts too: comparing with `edges` would differ from it by a rounding here and there."""
    reach = edges[-1] - edges[0]
    place = np.floor((values - edges[0]) / reach * BINS).astype(int) if reach > 0 else np.zeros(len(values), int)
    return np.clip(place, 0, BINS - 1)


def histogram_svg(chart: Histogram, colours: Mapping[str, str]) -> Markup:
    """Bars stacked by split, the median as a line and the middle half of the rows as a band; `colours`: split -> class."""
    width, height = CHART
    total = sum(chart.counts.values(), np.zeros(BINS, int))
    top, step = max(int(total.max()), 1), width / BINS
    parts = []
    for place in range(BINS):
        span = f"{number(chart.edges[place])} to {number(chart.edges[place + 1])}"
        shares = ", ".join(f"{split or 'no split'} {n[place]}" for split, n in chart.counts.items() if n[place])
        parts.append(f'<g class="bin" data-bin="{place}"><title>{escape(span)}: {escape(shares or "no rows")}</title>')
        parts.append(f'<rect class="hit" x="{place * step:g}" y="0" width="{step:g}" height="{height}"/>')
        base = float(height)
        for split, counts in chart.counts.items():
            if counts[place]:
                tall = max(counts[place] / top * (height - 4), 1.5)
                base -= tall
                size = f'x="{place * step + 0.5:g}" y="{base:.2f}" width="{step - 1:g}" height="{tall:.2f}"'
                parts.append(f'<rect class="bar {colours[split]}" {size}/>')
        parts.append("</g>")
    reach = chart.edges[-1] - chart.edges[0]
    x = [(q - chart.edges[0]) / reach * width for q in chart.quantiles]
    marks = (f'<rect class="middle" x="{x[1]:.2f}" y="{height + 2}" width="{max(x[3] - x[1], 1):.2f}" height="3"/>'
             f'<line class="whisker" x1="{x[0]:.2f}" x2="{x[4]:.2f}" y1="{height + 3.5}" y2="{height + 3.5}"/>'
             f'<line class="median" x1="{x[2]:.2f}" x2="{x[2]:.2f}" y1="0" y2="{height + 7}"/>')
    head = f'<svg viewBox="0 0 {width} {height + 8}" role="img" aria-label="{escape(chart.sentence)}" preserveAspectRatio="none">'
    return Markup(head + "".join(parts) + '<g class="matches"></g>' + marks + "</svg>")


def waveform_svg(audio: np.ndarray, voiced: np.ndarray | None, part: tuple[float, float] | None) -> Markup:
    """Peaks of the sound, voiced stretches in the accent colour, and below them the stretch that the preview plays.

    Args:
        audio: int16 (samples,).
        voiced: bool per frame, or None where it is not known.
        part: begin and end of the preview as shares of the sound.
    """
    width, height = WAVE
    columns = width // 2
    pieces = np.array_split(np.abs(audio.astype(np.int32)), columns)
    peaks = np.array([piece.max() if len(piece) else 0 for piece in pieces]) / 32768
    spoken = np.zeros(columns, bool)
    if voiced is not None and len(voiced):
        spoken = voiced[np.minimum(np.arange(columns) * len(voiced) // columns, len(voiced) - 1)].astype(bool)
    middle = (height - 6) / 2
    paths = {"quiet": "", "voiced": ""}
    for place, peak in enumerate(np.sqrt(peaks)):  # by amplitude alone, speech 20 dB under full scale would be a flat line
        half = max(float(peak) * middle, 0.5)
        paths["voiced" if spoken[place] else "quiet"] += f"M{place * 2 + 1} {middle - half:.1f}v{2 * half:.1f}"
    share = f"{spoken.mean():.0%} of it voiced" if voiced is not None else "voiced parts not known"
    drawn = "".join(f'<path class="{name}" d="{path}"/>' for name, path in paths.items() if path)
    bar = ""
    if part:
        start, stop = (share_ * width for share_ in part)
        bar = f'<rect class="part" x="{start:.1f}" y="{height - 4}" width="{stop - start:.1f}" height="3" rx="1.5"/>'
        bar += f'<line class="head" x1="{start:.1f}" x2="{start:.1f}" y1="0" y2="{height - 5}"/>'
    label = f"waveform, {share}"
    return Markup(f'<svg class="wave" viewBox="0 0 {width} {height}" role="img" aria-label="{label}" preserveAspectRatio="none">'
                  f"{drawn}{bar}</svg>")  # fmt: skip
