"""Attention hooks: what is recorded is what the layer has; taken off, nothing is left; checkpointing changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusion_nets import CONTEXT, gradients, inputs, largest_difference, unet
from torch import nn

from infra.errors import LikenessError
from models.blocks.projections import ImageProjection
from models.diffusion.attention import attention_hooks
from models.diffusion.attention_processor import Edit, Hook, ImageBranch
from models.diffusion.ip_adapter import IPAdapter, install

DOWN = "down_blocks.1.attentions.0.transformer_blocks.0"
UP = "up_blocks.0.attentions.1.transformer_blocks.0"
SELF = [f"{DOWN}.attn1", f"{UP}.attn1"]
CROSS = [f"{DOWN}.attn2", f"{UP}.attn2"]
QKV = ("query", "key", "value")


@pytest.fixture(autouse=True)
def _quick():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def net():
    return unet()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_empty_hook_changes_no_bit_and_leaves_nothing(net, checkpointing):
    if checkpointing:
        net.enable_gradient_checkpointing()
    given = inputs()
    before = {name: id(processor) for name, processor in net.attn_processors.items()}
    functions = {id(m): m._gradient_checkpointing_func for m in net.modules() if hasattr(m, "_gradient_checkpointing_func")}
    plain = net(*given).sample
    with attention_hooks(net, {name: Hook() for name in SELF + CROSS}) as hooks:
        assert torch.equal(net(*given).sample, plain)
        assert not hooks.records
    assert {name: id(processor) for name, processor in net.attn_processors.items()} == before
    assert not [layer for layer in net.modules() if "processor" in layer.__dict__ and isinstance(layer.processor, nn.Module)]
    assert {id(m): m._gradient_checkpointing_func for m in net.modules() if id(m) in functions} == functions
    assert not net._forward_pre_hooks


def test_an_error_inside_restores_too(net):
    before = dict(net.attn_processors)
    with pytest.raises(ZeroDivisionError), attention_hooks(net, {SELF[0]: Hook(edit=lambda name, key: 1 / 0)}):
        net(*inputs())
    assert net.attn_processors == before


@pytest.mark.parametrize("checkpointing", [False, True])
def test_records_are_the_layers_own(net, checkpointing):
    """From recorded q, k, v the layer's output can be computed by the definition, and the maps are the softmax rows."""
    if checkpointing:
        net.enable_gradient_checkpointing()
    layer = net.get_submodule(CROSS[0])
    seen = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    with attention_hooks(net, {CROSS[0]: Hook(record=(*QKV, "probabilities"))}) as hooks:
        hooks.key = 981
        out = net(*inputs()).sample
        out.sum().backward()
    handle.remove()
    assert list(hooks.records) == [(CROSS[0], 981)]
    got = hooks.records[CROSS[0], 981]
    assert got.query.shape == (2, 8, 64, 8)  # 8 heads, 8 x 8 queries
    assert got.key.shape == got.value.shape == (2, 8, 7, 8)
    assert got.grid == (8, 8)
    rows = torch.einsum("bhqd,bhkd->bhqk", got.query, got.key).div(math.sqrt(8)).softmax(-1)
    assert torch.allclose(got.probabilities, rows, atol=1e-6)
    by_hand = layer.to_out[0](torch.einsum("bhqk,bhkd->bqhd", rows, got.value).flatten(2))
    assert torch.allclose(by_hand, seen[0], atol=1e-5)
    assert not got.query.requires_grad


def test_large_maps_are_not_kept_and_cost_nothing(net):
    given = inputs()
    plain = net(*given).sample
    with attention_hooks(net, {SELF[0]: Hook(record=("probabilities",), max_queries=63)}) as hooks:
        assert torch.equal(net(*given).sample, plain)
    assert not hooks.records


def test_records_go_where_asked_and_are_numbered(net):
    with attention_hooks(net, {SELF[0]: Hook(record=("key",))}, store_dtype=torch.float16) as hooks, torch.no_grad():
        net(*inputs())
        net(*inputs(seed=2))
        hooks.key = "again"
        net(*inputs())
        with pytest.raises(LikenessError, match=r"recorded twice.*'again'"):
            net(*inputs())
    assert [key for _, key in hooks.records] == [0, 1, "again"]
    assert {each.key.dtype for each in hooks.records.values()} == {torch.float16}
    assert torch.equal(hooks.records[SELF[0], 0].key, hooks.records[SELF[0], "again"].key)


