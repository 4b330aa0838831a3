"""Which rows a report shows: a spread over the people, and the rows at the ends of every measure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from infra import digest
from infra.storage import Row
from pipelines.report.ledgers import Status
from pipelines.report.numbers import Numbers
from preprocessing.fields import SOURCE

OUTLIER_SHARE = 1 / 3
FAILED_SHARE = 1 / 6
MOST_ALIKE = 0.02  # share of the rows that may have the lowest number for it to be worth showing one of them


@dataclass
class Chosen:
    """A row to show: its number in `Dataset.rows()`, and why, besides being one of many: "lowest measures.blur"."""

    place: int
    why: list[str] = field(default_factory=list)


def choose(rows: Sequence[Row], numbers: Numbers, statuses: Mapping[str, Status], count: int) -> list[Chosen]:
    """At most `count` rows, the same for the same rows: some that lack values, the ends of the measures, then person after person.

    Which of a person's rows comes first is decided by the digest of its key: as good as chance, and the same every time.
    """
    chosen: dict[int, Chosen] = {}
    lacking = [n for n, row in enumerate(rows) if statuses[row.key] != "complete"]
    for place in _by_digest(rows, lacking)[: int(count * FAILED_SHARE)]:
        chosen[place] = Chosen(place)
    limit = len(chosen) + int(count * OUTLIER_SHARE)
    for why, place in _ends(numbers):
        if place in chosen:
            chosen[place].why.append(why)
        elif len(chosen) < limit:
            chosen[place] = Chosen(place, [why])
    for place in _people_in_turn(rows):
        if len(chosen) >= count:
            break
        chosen.setdefault(place, Chosen(place))
    return sorted(chosen.values(), key=lambda c: c.place)[:count]


def _ends(numbers: Numbers) -> list[tuple[str, int]]:
    ends = []
    for name in sorted(numbers.names, key=_of_source):  # what was measured tells more than how large the file is
        column = numbers.column(name)
        known = np.flatnonzero(~np.isnan(column))
        values = column[known]
        for word, end in (("lowest", values.min()), ("highest", values.max())) if len(known) > 2 else ():
            if (values == end).sum() <= max(1, MOST_ALIKE * len(known)):
                ends.append((f"{word} {name}", int(known[values == end][0])))
    return ends


def _of_source(name: str) -> bool:
    return "." not in name or name.startswith(f"{SOURCE.name}.")


def _people_in_turn(rows: Sequence[Row]) -> list[int]:
    people: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        people[str(row.source.get("person", ""))].append(place)
    queues = [_by_digest(rows, places) for _, places in sorted(people.items())]
    return [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]


def _by_digest(rows: Sequence[Row], places: list[int]) -> list[int]:
    return sorted(places, key=lambda n: digest.short(rows[n].key.encode()))
