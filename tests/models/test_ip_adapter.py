"""IP-Adapter in a UNet: nothing at scale 0, nothing after removal, trained through, published and read back."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import MotionAdapter, StableDiffusionXLPipeline, UNetMotionModel
from diffusion_nets import CONTEXT, gradients, inputs, largest_difference, sdxl_unet, unet
from safetensors.torch import load_file, save_file

from infra.errors import LikenessError
from models.blocks.projections import FaceIDPlusProjection, FaceIDProjection, FullFaceProjection, ImageProjection
from models.blocks.resampler import Resampler
from models.diffusion.ip_adapter import IPAdapter, install
from models.diffusion.ip_adapter_files import read_ip_adapter, write_ip_adapter
from models.diffusion.lora import add_lora, set_lora_scale

EMBEDDING = 24
KINDS = {
    "base": (lambda: ImageProjection(CONTEXT, EMBEDDING), 0, (2, 1, EMBEDDING)),
    "plus": (lambda: resampler(), 0, (2, 1, 9, EMBEDDING)),
    "instantid": (lambda: resampler(), 0, (2, 1, 1, EMBEDDING)),
    "full": (lambda: FullFaceProjection(CONTEXT, EMBEDDING), 0, (2, 1, 257, EMBEDDING)),
    "faceid": (lambda: FaceIDProjection(CONTEXT, EMBEDDING), 4, (2, 1, EMBEDDING)),
    "faceid_plus": (lambda: FaceIDPlusProjection(CONTEXT, EMBEDDING, 20), 4, (2, 1, EMBEDDING)),
}


def resampler(**changes) -> Resampler:
    sizes = {"dim": 128, "depth": 4, "heads": 2, "num_queries": 6, "embedding_dim": EMBEDDING, "output_dim": CONTEXT}
    return Resampler(**{**sizes, **changes})


def trained(net, kind: str) -> tuple[IPAdapter, torch.Tensor]:
    """An adapter as if it had learnt something, and embeddings for it."""
    made, rank, shape = KINDS[kind]
    adapter = IPAdapter.for_unet(net, made(), rank)
    with torch.no_grad():
        for weights in adapter.ip_adapter.parameters():
            weights += 0.1 * torch.randn_like(weights)
    return adapter, torch.randn(shape)


def call(net, *embeds: torch.Tensor) -> torch.Tensor:
    return net(*inputs(), added_cond_kwargs={"image_embeds": list(embeds)}).sample


def clip_for(projection) -> None:
    if isinstance(projection, FaceIDPlusProjection):
        projection.clip_embeds = torch.randn(2, 1, 9, 20, generator=torch.Generator().manual_seed(1))
        projection.shortcut = True


@pytest.fixture(autouse=True)
def _quick():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def net():
    return unet().requires_grad_(False)


def test_a_new_adapter_begins_as_the_text_branch(net):
    adapter = IPAdapter.for_unet(net, ImageProjection(CONTEXT, EMBEDDING), lora_rank=4)
    assert [int(number) for number in adapter.ip_adapter if "to_k_ip" in adapter.ip_adapter[number]] == [1, 3, 5, 7]
    first = net.down_blocks[1].attentions[0].transformer_blocks[0].attn2
    assert torch.equal(adapter.ip_adapter["1"]["to_k_ip"].weight, first.to_k.weight)
    assert torch.equal(
        adapter.ip_adapter["7"]["to_v_ip"].weight, net.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight
    )
    assert adapter.ip_adapter["1"]["to_k_ip"].weight.data_ptr() != first.to_k.weight.data_ptr()
    assert all(weights.requires_grad for weights in adapter.parameters())
    with torch.no_grad():
        plain = net(*inputs()).sample
        embeds = torch.randn(2, 1, EMBEDDING)
        with install(net, adapter) as installed:  # its low-rank part is nothing yet, its image part is not
            assert not torch.allclose(call(net, embeds), plain, atol=1e-3)
            installed.set_scale(0)
            assert torch.equal(call(net, embeds), plain)


def test_a_published_size():
    """SD 1.5: keys and values of about 19.17 million, at the odd numbers 1 to 31; projections as the card counts them."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        sd15 = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        projection = ImageProjection()
    adapter = IPAdapter.for_unet(sd15, projection)
    assert list(adapter.ip_adapter) == [str(number) for number in range(1, 32, 2)]
    assert sum(each.numel() for each in adapter.ip_adapter.parameters()) == 19_169_280
    assert round(sum(each.numel() for each in projection.parameters()) / 1e6, 1) == 3.2
    with torch.device("meta"):
        instantid = Resampler(dim=1280, heads=20, num_queries=16, embedding_dim=512, output_dim=2048)
    assert round(sum(each.numel() for each in instantid.parameters()) / 1e6, 1) == 82.0