def test_injecting_what_is_there_changes_nothing(net):
    given = inputs()
    with torch.no_grad():
        plain = net(*given).sample
        with attention_hooks(net, {name: Hook(record=QKV) for name in SELF}) as seen:
            net(*given)
        own = {name: seen.records[name, 0] for name in SELF}
        with attention_hooks(
            net, {name: Hook(edit=lambda n, key: Edit(own[n].query, own[n].key, own[n].value, query_mix=0.3)) for name in SELF}
        ):
            assert torch.allclose(net(*given).sample, plain, atol=1e-6)
        with attention_hooks(net, {SELF[0]: Hook(edit=lambda n, key: Edit(own[SELF[1]].query, own[SELF[1]].key))}):
            assert not torch.allclose(net(*given).sample, plain, atol=1e-3)


def test_only_listed_layers_change(net):
    """An edit in the last self-attention leaves what every earlier layer computes."""
    other = torch.randn(1, 8, 64, 8)
    early = {name: Hook(record=QKV) for name in [SELF[0], CROSS[0]]}
    with torch.no_grad():
        with attention_hooks(net, early) as plain:
            net(*inputs())
        with attention_hooks(net, {**early, SELF[1]: Hook(edit=Edit(key=other, value=other))}) as edited:
            net(*inputs())
    for at, record in plain.records.items():
        assert torch.equal(record.query, edited.records[at].query)
        assert torch.equal(record.key, edited.records[at].key)


def test_temperature_is_a_factor_on_the_queries(net):
    given = inputs()
    with torch.no_grad():
        with attention_hooks(net, {SELF[0]: Hook(record=("query",))}) as seen:
            net(*given)
        query = seen.records[SELF[0], 0].query
        with attention_hooks(net, {SELF[0]: Hook(edit=Edit(temperature=2.0), record=("probabilities",))}) as tempered:
            one = net(*given).sample
        with attention_hooks(net, {SELF[0]: Hook(edit=Edit(query=2 * query))}):
            other = net(*given).sample
    assert torch.allclose(one, other, atol=1e-6)
    with torch.no_grad(), attention_hooks(net, {SELF[0]: Hook(record=("probabilities",))}) as flat:
        net(*given)

    def entropy(rows):
        return -(rows * rows.clamp_min(1e-20).log()).sum(-1).mean()

    assert entropy(tempered.records[SELF[0], 0].probabilities) < entropy(flat.records[SELF[0], 0].probabilities)


def test_maps_can_be_changed(net):
    """Rows put back as they were change nothing; the second sample given the first one's rows has them; rows of another size
    are refused. The gradient under checkpointing is the same."""
    given = inputs()
    with torch.no_grad():
        plain = net(*given).sample
        with attention_hooks(net, {name: Hook(edit=Edit(reweight=lambda rows: rows)) for name in SELF + CROSS}) as hooks:
            assert torch.allclose(net(*given).sample, plain, atol=1e-5)
            assert not hooks.records
    first = Hook(record=("probabilities",), edit=Edit(reweight=lambda rows: rows[:1].expand_as(rows)))
    found = []
    for checkpointing in (False, True):
        net.train()
        net.zero_grad()
        (net.enable_gradient_checkpointing if checkpointing else net.disable_gradient_checkpointing)()
        with attention_hooks(net, {CROSS[0]: first}) as hooks:
            net(*given).sample.square().mean().backward()
        found.append(gradients(net))
        rows = hooks.records[CROSS[0], 0].probabilities
        assert torch.equal(rows[0], rows[1])
    assert largest_difference(*found) < 1e-5
    with (
        attention_hooks(net, {CROSS[0]: Hook(edit=Edit(reweight=lambda rows: rows[:1]))}),
        pytest.raises(LikenessError, match="attention rows of shape"),
    ):
        net(*given)


def test_guidance_batches_repeat_what_is_injected(net):
    """One sample's features injected in a batch of two (negative, positive) act on each half as on that half alone."""
    latents, time, text = inputs()
    latents = latents[:1].expand(2, -1, -1, -1)
    time = time[:1].expand(2)
    other = {name: torch.randn(1, 8, 64, 8) for name in SELF}
    hooks = {name: Hook(edit=lambda n, key: Edit(other[n], other[n], other[n], 0.75, 1.5)) for name in SELF}
    with torch.no_grad(), attention_hooks(net, hooks):
        both = net(latents, time, text).sample
        halves = torch.cat([net(latents[:1], time[:1], text[i : i + 1]).sample for i in range(2)])
    assert torch.allclose(both, halves, atol=1e-5)


