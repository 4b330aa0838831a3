"""The loader's promises: order depends on seed and index alone, ranks share every step, fields are checked, skips are bounded."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from toy import ToyGan

from infra.errors import LikenessError
from infra.storage.dataset import Row
from preprocessing.codecs import encode
from preprocessing.fields import FACE_VALID, MEL80, VOICED
from training import distributed
from training.config import LoopConfig
from training.loader import Loader, check_fields
from training.stage import Skip, Source, Stage


class MemoryDataset:
    """Rows 0.. with a mel80 that holds the row's number; the last two are of split val; row 1 has no voiced."""

    root = "talks"

    def __init__(self, n: int = 12, people: int = 4, fields=("mel80", "voiced")) -> None:
        self.fields = dict.fromkeys(fields)
        self._rows = [
            Row(f"clip{i:02d}", 0, i, {"split": "val" if i >= n - 2 else "train", "person": f"s{i % people}"}) for i in range(n)
        ]

    def rows(self):
        return self._rows

    def made_with(self, name):
        return {"model:local:vae": f"checksum of {name}'s"}

    def has(self, row, field):
        return field in self.fields and not (row.place == 1 and field == "voiced")

    def read(self, row, field):
        return encode(MEL80, np.full((80, 20), row.place, np.float32)) if field == "mel80" else encode(VOICED, np.ones(6, bool))


class Numbers(Stage):
    """Examples tell which rows they were made of."""

    name = "numbers"
    sources = {"clips": Source(fields=(MEL80,))}
    roles = {}

    def build(self, upstream):
        return {}

    def example(self, records, rng):
        rows = [int(record[MEL80][0, 0]) for record in records["clips"]]
        return {"rows": np.array(rows), "draw": rng.integers(10**9)}

    def step(self, batch, ctx):
        raise NotImplementedError


def batches(stage=None, dataset=None, first_step=0, rank=0, world=1, monkeypatch=None, **settings):
    if monkeypatch:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: world)
    config = LoopConfig(**({"steps": 6, "batch_size": 4, "seed": 1} | settings))
    loader = Loader(stage or Numbers(), {"clips": dataset or MemoryDataset()}, config)
    return [[(b["rows"].tolist(), b["draw"].tolist()) for b in step] for step in loader.training(first_step)]


def test_an_epoch_sees_every_training_row_once():
    seen = [row for step in batches(steps=5, batch_size=2) for part in step for (row,) in part[0]]
    assert sorted(seen) == list(range(10))


def test_position_is_restored_in_examples():
    assert batches(first_step=3) == batches()[3:]


def test_loader_processes_change_nothing():
    assert batches(loader_workers=2) == batches()


def test_seed_changes_the_order():
    assert batches(seed=2) != batches()


def test_ranks_share_each_step(monkeypatch):
    whole = batches()
    parts = [batches(rank=rank, world=2, monkeypatch=monkeypatch) for rank in (0, 1)]
    for step, (left, right) in enumerate(zip(*parts, strict=True)):
        assert left[0][0] + right[0][0] == whole[step][0][0]
        assert left[0][1] + right[0][1] == whole[step][0][1]


def test_accumulation_cuts_the_same_step_in_parts():
    for one, two in zip(batches(), batches(accumulation=2), strict=True):
        assert two[0][0] + two[1][0] == one[0][0]


def test_rows_without_a_wanted_value_are_left_out():
    class Voiced(Numbers):
        sources = {"clips": Source(fields=(MEL80, VOICED))}

    seen = {row for step in batches(Voiced(), steps=9, batch_size=1) for part in step for (row,) in part[0]}
    assert seen == set(range(10)) - {1}


def test_several_of_one_person_are_different_rows():
    class Pairs(Numbers):
        sources = {"clips": Source(fields=(MEL80,), take=2, group_by="person")}

    for step in batches(Pairs()):
        for first, second in step[0][0]:
            assert first != second
            assert first % 4 == second % 4


def test_several_of_all_rows_are_different_rows():
    class Three(Numbers):
        sources = {"clips": Source(fields=(MEL80,), take=3)}

    assert all(len(set(rows)) == 3 for step in batches(Three()) for rows in step[0][0])


def test_a_batch_is_of_one_bucket():
    class Buckets(Numbers):
        sources = {"clips": Source(fields=(MEL80,), bucket_by="person")}

    for step in batches(Buckets()):
        assert len({row % 4 for (row,) in step[0][0]}) == 1


def test_shared_data_gives_a_fresh_draw():
    class Twice(Numbers):
        sources = {"clips": Source(fields=(MEL80,)), "fresh": Source(fields=(MEL80,), same_data="clips")}

        def example(self, records, rng):
            return {"rows": np.array([int(records[n][0][MEL80][0, 0]) for n in ("clips", "fresh")]), "draw": 0}

    pairs = [pair for step in batches(Twice(), steps=5) for pair in step[0][0]]
    assert any(a != b for a, b in pairs)


def test_alternatives_are_chosen_once_per_dataset():
    class Either(Numbers):
        sources = {"clips": Source(fields=(FACE_VALID | MEL80,))}

    stage = Either()
    batches(stage)
    assert stage.given == {"clips": ("mel80",)}
    assert stage.made_with == {("clips", "mel80"): {"model:local:vae": "checksum of mel80's"}}


def test_skips_are_redrawn_and_bounded():
    class Picky(Numbers):
        def example(self, records, rng):
            found = super().example(records, rng)
            if found["rows"][0] % 2:
                raise Skip("odd")
            return found

    assert all(row % 2 == 0 for step in batches(Picky()) for (row,) in step[0][0])

    class Never(Numbers):
        def example(self, records, rng):
            raise Skip("nothing pleases it")

    with pytest.raises(LikenessError, match="no usable record in 50 tries; the last one: nothing pleases it"):
        batches(Never())


def test_missing_field_names_the_command():
    class Voiced(Numbers):
        sources = {"clips": Source(fields=(MEL80, VOICED))}

    with pytest.raises(LikenessError, match="likeness data add talks --field voiced"):
        check_fields(Voiced(), {"clips": MemoryDataset(fields=("mel80",))})  # type: ignore[dict-item]


def test_missing_and_unknown_sources_are_told():
    with pytest.raises(LikenessError, match="--data clips=DATASET"):
        check_fields(Numbers(), {})
    with pytest.raises(LikenessError, match="no source 'styles'"):
        check_fields(Numbers(), {"styles": MemoryDataset()})  # type: ignore[dict-item]


def test_no_training_rows_are_told():
    with pytest.raises(LikenessError, match="no row of split 'train'"):
        batches(dataset=MemoryDataset(n=2))


def test_validation_is_the_same_every_time_and_held_out():
    loader = Loader(Numbers(), {"clips": MemoryDataset()}, LoopConfig(steps=1, batch_size=4, validation_examples=6))  # type: ignore[dict-item]
    first = [b["rows"].flatten().tolist() for b in loader.validation()]
    assert first == [b["rows"].flatten().tolist() for b in loader.validation()]
    assert {row for rows in first for row in rows} == {10, 11}


def test_toy_stage_needs_no_fields():
    assert check_fields(ToyGan(), {"clips": SimpleNamespace(fields={}, root="x")}) is None  # type: ignore[dict-item]
