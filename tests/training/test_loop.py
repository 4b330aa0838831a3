"""The loop on one process: against bare torch, resume, EMA, accumulation, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToyBatches, ToyGan

from infra.errors import LikenessError
from training import checkpoint
from training.config import LoopConfig
from training.loop import Observer, train
from training.stage import Optim


class Log(Observer):
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.evaluations: dict[int, dict[str, float]] = {}

    def logged(self, step, values) -> None:
        self.rows[step] = {name: value for name, value in values.items() if not name.startswith("time/")}

    def validated(self, step, evaluation) -> None:
        self.evaluations[step] = evaluation.metrics


def config(**changes) -> LoopConfig:
    base = {"steps": 12, "batch_size": 8, "validate_every": 4, "save_every": 5, "log_every": 1, "seed": 3}
    return LoopConfig(**(base | changes))


def run(folder: Path, stop=lambda: False, stage: ToyGan | None = None, **changes):
    log, settings = Log(), config(**changes)
    outcome, loop = train(stage or ToyGan(), {}, ToyBatches(settings, 0, 1), settings, folder, log, stop)
    return outcome, loop, log


def weights(loop) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for module in loop.engines.roles.values() for p in module.parameters()])


# A bias before batch norm has no gradient but rounding noise, which Adam would blow up to full steps, other ones on each processor.
EPS = 1e-3


def bare_torch(settings: LoopConfig) -> tuple[torch.Tensor, list[float]]:
    """The same training written out by hand, to show that DeepSpeed adds nothing of its own (decay, clipping)."""
    torch.manual_seed(settings.seed)
    stage = ToyGan()
    modules = stage.build({})
    for name, module in modules.items():
        setattr(stage, name, module)
    generator, critic, frozen = modules["generator"], modules["critic"], modules["frozen"]
    frozen.requires_grad_(False).eval()
    optimisers = {
        "generator": torch.optim.Adam(generator.parameters(), lr=1e-2, eps=EPS),
        "critic": torch.optim.Adam(critic.parameters(), lr=1e-2, betas=(0.5, 0.999), eps=EPS),
    }
    from training.loop import StepContext

    context = StepContext([], torch.device("cpu"), settings.seed)
    seen = []
    for step, (batch,) in enumerate(ToyBatches(settings, 0, 1).training(0)):
        context.begin(step, 0)
        drawn = generator(batch["x"])
        loss = (drawn - frozen(batch["x"])).abs().mean() - 0.1 * critic(drawn).mean()
        optimisers["generator"].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 0.5)
        optimisers["generator"].step()
        optimisers["critic"].zero_grad()
        loss = torch.relu(1 - critic(batch["x"])).mean() + torch.relu(1 + critic(drawn.detach())).mean()
        loss.backward()
        optimisers["critic"].step()
        seen.append(loss.item())
    return torch.cat([p.detach().flatten() for p in (*generator.parameters(), *critic.parameters())]), seen


def test_equals_bare_torch(tmp_path):
    optim = {"generator": Optim(lr=1e-2, clip_norm=0.5, eps=EPS), "critic": Optim(lr=1e-2, betas=(0.5, 0.999), eps=EPS)}
    stage = ToyGan(ToyGan.Config(gate_below=-1.0, optim=optim))
    _, loop, log = run(tmp_path, stage=stage, validate_every=0)
    expected, losses = bare_torch(config())
    assert [log.rows[step]["critic/total"] for step in range(1, 13)] == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(weights(loop), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop_at", [1, 5, 7, 11])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resume_is_bit_equal(tmp_path, stop_at, ema):
    _, whole_loop, whole = run(tmp_path / "whole", ema_decay=ema)
    calls = iter(range(100))
    outcome, _, first = run(tmp_path / "cut", stop=lambda: next(calls) >= stop_at, ema_decay=ema)
    assert not outcome.finished
    assert outcome.step == stop_at
    outcome, loop, second = run(tmp_path / "cut", ema_decay=ema)
    assert outcome.finished
    assert min(second.rows) == stop_at + 1
    assert first.rows | second.rows == whole.rows
    assert first.evaluations | second.evaluations == whole.evaluations
    assert torch.equal(weights(loop), weights(whole_loop))
    if ema:
        for role, average in loop.averages.items():
            for name, value in average.values.items():
                assert torch.equal(value, whole_loop.averages[role].values[name])


def test_average_follows_its_formula(tmp_path):
    _, loop, _ = run(tmp_path / "a", steps=1, ema_decay=0.75)
    still = ToyGan(ToyGan.Config(optim={"generator": Optim(lr=0), "critic": Optim(lr=0)}))
    _, start, _ = run(tmp_path / "b", steps=1, ema_decay=0.75, stage=still)
    before = dict(start.engines.roles["generator"].named_parameters())
    for name, p in loop.engines.roles["generator"].named_parameters():
        expected = 0.75 * before[name].detach() + 0.25 * p.detach()
        torch.testing.assert_close(loop.averages["generator"].values[name], expected)


def test_accumulation_is_the_mean_of_its_parts(tmp_path):
    class NoNorm(ToyGan):
        def build(self, upstream):
            modules = super().build(upstream)
            modules["generator"] = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
            return modules

    _, one, _ = run(tmp_path / "one", stage=NoNorm(), steps=6)
    _, four, _ = run(tmp_path / "four", stage=NoNorm(), steps=6, accumulation=4)
    torch.testing.assert_close(weights(four), weights(one), rtol=1e-4, atol=1e-6)


def test_gate_opens_after_validation_and_stays(tmp_path):
    _, _, log = run(tmp_path)
    assert "generator/late" not in log.rows[4]
    assert "generator/late" in log.rows[5]
    assert log.evaluations[4]["gate_late"] == 1.0
    _, _, shut = run(tmp_path / "shut", stage=ToyGan(ToyGan.Config(gate_below=0.0)))
    assert all("generator/late" not in row for row in shut.rows.values())


def test_keeps_the_newest_checkpoints(tmp_path):
    run(tmp_path, save_every=2, keep_checkpoints=2)
    assert checkpoint.saved_steps(tmp_path) == [10, 12]


def test_half_written_checkpoint_is_ignored(tmp_path):
    run(tmp_path, steps=5, save_every=5)
    (tmp_path / "checkpoints" / "00000009.part").mkdir()
    outcome, _, log = run(tmp_path, steps=12)
    assert outcome.finished
    assert min(log.rows) == 6


def test_bf16_learns(tmp_path):
    _, _, log = run(tmp_path, precision="bf16", steps=40, validate_every=40, save_every=40)
    assert log.rows[40]["generator/l1"] < log.rows[1]["generator/l1"]


@pytest.mark.parametrize(("changes", "says"), [
    ({"batch_size": 6, "accumulation": 4}, "can't be split"),
    ({"precision": "bf16-weights"}, "zero_stage"),
    ({"offload": "cpu"}, "needs ZeRO"),
])  # fmt: skip
def test_impossible_settings_are_refused(tmp_path, changes, says):
    with pytest.raises(LikenessError, match=says):
        run(tmp_path, **changes)


def test_not_a_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    class Breaks(ToyGan):
        def step(self, batch, ctx):
            factor = float("nan") if ctx.step == 7 else 1.0
            yield "generator", {"l1": self.generator(batch["x"]).abs().mean() * factor}
            yield "critic", {"real": self.critic(batch["x"]).mean()}

    with pytest.raises(LikenessError, match="generator/l1.*not a finite number at step 8"):
        run(tmp_path, stage=Breaks())
    assert checkpoint.saved_steps(tmp_path) == [5]


def test_wrong_turns_are_told(tmp_path):
    class Swapped(ToyGan):
        def turns(self, step):
            return ("critic", "generator")

    with pytest.raises(ValueError, match="yielded 'generator' where its turns"):
        run(tmp_path, stage=Swapped())


def test_checkpoint_of_another_zero_stage_is_refused(tmp_path):
    run(tmp_path, steps=5)
    with pytest.raises(LikenessError, match="zero_stage 0, this run has 1 at zero_stage 1"):
        run(tmp_path, steps=9, zero_stage=1)
