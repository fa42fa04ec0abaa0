"""One uploaded picture: its file, and its objects as the page sends them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unseg.data.annotations.label_files import voc_palette
from unseg.data.samples import stem_of_image
from unseg.storage.image_encoding import encode_ids
from unseg.web.refusals import Refusal

MOST_OBJECTS = 250  # of a picture; in masks of class ids, 255 is no object's number
LONGEST = 2**24 - 1  # pixels of a run
MOST_RUNS = 2**24  # of a picture: 64 MiB
WORD = np.dtype("<u4")


@dataclass
class Picture:
    """One uploaded picture.

    name: relative to what was dropped. path: its file. height, width: upright, in pixels. note: what decoding changed,
    in words. runs: which object each pixel belongs to, see `runs_of`; None before there is one. whole: all of it is the
    object. dropped_as: the name that it came with, where another picture has that; else None.
    """

    number: int
    name: str
    path: Path
    height: int
    width: int
    note: str | None
    size: int
    runs: bytes | None = None
    whole: bool = False
    dropped_as: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def stem(self) -> str:
        """Returns the name that its mask has, without the suffix."""
        return stem_of_image(self.name)

    @property
    def is_marked(self) -> bool:
        """Returns whether it has an object."""
        return self.whole or self.runs is not None

    @property
    def most_bytes(self) -> int:
        """Returns how many bytes its objects take at most, as the page sends them."""
        return WORD.itemsize * min(self.height * self.width, MOST_RUNS)

    @property
    def mask_HW(self) -> np.ndarray:
        """Returns the object, H×W bool; Refusal where there is none yet."""
        return np.ones((self.height, self.width), bool) if self.whole else self.ids_HW > 0

    @property
    def ids_HW(self) -> np.ndarray:
        """Returns which object each pixel belongs to, H×W uint8, 0: to none; Refusal where there is none yet."""
        if self.runs is None:
            raise Refusal(409, f"{self.name}: nothing says what the object is; mark it first")
        return ids_of(self.runs, self.height, self.width)

    def mask_file(self) -> bytes:
        """Returns its objects as a PNG that `unseg protect --masks --mask-type index` takes: a number each."""
        ids_HW = np.ones((self.height, self.width), np.uint8) if self.whole else self.ids_HW
        return encode_ids(ids_HW, np.array(voc_palette()).reshape(-1, 3))

    def mark(self, runs: bytes) -> None:
        """Takes the objects as the page sends them; Refusal where they are not of the picture's size."""
        try:
            ids_HW = ids_of(runs, self.height, self.width)
        except ValueError as error:
            raise Refusal(422, f"{self.name}: its objects {error}; reload the page") from error
        self.whole = False
        self.runs = runs if ids_HW.any() else None

    def as_json(self) -> dict[str, object]:
        """Returns what the page is told."""
        return {
            "id": self.number,
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "note": self.note,
            "object": "whole" if self.whole else None if self.runs is None else "marked",
        }


def runs_of(ids_HW: np.ndarray) -> bytes:
    """Returns which object each pixel belongs to, H×W uint8 (0: to none), as the page and the server send it.

    These are runs of pixels, row by row. A run is a word of four bytes, the lowest first: the object's number in the
    lowest of them, and how many pixels in the other three. A longer run is several.
    """
    flat = ids_HW.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    pieces = -(-lengths // LONGEST)
    words = np.full(int(pieces.sum()), LONGEST)
    words[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * LONGEST
    return (words << 8 | np.repeat(flat[starts], pieces)).astype(WORD).tobytes()


def ids_of(runs: bytes, height: int, width: int) -> np.ndarray:
    """Returns the numbers of `runs_of`, H×W uint8; ValueError, which says what is wrong, for anything else."""
    if len(runs) % WORD.itemsize:
        raise ValueError("end within a word")
    words = np.frombuffer(runs, WORD)
    lengths, ids = words >> 8, (words & 255).astype(np.uint8)
    if int(lengths.sum(dtype=np.int64)) != height * width:
        raise ValueError(f"have {lengths.sum(dtype=np.int64)} pixels, the picture has {height * width}")
    if ids.max() > MOST_OBJECTS:
        raise ValueError(f"have a number over {MOST_OBJECTS}")
    return np.repeat(ids, lengths).reshape(height, width)
