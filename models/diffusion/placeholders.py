"""Words of one's own in prompts: what personalisation learns instead of, or besides, a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import LikenessError
from models.diffusion.backbone import Backbone


class Placeholders(nn.Module):
    """Words of one's own with trainable vectors ("<face>"), put into prompts without touching the text encoder's table.

    Textual Inversion (Gal et al. 2022, arXiv 2208.01618) with the vectors as parameters of their own: every published row stays as
    it is, bit for bit, and no optimiser moves it. The tokenizers get the new words; the encoders never see their numbers, since
    those lie outside the table and would be taken for the end of the text where that is the highest number.

    Args:
        backbone: its tokenizers are changed.
        words: how many vectors each placeholder has. A word with 3 becomes three tokens: "<face>", "<face>_1", "<face>_2".
        start: a known word whose first token's vector all begin as; "" for small random ones from torch's generator.

    Attributes:
        vectors: (vectors of all placeholders, D) parameters by name of the text encoder.

    Raises:
        LikenessError: a word that is in the vocabulary, or that the tokenizer takes apart.
    """

    def __init__(self, backbone: Backbone, words: Mapping[str, int], start: str = "") -> None:
        super().__init__()
        self.words = dict(words)
        self.tokens = [token for word, count in words.items() for token in _tokens(word, count)]
        self.vectors = nn.ParameterDict()
        self.ids: dict[str, list[int]] = {}
        for name, tokenizer, encoder in zip(backbone.text_encoder_names, backbone.tokenizers, backbone.text_encoders, strict=True):
            self.ids[name] = _add(tokenizer, self.tokens)
            table = encoder.get_input_embeddings().weight.detach().float()
            if start:
                rows = table[tokenizer(start, add_special_tokens=False).input_ids[0]].repeat(len(self.tokens), 1)
            else:
                rows = torch.randn(len(self.tokens), table.shape[1], device=table.device) * table.std()
            self.vectors[name] = nn.Parameter(rows.clone())

    @contextmanager
    def inserted(self, backbone: Backbone, vectors: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Within it, the backbone's text encoders read these vectors where a prompt has the placeholders.

        Args:
            vectors: others than `self.vectors`: (vectors, D), or (N, vectors, D) with its own for each prompt of a batch.
        """
        handles = []
        for name, encoder in zip(backbone.text_encoder_names, backbone.text_encoders, strict=True):
            own = (vectors or self.vectors)[name]
            handles += _hook(encoder, self.ids[name], own)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def published(self) -> dict[str, dict[str, Tensor]]:
        """Files as diffusers' `load_textual_inversion` reads them: by text encoder, {word: (vectors, D)}."""
        files: dict[str, dict[str, Tensor]] = {}
        for name, rows in self.vectors.items():
            parts = rows.detach().cpu().split(list(self.words.values()))
            files[name] = {word: part.contiguous() for word, part in zip(self.words, parts, strict=True)}
        return files


def _tokens(word: str, count: int) -> list[str]:
    if count < 1:
        raise LikenessError(f"{count} vectors for {word!r}", allowed="1 and more")
    return [word, *(f"{word}_{i}" for i in range(1, count))]  # diffusers' names


def _add(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Numbers of new tokens; tokens added before by the same names keep theirs."""
    known = tokenizer.get_vocab()
    added = tokenizer.get_added_vocab()
    for token in tokens:
        one = token in known or len(tokenizer(token, add_special_tokens=False).input_ids) == 1
        if (one and token not in added) or token in tokenizer.all_special_tokens:
            raise LikenessError(f"placeholder {token!r} is a word of the tokenizer", fix="take another, as <face>")
    tokenizer.add_tokens(list(tokens))
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    for token, number in zip(tokens, ids, strict=True):
        if tokenizer(f"a {token} and", add_special_tokens=False).input_ids.count(number) != 1:
            raise LikenessError(f"the tokenizer takes placeholder {token!r} apart", fix="take another, as <face>")
    return ids


def _hook(encoder: nn.Module, ids: Sequence[int], vectors: Tensor) -> list[Any]:
    """Hooks on a text encoder: placeholders' numbers are hidden from it, their rows of the embeddings replaced."""
    table: Any = encoder.get_input_embeddings()  # type: ignore[operator]
    found: list[Tensor] = []

    def hide(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = args[0] if args else kwargs["input_ids"]
        place = torch.full_like(given, -1)
        for row, number in enumerate(ids):
            place[given == number] = row
        found[:] = [place]
        hidden = torch.where(place >= 0, torch.zeros_like(given), given)
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "input_ids": hidden})

    def insert(module: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
        place = found[0]
        if not (place >= 0).any():
            return embedded
        if vectors.ndim == 3 and len(vectors) != len(place):
            raise LikenessError(f"placeholders' vectors for {len(vectors)} prompts", allowed=f"{len(place)}, or one for all")
        rows = vectors.expand(len(place), *vectors.shape[-2:]).to(embedded)
        own = rows.gather(1, place.clamp(min=0)[..., None].expand(*place.shape, rows.shape[-1]))
        return torch.where((place >= 0)[..., None], own, embedded)

    return [encoder.register_forward_pre_hook(hide, with_kwargs=True), table.register_forward_hook(insert)]
