"""Deflate streams of PNG and TIFF files, the same bytes for the same samples in every process."""

from __future__ import annotations

import zlib
from typing import Any, Protocol

from isal import isal_zlib

ISAL_LEVEL = 2  # of its 0 to 3: 0.51 of the raw size in 13 ms a megapixel; 1: 0.52 in 12; 3: 0.51 in 21
# ISA-L keeps 288 bytes to look ahead. If its first step takes more than one byte, it files the third byte of the stream
# under a hash of its own object's address, with which it finds other matches once in a while, in flat areas. This was
# seen with ISA-L in isal 1.9.1, in one of 900 processes for one picture. A step of one byte drops that hash.
FIRST_STEP = 288 + 1


class Deflater(Protocol):
    """A compressor of a stream, as zlib.compressobj makes it."""

    def compress(self, data: Any, /) -> bytes:
        """Takes the next bytes of the stream, in any buffer, and returns those that are ready."""
        ...

    def flush(self) -> bytes:
        """Returns the rest of the compressed stream."""
        ...


def deflater(level: int) -> Deflater:
    """Returns a stream compressor of the zlib format. level: 1 (ISA-L), or zlib's 0 and 2 to 9."""
    return _SteadyDeflater() if level == 1 else zlib.compressobj(level)


class _SteadyDeflater:
    """ISA-L's compressor, given `FIRST_STEP` bytes by themselves at first."""

    def __init__(self) -> None:
        self._packer = isal_zlib.compressobj(ISAL_LEVEL)
        self._waiting: bytes | None = b""

    def compress(self, data: Any, /) -> bytes:
        if self._waiting is None:
            return self._packer.compress(data)
        rest = memoryview(data).cast("B")
        lacking = FIRST_STEP - len(self._waiting)
        self._waiting += rest[:lacking]
        if len(self._waiting) < FIRST_STEP:
            return b""
        packed = self._packer.compress(self._waiting)
        self._waiting = None
        return packed + self._packer.compress(rest[lacking:])

    def flush(self) -> bytes:
        return self._packer.compress(self._waiting or b"") + self._packer.flush()
