"""InstantID over a tiny SDXL: what must change nothing changes nothing, faces and key points go where they belong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionXLPipeline

from infra.errors import LikenessError
from infra.model_files import find_model
from models.diffusion.bases import base_folder, open_base
from models.diffusion.conditioning import Condition, encode_pairs, time_ids
from models.diffusion.ip_adapter import install
from models.instantid.published import export_published, import_path
from models.instantid.sampling import sample
from models.instantid.stages import IdentityConfig, IdentityStage, new_networks, off_centre
from models.registry import method_named
from training.stage import Skip

SIDE = 64


class Row:
    """A made-up portrait, 90 x 120 px, with the face left of the middle."""

    def __init__(self, **changes: Any) -> None:
        rng = np.random.default_rng(5)
        points = np.array([[30, 50], [50, 50], [40, 60], [32, 70], [48, 70]], np.float32)
        self.key = "row"
        self.source = {"width": 90, "height": 120, "split": "train"}
        self.values = {
            "image_64": rng.integers(0, 256, (85, 64, 3), np.uint8), "identity_coarse": rng.standard_normal(256).astype(np.float32),
            "landmarks_5": np.stack([points * 0, points]), "face_box": np.array([[0, 0, 1, 1], [25, 40, 55, 80]], np.float32),
            "face_valid": np.array([False, True]), "key_frame": np.array(1), "caption_given": "a man in a hat",
        } | changes  # fmt: skip

    def __contains__(self, field: Any) -> bool:
        return any(option.name in self.values for option in getattr(field, "options", (field,)))

    def __getitem__(self, field: Any) -> Any:
        return next(self.values[o.name] for o in getattr(field, "options", (field,)) if o.name in self.values)


def tiny(**changes: Any) -> IdentityConfig:
    given = {"base": "tiny-sdxl", "identity": "coarse", "picture_px": 64, "size_px": SIDE, "width": 64, "queries": 4, "samples": 0}
    return IdentityConfig(**{**given, **changes})


@pytest.fixture(scope="module")
def built() -> Any:
    """A stage with its networks, IdentityNet no longer fresh, and what sampling wants."""
    torch.manual_seed(0)
    stage = IdentityStage(tiny())
    for name, module in stage.build({}).items():
        setattr(stage, name, module)
    with torch.no_grad():
        for name, weights in stage.identitynet.named_parameters():
            if "controlnet_" in name and "embedding" not in name:
                weights.normal_(std=0.1)
        stage.identitynet.controlnet_cond_embedding.conv_out.weight.normal_(std=0.1)
    backbone = stage.backbone_on(torch.device("cpu"))
    positive, negative = (Condition(c.context, c.pooled, time_ids((SIDE, SIDE))) for c in encode_pairs(backbone, ["a man"]))
    draw = torch.Generator().manual_seed(1)
    return SimpleNamespace(
        stage=stage, backbone=backbone, positive=positive, negative=negative, face=torch.randn(1, 256, generator=draw),
        hint=torch.rand(1, 3, SIDE, SIDE, generator=draw), noise=torch.randn(1, 4, 8, 8, generator=draw),
    )  # fmt: skip


def sampled(built: Any, **changes: Any) -> torch.Tensor:
    given = {
        "face": built.face, "hint": built.hint, "positive": built.positive, "negative": built.negative, "noise": built.noise,
        "steps": 2, "scheduler": built.backbone.scheduler(DDIMScheduler),
    }  # fmt: skip
    with torch.no_grad():
        return sample(built.backbone, built.stage.adapter, built.stage.identitynet, **given | changes)


def test_without_both_scales_it_is_the_base(built):
    pipe = StableDiffusionXLPipeline(
        None, None, None, None, None, built.backbone.unet, built.backbone.scheduler(DDIMScheduler), add_watermarker=False
    )  # type: ignore[arg-type]  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    plain = pipe(
        prompt_embeds=built.positive.context, negative_prompt_embeds=built.negative.context, height=SIDE, width=SIDE,
        pooled_prompt_embeds=built.positive.pooled, negative_pooled_prompt_embeds=built.negative.pooled, guidance_scale=5.0,
        num_inference_steps=2, latents=built.noise.clone(), output_type="latent",
    ).images  # type: ignore[union-attr]  # fmt: skip
    assert torch.equal(sampled(built, adapter_scale=0.0, identity_scale=0.0), plain)
    assert not torch.equal(sampled(built, adapter_scale=0.0), plain)
    assert not torch.equal(sampled(built, identity_scale=0.0), plain)


def test_masks_and_further_nets(built):
    torch.manual_seed(2)
    pose = ControlNetModel.from_unet(built.backbone.unet)
    with torch.no_grad():
        for name, weights in pose.named_parameters():
            if name.startswith("controlnet_"):
                weights.normal_(std=0.1)
    control = torch.rand(1, 3, SIDE, SIDE)
    also = {"nets": [pose], "controls": [control], "net_scales": [0.4]}
    ones, zeros = torch.ones(1, 1, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    assert torch.allclose(sampled(built, mask=ones, **also), sampled(built, **also), atol=1e-5)
    only_pose = sampled(built, adapter_scale=0.0, identity_scale=0.0, **also)
    assert torch.allclose(sampled(built, mask=zeros, adapter_scale=0.0, **also), only_pose, atol=1e-6)
    assert not torch.allclose(sampled(built, mask=zeros, adapter_scale=0.0), only_pose, atol=1e-3)


def test_identitynet_reads_the_face_and_not_the_prompt(built):
    """Another prompt reaches it by the pooled text alone; another face by its context."""
    seen: list[torch.Tensor] = []
    layer = next(m for name, m in built.stage.identitynet.named_modules() if name.endswith("attn2.to_k"))
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        sampled(built, steps=1)
        words = Condition(built.positive.context + 1, built.positive.pooled + 1, built.positive.time_ids)
        sampled(built, steps=1, positive=words)
        sampled(built, steps=1, face=built.face + 1)
    finally:
        handle.remove()
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][:1], seen[2][:1])  # the negative half is the projection of zeros
    assert not torch.equal(seen[0][1:], seen[2][1:])
    tokens = built.stage.adapter.image_proj(torch.zeros(1, 1, 256))
    assert torch.allclose(seen[0][:1], tokens, atol=1e-6)
    assert tokens.abs().max() > 0.1


def test_a_fresh_identitynet_changes_nothing_and_only_the_chosen_parts_train():
    stage = IdentityStage(tiny(train=("identitynet",)))
    for name, module in stage.build({}).items():
        setattr(stage, name, module)
    assert not any(p.requires_grad for p in stage.adapter.parameters())
    assert all(p.requires_grad for p in stage.identitynet.parameters())
    batch = {key: torch.as_tensor(np.stack([value])) for key, value in example(stage).items() if key != "prompt"}
    backbone = stage.backbone_on(torch.device("cpu"))
    latents = stage.latents(batch, backbone)
    condition = stage.condition(batch | {"prompt": ["a man"]}, backbone)
    noisy = stage.noisy(batch, latents, backbone)
    with install(stage.unet, stage.adapter, scale=0.0) as installed:
        alone = stage.predict(batch, noisy, condition, batch["identity"], batch["hint"])
        installed.set_scale(1.0)
        with_adapter = stage.predict(batch, noisy, condition, batch["identity"], batch["hint"])
    base = stage.unet(noisy, batch["t"], **condition.arguments()).sample
    assert torch.allclose(alone, base, atol=1e-6)
    assert not torch.allclose(with_adapter, base, atol=1e-3)
    with_adapter.sum().backward()
    assert stage.identitynet.controlnet_mid_block.weight.grad is not None


def example(stage: IdentityStage, row: Row | None = None, seed: int = 0) -> dict[str, Any]:
    return stage.example({"people": [row or Row()]}, np.random.default_rng(seed))


def test_key_points_follow_the_crop():
    stage = IdentityStage(tiny(size_px=48))
    found = example(stage)
    # 90 x 120 px shown at 64 x 85: the middle 48 columns (of whole cells: from 8 on), rows from the upper half of what is left over
    top = found["sizes"][2]
    assert found["sizes"].tolist() == [85, 64, top, 8, 48, 48]
    assert top in (0, 8, 16)
    assert np.allclose(found["points"][0], [30 * 64 / 90 - 8, 50 * 85 / 120 - top])
    assert np.array_equal(found["picture"], Row().values["image_64"][int(top) : int(top) + 48, 8:56])
    assert found["hint"].shape == (48, 48, 3)
    assert found["noise"].shape == (4, 6, 6)


def test_around_the_face():
    stage = IdentityStage(tiny(crop="face", size_px=64))
    for seed in range(5):
        points = example(stage, seed=seed)["points"]
        assert ((points >= 0) & (points <= 64)).all()
        assert points[1, 0] - points[0, 0] > 64 * 20 / 40 / 2.2 * 0.9  # eyes 20 px apart in a face of 40 px


def test_rows_without_a_face_are_skipped_and_small_pictures_too():
    stage = IdentityStage(tiny())
    for row in (Row(face_valid=np.array([True, False])), Row(identity_coarse=np.zeros(256, np.float32))):
        with pytest.raises(Skip, match="no face"):
            example(stage, row)
    with pytest.raises(Skip, match="smaller than size_px=128"):
        example(IdentityStage(tiny(size_px=128)))


def test_latents_are_cut_like_pictures():
    moments = np.arange(8 * 11 * 8, dtype=np.float32).reshape(8, 11, 8)
    stage = IdentityStage(tiny(size_px=48))
    stage.given = {"people": ("latent_sdxl_64",)}
    found = example(stage, Row(latent_sdxl_64=moments))
    top = int(found["sizes"][2]) // 8
    assert np.array_equal(found["moments"], moments[:, top : top + 6, 1:7])


def test_columns_of_other_encoders_are_refused():
    stage = IdentityStage(tiny())
    stage.given = {"people": ("latent_sdxl_64", "text_sdxl", "text_pooled_sdxl")}
    own = {part: find_model(f"{base_folder('tiny-sdxl')}:{part}")[1] for part in ("vae", "text_encoder", "text_encoder_2")}
    texts = {"model:local:text_encoder": own["text_encoder"], "model:local:text_encoder_2": own["text_encoder_2"]}
    stage.made_with = {("people", "latent_sdxl_64"): {"model:local:vae": own["vae"]}, ("people", "text_sdxl"): texts}
    assert set(stage.frozen_parts("people")) == {"unet"}

    stage.made_with = {("people", "latent_sdxl_64"): {"model:org/other:vae": "0" * 64}}
    with pytest.raises(LikenessError, match="not made with vae of tiny-sdxl, but with model:org/other:vae") as told:
        stage.frozen_parts("people")
    assert "--field latent_sdxl_64 --set latents_sdxl.model=" in str(told.value)
    stage.made_with = {("people", "text_sdxl"): texts | {"model:local:text_encoder_2": "0" * 64}}
    with pytest.raises(LikenessError, match="not made with text_encoder_2 of tiny-sdxl"):
        stage.frozen_parts("people")
    stage.config.foreign_columns = True
    assert set(stage.frozen_parts("people")) == {"unet"}


def test_dropout_loses_the_face_the_text_or_both_and_never_the_key_points():
    stage = IdentityStage(tiny(dropout=(0.3, 0.3, 0.3)))
    found = [example(stage, seed=seed) for seed in range(60)]
    kinds = {(bool(one["face_lost"]), bool(one["text_lost"])) for one in found}
    assert kinds == {(True, False), (False, True), (True, True), (False, False)}
    assert all(one["hint"].any() for one in found)
    sure = stage.validation_example({"people": [Row()]}, np.random.default_rng(0))
    assert not sure["face_lost"]
    assert not np.array_equal(sure["hint"], sure["mirrored_hint"])


def test_a_face_in_the_middle_says_nothing_when_mirrored():
    middle = torch.tensor([[[22.0, 30], [41, 30], [31.5, 36], [24, 42], [39, 42]]])
    assert not off_centre(middle, 64)[0]
    assert off_centre(middle + torch.tensor([4.0, 0]), 64)[0]


def test_published_files_go_round(built, tmp_path):
    weights = {"adapter": built.stage.adapter.state_dict(), "identitynet": built.stage.identitynet.state_dict()}
    export_published(weights, tmp_path, {"base": {"reference": "tiny-sdxl"}})
    name, adapter, settings = import_path(tmp_path / "ip-adapter.bin")
    assert (name, settings) == ("adapter", {"identity": "mobileface", "width": 64, "queries": 4})  # told by 256 numbers
    net_name, net, _ = import_path(tmp_path / "ControlNetModel")
    assert net_name == "identitynet"
    again = SimpleNamespace(**vars(built))
    fresh = new_networks(open_base("tiny-sdxl").unet, settings | {"identity": "coarse"})
    again.stage = SimpleNamespace(adapter=fresh[0], identitynet=fresh[1].eval())
    again.stage.adapter.load_state_dict(adapter)
    again.stage.identitynet.load_state_dict(net)
    built.stage.identitynet.eval()
    assert torch.equal(sampled(again), sampled(built))
    with pytest.raises(LikenessError, match="export models:/instantid-identity"):
        export_published({"adapter": adapter}, tmp_path, {})
    (tmp_path / "ControlNetModel" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(LikenessError, match="holds a UNet2DConditionModel"):
        import_path(tmp_path / "ControlNetModel")


def test_all_presets_resolve():
    from pipelines.train.plan import resolve_settings

    method = method_named("instantid")
    for preset in method.presets():
        if "identity" in method.presets()[preset]:
            assert resolve_settings(method, IdentityStage, preset, []).size_px % 8 == 0
