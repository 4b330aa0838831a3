"""Parity adapters of what conditions a diffusion UNet: IP-Adapter, InstantID's nets, StyleID's attention."""

from __future__ import annotations

import fixtures
import numpy as np
import torch
from adapters import adapter
from torch import nn

from models.blocks.projections import FaceIDPlusProjection, FaceIDProjection, FullFaceProjection, ImageProjection
from models.blocks.resampler import Resampler
from models.diffusion.attention import attention_hooks
from models.diffusion.attention_processor import Edit, Hook
from models.diffusion.controlnet import ContextControlNet, mask_pyramid
from models.diffusion.ip_adapter import IPAdapter, install
from models.diffusion.key_points import draw_key_points


def _projection(settings: dict) -> nn.Module:
    """Our network for a published constructor's arguments, told by which there are."""
    settings = {key: value for key, value in settings.items() if key != "cls"}
    if "num_queries" in settings:
        return Resampler(**settings)
    width = settings["cross_attention_dim"]
    if "clip_extra_context_tokens" in settings:
        return ImageProjection(width, settings["clip_embeddings_dim"], settings["clip_extra_context_tokens"])
    if "id_embeddings_dim" not in settings:
        return FullFaceProjection(width, settings["clip_embeddings_dim"])
    sizes = width, settings["id_embeddings_dim"]
    if "clip_embeddings_dim" in settings:
        return FaceIDPlusProjection(*sizes, settings["clip_embeddings_dim"], settings["num_tokens"])
    return FaceIDProjection(*sizes, settings["num_tokens"])


def _holding(**modules: nn.Module) -> nn.Module:
    """A module whose state dict has the fixture's prefixes."""
    whole = nn.Module()
    for name, module in modules.items():
        setattr(whole, name, module)
    return whole


@adapter("00-ip-adapter-base", "image_proj_*", "full_face_proj", "faceid_proj", "plus_resampler_*")
def _tokens(description: dict) -> dict[str, np.ndarray]:
    network = fixtures.fill(_projection(description["constructor"]), description)
    (given,) = description["inputs"].values()
    return {"out": network(fixtures.tensor(given)).numpy()}


@adapter("00-ip-adapter-base", "faceid_plus_proj")
def _faceid_plus(description: dict) -> dict[str, np.ndarray]:
    network = fixtures.fill(_projection(description["constructor"]), description)
    face, network.clip_embeds = (fixtures.tensor(description["inputs"][name]) for name in ("id_embeds", "clip_embeds"))
    out = network(face)
    network.shortcut, network.shortcut_scale = True, 0.7
    return {"out": out.numpy(), "out_shortcut": network(face).numpy()}


@adapter("00-ip-adapter-base", "unet_*")
def _whole_unet(description: dict) -> dict[str, np.ndarray]:
    from diffusers import UNet2DConditionModel

    settings = description["constructor"]
    unet = UNet2DConditionModel(**settings["unet"])
    ours = IPAdapter.for_unet(unet, _projection(settings["proj"]), settings["lora_rank"] or 0)
    fixtures.fill(_holding(unet=unet, image_proj=ours.image_proj, ip_adapter=ours.ip_adapter), description)
    given = {name: fixtures.tensor(spec) for name, spec in description["inputs"].items()}
    sample, timestep, text = (given.pop(name) for name in ("sample", "timestep", "text"))
    ours.image_proj.clip_embeds = given.pop("clip_embeds", None)  # of FaceID-Plus alone
    (image,) = given.values()
    outputs = {"tokens": ours.image_proj(image).numpy()}
    with install(unet, ours) as installed:
        for name, scale in (("noise_scale_0_6", 0.6), ("noise_scale_0", 0.0)):
            installed.set_scale(scale)
            noise = unet(sample, timestep, text, added_cond_kwargs={"image_embeds": [image[:, None]]}).sample
            outputs[name] = noise.numpy()
    return outputs


@adapter("05-instantid", "image_proj")
def _instantid_tokens(description: dict) -> dict[str, np.ndarray]:
    network = fixtures.fill(_projection(description["constructor"]), description)
    face = fixtures.tensor(description["inputs"]["x"])
    return {"out": network(face).numpy(), "out_zero": network(torch.zeros(1, *face.shape[1:])).numpy()}


@adapter("05-instantid", "draw_kps")
def _key_points(description: dict) -> dict[str, np.ndarray]:
    width, height = description["constructor"]["image_size_wh"]
    return {"image_hwc": draw_key_points(np.array(description["constructor"]["kps"]), height, width)}


