"""The contracts carry methods of very different shape: five are declared in `skeletons/` with stand-ins for their networks,
type-checked, and stepped by the small driver below, which keeps the promises that the training loop makes to a stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skeletons import hyperdreambooth, pulid, simswap, stytr2, vct
from skeletons.parts import LATENT, Attention, Net, UNet
from torch import nn
from torch.utils.data import default_collate

from models.method import Method, resolve
from preprocessing.fields import AnyOf, Field
from training.stage import Artefact, Batch, Optim, Record, Stage

ROOT = Path(__file__).parents[2]
METHODS = [simswap.METHOD, stytr2.METHOD, pulid.METHOD, hyperdreambooth.METHOD, vct.METHOD]
STAGES = [pytest.param(method, stage, id=f"{method.name}-{stage.name}") for method in METHODS for stage in method.stages]


class Row:
    """A record with made-up values."""

    def __init__(self, key: str, fields: Iterable[Field], rng: np.random.Generator) -> None:
        self.key = key
        self.source: Mapping[str, Any] = {"file": key, "person": "anne", "split": "train"}
        self.values = {f.name: self.value(f, rng) for f in fields}

    @staticmethod
    def value(f: Field, rng: np.random.Generator) -> Any:
        if f.codec == "txt":
            return f"a text {rng.integers(9)}"
        shape = [axis for axis in f.shape if isinstance(axis, int)]
        return rng.integers(0, 256, shape, np.uint8) if f.dtype == "uint8" else rng.standard_normal(shape, np.float32)

    def __getitem__(self, field: Any) -> Any:
        return self.values[field.name]

    def __contains__(self, field: Any) -> bool:
        return field.name in self.values


class Made:
    """An artefact of modules in memory."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.config: Mapping[str, Any] = {}
        self.weights = {name: module.state_dict() for name, module in modules.items()}

    def load(self, component: str, into: nn.Module) -> nn.Module:
        into.load_state_dict(self.weights[component], strict=True)
        return into


class Ctx:
    """What the loop tells a step."""

    def __init__(self, step: int) -> None:
        self.step, self.samples_seen, self.device = step, 0, torch.device("cpu")
        self.generator = torch.Generator().manual_seed(step)

    def gate(self, name: str) -> bool:
        return False

    def log(self, name: str, value: Any) -> None: ...


def batch_of(stage: Stage, size: int = 4, choice: int = 0) -> Batch:
    """`size` examples; where a source takes alternatives, the rows have the one numbered `choice`."""
    rng = np.random.default_rng(0)
    examples = []
    for i in range(size):
        records: dict[str, list[Record]] = {}
        for name, source in stage.sources.items():
            fields = [f.options[choice % len(f.options)] if isinstance(f, AnyOf) else f for f in source.fields]
            records[name] = [Row(f"{name}{i}-{k}", fields, rng) for k in range(source.take)]
        examples.append(stage.example(records, np.random.default_rng(i)))
    return default_collate(examples)


