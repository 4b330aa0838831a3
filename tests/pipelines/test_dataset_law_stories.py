"""The laws over whole lives of a dataset: hypothesis makes up what happens to sources, requests and builds, in any order."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dataset_toy as toy
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from interrupt import HOW, How, stop, stopping
from law_model import (
    EXHAUSTIVE,
    READS_FRAMES,
    Values,
    Watch,
    check_idle,
    check_whole,
    contents,
    expected,
    is_down,
    keys,
    make,
    stored,
)  # fmt: skip

from infra.storage import open_dataset
from infra.storage.columns import parse_index
from infra.storage.tombstones import Tombstones, of_text
from pipelines.dataset.collect import collect
from pipelines.dataset.select import counts, select
from pipelines.dataset.takedown import find_impact, take_down
from pipelines.dataset.verify import verify

FIELDS = ("doubled", "shifted", "summed", "fragile", "batched", "after")
NAMES = tuple(f"{folder}{name}" for folder in ("", "anna/", "bert/") for name in ("one.mp4", "two.mp4", "silent.mp4"))
TEXTS = st.one_of(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=3).map(
        lambda rows: "\n".join(" ".join(map(str, row)) for row in rows)),
    st.sampled_from(["", "no numbers", "7", "13", "1 2\n13 4\n5"]),
)  # fmt: skip


class Story(RuleBasedStateMachine):
    """`texts` are the files that lie there, `known` what the dataset must know of: also files that are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.root, self.source = self.folder / "set", self.folder / "clips"
        self.texts: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.fields: list[str] = ["doubled"]
        self.by = self.by_held = 1
        self.held: Values = {}  # of HEAD
        self.mended: set[str] = set()  # texts of rows once tried with `fragile` mended: they may come back from older columns
        self.ticks = itertools.count(1)
        self.watch = Watch(self.root)
        self.unfinished = False
        self.journal: list[Callable[[Story], Any]] = []
        self.comparable = True

    def do(self, step: Callable[[Story], Any]) -> None:
        step(self)
        self.journal.append(step)

    # what happens to sources

    @initialize(texts=st.lists(TEXTS, min_size=1, max_size=4))
    def begin(self, texts: list[str]) -> None:
        self.do(partial(Story._write, name="zoe/zero.mp4", text="31 32 33"))  # never without any row
        for name, text in zip(NAMES, texts, strict=False):
            self.do(partial(Story._write, name=name, text=text))

    def _write(self, name: str, text: str) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(0, 10**9 * next(self.ticks)))
        self.texts[f"clips/{name}"] = text

    def _remove(self, name: str) -> None:
        (self.source / name).unlink()
        del self.texts[f"clips/{name}"]

    def _rename(self, old: str, new: str) -> None:
        (self.source / new).parent.mkdir(parents=True, exist_ok=True)
        (self.source / old).rename(self.source / new)
        self.texts[f"clips/{new}"] = self.texts.pop(f"clips/{old}")

    @rule(name=st.sampled_from(NAMES), text=TEXTS)
    def write(self, name: str, text: str) -> None:
        self._moved_on()
        self.do(partial(Story._write, name=name, text=text))

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        if f"clips/{name}" in self.texts:
            self._moved_on()
            self.do(partial(Story._remove, name=name))

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def rename(self, old: str, new: str) -> None:
        if f"clips/{old}" in self.texts and f"clips/{new}" not in self.texts:
            self._moved_on()
            self.do(partial(Story._rename, old=old, new=new))

    # what is asked for

    @rule(name=st.sampled_from(FIELDS), by=st.integers(1, 2), first=st.booleans())
    def ask(self, name: str, by: int, first: bool) -> None:
        if name not in self.fields:
            self.fields.insert(0 if first else len(self.fields), name)
            self._moved_on()
        if by != self.by:
            self.by = by
            self._moved_on()
        self.journal.append(partial(Story._ask, fields=tuple(self.fields), by=self.by))

    def _ask(self, fields: tuple[str, ...], by: int) -> None:
        self.fields, self.by = list(fields), by

    # builds

    def _make(self, retry: bool = False) -> None:
        make(self.root, self.source, self.fields, self.by, retry=retry)

    @rule()
    def build(self) -> None:
        self.do(Story._make)
        self._built()

    @rule(at=st.integers(1, 160), how=st.sampled_from(HOW))
    def build_stopped(self, at: int, how: How) -> None:
        before = {path.name for path in (self.root / "manifests").glob("*")}
        head = open_dataset(self.root).digest if self.held else None
        steps = stop(self._make, at, how)
        if head is not None or not (self.root / "HEAD").exists():
            self.unfinished = True
        if steps.stopped:
            now = open_dataset(self.root).digest if (self.root / "HEAD").exists() else None
            if now != head:  # so far it came: as if it had ended well, but for what follows HEAD
                self.do(Story._make)
                self._built()
            elif {path.name for path in (self.root / "manifests").glob("*")} != before:
                self.stray = True
        else:
            self.journal.append(Story._make)
            self._built()

    @rule(mended=st.booleans())
    def retry(self, mended: bool) -> None:
        self.build()  # what a killed build has tried counts as tried
        self.do(partial(Story._retry, mended=mended))
        self._built(mended)

    def _retry(self, mended: bool) -> None:
        toy.Fragile.mended = mended
        try:
            self._make(retry=True)
        finally:
            toy.Fragile.mended = False

    stray = False

    def _moved_on(self) -> None:
        """Something changed. After a build that was killed between manifest and HEAD that manifest stays, and takes up numbers."""
        self.comparable &= not self.stray

    def _built(self, mended: bool = False) -> None:
        """A build ended well: the laws, and what is stored against the model."""
        self.unfinished = self.stray = False
        before, by_before, self.by_held = self.held, self.by_held, self.by
        gone_before = {path for path in self.known if path not in self.texts}
        same = {path for path, text in self.texts.items() if self.known.get(path) == text} | gone_before
        self.known |= self.texts
        stones = Tombstones.load(self.root)
        self.known = {path: text for path, text in self.known.items() if path in self.texts or not is_down(path, text, stones)}
        check_whole(self.root, self.known)
        check_idle(self.root, self.source, self.fields, self.by)
        self.watch.look()
        data = open_dataset(self.root)
        self.held = stored(data)
        made = {name for name in data.fields if name in toy.TOYS}
        assert set(self.fields) <= made
        left = keys(self.known, stones)
        want = {place: value for place, value in expected(self.known, made, self.by).items() if place[0] in left}
        if mended:
            self.mended |= {row.key for row in data.rows()}
        for place in want.keys() | self.held.keys():
            path = data.row(place[0]).source["path"]
            if place not in want:  # a 13 in `fragile`
                assert place[0] in self.mended
                assert place[1] == "fragile"
            elif place not in self.held:  # frames of a file that is gone
                assert path not in self.texts
                assert place[1] in READS_FRAMES
                assert place not in before or path not in same or (place[1] == "summed" and self.by != by_before)
            else:
                assert self.held[place] == want[place]
        if mended:
            assert {row.key for row in data.rows() if row.source["path"] in self.texts} <= {
                key for key, name in self.held if name == "fragile"} or "fragile" not in made

    # what is done with it

    @precondition(lambda self: self.held and "summed" in self.fields and not self.unfinished)
    @rule(least=st.integers(0, 200))
    def select(self, least: int) -> None:
        data = open_dataset(self.root)
        if "summed" not in data.fields or not any(name == "summed" for _, name in self.held):
            return
        made = select(self.root, "bright", [f"summed.frames >= {least}"])
        sums = {key: value["frames"] for (key, name), value in self.held.items() if name == "summed"}
        rows = {row.key for row in data.rows()}
        kept = {key for key, value in sums.items() if value >= least}
        assert counts(made) == {"all": len(rows), "kept": len(kept), "dropped": len(sums) - len(kept),
                                "missing": len(rows) - len(sums)}  # fmt: skip
        assert {row.key for row in open_dataset(self.root, selection="bright").rows()} == kept

    @precondition(lambda self: self.held)
    @rule(keep=st.integers(1, 3))
    def collect(self, keep: int) -> None:
        self.comparable = False  # what is gone can't be taken up again
        collect(self.root, keep)
        self.unfinished = True

    @precondition(lambda self: self.held)
    @rule(kind=st.sampled_from(["sources", "people", "keys"]), which=st.integers(0, 30), purged=st.booleans(),
          at=st.integers(0, 120))  # fmt: skip
    def take_down(self, kind: str, which: int, purged: bool, at: int) -> None:
        rows = [row for row in open_dataset(self.root).rows() if "zoe/" not in row.source["path"]]
        if not rows:
            return
        row = rows[which % len(rows)]
        name = {"sources": row.source["path"], "people": row.source["person"], "keys": row.key}[kind]
        self._moved_on()
        stop(partial(self._take_down, kind, name, purged), at, "killed")
        self.do(partial(Story._take_down, kind=kind, name=name, purged=purged))
        stones = Tombstones.load(self.root)
        assert row.key not in {row.key for row in open_dataset(self.root).rows()}
        left = keys(self.known, stones)
        self.held = {place: value for place, value in self.held.items() if place[0] in left}
        if purged:
            self.unfinished = True
            lost = {of_text(key) for stone in stones.entries for key in stone.rows}
            assert not lost & {of_text(member) for folder in (self.root / "columns").rglob("*.idx")
                               for member in {line.key for line in parse_index(folder.read_bytes())}}  # fmt: skip
            assert verify(self.root).problems == []

    def _take_down(self, kind: str, name: str, purged: bool) -> None:
        take_down(self.root, find_impact(self.root, **{kind: [name]}), purged)

    # always

    @invariant()
    def readers_see_what_head_says(self) -> None:
        if self.held:
            assert stored(open_dataset(self.root)) == self.held
            self.watch.look()

    def teardown(self) -> None:
        """The dataset has the bytes of one that was built without being stopped."""
        try:
            if self.journal and self.source.exists():
                self.build()
                if self.comparable:
                    other = Story()
                    try:
                        for step in self.journal:
                            step(other)
                        assert contents(other.root) == contents(self.root)
                    finally:
                        shutil.rmtree(other.folder)
        finally:
            shutil.rmtree(self.folder)


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def tell(examples: int, steps: int) -> None:
    """Without syncing, which only a power cut would show."""
    with stopping():
        run_state_machine_as_test(Story, settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate],  # shrinking takes minutes; take Phase.shrink in to look into a failure
            suppress_health_check=CHECKS))  # fmt: skip


def test_any_story_ends_as_the_laws_say() -> None:
    tell(examples=14, steps=14)


@EXHAUSTIVE
def test_long_stories_end_as_the_laws_say() -> None:
    tell(examples=25, steps=25)
