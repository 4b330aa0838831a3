"""ControlNet with its own context and mask: no effect where none should be, and just that of diffusers' where nothing is set."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import ControlNetModel, MultiControlNetModel
from diffusion_nets import CONTEXT, gradients, inputs, largest_difference, sdxl_unet
from torch.nn import functional as F

from infra.errors import LikenessError
from models.blocks.resampler import Resampler
from models.diffusion.controlnet import ContextControlNet, mask_pyramid, widen_hint
from models.diffusion.ip_adapter import IPAdapter, install

HINT_PX = 128


@pytest.fixture(autouse=True)
def _quick():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def base():
    return sdxl_unet().requires_grad_(False)


def controlnet(base, seed: int = 2, learnt: bool = True) -> ContextControlNet:
    torch.manual_seed(seed)
    net = ContextControlNet.from_unet(base, conditioning_embedding_out_channels=(8, 8, 16, 16)).eval()
    if learnt:
        with torch.no_grad():
            for name, weights in net.named_parameters():
                if "controlnet_" in name and not weights.any():
                    weights += 0.2 * torch.randn_like(weights)
    return net


def added(batch: int = 2) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {"text_embeds": torch.randn(batch, 32, generator=draw), "time_ids": torch.randn(batch, 6, generator=draw)}


def hint(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, HINT_PX, HINT_PX, generator=torch.Generator().manual_seed(4))


def run(net, scale: float = 1.0, text: torch.Tensor | None = None, picture: torch.Tensor | None = None) -> list[torch.Tensor]:
    latents, time, states = inputs()
    given = hint() if picture is None else picture
    text = states if text is None else text
    down, middle = net(latents, time, text, given, scale, added_cond_kwargs=added(), return_dict=False)
    return [*down, middle]


def predict(base, residuals: list[torch.Tensor], **extra) -> torch.Tensor:
    return base(
        *inputs(), added_cond_kwargs=added() | extra, down_block_additional_residuals=residuals[:-1],
        mid_block_additional_residual=residuals[-1],
    ).sample  # fmt: skip


def test_fresh_nets_do_nothing(base):
    with torch.no_grad():
        plain = base(*inputs(), added_cond_kwargs=added()).sample
        assert torch.equal(predict(base, run(controlnet(base, learnt=False))), plain)
        assert torch.equal(predict(base, run(controlnet(base), scale=0.0)), plain)
        assert not torch.allclose(predict(base, run(controlnet(base))), plain, atol=1e-2)


def test_with_nothing_set_it_is_diffusers_own(base):
    net = controlnet(base)
    plain = ControlNetModel.from_config(dict(net.config)).eval()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(run(net, 0.7), run(plain, 0.7), strict=True))
        latents, time, text = inputs()
        out = net(latents, time, text, controlnet_cond=hint(), added_cond_kwargs=added())
        assert len(out.down_block_res_samples) == 9
        assert torch.equal(out.mid_block_res_sample, run(net)[-1])


def test_the_context_takes_the_place_of_the_text(base):
    net, tokens = controlnet(base), torch.randn(2, 5, CONTEXT)
    with torch.no_grad():
        by_text = run(net)
        wanted = run(net, text=tokens)
        with net.given(context=tokens):
            got = run(net)
            other_prompt = run(net, text=torch.randn(2, 9, CONTEXT))
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(got, wanted, other_prompt, strict=True))
        assert not torch.allclose(got[-1], by_text[-1], atol=1e-3)
        assert all(torch.equal(a, b) for a, b in zip(run(net), by_text, strict=True))  # and given back
        with net.given(context=tokens[:1]):
            assert torch.equal(run(net)[-1], run(net, text=tokens[:1].expand(2, -1, -1))[-1])
        with net.given(context=torch.randn(3, 5, CONTEXT)), pytest.raises(LikenessError, match="3 rows for a batch of 2"):
            run(net)


def test_masks_of_ones_and_zeros(base):
    net = controlnet(base)
    with torch.no_grad():
        plain = run(net, 0.8)
        with net.given(mask=torch.ones(1, 1, HINT_PX, HINT_PX)):
            assert all(torch.equal(a, b) for a, b in zip(run(net, 0.8), plain, strict=True))
        with net.given(mask=torch.zeros(1, 1, HINT_PX, HINT_PX)):
            assert not any(each.any() for each in run(net, 0.8))


def test_a_mask_in_every_resolution(base):
    """Strides 8, 16, 32 as InstantID lists them; a mask per row of the batch is that row's."""
    mask = torch.zeros(1, 1, HINT_PX, HINT_PX)
    mask[..., 30:90, 22:71] = 1
    strides = [8, 8, 8, 16, 16, 16, 32, 32, 32, 32]
    net = controlnet(base)
    with torch.no_grad():
        plain = run(net)
        with net.given(mask=mask):
            masked = run(net)
        with net.given(mask=torch.cat([mask, torch.ones_like(mask)])):
            rows = run(net)
    for stride, before, after, row in zip(strides, plain, masked, rows, strict=True):
        size = (HINT_PX // stride, HINT_PX // stride)
        assert before.shape[-2:] == size
        weights = F.interpolate(mask, size=size, mode="bilinear", align_corners=False)
        assert torch.equal(after, before * weights)
        assert torch.equal(row[0], after[0])
        assert torch.equal(row[1], before[1])


def test_the_pyramid_by_hand():
    """Halving exactly, bilinear without antialiasing takes the mean of the two middle pixels in each direction."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3:6, 2:7] = 1
    (by_two, by_four) = mask_pyramid(mask, [(4, 4), (2, 2)])
    assert torch.equal(by_two[0, 0], mask[0, 0].reshape(4, 2, 4, 2).mean((1, 3)))
    assert torch.equal(
        by_four[0, 0], torch.stack([mask[0, 0, i : i + 2, j : j + 2].mean() for i in (1, 5) for j in (1, 5)]).reshape(2, 2)
    )
    with pytest.raises(LikenessError, match="residual mask of shape"):
        mask_pyramid(mask[0], [(4, 4)])


def test_several_nets_each_with_its_own(base):
    """Two nets in diffusers' MultiControlNetModel: the sum of each alone; one wholly masked leaves just the other."""
    identity, pose = controlnet(base, 2), controlnet(base, 5)
    both, tokens = MultiControlNetModel([identity, pose]), torch.randn(2, 5, CONTEXT)
    mask = torch.rand(1, 1, HINT_PX, HINT_PX)
    latents, time, text = inputs()

    def together():
        pictures = [hint(), hint().flip(-1)]
        down, middle = both(latents, time, text, pictures, [0.8, 0.6], added_cond_kwargs=added(), return_dict=False)
        return [*down, middle]

    with torch.no_grad():
        alone = run(pose, 0.6, picture=hint().flip(-1))
        with identity.given(context=tokens, mask=mask):
            wanted = [a + b for a, b in zip(run(identity, 0.8), alone, strict=True)]
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(together(), wanted, strict=True))
        with identity.given(context=tokens, mask=torch.zeros_like(mask)):
            assert all(torch.equal(a, b) for a, b in zip(together(), alone, strict=True))


