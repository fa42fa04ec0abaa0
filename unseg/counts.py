"""Counts in sentences."""

from __future__ import annotations


def count_of(number: int, noun: str, nouns: str | None = None) -> str:
    """Returns a number with its noun: `1 image`, `1,204 images`. nouns: the plural, where it takes more than an s."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"
