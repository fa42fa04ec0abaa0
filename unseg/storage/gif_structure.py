"""The one picture of a GIF file, without extensions that do not change it. Source: Graphics Interchange Format 89a."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unseg.storage.cleaned_file import KEEPS_BUSY, CleanedFile, most_parts
from unseg.storage.image_limits import SEVERAL_FRAMES, ImageError

BLOCK = 128  # bytes; a block holds 255 at most
GRAPHIC_CONTROL, COMMENT, APPLICATION = 0xF9, 0xFE, 0xFF
TELLS = {COMMENT: "a comment"}


def gif_size(start: bytes) -> tuple[int, int]:
    """Returns width and height that a GIF file's first ten bytes promise; 0 and 0 where they are cut."""
    if len(start) < 10:
        return 0, 0
    return int.from_bytes(start[6:8], "little"), int.from_bytes(start[8:10], "little")


def clean_gif(path: Path, data: bytes) -> CleanedFile:
    """Returns the file with its picture and what makes a colour of it transparent; ImageError where there are several.

    A file that is cut short stays so.
    """
    place = 13 + _table_size(data[10:11])
    parts, control, pictures = [data[:place]], b"", 0
    tells, left_out = set(), []
    left = iter(range(most_parts(len(data), BLOCK)))  # how many blocks it may have, all together
    while (kind := data[place : place + 1]) in (b",", b"!"):
        start = place
        if kind == b"!":
            label = data[place + 1] if place + 1 < len(data) else 0
            place = _behind_blocks(path, data, place + 2, left)
            if label == GRAPHIC_CONTROL:
                control = data[start:place]
            elif label in TELLS:
                tells.add(TELLS[label])
            elif label == APPLICATION and data[start + 3 : start + 14] == b"XMP DataXMP":
                tells.add("XMP")
            elif label == APPLICATION and data[start + 3 : start + 11] == b"ICCRGBG1":
                left_out.append("its colour profile was left out: it cannot be read from GIF")
            continue
        pictures += 1
        if pictures > 1:
            raise ImageError(path, SEVERAL_FRAMES)
        place += 11 + _table_size(data[place + 9 : place + 10])  # a descriptor, its colours, and the code size
        place = _behind_blocks(path, data, place, left)
        parts += [control, data[start:place]]
    end = b";" if data[place : place + 1] == b";" else data[place:]
    return CleanedFile(b"".join([*parts, end]), tuple(dict.fromkeys(left_out)), tuple(sorted(tells)))


def _table_size(flags: bytes) -> int:
    """Returns the bytes of a colour table that packed flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _behind_blocks(path: Path, data: bytes, place: int, left: Iterator[int]) -> int:
    """Returns the place behind data in sub-blocks, each with its length before it, the last one empty.

    left: gives a number for each block that is still allowed.
    """
    for _ in left:
        if place >= len(data):
            return len(data)
        length = data[place]
        place += 1 + length
        if not length:
            return place
    raise ImageError(path, f"more than {most_parts(len(data), BLOCK):,} blocks: {KEEPS_BUSY}")