def started(stage: Stage, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
    """Build, freeze what no role trains, and hand the modules to the stage."""
    torch.manual_seed(0)
    modules = stage.build(upstream)
    trained = {name for names in stage.roles.values() for name in names}
    for name, module in modules.items():
        setattr(stage, name, module)
        if name not in trained:
            module.requires_grad_(False).train(stage.frozen_mode(name) == "train")
    return modules


def drive(stage: Stage, modules: Mapping[str, nn.Module], micro_batches: list[Batch], step: int) -> dict[str, float]:
    """One optimiser step of every turn: other roles frozen, generators of the micro-batches in lock step, each finished
    right after its last backward so that what it holds open is closed before the next one goes on."""
    of = {role: [p for name in names for p in modules[name].parameters()] for role, names in stage.roles.items()}
    turns, seen = list(stage.turns(step)), {}
    players = [stage.step(batch, Ctx(step)) for batch in micro_batches]
    for turn, role in enumerate(turns):
        optim: Optim = stage.config.optim.get(role, Optim())
        optimiser = torch.optim.Adam(of[role], lr=optim.lr * stage.lr_factor(role, step, 100))
        for other, parameters in of.items():
            for p in parameters:
                p.requires_grad_(other == role)
        for player in players:
            yielded, losses = next(player)
            assert yielded == role
            terms = {name: term if isinstance(term, tuple) else (term, 1.0) for name, term in losses.items()}
            total = sum((value * weight for value, weight in terms.values()), torch.zeros(()))
            (total / len(players)).backward()
            seen |= {f"{role}/{name}": float(value.detach()) for name, (value, _) in terms.items()}
            if turn == len(turns) - 1:
                assert next(player, None) is None, f"yields more often than its turns {turns}"
        assert not any(p.grad is not None and p.grad.any() for p in (q for r in of if r != role for q in of[r]))
        stage_grads[role] = [None if p.grad is None else p.grad.clone() for p in of[role]]
        optimiser.step()
        optimiser.zero_grad()
    return seen


stage_grads: dict[str, list[torch.Tensor | None]] = {}


def upstream_of(method: Method, stage: type[Stage]) -> dict[str, Artefact]:
    """Artefacts made by building the stages before; base models and stages without a skeleton are made up."""
    torch.manual_seed(1)
    made: dict[str, Artefact] = {}
    for name, need in stage.upstream.items():
        if need.stage.startswith("base:"):
            text = vct.TextEncoder() if method.name == "vct" else Net(3)
            made[name] = Made({"unet": UNet(), "vae": Net(3 * 4 * 4), "text": text})
        elif need.stage == "stage2":  # PuLID's second stage trains the same modules
            made[name] = Made({"id_adapter": Net(6), "id_attention": pulid.IdAttention(2)})
        else:
            earlier = method.stage(need.stage)
            modules = started(instance := earlier(), upstream_of(method, earlier))
            made[name] = Made({component: modules[component] for component in instance.components()})
    return made


def assert_nothing_left_open(modules: Mapping[str, nn.Module]) -> None:
    assert all(layer.processor is None for m in modules.values() for layer in m.modules() if isinstance(layer, Attention))


@pytest.mark.parametrize(("method", "kind"), STAGES)
def test_every_stage_steps_on_a_batch(method: Method, kind: type[Stage]):
    stage = kind()
    modules = started(stage, upstream_of(method, kind))
    before = {name: [p.clone() for p in module.parameters()] for name, module in modules.items()}
    batch = batch_of(stage) if stage.sources else {}
    losses = drive(stage, modules, [batch], step=1)
    assert all(np.isfinite(value) for value in losses.values())
    trained = {name for names in stage.roles.values() for name in names}
    for name, module in modules.items():
        moved = any(not torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True))
        assert moved == (name in trained), f"{name} {'moved' if moved else 'did not move'}"
    assert trained <= set(stage.components())
    assert_nothing_left_open(modules)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_declarations_hang_together(method: Method):
    for component, stages in method.bundle.items():
        for name in stages:
            assert name.startswith("base:") or component in method.stage(name)().components()
    assert callable(resolve(method.generator)) if method.generator else True


def test_simswap_reconstructs_on_even_steps_only():
    stage = simswap.Swap()
    modules = started(stage, {})
    assert "generator/reconstruction" in drive(stage, modules, [batch_of(stage)], step=0)
    assert "generator/reconstruction" not in drive(stage, modules, [batch_of(stage)], step=1)


def test_pulid_micro_batches_add_up_although_processors_stay_open_and_layers_are_recomputed():
    gradients = {}
    for name, recompute, parts in (("whole", False, 1), ("recomputed", True, 1), ("in two", True, 2)):
        stage = pulid.Contrastive()
        modules = started(stage, upstream_of(pulid.METHOD, pulid.Contrastive))
        for unet in (modules["unet"], modules["fast_unet"]):
            unet.recompute = recompute  # type: ignore[assignment]
        batch = batch_of(stage)
        pieces = [{k: v[i::parts] for k, v in batch.items()} for i in range(parts)]
        drive(stage, modules, pieces, step=0)
        assert_nothing_left_open(modules)
        gradients[name] = stage_grads["id"]
    for name in ("recomputed", "in two"):
        for a, b in zip(gradients["whole"], gradients[name], strict=True):
            assert a is not None
            assert b is not None
            torch.testing.assert_close(a, b)


def test_pulid_takes_latents_or_pictures():
    stage = pulid.Contrastive()
    assert "latent" in batch_of(stage, choice=0)
    batch = batch_of(stage, choice=1)
    assert "photo" in batch
    assert LATENT.name not in batch
    drive(stage, started(stage, upstream_of(pulid.METHOD, pulid.Contrastive)), [batch], step=0)


def test_stytr2_learning_rate():
    stage = stytr2.Transfer()
    rates = [2e-4 * stage.lr_factor("transfer", i, 160_000) for i in (0, 9_999, 10_000, 110_000)]
    assert rates == pytest.approx([5e-5, 5e-5 * (1 + 3e-4 * 9_999), 2e-4, 1e-4])


def test_vct_inverts_inside_generation():
    rng = np.random.default_rng(0)
    upstream = upstream_of(vct.METHOD, vct.Concept)
    modules = started(vct.Concept(), upstream)
    translate = resolve(vct.METHOD.generator)({"rows": Made({"rows": modules["rows"]}), "base": upstream["base"]})
    output = translate({port: Row("content", fields, rng) for port, fields in translate.inputs.items()}, rng)
    assert [frame.shape for frame in output.frames] == [(4, 4, 3)]
    assert all(p.grad is None for module in (translate.unet, translate.rows) for p in module.parameters())


@pytest.mark.long
def test_skeletons_pass_the_type_checker():
    from mypy import api

    out, err, status = api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--no-incremental", str(Path(__file__).parent / "skeletons")]
    )
    assert status == 0, out + err
