"""diffusers' schedulers by the names their solvers go by."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

from infra.errors import LikenessError
from models.diffusion.backbone import Backbone

Name = Literal[
    "ddim", "ddpm", "pndm", "lms", "euler", "euler-ancestral", "heun", "dpm2", "dpm2-ancestral", "dpmpp-2m", "dpmpp-2m-karras",
    "dpmpp-2m-sde", "dpmpp-2s", "deis", "unipc",
]  # fmt: skip
# name -> class of diffusers, its settings beyond the model's own
SCHEDULERS: dict[Name, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2-ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp-2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp-2m-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp-2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp-2s": ("DPMSolverSinglestepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def make_scheduler(backbone: Backbone, name: Name, steps: int) -> Any:
    """A scheduler with the model's noise schedule and prediction type, its times set, on the model's device.

    Raises:
        LikenessError: no such name.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise LikenessError(f"there is no scheduler {name!r}", allowed=", ".join(get_args(Name)))
    kind, changes = SCHEDULERS[name]
    scheduler = backbone.scheduler(getattr(diffusers, kind), **changes)
    scheduler.set_timesteps(steps, device=torch.device(backbone.device))
    return scheduler
