"""Which words each window of a canvas is drawn from: a prompt a region, or prompts that change along the canvas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from infra.errors import LikenessError
from models.diffusion.conditioning import Condition
from models.diffusion.decoding import STEP_PX
from models.diffusion.windows import Window
from models.method import Inputs
from preprocessing.fields import PROMPT


def texts(inputs: Inputs) -> tuple[list[str], list[str] | None]:
    """Prompts, and as many negatives, None where none is given.

    With regions: the background's first, then one a region. With `window_prompt`, along the canvas: each `WINDOW_PROMPT, PROMPT`,
    what is there and what holds everywhere. Else the prompt.

    Raises:
        LikenessError: not one prompt for each region, or regions and prompts along the canvas.
    """
    along, own, unwanted = (_given(inputs, port) for port in ("window_prompt", "region_prompt", "region_negative"))
    count = len(inputs.get("region", ()))
    if len(own) != count:
        raise LikenessError(
            f"{count} regions and {len(own)} prompts for them", allowed="one each, in the same order",
            fix="region=MASK.png region_prompt='...' region=MASK2.png region_prompt='...'",
        )  # fmt: skip
    if len(unwanted) not in (0, count):
        raise LikenessError(f"{len(unwanted)} region_negative for {count} regions", allowed="none, or one each")
    if along and count:
        raise LikenessError("window_prompt with regions", allowed="one of the two", fix="leave window_prompt out")
    prompt = inputs["prompt"][PROMPT]
    prompts = [f"{text}, {prompt}" for text in along] or [prompt, *own]
    negative = inputs["negative"][PROMPT] if "negative" in inputs else None
    if negative is None and not unwanted:
        return prompts, None
    negatives = [negative or ""] * len(prompts)
    return prompts, [negatives[0], *unwanted] if unwanted else negatives


def _given(inputs: Inputs, port: str) -> list[str]:
    return [sample[PROMPT] for sample in inputs.get(port, ())]


def places_along(windows: Sequence[Window], size: tuple[int, int], count: int, circular: bool = False) -> Tensor:
    """(n,) float64: where each window lies among prompts spread along the longer axis (the width where both are equal).

    Each prompt has an equal stretch of the axis. A window in the middle of stretch m is at m, one halfway to the next middle at
    m + 0.5; before the first middle and after the last one the place stays, or, in a circle, goes on from the last to the first.

    Args:
        size: height and width of the canvas, cells.
        circular: the right border joins the left one.

    Raises:
        LikenessError: a stretch shorter than a window, whose prompt would nowhere stand alone.
    """
    axis = 1 if size[1] >= size[0] else 0
    length, side = size[axis], windows[0].sizes[axis]
    most = max(1, length // side)
    if count > most:
        raise LikenessError(
            f"{count} window_prompt along {length * STEP_PX} px",
            allowed=f"at most {most}, one for each window of {side * STEP_PX} px",
            fix="draw a larger picture, or lower window",
        )
    centres = torch.tensor([window.starts[axis] + side / 2 for window in windows], dtype=torch.float64)
    places = centres * count / length - 0.5
    return places % count if circular and axis == 1 else places.clamp(0, count - 1)


def mixed(prompts: Condition, places: Tensor) -> Condition:
    """The condition at (n,) places among prompts: the linear mix of the two next to each, the prompt itself at whole numbers.

    After the last prompt comes the first. Mixes of the embeddings' and of the pooled embeddings' numbers; sizes are not mixed.
    """
    low = places.floor().long()
    first, second = (prompts.rows((low + step) % len(prompts)) for step in (0, 1))
    share = (places - low).to(first.context)
    context = torch.lerp(first.context, second.context, share[:, None, None])
    if first.pooled is None or second.pooled is None:
        return Condition(context)
    return Condition(context, torch.lerp(first.pooled, second.pooled, share[:, None]))
