"""ControlNet whose cross-attention sees what it is given instead of the text, and whose residuals can be kept to a region.

It is diffusers' network with diffusers' weights and folder layout, and stands wherever one is expected: alone, or in a
MultiControlNetModel in the unmodified pipelines, where every net keeps its own context, scale and mask and residuals are summed.
Sources: ControlNet (Zhang et al. 2023, arXiv 2302.05543); IdentityNet of InstantID (Wang et al. 2024, arXiv 2401.07519).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel, ControlNetOutput
from torch import Tensor, nn
from torch.nn import functional as F

from infra.errors import LikenessError


class ContextControlNet(ControlNetModel):
    """A ControlNet with a context and a residual mask of its own.

    Attributes:
        context: (b, tokens, cross_attention_dim) in the place of the text states, b a divisor of the batch; None keeps the text.
            For classifier-free guidance the rows are as the batch's: first the negative ones, made from a zero input.
        mask: (b, 1, height, width) in the picture's pixels, 0 to 1: factor on the residuals; None for no mask.
    """

    context: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def from_unet(cls, unet: Any, *args: Any, **kwargs: Any) -> ContextControlNet:
        """A new net from a UNet's encoder: it changes nothing yet. Arguments as diffusers has them (`conditioning_channels`)."""
        if getattr(unet.config, "encoder_hid_dim_type", None) == "ip_image_proj":
            raise LikenessError(
                "a ControlNet can't be made from a UNet that has an IP-Adapter installed",
                fix="make the ControlNet first, then install the adapter",
            )
        return super().from_unet(unet, *args, **kwargs)

    @contextmanager
    def given(self, context: Tensor | None = None, mask: Tensor | None = None) -> Iterator[ContextControlNet]:
        """Sets context and mask for the calls inside the `with`. Backward may come after it, under checkpointing too."""
        before = self.context, self.mask
        self.context, self.mask = context, mask
        try:
            yield self
        finally:
            self.context, self.mask = before

    def forward(  # type: ignore[override]
        self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, controlnet_cond: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """As diffusers' ControlNetModel: residuals of every encoder stage and of the middle, times scale, times mask."""
        if self.context is not None:
            encoder_hidden_states = over_batch(self.context, len(sample), "context").to(sample)
        return_dict = kwargs.pop("return_dict", True)
        down, middle = super().forward(sample, timestep, encoder_hidden_states, controlnet_cond, *args, return_dict=False, **kwargs)
        if self.mask is not None:
            mask = over_batch(self.mask, len(sample), "mask") if len(self.mask) > 1 else self.mask
            *masks, last = mask_pyramid(mask, [tuple(each.shape[-2:]) for each in (*down, middle)])
            down = [each * weights.to(each) for each, weights in zip(down, masks, strict=True)]
            middle = middle * last.to(middle)
        return ControlNetOutput(down, middle) if return_dict else (down, middle)

    def save_as_controlnet(self, folder: str | Path) -> None:
        """Writes the folder that ControlNetModel.from_pretrained reads, naming that class, for tools that know no other."""
        plain = ControlNetModel.from_config(dict(self.config))
        plain.load_state_dict(self.state_dict())
        plain.to(self.dtype).save_pretrained(folder)


def mask_pyramid(mask: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """A mask in the sizes of a ControlNet's residuals: bilinear, corners not aligned, no antialiasing, as InstantID has it.

    Args:
        mask: (b, 1, height, width).
        sizes: (height, width) of each residual, the middle's last.

    Returns:
        (b, 1, height, width) float32 for each size.
    """
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise LikenessError(f"a residual mask of shape {tuple(mask.shape)}", allowed="(batch, 1, height, width)")
    made = {size: F.interpolate(mask.float(), size=size, mode="bilinear", align_corners=False) for size in dict.fromkeys(sizes)}
    return [made[size] for size in sizes]


def over_batch(tensor: Tensor, batch: int, what: str) -> Tensor:
    """Rows (a, b) for a batch of four: (a, b, a, b). With guidance give the negative and the positive rows of every sample."""
    if len(tensor) == 0 or batch % len(tensor):
        raise LikenessError(f"a {what} of {len(tensor)} rows for a batch of {batch}", allowed=f"as many, or a divisor of {batch}")
    return tensor if len(tensor) == batch else tensor.repeat(batch // len(tensor), *[1] * (tensor.ndim - 1))


def widen_hint(net: ControlNetModel, extra_channels: int) -> None:
    """Lets a ControlNet take more hint channels (after its own); with zero weights, so that its output does not change yet."""
    old: nn.Conv2d = net.controlnet_cond_embedding.conv_in
    wide = nn.Conv2d(old.in_channels + extra_channels, old.out_channels, old.kernel_size, padding=old.padding)  # type: ignore[arg-type]
    wide.to(device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : old.in_channels] = old.weight
        if old.bias is not None and wide.bias is not None:
            wide.bias.copy_(old.bias)
    net.controlnet_cond_embedding.conv_in = wide
    net.register_to_config(conditioning_channels=wide.in_channels)