@pytest.mark.parametrize("kind", KINDS)
def test_scale_zero_and_removal_give_the_base_model(net, kind):
    with torch.no_grad():
        before = dict(net.state_dict())
        processors = dict(net.attn_processors)
        plain = net(*inputs()).sample
        adapter, embeds = trained(net, kind)
        clip_for(adapter.image_proj)
        with install(net, adapter, scale=0.6) as installed:
            assert not torch.allclose(call(net, embeds), plain, atol=1e-3)
            if not adapter.lora_rank:  # the low-rank part of the FaceID family has no image in it and stays
                installed.set_scale(0.0)
                assert torch.equal(call(net, embeds), plain)
        assert torch.equal(net(*inputs()).sample, plain)
        after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(after[key].data_ptr() == before[key].data_ptr() for key in before)
    assert net.attn_processors == processors
    assert not getattr(net, "peft_config", None)
    assert net.config.encoder_hid_dim_type is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_what_is_written_loads_in_diffusers_and_here(net, kind, suffix, tmp_path):
    adapter, embeds = trained(net, kind)
    clip_for(adapter.image_proj)
    with torch.no_grad(), install(net, adapter, scale=0.6):
        wanted = call(net, embeds)
    file = tmp_path / f"adapter{suffix}"
    write_ip_adapter(adapter, file)
    assert [each.name for each in tmp_path.iterdir()] == [file.name]

    ours = read_ip_adapter(file)
    clip_for(ours.image_proj)
    assert type(ours.image_proj) is type(adapter.image_proj)
    with torch.no_grad(), install(net, ours, scale=0.6):
        assert torch.equal(call(net, embeds), wanted)

    pipe = StableDiffusionXLPipeline(None, None, None, None, None, copy.deepcopy(net), None, add_watermarker=False)
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, image_encoder_folder=None)
    pipe.set_ip_adapter_scale(0.6)
    clip_for_theirs = pipe.unet.encoder_hid_proj.image_projection_layers[0]
    if isinstance(ours.image_proj, FaceIDPlusProjection):
        clip_for_theirs.clip_embeds, clip_for_theirs.shortcut = ours.image_proj.clip_embeds, True
    with torch.no_grad():
        assert (call(pipe.unet, embeds) - wanted).abs().max() <= 1e-5


