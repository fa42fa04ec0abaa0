"""A choice of a set's files that depends on their names alone: not on their order, nor on where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Any, TypeVar

T = TypeVar("T")


def fixed_choice(items: Iterable[T], count: int, name_of: Callable[[T], str]) -> list[T]:
    """Returns at most `count` of the items: those whose names hash lowest, and of equal names those that sort first."""

    def place(item: T) -> tuple[bytes, Any]:
        return hashlib.sha256(name_of(item).encode(errors="surrogatepass")).digest(), item

    return nsmallest(count, items, key=place)
