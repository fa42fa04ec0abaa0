"""The chunks of a PNG file without what is not needed to decode it, and without metadata that cannot be read.

Source: Portable Network Graphics (W3C), third edition.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from unseg.storage.cleaned_file import (
    KEEPS_BUSY,
    METADATA_LIMIT,
    CleanedFile,
    check_length,
    damaged,
    most_parts,
    too_large,
)
from unseg.storage.image_limits import ImageError
from unseg.storage.tiff_tags import has_sound_exif

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEFLATED_AT_MOST = 1040  # zlib packs no more than 1,032 bytes into one
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types
FRAME_CHUNKS = (b"acTL", b"fcTL", b"fdAT")  # of animations, which are told by them
XMP_KEYWORD = b"XML:com.adobe.xmp"
TEXTS = {XMP_KEYWORD: "XMP", b"Raw profile type exif": "EXIF"}  # keyword of a text → what it holds
OTHER_TEXT = "a comment"


@dataclass(frozen=True)
class Chunk:
    """A chunk of the file: its kind, and where it and its content stand."""

    kind: bytes
    start: int
    length: int

    @property
    def end(self) -> int:
        """Returns the place behind its checksum."""
        return self.start + 12 + self.length

    def content(self, data: bytes) -> bytes:
        """Returns its content."""
        return data[self.start + 8 : self.end - 4]

    def is_whole(self, data: bytes) -> bool:
        """Returns whether its checksum is that of its content."""
        stated = int.from_bytes(data[self.end - 4 : self.end], "big")
        return zlib.crc32(memoryview(data)[self.start + 4 : self.end - 4]) == stated


def png_size(start: bytes) -> tuple[int, int]:
    """Returns width and height that a PNG file's first 24 bytes promise; 0 and 0 where they are cut."""
    return struct.unpack(">II", start[16:24]) if len(start) >= 24 else (0, 0)


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """Yields the whole chunks up to the last one, IEND."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        chunk = Chunk(data[place + 4 : place + 8], place, int.from_bytes(data[place : place + 4], "big"))
        if chunk.end > len(data):
            return
        yield chunk
        if chunk.kind == b"IEND":
            return
        place = chunk.end


@dataclass
class _Kept:
    """What is kept of the chunks beside the picture's own, and what is said of the others."""

    chunks: dict[str, bytes] = field(default_factory=dict)  # what it holds → the chunk
    left_out: list[str] = field(default_factory=list)
    tells: set[str] = field(default_factory=set)

    def look_at(self, chunk: Chunk, data: bytes) -> None:
        """Keeps a chunk that an image's looks or its metadata need, if it can be read."""
        if chunk.kind == b"gAMA":
            what, size = "gamma", 4 if chunk.length == 4 else None
        elif chunk.kind == b"eXIf":
            what, size = "EXIF", chunk.length
        elif chunk.kind == b"iCCP":
            what, size = "colour profile", _unpacked(chunk.content(data), behind=b"\0\0")
        elif chunk.kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = chunk.content(data)[:80].partition(b"\0")[0]
            what = TEXTS.get(keyword, OTHER_TEXT)
            size = _text_size(chunk, data)
        else:
            return
        if what not in ("gamma", "colour profile", "EXIF") or what in self.chunks:  # of kept EXIF, its tags tell
            self.tells.add(what)
        if what == OTHER_TEXT or what in self.chunks:
            return
        whole = chunk.is_whole(data) and size is not None
        if whole and chunk.kind == b"eXIf" and chunk.length <= METADATA_LIMIT:
            whole = has_sound_exif(io.BytesIO(chunk.content(data)))
        if whole and size is not None and size <= METADATA_LIMIT:
            self.chunks[what] = data[chunk.start : chunk.end]
        elif what != "XMP":  # which only those miss who keep metadata; see `unseg.storage.image_metadata`
            self.left_out.append(too_large(what) if whole else damaged(what))
            self.tells |= {what} & {"EXIF"}


def clean_png(path: Path, data: bytes) -> CleanedFile:
    """Returns the picture's chunks, and before its pixels the metadata that can be read.

    ImageError where there are more chunks than a picture needs.
    """
    before: list[memoryview] = []
    pixels: list[memoryview] = []
    whole = memoryview(data)
    check_length(path, png_size(data), _raw_size(data) // DEFLATED_AT_MOST, len(data))
    kept, end = _Kept(), len(SIGNATURE)
    for number, chunk in enumerate(png_chunks(data)):
        if number > most_parts(len(data)):
            raise ImageError(path, f"more than {most_parts(len(data)):,} chunks: {KEEPS_BUSY}")
        end = chunk.end
        if chunk.kind[:1].isupper() or chunk.kind == b"tRNS" or chunk.kind in FRAME_CHUNKS:
            (pixels if pixels or chunk.kind in (b"IDAT", b"IEND") else before).append(whole[chunk.start : end])
        else:
            kept.look_at(chunk, data)
    rest = [] if pixels and pixels[-1][4:8] == b"IEND" else [whole[end:]]
    cleaned = b"".join([SIGNATURE, *before[:1], *kept.chunks.values(), *before[1:], *pixels, *rest])
    return CleanedFile(cleaned, tuple(dict.fromkeys(kept.left_out)), tuple(sorted(kept.tells)))


def _raw_size(data: bytes) -> int:
    """Returns how many bytes a PNG's rows take unpacked, each behind the number of its filter."""
    if len(data) < 26:
        return 0
    (width, height), bits = png_size(data), data[24] * CHANNELS.get(data[25], 1)
    return height * (1 + (width * bits + 7) // 8)


def bare_png(data: bytes) -> bytes:
    """Returns a PNG with nothing but what its pixels need."""
    needed = [chunk for chunk in png_chunks(data) if chunk.kind[:1].isupper() or chunk.kind == b"tRNS"]
    return b"".join([SIGNATURE, *(memoryview(data)[chunk.start : chunk.end] for chunk in needed)])


def transparent_level(data: bytes) -> int | None:
    """Returns the grey level, in the file's own bits, that a PNG says is transparent; None where it says none."""
    for chunk in png_chunks(data):
        if chunk.kind == b"tRNS":
            return int.from_bytes(chunk.content(data)[:2], "big")
        if chunk.kind == b"IDAT":
            break
    return None


def _text_size(chunk: Chunk, data: bytes) -> int | None:
    """Returns how many bytes a text chunk unfolds into, as far as the limit and one more; None where it is damaged."""
    content = chunk.content(data)
    if chunk.kind == b"tEXt":
        return len(content)
    if chunk.kind == b"zTXt":
        return _unpacked(content, behind=b"\0\0")
    keyword, _, rest = content.partition(b"\0")
    if len(rest) < 2 or rest.count(b"\0", 2) < 2:
        return None
    text = rest[2:].split(b"\0", 2)[2]  # behind a language and the keyword in it
    return _inflated(text) if rest[0] else len(text)


def _unpacked(content: bytes, behind: bytes) -> int | None:
    """Returns the size of a deflated part `behind` a name; None where it is damaged."""
    _, found, packed = content.partition(behind)
    return _inflated(packed) if found else None


def _inflated(packed: bytes) -> int | None:
    """Returns how many bytes deflated data hold, at most one more than the limit; None where they are damaged."""
    unpacker = zlib.decompressobj()
    try:
        size = len(unpacker.decompress(packed, METADATA_LIMIT + 1))
    except zlib.error:
        return None
    return size if size > METADATA_LIMIT or unpacker.eof else None
