"""Overrides and presets onto typed settings: what is taken, and what each mistake is told."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.errors import LikenessError
from infra.settings import apply_overrides, describe, merge, type_name


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prefix: str
    lr_factor: float = 1.0


class Optim(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["adam", "adamw"] = "adam"
    lr: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    groups: tuple[Group, ...] = ()


class Fancy(Optim):
    extra_knob: int = 7


class Ema(BaseModel):
    model_config = ConfigDict(extra="forbid")
    decay: float = 0.999


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)
    optim: dict[str, Optim] = {"generator": Optim(groups=(Group(prefix="a"),)), "critic": Fancy()}
    batch: int = Field(8, ge=1)
    name: str = "run"
    flag: bool = False
    low: float = 0.0
    high: float = 1.0
    sizes: list[int] = [64, 128]
    ema: Ema | None = None
    either: int | str = 1
    weights: dict[str, float] = {}

    @model_validator(mode="after")
    def ordered(self) -> "Settings":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


def one(*overrides: str) -> Settings:
    return apply_overrides(Settings(), overrides)


def fails(*overrides: str) -> str:
    with pytest.raises(LikenessError) as error:
        one(*overrides)
    return str(error.value)


def test_keys_reach_into_models_dicts_and_sequences():
    new = one("optim.generator.lr=3e-4", "optim.generator.betas=[0.5,0.999]", "optim.critic.betas.0=0.1",
              "optim.generator.groups.0.lr_factor=10", "sizes=[1, 2, 3]", "batch=1e2")
    assert new.optim["generator"].lr == 3e-4
    assert new.optim["generator"].betas == (0.5, 0.999)
    assert new.optim["generator"].groups == (Group(prefix="a", lr_factor=10.0),)
    assert new.optim["critic"].betas == (0.1, 0.999)
    assert isinstance(new.optim["critic"], Fancy), "a subclass must survive"
    assert new.sizes == [1, 2, 3]
    assert new.batch == 100
    assert Settings().optim["generator"].lr == 1e-4, "the model given must not change"


@pytest.mark.parametrize(("word", "value"), [
    ("name=12", "12"), ("name=true", "true"), ("name=", ""), ("name=a=b", "a=b"), ("name=2024-01-01", "2024-01-01"),
    ("name=none", "none"), ("flag=on", True), ("flag=True", True), ("low=-1e-3", -1e-3), ("either=x", "x"), ("either=5", 5),
    ("ema.decay=0.9", Ema(decay=0.9)), ("ema={decay: 0.5}", Ema(decay=0.5)), ("weights.new=2", {"new": 2.0}),
])
def test_values_are_read_as_yaml_and_as_text_where_text_is_wanted(word, value):
    assert getattr(one(word), word.partition("=")[0].partition(".")[0]) == value


def test_rules_between_settings_see_all_overrides_together():
    assert one("low=5", "high=6").low == 5
    assert "low must be below high" in fails("low=5")


def test_a_short_key_works_when_one_setting_ends_with_it():
    assert one("generator.lr=1").optim["generator"].lr == 1
    assert one("extra_knob=3").optim["critic"].extra_knob == 3  # type: ignore[attr-defined]
    message = fails("lr=1")
    assert "optim.generator.lr" in message
    assert "optim.critic.lr" in message


@pytest.mark.parametrize(("word", "parts"), [
    ("optim.generator.lrr=1", ["optim.generator.lrr", "optim.generator.lr (float, now 0.0001)"]),
    ("batchsize=3", ["'batchsize'", "batch (int, now 8)"]),
    ("optim.genrator.lr=1", ["optim.genrator", "optim.generator"]),
    ("batch=many", ["batch='many'", "int", "now 8"]),
    ("batch=0", ["batch=0", "greater than or equal to 1"]),
    ("optim.generator.kind=rmsprop", ["optim.generator.kind='rmsprop'", "adam | adamw"]),
    ("optim.generator.betas=[1]", ["optim.generator.betas", "[float, float]"]),
    ("optim.generator.lr=-1", ["optim.generator.lr=-1", "greater than 0"]),
    ("optim.generator.groups.3.lr_factor=1", ["optim.generator.groups.3", "optim.generator.groups.0"]),
    ("ema.dekay=1", ["ema.dekay"]),
    ("batch", ["'batch'", "key=value"]),
    ("sizes=[1,", ["sizes", "YAML"]),
])
def test_a_mistake_is_named_with_what_is_allowed(word, parts):
    message = fails(word)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_whole_and_part_of_one_setting_contradict_each_other():
    assert "as a whole and in part" in fails("sizes=[1]", "sizes.0=2")
    assert one("optim.generator={lr: 1}", "optim.generator.kind=adamw").optim["generator"].kind == "adamw"


def test_presets_merge_key_by_key_with_the_same_errors():
    new = merge(Settings(), {"optim": {"critic": {"lr": 0.5}}, "sizes": [9], "batch": 2})
    assert (new.optim["critic"].lr, new.optim["generator"].lr, new.sizes, new.batch) == (0.5, 1e-4, [9], 2)
    with pytest.raises(LikenessError, match="nearest is optim.critic.lr"):
        merge(Settings(), {"optim": {"critic": {"rl": 0.5}}})
    with pytest.raises(LikenessError, match="batch='x'"):
        merge(Settings(), {"batch": "x"})


def test_describe_lists_every_setting():
    rows = {key: (kind, value) for key, kind, value in describe(Settings())}
    assert rows["optim.generator.betas"] == ("[float, float]", (0.9, 0.999))
    assert rows["optim.generator.groups.0.prefix"] == ("str", "a")
    assert rows["ema"] == ("Ema | none", None)
    assert rows["optim.critic.kind"] == ("adam | adamw", "adam")
    assert next(iter(rows)) == "optim.generator.kind"
    assert type_name(tuple[Group, ...]) == "[Group, ...]"
    assert type_name(list[int]) == "[int, ...]"