def test_tokens_train_from_both_sides(base):
    """InstantID: face tokens go to the UNet's image branch and to the net; with checkpointing the same gradients, and a
    stage that trains the net alone detaches them."""
    projection = Resampler(dim=128, heads=2, num_queries=5, embedding_dim=24, output_dim=CONTEXT, depth=1)
    net = controlnet(base)
    adapter = IPAdapter.for_unet(base, projection)
    faces = torch.randn(2, 1, 24)

    def grads(checkpointing: bool, detach: bool = False, scale: float = 1.0) -> dict[str, torch.Tensor]:
        for each in (base, net):
            each.train()
            (each.enable_gradient_checkpointing if checkpointing else each.disable_gradient_checkpointing)()
        adapter.zero_grad()
        net.zero_grad()
        installed.set_scale(scale)
        tokens = projection(faces)
        with net.given(context=tokens.detach() if detach else tokens):
            residuals = run(net)
        predict(base, residuals, image_embeds=[faces[:, None]]).square().mean().backward()
        return {**gradients(projection), **gradients(net)}

    with install(base, adapter) as installed:
        both = grads(checkpointing=False)
        assert largest_difference(both, grads(checkpointing=True)) < 1e-5
        assert both["latents"].abs().max() > 0
        from_unet = grads(checkpointing=False, detach=True)["latents"]
        assert (from_unet - both["latents"]).abs().max() > 0
        assert "latents" not in grads(checkpointing=True, detach=True, scale=0.0)
        with pytest.raises(LikenessError, match="make the ControlNet first"):
            ContextControlNet.from_unet(base)
    base.eval().disable_gradient_checkpointing()


def test_more_hint_channels(base):
    net = controlnet(base)
    with torch.no_grad():
        before = run(net)
        widen_hint(net, 2)
        wide = torch.cat([hint(), torch.rand(2, 2, HINT_PX, HINT_PX)], 1)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(run(net, picture=wide), before, strict=True))
    run(net, picture=wide)[-1].sum().backward()
    assert net.controlnet_cond_embedding.conv_in.weight.grad[:, 3:].abs().max() > 0


def test_folders(base, tmp_path):
    """Written as diffusers writes a ControlNet, read by it and by us, extra channels and all."""
    net = controlnet(base)
    widen_hint(net, 1)
    net.save_as_controlnet(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "ControlNetModel"
    wide = torch.cat([hint(), torch.rand(2, 1, HINT_PX, HINT_PX)], 1)
    with torch.no_grad():
        wanted = run(net, picture=wide)
        for kind in (ControlNetModel, ContextControlNet):
            back = kind.from_pretrained(tmp_path).eval()
            assert type(back) is kind
            assert all(torch.equal(a, b) for a, b in zip(run(back, picture=wide), wanted, strict=True))