@adapter("05-instantid", "mask_pyramid")
def _masks(description: dict) -> dict[str, np.ndarray]:
    """Every output a mask resized to that output's size, the input the only one there is."""
    (given,) = description["inputs"].values()
    mask = fixtures.tensor(given)
    mask = mask.reshape(1, 1, *mask.shape[-2:])
    outputs = description["outputs"]
    made = mask_pyramid(mask, [tuple(spec["shape"][-2:]) for spec in outputs.values()])
    return {name: each.reshape(spec["shape"]).numpy() for (name, spec), each in zip(outputs.items(), made, strict=True)}


@adapter("05-instantid", "pipeline_tiny_sdxl")
def _instantid_pipeline(description: dict) -> dict[str, np.ndarray]:
    """The whole sampler in diffusers' unmodified pipeline: our nets, our masks, our adapter."""
    from diffusers import DDIMScheduler, StableDiffusionXLControlNetPipeline, UNet2DConditionModel

    settings, given = description["constructor"], {name: fixtures.tensor(spec) for name, spec in description["inputs"].items()}
    call = settings["call"]
    unet = UNet2DConditionModel(**settings["unet"])
    nets = [ContextControlNet.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16)) for _ in range(2)]
    ours = IPAdapter.for_unet(unet, _projection(settings["image_proj"]))
    parts = {"identitynet": nets[0], "posenet": nets[1], "image_proj": ours.image_proj, "ip_adapter": ours.ip_adapter}
    fixtures.fill(_holding(unet=unet, **parts), description)
    scheduler = DDIMScheduler(**{key: value for key, value in settings["scheduler"].items() if key != "cls"})

    face = given["image_embeds"].reshape(1, 1, 1, -1)
    faces = torch.cat([torch.zeros_like(face), face])
    tokens = ours.image_proj(faces[:, 0])
    mask = torch.zeros(1, 1, call["height"], call["width"])
    mask[..., 30:90, 22:71] = 1
    with install(unet, ours, nearest_masks=True) as installed:

        def sample(both: bool, masked: bool, adapter_scale: float = 0.8, identity: float = 0.8, steps: int = 3) -> np.ndarray:
            installed.set_scale(adapter_scale)
            used = nets if both else nets[0]
            pipe = StableDiffusionXLControlNetPipeline(
                None, None, None, None, None, unet, used, scheduler, add_watermarker=False
            )  # fmt: skip
            pipe.set_progress_bar_config(disable=True)
            with nets[0].given(context=tokens, mask=mask if masked else None):
                return pipe(
                    image=[given["kps_image"], given["pose_image"]] if both else given["kps_image"],
                    controlnet_conditioning_scale=[identity, call["controlnet_conditioning_scale"][1]] if both else identity,
                    cross_attention_kwargs={"ip_adapter_masks": [mask]} if masked else None,
                    ip_adapter_image_embeds=[faces],
                    num_inference_steps=steps,
                    guidance_scale=call["guidance_scale"],
                    height=call["height"],
                    width=call["width"],
                    output_type="latent",
                    **{name: given[name].clone() for name in given if name.endswith("prompt_embeds") or name == "latents"},
                ).images.numpy()

        return {
            "multi_nomask": sample(True, False),
            "multi_mask": sample(True, True),
            "multi_mask_ip0": sample(True, True, adapter_scale=0.0),
            "multi_mask_identity0": sample(True, True, identity=0.0),
            "single_nomask": sample(False, False),
            "single_mask": sample(False, True),
            "single_nomask_1step": sample(False, False, steps=1),
        }


@adapter("16-styleid", "self_attention_injection")
def _style_injection(description: dict) -> dict[str, np.ndarray]:
    from diffusers.models.attention_processor import Attention

    settings, inputs = description["constructor"], description["inputs"]
    layer = fixtures.fill(Attention(settings["query_dim"], heads=settings["heads"], dim_head=settings["dim_head"]), description)
    states = fixtures.tensor(inputs["x"])
    query, key, value = (fixtures.tensor(inputs[f"{part}_injected"])[None] for part in "qkv")
    network = nn.Sequential(layer)

    def run(edit: Edit | None) -> np.ndarray:
        with attention_hooks(network, {"0": Hook(edit=edit)}):
            return network(states).numpy()

    return {
        "plain": run(None),
        "default": run(Edit(query, key, value, query_mix=0.75, temperature=1.5)),
        "high_style": run(Edit(query, key, value, query_mix=0.3, temperature=1.5)),
        "kv_only": run(Edit(None, key, value, temperature=1.5)),
    }
