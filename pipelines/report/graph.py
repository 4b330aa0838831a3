"""The graph of a dataset's columns as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from pipelines.report.lineage import Made

BOX = (154, 46)  # px
GAP = (42, 12)
WAY = 12  # px of height for a line that passes a layer

Item = tuple[str, int]  # a column, and the layer: its own, or one that the line from it passes


def lineage_svg(columns: Sequence[Made]) -> Markup:
    """The graph, ingest at the left; every box links to the details of its column.

    Layered: a column stands one layer right of its last input. Lines pass the layers between through places of their own, shared
    by all lines from one column, so that no line runs behind a box; in each layer the order follows that of the inputs, which
    keeps crossings few.
    """
    made = {column.column: column for column in columns}
    reach = {name: max((c.depth for c in columns if name in c.inputs), default=column.depth + 1) for name, column in made.items()}
    layers: list[list[Item]] = [[] for _ in range(max(c.depth for c in columns) + 1)]
    for name, column in made.items():
        for depth in range(column.depth, reach[name] if reach[name] > column.depth else column.depth + 1):
            layers[depth].append((name, depth))
    middle = _middles(layers, made)
    height = max(y + BOX[1] / 2 for y in middle.values()) + 2
    width = len(layers) * (BOX[0] + GAP[0]) - GAP[0] + 2
    lines = []
    for name, column in made.items():
        for depth in range(column.depth + 1, reach[name]):
            lines.append(_line(middle, (name, depth - 1), (name, depth)) + f"h{BOX[0]}")
        lines += [_line(middle, (name, c.depth - 1), (c.column, c.depth)) for c in columns if name in c.inputs]
    drawn = "".join(f'<path d="{line}"/>' for line in lines)
    boxes = "".join(_box(column, 1 + column.depth * (BOX[0] + GAP[0]), middle[name, column.depth]) for name, column in made.items())
    size = f'viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}"'
    label = "Graph of the columns, ingest at the left; the table below says the same in words"
    return Markup(f'<svg class="graph" {size} role="group" aria-label="{label}"><g>{drawn}</g>{boxes}</svg>')


def _middles(layers: list[list[Item]], made: dict[str, Made]) -> dict[Item, float]:
    """The height of each item's middle, px."""
    tallest = max(sum(_room(item, made) for item in layer) for layer in layers)
    middle: dict[Item, float] = {}
    for depth, layer in enumerate(layers):

        def wish(item: Item, depth: int = depth) -> float:
            before = [(item[0], depth - 1)] if _passes(item, made) else [(i, depth - 1) for i in made[item[0]].inputs]
            places = [middle[b] for b in before if b in middle]
            return sum(places) / len(places) if places else 0.0

        layer.sort(key=lambda item: (wish(item), item[0]))
        y = 1 + (tallest - sum(_room(item, made) for item in layer)) / 2
        for item in layer:
            middle[item] = y + _room(item, made) / 2
            y += _room(item, made)
    return middle


def _passes(item: Item, made: dict[str, Made]) -> bool:
    return made[item[0]].depth != item[1]


def _room(item: Item, made: dict[str, Made]) -> int:
    return WAY if _passes(item, made) else BOX[1] + GAP[1]


def _line(middle: dict[Item, float], start: Item, stop: Item) -> str:
    """From the right side of one item to the left side of another in the next layer."""
    x0, x1 = 1 + start[1] * (BOX[0] + GAP[0]) + BOX[0], 1 + stop[1] * (BOX[0] + GAP[0])
    y0, y1, bend = middle[start], middle[stop], GAP[0] / 2
    return f"M{x0} {y0:.1f}C{x0 + bend:g} {y0:.1f} {x1 - bend:g} {y1:.1f} {x1} {y1:.1f}"


def _box(column: Made, x: int, middle: float) -> str:
    y = middle - BOX[1] / 2
    state = ("lacking " if column.quarantined else "") + ("wanted" if any(column.fields.values()) else "between")
    count = f"{column.written} of {column.written + column.quarantined}" if column.quarantined else f"{column.written}"
    return (
        f'<a href="#{escape(column.anchor)}" class="{state}"><title>{escape(", ".join(column.fields))}</title>'
        f'<rect x="{x}" y="{y:.1f}" width="{BOX[0]}" height="{BOX[1]}" rx="7"/>'
        f'<text x="{x + 10}" y="{y + 19:.1f}">{escape(_cut(column.operator, 19))}</text>'
        f'<text class="small" x="{x + 10}" y="{y + 36:.1f}">v{column.version} · {column.digest[:8]} · {count}</text></a>'
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
