"""The segments of a JPEG file up to the end of its picture, without what is not needed to decode it.

What stands behind the end (films of motion photos, second pictures) is no part of the picture. Sources: ITU-T T.81,
annex B; EXIF 2.3, section 4.7; ICC.1, annex B.4.
"""

from __future__ import annotations

import io
import re
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

SCANS = 100  # ten are usual; each one costs a pass over all pixels, however few its bytes
FEW_SCANS, SCANNED_PIXELS = 12, 2_000_000_000  # a large picture may have fewer: so many, or passes over so many pixels
PIXELS_A_BYTE = 2048  # at most: a block of 8×8 takes a bit for its mean; arithmetic coding takes fewer
SOI, EOI, SOS, COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
APP0, APP1, APP2, APP13, APP14, APP15 = 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xEF
ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))  # they say the size
EXIF, XMP, PROFILE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
PROFILE_PARTS = 255
MARKER = re.compile(rb"\xff+([\x01-\xfe])")
AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # no stuffed zero, restart or fill byte


@dataclass(frozen=True)
class Segment:
    """A marker and what belongs to it: content is data[begin:end], with the length's two bytes, and a scan's data."""

    marker: int
    begin: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """Yields the segments behind the first marker, to the end of the picture or where there is no marker any more."""
    place = 2
    while found := MARKER.match(data, place):
        marker, begin = found[1][0], found.end()
        end = begin
        if marker not in (EOI, *ALONE):
            length = int.from_bytes(data[begin : begin + 2], "big")
            end = begin + length
            if length < 2 or end > len(data):
                return
        if marker == SOS:
            following = AFTER_SCAN.search(data, end)
            end = following.start() if following else len(data)
        yield Segment(marker, begin, end)
        if marker == EOI:
            return
        place = end


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Returns width and height of a JPEG whose file begins with `data`; 0 and 0 where that does not say."""
    for number, segment in enumerate(segments(data)):
        if segment.marker in FRAMES and segment.end - segment.begin >= 7:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (segment.begin + 3, segment.begin + 5))
            return width, height
        if number > most_parts(len(data)):
            break
    return 0, 0


@dataclass
class _Kept:
    """The metadata segments that were kept so far, by what their content begins with, and their bytes."""

    counts: dict[bytes, int] = field(default_factory=dict)
    sizes: dict[bytes, int] = field(default_factory=dict)
    tells: set[str] = field(default_factory=set)

    def takes(self, marker: int, content: bytes) -> bool:
        """Returns whether a segment is kept, and remembers it. content: what follows its length."""
        if marker == COMMENT:
            self.tells.add("a comment")
            return False
        if not APP0 <= marker <= APP15:
            return True
        if marker == APP13 and content.startswith(b"Photoshop 3.0\0"):
            self.tells.add("IPTC")
            return False
        known = {APP0: (b"JFIF\0",), APP1: (EXIF, XMP), APP2: (PROFILE,), APP14: (b"Adobe",)}.get(marker, ())
        start = next((start for start in known if content.startswith(start)), None)
        if start is None:
            return False
        self.counts[start] = self.counts.get(start, 0) + 1
        self.sizes[start] = self.sizes.get(start, 0) + len(content)
        return self.counts[start] <= (PROFILE_PARTS if start in (PROFILE, EXIF) else 1)


def clean_jpeg(path: Path, data: bytes) -> CleanedFile:
    """Returns the picture alone, with its profile, EXIF and XMP; ImageError where it would keep a decoder busy."""
    found: list[Segment] = []
    for segment in segments(data):
        found.append(segment)
        if len(found) > most_parts(len(data)):
            raise ImageError(path, f"more than {most_parts(len(data)):,} segments: {KEEPS_BUSY}")
    width, height = jpeg_size(data)
    check_length(path, (width, height), width * height // PIXELS_A_BYTE, len(data))
    _check_scans(path, found, width * height)
    kept, whole = _Kept(), memoryview(data)
    taken = [segment for segment in found if kept.takes(segment.marker, _start_of(segment, data))]
    left_out = []
    exif = b"".join(whole[at.begin + 2 + len(EXIF) : at.end] for at in taken if data.startswith(EXIF, at.begin + 2))
    too_long = kept.sizes.get(EXIF, 0) > METADATA_LIMIT
    if too_long or (exif and not has_sound_exif(io.BytesIO(exif))):
        left_out.append(too_large("EXIF") if too_long else damaged("EXIF"))
        kept.tells.add("EXIF")
        taken = [segment for segment in taken if not data.startswith(EXIF, segment.begin + 2)]
    parts: list[bytes | memoryview] = [data[:2]]
    for segment in taken:
        parts += [b"\xff%c" % segment.marker, whole[segment.begin : segment.end]]
    if not found or found[-1].marker != EOI:  # cut short, or damaged: its decoder tells
        parts.append(whole[found[-1].end if found else 2 :])
    return CleanedFile(b"".join(parts), tuple(left_out), tuple(sorted(kept.tells)))


def _start_of(segment: Segment, data: bytes) -> bytes:
    """Returns the content of a segment behind its length; of a scan only the start."""
    return data[segment.begin + 2 : min(segment.end, segment.begin + 2**16)]


def _check_scans(path: Path, found: list[Segment], pixels: int) -> None:
    scans = sum(segment.marker == SOS for segment in found)
    most = min(SCANS, max(FEW_SCANS, SCANNED_PIXELS // max(1, pixels)))
    if scans > most:
        raise ImageError(path, f"more than {most} scans: {KEEPS_BUSY}")
