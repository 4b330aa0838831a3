"""Perceiver resampler: any number of image tokens to a few context tokens, as IP-Adapter Plus, InstantID and their kin use it.

Parameter names are those of the published checkpoints (`image_proj.*` of an IP-Adapter file), so a state dict is the file.
Source: Flamingo (Alayrac et al. 2022), section 3.1; the variant of IP-Adapter (Ye et al. 2023).
"""

import torch
from torch import Tensor, nn

from infra.errors import LikenessError


class PerceiverAttention(nn.Module):
    """Latents look at the tokens and at themselves: keys and values come from both, queries from the latents only."""

    def __init__(self, dim: int, dim_head: int = 64, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.dim_head = dim_head
        inner = dim_head * heads
        self.norm1 = nn.LayerNorm(dim)  # of the tokens
        self.norm2 = nn.LayerNorm(dim)  # of the latents
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)  # keys stand above values
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """(B, N, dim) tokens and (B, M, dim) latents -> (B, M, dim), without the residual."""
        tokens, latents = self.norm1(tokens), self.norm2(latents)
        query = self._split(self.to_q(latents))
        key, value = (self._split(part) for part in self.to_kv(torch.cat([tokens, latents], dim=1)).chunk(2, dim=-1))
        # The root of the scale on either side: in half precision q k' alone can overflow.
        scale = self.dim_head**-0.25
        logits = (query * scale) @ (key * scale).transpose(-2, -1)
        weights = logits.float().softmax(dim=-1).to(logits.dtype)
        return self.to_out((weights @ value).transpose(1, 2).flatten(2))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2)


def feed_forward(dim: int, mult: int = 4) -> nn.Sequential:
    """Norm, widen, GELU, narrow; no biases."""
    inner = int(dim * mult)
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner, bias=False), nn.GELU(), nn.Linear(inner, dim, bias=False))


class Perceiver(nn.Module):
    """The resampler over latents that the caller gives.

    Args:
        dim: width inside.
        depth: layers.
        dim_head, heads: of the attention.
        embedding_dim: width of the tokens.
        output_dim: width of the result, a UNet's `cross_attention_dim`.
        ff_mult: widening of the feed-forward part.
    """

    def __init__(
        self, *, dim: int, depth: int, dim_head: int, heads: int, embedding_dim: int, output_dim: int, ff_mult: int = 4
    ) -> None:
        super().__init__()
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, dim_head, heads), feed_forward(dim, ff_mult)]) for _ in range(depth)
        )

    def resample(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """(B, M, dim) latents and (B, N, embedding_dim) tokens -> (B, M, output_dim)."""
        tokens = self.proj_in(tokens)
        for layer in self.layers:
            attention, widen = layer  # type: ignore[misc]
            latents = latents + attention(tokens, latents)  # type: ignore[has-type]
            latents = latents + widen(latents)  # type: ignore[has-type]
        return self.norm_out(self.proj_out(latents))


class Resampler(Perceiver):
    """The resampler with learnt latents: (B, N, embedding_dim) -> (B, num_queries, output_dim).

    IP-Adapter Plus for SD 1.5: dim 768, 12 heads, 16 queries over (B, 257, 1280) of CLIP ViT-H's last layer but one.
    InstantID: dim 1280, 20 heads, 16 queries, output 2048, over (B, 1, 512) ArcFace embeddings that are not normalised.
    """

    def __init__(
        self,
        *,
        dim: int = 1024,
        depth: int = 4,
        dim_head: int = 64,
        heads: int = 16,
        num_queries: int = 8,
        embedding_dim: int = 768,
        output_dim: int = 1024,
        ff_mult: int = 4,
    ) -> None:
        super().__init__(
            dim=dim,
            depth=depth,
            dim_head=dim_head,
            heads=heads,
            embedding_dim=embedding_dim,
            output_dim=output_dim,
            ff_mult=ff_mult,
        )
        self.latents = nn.Parameter(torch.randn(1, num_queries, dim) / dim**0.5)

    @property
    def num_tokens(self) -> int:
        """Context tokens that come out for one image."""
        return self.latents.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, embedding_dim) -> (B, num_queries, output_dim)."""
        if tokens.ndim != 3:
            raise LikenessError(
                f"the resampler was given a tensor of shape {tuple(tokens.shape)}",
                allowed=f"(batch, tokens, {self.proj_in.in_features})",
                fix="an embedding of one vector is one token: embedding[:, None]",
            )
        return self.resample(self.latents.expand(len(tokens), -1, -1), tokens.to(self.latents.dtype))
