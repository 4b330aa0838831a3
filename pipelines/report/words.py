"""Numbers as people read them."""

from __future__ import annotations


def plural(count: int, word: str) -> str:
    """`1 file`, `2 files`, `3 people`."""
    many = {"person": "people"}.get(word, f"{word}s")
    return f"{count} {word if count == 1 else many}"


def number(value: float) -> str:
    """`12.4`, `0.031`, `1500`: four significant digits at most, never in powers of ten up to a million."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
