"""Other people's libraries, told to keep to themselves what no user of ours can act on."""

from __future__ import annotations

import os
from functools import cache


@cache
def quiet() -> None:
    """To be called before diffusers, transformers or DeepSpeed are imported. Errors are still told.

    Without it transformers warns of image processors that want torchvision, diffusers of casts that change nothing, and DeepSpeed,
    which accelerate imports, prints to the standard output that it had to guess the device, which breaks `--json`.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