def test_rows_of_two_samples_keep_their_places(net):
    """Two samples under guidance are a batch of four, (a, b, a, b): features of (a, b) are repeated in that order."""
    latents, time, text = inputs(batch=4)
    other = torch.randn(2, 8, 64, 8)
    with torch.no_grad(), attention_hooks(net, {SELF[0]: Hook(edit=Edit(key=other, value=other))}):
        got = net(latents, time, text).sample
    for row in range(4):
        mine = other[row % 2][None]
        with torch.no_grad(), attention_hooks(net, {SELF[0]: Hook(edit=Edit(key=mine, value=mine))}):
            alone = net(latents[row : row + 1], time[row : row + 1], text[row : row + 1]).sample
        assert torch.allclose(got[row : row + 1], alone, atol=1e-5)


def step(net, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Two calls with other features, other keys, and one backward at the end, as a stage of several turns might have it."""
    net.train()
    net.zero_grad()
    (net.enable_gradient_checkpointing if checkpointing else net.disable_gradient_checkpointing)()
    draw = torch.Generator().manual_seed(5)
    features = {key: torch.randn(1, 8, 64, 8, generator=draw) for key in ("first", "second")}
    hooks = {name: Hook(edit=lambda n, key: Edit(features[key], features[key], None, 0.5, 1.5)) for name in SELF}
    hooks |= {name: Hook(record=("probabilities",)) for name in CROSS}
    with attention_hooks(net, hooks, keep_graph=True) as session:
        loss = torch.zeros(())
        for number, key in enumerate(("first", "second")):
            session.key = key
            loss = loss + net(*inputs(seed=number)).sample.square().mean()
        maps = [record.probabilities for record in session.records.values()]
        assert len(maps) == 4
        loss = loss + sum(each[..., 2].square().sum() for each in maps)
        session.key = "third"  # what the caller does later must not reach a recomputation
        features.clear()
        loss.backward()
        assert len(session.records) == 4
    return gradients(net)


def test_gradients_under_checkpointing(net):
    """Losses on outputs and on recorded maps; injection by key; recomputed in backward: the gradients are those without it."""
    plain = step(net, checkpointing=False)
    replaced = {f"{name}.to_k.weight" for name in SELF}
    assert set(plain) == {name for name, _ in net.named_parameters()} - replaced
    assert largest_difference(plain, step(net, checkpointing=True)) < 1e-5


def test_gradients_reach_what_is_injected(net):
    given = inputs()
    found = {}
    for checkpointing in (False, True):
        (net.enable_gradient_checkpointing if checkpointing else net.disable_gradient_checkpointing)()
        net.train()
        torch.manual_seed(3)
        branch = nn.ModuleDict({"to_k": nn.Linear(CONTEXT, 64), "to_v": nn.Linear(CONTEXT, 64)})
        tokens = torch.randn(1, 3, CONTEXT, requires_grad=True)
        features = torch.randn(1, 8, 64, 8, requires_grad=True)
        hooks = {
            CROSS[1]: Hook(image=ImageBranch(tokens, branch["to_k"], branch["to_v"], 0.7, torch.linspace(0, 1, 64))),
            SELF[0]: Hook(edit=Edit(value=features)),
        }
        with attention_hooks(net, hooks):
            net(*given).sample.square().mean().backward()
        found[checkpointing] = {"tokens": tokens.grad, "features": features.grad, **gradients(branch)}
    assert largest_difference(found[False], found[True]) < 1e-5
    assert all(grad.abs().max() > 0 for grad in found[True].values() if grad.ndim > 1)


def test_backward_after_the_hooks_is_refused(net):
    net.train()
    net.enable_gradient_checkpointing()
    with attention_hooks(net, {SELF[0]: Hook(edit=Edit(temperature=1.5))}):
        loss = net(*inputs()).sample.mean()
    with pytest.raises(LikenessError, match="no longer there"):
        loss.backward()
    with attention_hooks(net, {SELF[0]: Hook()}):
        net.disable_gradient_checkpointing()
        with pytest.raises(LikenessError, match="switched while"):
            net(*inputs())


def test_a_network_recomputed_as_a_whole_is_refused(net):
    from torch.utils.checkpoint import checkpoint

    net.train()
    with attention_hooks(net, {SELF[0]: Hook(record=("key",))}) as hooks:
        loss = checkpoint(net, *inputs(), use_reentrant=False).sample.mean()
        with pytest.raises(LikenessError, match="whole network is recomputed"):
            loss.backward()
    assert len(hooks.records) == 1


def test_a_half_precision_network_under_autocast(net):
    """A frozen bf16 UNet, an adapter in float32: the loop's way. The gradients are near those of float32 throughout."""
    adapter = IPAdapter.for_unet(net, ImageProjection(CONTEXT, 24))
    embeds = {"added_cond_kwargs": {"image_embeds": [torch.randn(2, 1, 24)]}}
    net.train().requires_grad_(False)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        net.to(dtype).enable_gradient_checkpointing()
        adapter.zero_grad()
        with (
            install(net, adapter),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16),
            attention_hooks(net, {CROSS[0]: Hook(record=("probabilities",), edit=Edit(temperature=1.2))}, keep_graph=True) as hooks,
        ):
            out = net(*inputs(), **embeds).sample
            (out.float().square().mean() + hooks.records[CROSS[0], 0].probabilities.float().square().sum()).backward()
        found[dtype] = gradients(adapter)
    assert {grad.dtype for grad in found[torch.bfloat16].values()} == {torch.float32}
    for name, grad in found[torch.float32].items():
        assert torch.nn.functional.cosine_similarity(grad.flatten(), found[torch.bfloat16][name].flatten(), dim=0) > 0.98, name


