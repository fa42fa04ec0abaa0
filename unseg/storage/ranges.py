"""Files that lie elsewhere, of which no more is brought than what is read of them."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, cast

BLOCK = 2**14  # bytes that are brought at a time
BLOCKS = 16  # that stay until they are read again


def open_ranges(read: Callable[[int, int], bytes], size: int) -> BinaryIO:
    """Returns a file of `size` bytes. read: gives those from a place to another, which is not among them."""
    return cast("BinaryIO", io.BufferedReader(_Ranges(read, size), BLOCK))


class _Ranges(io.RawIOBase):
    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read, self._size, self._place = read, size, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Returns whether it can be read: it can."""
        return True

    def seekable(self) -> bool:
        """Returns whether it can be read from any place: it can."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place and returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer as far as the block at this place goes, and returns by how many bytes."""
        number, within = divmod(self._place, BLOCK)
        found = self._block(number)[within : within + len(buffer)] if self._place < self._size else b""
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            self._blocks[number] = self._read(number * BLOCK, min((number + 1) * BLOCK, self._size))
        self._blocks.move_to_end(number)
        while len(self._blocks) > BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[number]
