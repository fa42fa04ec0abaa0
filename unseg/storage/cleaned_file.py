"""A picture's bytes without what decoders stumble over: what the cleaning of every format answers, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unseg.storage.image_limits import ImageError

METADATA_LIMIT = 2**20  # bytes of one kind of metadata (profile, EXIF, XMP) that are read; Pillow refuses more in PNG
PARTS = 16_384  # that any file may have; larger ones have more
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


def most_parts(size: int, bytes_a_part: int = 1024) -> int:
    """Returns how many chunks, segments or blocks a file of `size` bytes may have.

    bytes_a_part: what the parts of sound large files hold at least, on average.
    """
    return PARTS + size // bytes_a_part


def too_large(what: str) -> str:
    """Returns the sentence for a kind of metadata that is over the limit."""
    return f"its {what} of over {METADATA_LIMIT >> 20} MiB was left out"


def damaged(what: str) -> str:
    """Returns the sentence for a kind of metadata that cannot be read."""
    return f"its {what} is damaged and was left out"


def check_length(path: Path, size: tuple[int, int], needed: int, there: int) -> None:
    """Raises ImageError where a file is shorter than its pixels can be packed: no memory is reserved for them.

    size: width and height. needed, there: bytes.
    """
    if there < needed:
        width, height = size
        raise ImageError(path, f"broken image: image file is truncated ({there:,} bytes hold no {width}×{height})")
