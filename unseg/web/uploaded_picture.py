"""One uploaded picture: its file, and its object as the page sends it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unseg.data.samples import stem_of_image
from unseg.web.refusals import Refusal


@dataclass
class Picture:
    """One uploaded picture.

    name: relative to what was dropped. path: its file. height, width: upright, in pixels. note: what decoding changed,
    in words. bits: the object, a bit a pixel, row by row; None before there is one. whole: the object is all of it.
    """

    number: int
    name: str
    path: Path
    height: int
    width: int
    note: str | None
    size: int
    bits: bytes | None = None
    whole: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def stem(self) -> str:
        """Returns the name that its mask has, without the suffix."""
        return stem_of_image(self.name)

    @property
    def mask_HW(self) -> np.ndarray:
        """Returns the object, H×W bool; Refusal where there is none yet."""
        if self.whole:
            return np.ones((self.height, self.width), bool)
        if self.bits is None:
            raise Refusal(409, f"{self.name}: nothing says what the object is; mark it first")
        return mask_of(self.bits, self.height, self.width)

    def mark(self, bits: bytes) -> None:
        """Takes the object as the page sends it; Refusal where it is not of the picture's size."""
        count = self.height * self.width
        if len(bits) != -(-count // 8):
            raise Refusal(
                422, f"{self.name}: its object has {len(bits)} bytes, a bit for each of {count} pixels is due"
            )
        self.whole = False
        self.bits = bits if mask_of(bits, self.height, self.width).any() else None

    def as_json(self) -> dict[str, object]:
        """Returns what the page is told."""
        return {
            "id": self.number,
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "note": self.note,
            "object": "whole" if self.whole else None if self.bits is None else "marked",
        }


def bits_of(mask_HW: np.ndarray) -> bytes:
    """Returns a mask, H×W bool, as the page and the server send it: a bit a pixel, row by row, highest bit first."""
    return np.packbits(mask_HW.ravel()).tobytes()


def mask_of(bits: bytes, height: int, width: int) -> np.ndarray:
    """Returns the mask of `bits_of`, H×W bool."""
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=height * width).reshape(height, width).astype(bool)
