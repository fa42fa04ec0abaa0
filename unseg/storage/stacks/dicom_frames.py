"""Packed frames of DICOM: what each promises is looked at before any decoder makes room for it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from pydicom.encaps import generate_frames

from unseg.storage.image_limits import ImageError
from unseg.storage.jpeg_structure import jpeg_size, segments

MOST_SEGMENTS = 64  # of a packed frame, that are looked through
JPEG_LS_FRAME = 0xF7  # the marker of JPEG-LS that says the size (ISO/IEC 14495-1)
JPEG, JPEG_2000, JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "


def check_frames(path: Path, data: bytes, frames: int, height: int, width: int) -> None:
    """Raises ImageError where there are fewer frames than promised, or where one is of another size.

    Run lengths name no size: their decoder makes no more of them than the header promises.
    """
    found = 0
    for packed in generate_frames(data, number_of_frames=frames):
        found += 1
        promised = packed_size(packed)
        if promised is not None and promised != (width, height):
            raise ImageError(
                path, f"frame {found} is packed as {promised[0]}×{promised[1]}, its header says {width}×{height}"
            )
        if found == frames:
            break
    if found < frames:
        raise ImageError(path, f"holds {found} of the {frames} frames that its header promises")


def packed_size(packed: bytes) -> tuple[int, int] | None:
    """Returns width and height that a packed frame names; (0, 0) where it should and does not; None of run lengths."""
    if packed.startswith(JPEG):
        size = jpeg_size(packed)
        return _jpeg_ls_size(packed) if size == (0, 0) else size
    if packed.startswith(JP2):
        start = packed.find(JPEG_2000)
        return _codestream_size(packed[start:]) if start >= 0 else (0, 0)
    if packed.startswith(JPEG_2000):
        return _codestream_size(packed)
    return None


def _jpeg_ls_size(data: bytes) -> tuple[int, int]:
    frame = next(
        (segment for segment in islice(segments(data), MOST_SEGMENTS) if segment.marker == JPEG_LS_FRAME), None
    )
    if frame is None or frame.end - frame.begin < 7:
        return 0, 0
    height, width = (int.from_bytes(data[at : at + 2], "big") for at in (frame.begin + 3, frame.begin + 5))
    return width, height


def _codestream_size(data: bytes) -> tuple[int, int]:
    """Returns the size of an image in JPEG 2000 (ISO/IEC 15444-1, A.5.1): the grid less its offset."""
    if len(data) < 24:
        return 0, 0
    right, bottom, left, top = (int.from_bytes(data[start : start + 4], "big") for start in (8, 12, 16, 20))
    return right - left, bottom - top
