"""Adapters for the fixtures of StyleID's two pipelines, and of MultiDiffusion's grid."""

from __future__ import annotations

import json
import re
from typing import Any

import fixtures
import numpy as np
import torch
from adapters import adapter
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint

from models.diffusion.conditioning import Condition
from models.diffusion.inversion import Path
from models.diffusion.schedules import scaled_linear
from models.diffusion.windows import grid
from models.styleid.injection import PORT_LAYERS, StyleInjection, Trace, adain, layers_of, main_path, port_path


@adapter("06-multidiffusion", "views")
def _views(description: dict) -> dict[str, np.ndarray]:
    """The table stands in the description itself and is compared here; there are no arrays."""
    for size, wanted in description["views"].items():
        height, width = (int(side) // 8 for side in size.split("x"))
        windows = grid((height, width), 64, 8, "official")
        boxes = [[y, y + h, x, x + w] for (y, x), (h, w) in ((window.starts, window.sizes) for window in windows)]
        assert (len(boxes), boxes[0], boxes[-1]) == (wanted["count"], wanted["first"], wanted["last"]), size
        assert grid((height, width), 64, 8) == windows, f"{size}: a stride that fits leaves nothing for a last window to do"
    return {}


@adapter("16-styleid", "ldm_pipeline*")
def _ldm_pipeline(description: dict) -> dict[str, np.ndarray]:
    settings, given = json.loads(description["note"]), description["constructor"]
    unet = UNet2DConditionModel(**_of_ldm(given))
    drawn = {
        LDM_UNET_KEY + key: torch.from_numpy(fixtures.value_for(key, tuple(shape)))
        for key, shape in description["state_dict"].items()
    }
    unet.load_state_dict(convert_ldm_unet_checkpoint(drawn, unet.config), strict=True)
    description["filled"] = True  # every published name is drawn, and the strict load leaves none of the UNet's own unfilled
    assert sum(value.numel() for value in drawn.values()) == sum(value.numel() for value in unet.parameters())
    path = main_path(settings["steps"], settings["steps"] - settings["start_step"])
    assert [move.time for move in path.invert] == settings["ddim_timesteps"]
    return _pipeline(description, unet.eval(), path, settings, scaled_linear(), epsilon=0.0)


@adapter("16-styleid", "diffusers_pipeline*")
def _port_pipeline(description: dict) -> dict[str, np.ndarray]:
    settings = json.loads(description["note"])
    unet = fixtures.fill(UNet2DConditionModel(**description["constructor"].get("unet", description["constructor"])), description)
    schedule = settings.get("scheduler", {})
    given = {key: value for key, value in schedule.items() if key not in ("cls", "class")} if isinstance(schedule, dict) else {}
    scheduler: Any = DDIMScheduler(
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1} | given
    )
    path = port_path(settings["steps"], scheduler.config.steps_offset)
    settings = {"injected_layers": PORT_LAYERS} | settings
    return _pipeline(description, unet, path, settings, scheduler.alphas_cumprod, 1e-4, scheduler.config.prediction_type)


def _of_ldm(given: dict) -> dict[str, Any]:
    """What makes the diffusers UNet of LDM's constructor arguments, with attention to a context."""
    levels = len(given["channel_mult"])
    attends = [2**level in given["attention_resolutions"] for level in range(levels)]
    return {
        "sample_size": given["image_size"], "in_channels": given["in_channels"], "out_channels": given["out_channels"],
        "block_out_channels": [given["model_channels"] * factor for factor in given["channel_mult"]],
        "layers_per_block": given["num_res_blocks"], "cross_attention_dim": given["context_dim"],
        "attention_head_dim": given["num_heads"], "transformer_layers_per_block": given["transformer_depth"],
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)],
    }  # fmt: skip


def _pipeline(
    description: dict, unet: UNet2DConditionModel, path: Path, settings: dict, alpha_bar: torch.Tensor, epsilon: float,
    prediction: Any = "epsilon",
) -> dict[str, np.ndarray]:  # fmt: skip
    """In float64: nineteen calls one after the other make rounding grow, and the fixture itself, made in float32, is 7.5e-6 off."""
    inputs = description["inputs"]
    context = next(spec for name, spec in inputs.items() if "context" in name or "embed" in name)
    condition = Condition(fixtures.tensor(context).double())
    blocks = settings["injected_layers"]
    layers = layers_of(unet, blocks)
    injection = StyleInjection(unet.double(), condition, path, alpha_bar.double(), prediction, layers, torch.float64)
    latents = {role: next(spec for name, spec in inputs.items() if role in name) for role in ("content", "style")}
    content = injection.invert(fixtures.tensor(latents["content"]).double(), "content")
    style = injection.invert(fixtures.tensor(latents["style"]).double(), "style")
    start = adain(content.end, style.end, epsilon)
    times = [move.time for move in reversed(path.invert)]

    def answer(name: str, shape: list[int]) -> torch.Tensor:
        """What an output's name stands for: a feature (q_content_step1_block6), an inverted latent, the start or the result."""
        if found := re.fullmatch(r"([qkv])_(content|style)_step(\d+)_(?:block|layer)(\d+)", name):
            part, role, step, block = found.groups()
            trace: Trace = content if role == "content" else style
            feature = trace.features[layers_of(unet, [int(block)])[0], times[int(step)]]
            kept = getattr(feature, {"q": "query", "k": "key", "v": "value"}[part])
            return kept[0] if shape[0] == kept.shape[1] else kept.transpose(1, 2).flatten(2)
        if "styli" in name or name in ("latent", "out", "output", "result"):
            return injection.stylise([content], [style], settings["gamma"], settings["T"], epsilon=epsilon)
        if "content" in name or "style" in name:
            return (content if "content" in name else style).end
        return start  # "x_T" in the pipeline of LDM

    return {name: answer(name, spec["shape"]).numpy() for name, spec in description["outputs"].items()}
