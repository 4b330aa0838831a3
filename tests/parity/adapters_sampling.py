"""Adapters for the fixtures of samplers and schedules."""

import json
from collections.abc import Sequence

import fixtures
import numpy as np
import torch
from adapters import adapter
from diffusers import DDIMScheduler, UNet2DConditionModel

from models.diffusion.conditioning import Condition, predict
from models.diffusion.inversion import convention_a, walk
from models.diffusion.schedules import scaled_linear
from models.diffusion.windows import grid
from models.multidiffusion.sampler import panorama, prompt_masks, regions


@adapter("06-multidiffusion", "panorama_*")
def _panorama(description: dict) -> dict[str, np.ndarray]:
    settings, unet, scheduler, text = _multidiffusion(description)
    noise = fixtures.tensor(description["inputs"]["initial_latent"])[0]
    windows = grid(noise.shape[1:], settings["window"], settings["stride"], "official")
    assert [[w.starts[0], w.starts[0] + w.sizes[0], w.starts[1], w.starts[1] + w.sizes[1]] for w in windows] == settings["views"]

    def network(crops: torch.Tensor, time: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        negative, positive = (Condition(row.expand(len(crops), *row.shape)) for row in text)
        return predict(unet, crops, time, positive, negative, settings["guidance"])

    *_, canvas = panorama(network, noise, windows, scheduler)
    return {"latent": canvas[None].numpy()}


@adapter("06-multidiffusion", "region_based")
def _regions(description: dict) -> dict[str, np.ndarray]:
    settings, unet, scheduler, text = _multidiffusion(description)
    inputs, prompts = description["inputs"], len(text) // 2
    noise = fixtures.tensor(inputs["initial_latent"])[0]
    foregrounds = torch.zeros(prompts - 1, 1, *noise.shape[1:])
    foregrounds[0, :, 1:5, 1:4], foregrounds[1, :, 3:8, 4:8] = 1, 1  # as the note says in words
    masks = prompt_masks(foregrounds)
    chosen = iter(settings["background_index_per_call"])

    def network(crops: torch.Tensor, time: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        rows = [n % prompts for n in numbers]
        positive, negative = Condition(text[prompts:][rows]), Condition(text[:prompts][rows])
        return predict(unet, crops, time, positive, negative, settings["guidance"])

    windows = grid(noise.shape[1:], settings["window"], settings["stride"], "official")
    backgrounds = fixtures.tensor(inputs["backgrounds"])
    *_, canvas = regions(
        network, noise, windows, masks, scheduler, backgrounds, settings["bootstrapping"], lambda _: np.array(next(chosen))
    )
    return {"latent": canvas[None].numpy(), "masks": masks.numpy()}


def _multidiffusion(description: dict) -> tuple[dict, UNet2DConditionModel, DDIMScheduler, torch.Tensor]:
    """Settings, UNet, scheduler with its steps set, and text embeddings of a fixture of the method."""
    settings = json.loads(description["note"])
    unet = fixtures.fill(UNet2DConditionModel(**description["constructor"]), description)
    scheduler = DDIMScheduler(**settings["scheduler"])
    scheduler.set_timesteps(settings["steps"])
    return settings, unet, scheduler, fixtures.tensor(description["inputs"]["text_embeds"])


@adapter("13-visual-concept-translator", "ddim_inversion")
def _inversion(description: dict) -> dict[str, np.ndarray]:
    unet = fixtures.fill(UNet2DConditionModel(**description["constructor"]), description)
    words = torch.from_numpy(fixtures.value_for("token_embedding.weight", (5, 16)))
    places = torch.from_numpy(fixtures.value_for("position_embedding.weight", (77, 16)))
    context = (words[[0, *[1] * 76]] + places)[None]  # the empty prompt
    z0 = fixtures.tensor(description["inputs"]["z0"])
    moves = convention_a(10, offset=0).invert
    latents = walk(lambda x, time: unet(x, time, context).sample, z0, moves, scaled_linear())
    return {"trajectory": torch.cat([z0, *latents]).numpy()}
