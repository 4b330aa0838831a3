"""Seams of panoramas from a base model that has learnt something, with and without fusion; prints Markdown.

    likeness assets make trained-tiny-sdxl --data PEOPLE
    python benchmarks/seams.py [--base trained-tiny-sdxl] [--seeds 6] [--tiles 8] [--out FOLDER]

A canvas of `tiles` windows side by side is drawn from the same noise with windows that do not overlap ("alone"), and that overlap
by a half, by three quarters and by seven eighths (as published), evenly weighted or by a Gaussian. The number is the mean absolute
step between neighbouring pixels across the borders of the windows that do not overlap, over that elsewhere: 1 where nothing shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from common import spread
from diffusers import DDIMScheduler
from PIL import Image

from models.diffusion.bases import open_base
from models.diffusion.conditioning import Condition, encode_pairs, predict, time_ids
from models.diffusion.generation import to_pictures
from models.diffusion.tiny_training import PROMPT, SIZE_PX
from models.diffusion.windows import gaussian, grid, seam_ratio
from models.multidiffusion.sampler import panorama

LATENT_PX = 8


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--base", default="trained-tiny-sdxl")
    asked.add_argument("--seeds", type=int, default=6)
    asked.add_argument("--tiles", type=int, default=8)
    asked.add_argument("--steps", type=int, default=25)
    asked.add_argument("--guidance", type=float, default=1.0)
    asked.add_argument("--out", type=Path)
    asked.add_argument("--only", nargs="*", help="some of the ways, by their names in the table")
    given = asked.parse_args()
    backbone = open_base(given.base)
    cells = SIZE_PX // LATENT_PX
    with torch.no_grad():
        positive, negative = encode_pairs(backbone, [PROMPT])
    ways = {
        "alone": (cells, None), "half": (cells // 2, None), "three quarters": (cells // 4, None),
        "three quarters, Gaussian": (cells // 4, gaussian((cells, cells))), "seven eighths": (cells // 8, None),
        "seven eighths, Gaussian": (cells // 8, gaussian((cells, cells))),
    }  # fmt: skip
    ways = {way: how for way, how in ways.items() if not given.only or way in given.only}
    borders = grid((SIZE_PX, SIZE_PX * given.tiles), SIZE_PX, SIZE_PX)
    found: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(given.seeds):
        noise = torch.randn(4, cells, cells * given.tiles, generator=torch.Generator().manual_seed(seed))
        for way, (stride, weights) in ways.items():
            scheduler = backbone.scheduler(DDIMScheduler)
            scheduler.set_timesteps(given.steps)

            def network(crops: torch.Tensor, time: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
                sizes = time_ids((SIZE_PX, SIZE_PX), len(crops)) if backbone.family == "sdxl" else None
                both = [Condition(c.context, c.pooled).rows([0] * len(crops)) for c in (positive, negative)]
                rows = [Condition(c.context, c.pooled, sizes) for c in both]
                return predict(backbone.unet, crops, time, rows[0], rows[1], given.guidance)

            with torch.no_grad():
                *_, canvas = panorama(network, noise, grid(noise.shape[1:], cells, stride), scheduler, weights, batch=16)
                # each tile decoded by itself would show the autoencoder's own borders: the canvas is decoded whole
                picture = backbone.decode(canvas[None])[0]
            found[way].append(seam_ratio(picture, borders))
            if given.out:
                given.out.mkdir(parents=True, exist_ok=True)
                name = way.replace(", ", "-").replace(" ", "-")
                Image.fromarray(to_pictures(picture[None])[0]).save(given.out / f"{seed}-{name}.png")
    print(f"{given.base}, {given.seeds} canvases of {given.tiles} windows, {given.steps} steps\n")
    print("| overlap | step across borders over elsewhere |\n|---|---|")
    for way, ratios in found.items():
        print(f"| {way} | {spread(ratios, '.2f')} |")


if __name__ == "__main__":
    main()
