"""A picture's bytes without what decoders stumble over: what the cleaning of every format answers, and its limits."""

from __future__ import annotations

from dataclasses import dataclass

METADATA_LIMIT = 2**20  # bytes of one kind of metadata (profile, EXIF, XMP) that are read; Pillow refuses more in PNG
PARTS, BYTES_A_PART = 65_536, 256  # a file may have so many parts, and one more for so many of its bytes
KEEPS_BUSY = "made to keep a decoder busy, or damaged"


@dataclass(frozen=True)
class CleanedFile:
    """What a decoder is given of a file, and what was taken out.

    data: the picture, with such metadata as can be read. left_out: a sentence for each kind of metadata that the output
    lacks because it is damaged or too large. tells: kinds of metadata among what was taken out that say more than
    colours ("XMP", "a comment").
    """

    data: bytes
    left_out: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()


def most_parts(size: int) -> int:
    """Returns how many chunks, segments or blocks a file of `size` bytes may have."""
    return PARTS + size // BYTES_A_PART


def too_large(what: str) -> str:
    """Returns the sentence for a kind of metadata that is over the limit."""
    return f"its {what} of over {METADATA_LIMIT >> 20} MiB was left out"


def damaged(what: str) -> str:
    """Returns the sentence for a kind of metadata that cannot be read."""
    return f"its {what} is damaged and was left out"