def test_the_file_is_the_state_dict(net, tmp_path):
    adapter, _ = trained(net, "faceid")
    write_ip_adapter(adapter, tmp_path / "a.safetensors")
    flat = load_file(tmp_path / "a.safetensors")
    assert flat.keys() == adapter.state_dict().keys()
    assert {key.split(".", 2)[2] for key in flat if key.startswith("ip_adapter.0.")} == {
        f"to_{part}_lora.{end}.weight" for part in ("q", "k", "v", "out") for end in ("down", "up")
    }
    write_ip_adapter(read_ip_adapter(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    by_number = list(adapter.published()["ip_adapter"])
    assert [int(key.split(".")[0]) for key in by_number] == sorted(int(key.split(".")[0]) for key in by_number)


@pytest.mark.parametrize("kind", ["plus", "faceid"])
def test_training_through_the_unet(net, kind):
    """The UNet's loss reaches every weight of the adapter and none of the UNet's; with checkpointing the same gradients."""
    adapter, embeds = trained(net, kind)
    found = {}
    with install(net, adapter):
        assert {id(each) for each in net.parameters() if each.requires_grad} == {id(each) for each in adapter.parameters()}
        for checkpointing in (False, True):
            net.train()
            (net.enable_gradient_checkpointing if checkpointing else net.disable_gradient_checkpointing)()
            adapter.zero_grad()
            call(net, embeds).square().mean().backward()
            found[checkpointing] = gradients(adapter)
    assert found[False].keys() == dict(adapter.named_parameters()).keys()
    assert largest_difference(found[False], found[True]) < 1e-5
    assert all(grad.abs().max() > 0 for grad in found[False].values())


def test_a_few_steps_learn(net):
    """Four targets told apart by their embeddings alone: the loss falls, and with shuffled embeddings it is higher."""
    adapter = IPAdapter.for_unet(net, ImageProjection(CONTEXT, EMBEDDING))
    latents, time, text = inputs(batch=4)
    latents, time, text = (each[:1].expand(4, *each.shape[1:]) for each in (latents, time, text))
    embeds, targets = torch.randn(4, 1, EMBEDDING), torch.randn(4, 4, 1, 1).expand(4, 4, 16, 16)

    def loss(given):
        return (net(latents, time, text, added_cond_kwargs={"image_embeds": [given]}).sample - targets).square().mean()

    optimiser = torch.optim.AdamW(adapter.parameters(), lr=3e-3)
    with install(net, adapter):
        first = loss(embeds).item()
        for _ in range(30):
            optimiser.zero_grad()
            value = loss(embeds)
            value.backward()
            optimiser.step()
        with torch.no_grad():
            right, shuffled = loss(embeds).item(), loss(embeds.roll(1, 0)).item()
    assert right < 0.8 * first
    assert right < 0.8 * shuffled


def test_two_adapters_in_either_order(net):
    (one, a), (two, b) = trained(net, "base"), trained(net, "plus")
    with torch.no_grad():
        with install(net, [one, two]) as installed:
            installed.set_scale(0.7, 0.2)
            first = call(net, a, b)
            with pytest.raises(LikenessError, match="3 scales for 2"):
                installed.set_scale(1, 2, 3)
        with install(net, [two, one]) as installed:
            installed.set_scale(0.2, 0.7)
            assert torch.allclose(call(net, b, a), first, atol=1e-5)
            installed.set_scale(0.0, 0.7)
            single = call(net, b, a)
        with install(net, one, scale=0.7):
            assert torch.allclose(call(net, a), single, atol=1e-6)


@pytest.mark.parametrize("nearest", [False, True])
def test_masks(net, nearest):
    adapter, embeds = trained(net, "base")
    with install(net, adapter, nearest_masks=nearest) as installed, torch.no_grad():

        def masked(mask):
            extra = {"cross_attention_kwargs": {"ip_adapter_masks": [mask]}, "added_cond_kwargs": {"image_embeds": [embeds]}}
            return net(*inputs(), **extra).sample

        everywhere = call(net, embeds)
        assert torch.allclose(masked(torch.ones(1, 1, 128, 128)), everywhere, atol=1e-6)
        nowhere = masked(torch.zeros(1, 1, 128, 128))
        installed.set_scale(0)
        assert torch.allclose(nowhere, call(net, embeds), atol=1e-6)


def test_other_low_rank_adapters_go_on_acting():
    net = sdxl_unet().requires_grad_(False)
    added = {"text_embeds": torch.randn(2, 32), "time_ids": torch.randn(2, 6)}
    add_lora(net, rank=2, targets=("to_q",), name="style")
    with torch.no_grad():
        for name, weights in net.named_parameters():
            if "lora_B" in name:
                weights += torch.randn_like(weights)
        set_lora_scale(net, 0.5, "style")
        styled = net(*inputs(), added_cond_kwargs=added).sample
        adapter = IPAdapter.for_unet(net, FaceIDProjection(CONTEXT, EMBEDDING), lora_rank=4)  # its low-rank part is nothing yet
        assert len(adapter.ip_adapter) == len(net.attn_processors)
        installed = install(net, adapter, scale=0.0)
        assert set(net.peft_config) == {"style", "ip_adapter_0"}
        got = net(*inputs(), added_cond_kwargs={**added, "image_embeds": [torch.randn(2, 1, EMBEDDING)]}).sample
        assert torch.allclose(got, styled, atol=1e-6)
        installed.remove()
        assert set(net.peft_config) == {"style"}
        assert not any("ip_adapter_0" in name for name in net.state_dict())
        assert torch.equal(net(*inputs(), added_cond_kwargs=added).sample, styled)
        set_lora_scale(net, 0.0, "style")
        assert not torch.allclose(net(*inputs(), added_cond_kwargs=added).sample, styled, atol=1e-3)


def test_video_unets(net):
    """AnimateDiff: motion modules are not counted; the same file does in diffusers' loader what it does here."""
    motion = MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=4
    )
    video = UNetMotionModel.from_unet2d(net, motion).eval()
    adapter, _ = trained(video, "base")
    assert [key.split(".")[0] for key in adapter.published()["ip_adapter"] if "to_k" in key] == ["1", "3", "5", "7"]
    latents, time, text = torch.randn(1, 4, 3, 16, 16), torch.tensor([7]), torch.randn(1, 7, CONTEXT).expand(3, -1, -1)
    embeds = {"added_cond_kwargs": {"image_embeds": [torch.randn(1, 1, EMBEDDING)]}}
    with torch.no_grad():
        plain = video(latents, time, text).sample
        with install(video, adapter) as installed:
            wanted = video(latents, time, text, **embeds).sample
            installed.set_scale(0)
            assert torch.equal(video(latents, time, text, **embeds).sample, plain)
        assert torch.equal(video(latents, time, text).sample, plain)
        video._load_ip_adapter_weights(adapter.published())
        assert not torch.allclose(wanted, plain, atol=1e-3)
        assert (video(latents, time, text, **embeds).sample - wanted).abs().max() <= 1e-5


def test_what_does_not_fit_is_refused(net, tmp_path):
    adapter, _ = trained(net, "base")
    with install(net, adapter), pytest.raises(LikenessError, match=r"already has the processor IPAdapter"):
        install(net, adapter)
    with pytest.raises(LikenessError, match=r"another UNet.*1\.to_k_ip"):
        install(unet(cross_attention_dim=32), adapter)
    assert type(net.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2").processor).__name__ == "AttnProcessor2_0"

    with pytest.raises(LikenessError, match="no weights at"):
        read_ip_adapter(tmp_path / "absent.bin")
    with pytest.raises(LikenessError, match="no IP-Adapter at"):
        read_ip_adapter(tmp_path / "absent.safetensors")
    (tmp_path / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(LikenessError, match="no complete safetensors"):
        read_ip_adapter(tmp_path / "half.safetensors")
    save_file({"x.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(LikenessError, match="no image_proj and no ip_adapter"):
        read_ip_adapter(tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(LikenessError, match="it has nothing"):
        read_ip_adapter(tmp_path / "list.bin")
    with pytest.raises(LikenessError, match=r"\.bin or \.safetensors"):
        write_ip_adapter(adapter, tmp_path / "a.pth")
    good = adapter.published()
    for broken, message in [
        ({**good, "image_proj": {"conv.weight": torch.zeros(1)}}, "no image projection has the keys conv.weight"),
        ({**good, "image_proj": {**good["image_proj"], "extra": torch.zeros(1)}}, "does not fit ImageProjection"),
        ({**good, "ip_adapter": {"one.to_k_ip.weight": torch.zeros(1, 1)}}, "no key of an IP-Adapter"),
    ]:
        with pytest.raises(LikenessError, match=message):
            IPAdapter.from_published(broken)


def test_projections_say_what_they_want():
    with pytest.raises(LikenessError, match=r"shape \(2, 24\)"):
        resampler()(torch.zeros(2, EMBEDDING))
    with pytest.raises(LikenessError, match="no CLIP tokens"):
        FaceIDPlusProjection(CONTEXT, EMBEDDING, 20)(torch.zeros(2, EMBEDDING))
    with pytest.raises(LikenessError, match=r"CLIP tokens of shape \(1, 3, 4\)"):
        FaceIDPlusProjection(CONTEXT, EMBEDDING, 20)(torch.zeros(1, EMBEDDING), torch.zeros(1, 3, 4))


def test_other_depths_and_token_counts_come_back(net):
    """What diffusers' loader takes for granted (depth 4, 4 tokens) is read off the file here."""
    for projection in (
        resampler(depth=2, ff_mult=2),
        ImageProjection(CONTEXT, EMBEDDING, 7),
        FaceIDProjection(CONTEXT, EMBEDDING, 16),
    ):
        adapter = IPAdapter.for_unet(net, projection)
        back = IPAdapter.from_published(adapter.published())
        assert back.image_proj.num_tokens == projection.num_tokens
        given = torch.randn(2, 1, EMBEDDING) if isinstance(projection, Resampler) else torch.randn(2, EMBEDDING)
        assert torch.equal(back.image_proj(given), projection(given))