def test_an_image_branch_by_its_definition(net):
    given = inputs()
    tokens, to_k, to_v = torch.randn(2, 3, CONTEXT), nn.Linear(CONTEXT, 64, bias=False), nn.Linear(CONTEXT, 64, bias=False)
    weights = torch.rand(64)
    layer, seen = net.get_submodule(CROSS[0]), []
    handle = layer.to_out[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        with attention_hooks(net, {CROSS[0]: Hook(record=("query",))}) as hooks:
            net(*given)
        plain = seen[-1]
        with attention_hooks(net, {CROSS[0]: Hook(image=ImageBranch(tokens, to_k, to_v, 0.6, weights))}):
            net(*given)
        key, value = (f(tokens).unflatten(-1, (8, 8)).transpose(1, 2) for f in (to_k, to_v))
        rows = (hooks.records[CROSS[0], 0].query @ key.transpose(-1, -2) / math.sqrt(8)).softmax(-1)
        wanted = plain + 0.6 * (rows @ value).transpose(1, 2).flatten(2) * weights[:, None]
        assert torch.allclose(seen[-1], wanted, atol=1e-5)
        with attention_hooks(net, {CROSS[0]: Hook(image=ImageBranch(tokens, to_k, to_v, 0.0))}):
            net(*given)
        assert torch.equal(seen[-1], plain)
    handle.remove()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("nearest", [False, True])
def test_layers_with_an_ip_adapter_keep_it(net, masked, nearest):
    adapters = [IPAdapter.for_unet(net, ImageProjection(CONTEXT, 24)) for _ in range(2)]
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 30:90, 22:71] = 1
    with install(net, adapters, nearest_masks=nearest) as installed, torch.no_grad():
        installed.set_scale(0.6, 0.3)
        extra = {"added_cond_kwargs": {"image_embeds": [torch.randn(2, 1, 24), torch.randn(2, 1, 24)]}}
        if masked:
            extra["cross_attention_kwargs"] = {"ip_adapter_masks": [mask, None]}
        plain = net(*inputs(), **extra).sample
        names = set(dict(net.named_parameters()))
        with attention_hooks(net, {name: Hook(record=("probabilities",)) for name in CROSS}) as hooks:
            assert set(dict(net.named_parameters())) == names
            assert torch.allclose(net(*inputs(), **extra).sample, plain, atol=1e-6)
        assert hooks.records[CROSS[0], 0].probabilities.shape[-1] == 7  # the map is the text's
        assert isinstance(net.get_submodule(CROSS[0]).processor, IPAdapterAttnProcessor2_0)
        assert torch.equal(net(*inputs(), **extra).sample, plain)


def test_what_can_not_be_hooked_is_named(net):
    for name in ("up_blocks.0", "nowhere.attn1", f"{DOWN}.attn1.to_q"):
        with (
            pytest.raises(LikenessError, match=rf"{name}.*no attention layer.*8 layers"),
            attention_hooks(net, {SELF[0]: Hook(), name: Hook()}),
        ):
            pass
    with (
        attention_hooks(net, {SELF[0]: Hook()}),
        pytest.raises(LikenessError, match="hooked already"),
        attention_hooks(net, {SELF[0]: Hook()}),
    ):
        pass
    wrong = torch.randn(3, 8, 64, 8), torch.randn(2, 4, 64, 8), torch.randn(1, 8, 63, 8)
    for query in wrong:
        with (
            pytest.raises(LikenessError, match="does not fit attention layer"),
            attention_hooks(net, {SELF[0]: Hook(edit=Edit(query=query))}),
        ):
            net(*inputs())
    assert not any("Hooked" in type(each).__name__ for each in net.attn_processors.values())


def test_layers_called_outside_the_network_are_told(net):
    layer = net.get_submodule(SELF[0])
    with attention_hooks(net, {SELF[0]: Hook()}), pytest.raises(LikenessError, match="outside a call"):
        layer(torch.randn(1, 64, 64))
