"""Image projections of the IP-Adapter family: an embedding of a picture or a face to tokens for cross-attention.

Parameter names are those of the published files. diffusers has the same networks under other names; ours stand in the UNet in
their place (`encoder_hid_proj`), so that what is trained needs no renaming to be published.
Source: IP-Adapter (Ye et al. 2023) and its released code for the face variants.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from infra.errors import LikenessError
from models.blocks.resampler import Perceiver, Resampler

DIM_HEAD = 64  # of every published resampler; shapes alone don't tell it


class ImageProjection(nn.Module):
    """The base variant: a pooled CLIP embedding (B, embedding_dim) -> (B, num_tokens, context_dim)."""

    def __init__(self, context_dim: int = 768, embedding_dim: int = 1024, num_tokens: int = 4) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = nn.Linear(embedding_dim, num_tokens * context_dim)
        self.norm = nn.LayerNorm(context_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding.to(self.proj.weight.dtype)).unflatten(-1, (self.num_tokens, -1)))


class FullFaceProjection(nn.Module):
    """The full-face variant: every CLIP token of its own (B, 257, embedding_dim) -> (B, 257, context_dim)."""

    num_tokens = 257

    def __init__(self, context_dim: int = 768, embedding_dim: int = 1024) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(embedding_dim, embedding_dim), nn.GELU(), nn.Linear(embedding_dim, context_dim), nn.LayerNorm(context_dim)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.proj(tokens.to(next(self.parameters()).dtype))


class FaceIDProjection(nn.Module):
    """The FaceID variant: an L2-normalised ArcFace embedding (B, embedding_dim) -> (B, num_tokens, context_dim)."""

    def __init__(self, context_dim: int = 768, embedding_dim: int = 512, num_tokens: int = 4) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = nn.Sequential(
            nn.Linear(embedding_dim, 2 * embedding_dim), nn.GELU(), nn.Linear(2 * embedding_dim, num_tokens * context_dim)
        )
        self.norm = nn.LayerNorm(context_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.norm(self.proj(embedding.to(self.norm.weight.dtype)).unflatten(-1, (self.num_tokens, -1)))


class FaceIDPlusProjection(FaceIDProjection):
    """FaceID-Plus: ArcFace makes the latents, a resampler reads the CLIP tokens of the face into them.

    The UNet calls it with the ArcFace embedding alone, so the CLIP tokens are set beforehand, as diffusers' pipelines do:

    Attributes:
        clip_embeds: (B, n, N, clip_dim), n images a sample, or (B, N, clip_dim).
        shortcut: V2: the ArcFace tokens are added to what the resampler makes.
        shortcut_scale: of the resampler's part under the shortcut.
    """

    def __init__(self, context_dim: int = 768, embedding_dim: int = 512, clip_dim: int = 1280, num_tokens: int = 4) -> None:
        super().__init__(context_dim, embedding_dim, num_tokens)
        self.perceiver_resampler = Perceiver(
            dim=context_dim,
            depth=4,
            dim_head=DIM_HEAD,
            heads=context_dim // DIM_HEAD,
            embedding_dim=clip_dim,
            output_dim=context_dim,
        )
        self.clip_embeds: Tensor | None = None
        self.shortcut = False
        self.shortcut_scale = 1.0

    def forward(self, embedding: Tensor, clip_embeds: Tensor | None = None) -> Tensor:
        clip = self.clip_embeds if clip_embeds is None else clip_embeds
        if clip is None or clip.shape[-1] != self.perceiver_resampler.proj_in.in_features:
            seen = "no CLIP tokens" if clip is None else f"CLIP tokens of shape {tuple(clip.shape)}"
            raise LikenessError(
                f"FaceID-Plus was given {seen}",
                allowed=f"(batch, images, tokens, {self.perceiver_resampler.proj_in.in_features})",
                fix="set the projection's clip_embeds before the UNet is called",
            )
        tokens = super().forward(embedding)
        out = self.perceiver_resampler.resample(tokens, clip.reshape(-1, *clip.shape[-2:]).to(tokens.dtype))
        return tokens + self.shortcut_scale * out if self.shortcut else out


Projection = ImageProjection | FullFaceProjection | FaceIDProjection | FaceIDPlusProjection | Resampler


def projection_for(weights: Mapping[str, Tensor]) -> Projection:
    """The network that a published `image_proj` dict belongs to, told by its keys and sizes, on the meta device.

    The base variant's number of tokens is read off its norm; a resampler's heads from its width at 64 channels each.

    Raises:
        LikenessError: no variant has such keys.
    """
    with torch.device("meta"):
        if "perceiver_resampler.proj_in.weight" in weights:
            width, clip_dim = weights["perceiver_resampler.proj_in.weight"].shape
            tokens = weights["proj.2.weight"].shape[0] // width
            return FaceIDPlusProjection(width, weights["proj.0.weight"].shape[1], clip_dim, tokens)
        if "latents" in weights:
            return _resampler_for(weights)
        if "proj.weight" in weights and "norm.weight" in weights:
            width = weights["norm.weight"].shape[0]
            return ImageProjection(width, weights["proj.weight"].shape[1], weights["proj.weight"].shape[0] // width)
        if "proj.3.weight" in weights:
            return FullFaceProjection(weights["proj.3.weight"].shape[0], weights["proj.0.weight"].shape[1])
        if "proj.2.weight" in weights and "norm.weight" in weights:
            width = weights["norm.weight"].shape[0]
            return FaceIDProjection(width, weights["proj.0.weight"].shape[1], weights["proj.2.weight"].shape[0] // width)
    raise LikenessError(
        f"no image projection has the keys {', '.join(sorted(weights)[:4]) or '(none)'}",
        allowed="the image_proj part of an IP-Adapter file: base, plus, full-face, FaceID, FaceID-Plus or InstantID",
        fix="pass the adapter's own file, not the UNet's or the face encoder's",
    )


def _resampler_for(weights: Mapping[str, Tensor]) -> Resampler:
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("layers."))
    dim = weights["latents"].shape[2]
    return Resampler(
        dim=dim,
        depth=depth,
        dim_head=DIM_HEAD,
        heads=weights["layers.0.0.to_q.weight"].shape[0] // DIM_HEAD,
        num_queries=weights["latents"].shape[1],
        embedding_dim=weights["proj_in.weight"].shape[1],
        output_dim=weights["proj_out.weight"].shape[0],
        ff_mult=weights["layers.0.1.1.weight"].shape[0] // dim,
    )
