"""A code's pattern over a whole image, for tests that look at all of it."""

from __future__ import annotations

import numpy as np

from unseg.method.patterns import CodeBook, ImagePatterns


def sign_map(
    book: CodeBook, code: int, height: int, width: int, *, key: bytes, digest: bytes, grey: bool = False
) -> np.ndarray:
    """H×W int8 of 1 and −1."""
    drawn = ImagePatterns(book, height, width, key=key, digest=digest, grey=grey)
    return np.where(drawn.signs(code, slice(0, height), slice(0, width)), 1, -1).astype(np.int8)
