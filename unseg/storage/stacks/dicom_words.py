"""The words of DICOM's pixel data: values in their lower bits, and whatever else lies above them (PS3.5, 8.1)."""

from __future__ import annotations

import numpy as np


class Words:
    """Pixel data that are not packed.

    data: bytes of frames of `shape` (frames, height, width, channels), each word `allocated` bits wide (8 or 16), of
    which the lower `stored` hold a value, in two's complement where `signed`. planar: channels lie one after the other.
    order: of the bytes.
    """

    def __init__(
        self,
        data: bytes,
        shape: tuple[int, int, int, int],
        *,
        allocated: int,
        stored: int,
        signed: bool,
        planar: bool,
        order: str,
    ) -> None:
        self.shape, self.stored, self.signed, self.planar = shape, stored, signed, planar
        self._allocated, self._order = allocated, order
        self._kind = np.dtype(f"{order}u{allocated // 8}")
        count = int(np.prod(shape, dtype=np.int64)) * self._kind.itemsize
        self.missing = max(0, count - len(data))
        self._tail = data[count:]  # a byte that makes the length even, or what some devices leave there
        self._words = np.frombuffer(data[:count] if not self.missing else bytes(count), self._kind)
        self._filled = self._has_filled_signs()

    @property
    def data(self) -> bytes:
        """Returns the bytes, as long as they were."""
        return self._words.tobytes() + self._tail

    def copy(self) -> Words:
        """Returns the same words, that may be written to."""
        copied = Words(
            self.data,
            self.shape,
            allocated=self._allocated,
            stored=self.stored,
            signed=self.signed,
            planar=self.planar,
            order=self._order,
        )
        copied._words = self._words.copy()
        return copied

    def values(self, frame: int) -> np.ndarray:
        """Returns a frame's values: H×W×C uint8, uint16, int8 or int16."""
        return self._values(self._frame(frame))

    def put(self, frame: int, rows: slice, columns: slice, values_HWC: np.ndarray) -> None:
        """Puts values in place of those there. Bits above them stay; where they repeated the sign, they go on so."""
        words = self._frame(frame)[rows, columns]
        mask = self._mask
        lower = values_HWC.astype(np.int32).astype(self._native)
        if self._filled:
            words[...] = lower
        else:
            words[...] = (words & ~mask) | (lower & mask)

    def same_above(self, other: Words) -> bool:
        """Returns whether the bits above all values, and what follows the last word, are another's too.

        Signs that are repeated there follow their values.
        """
        if self._tail != other._tail or self._filled != other._filled:
            return False
        return self._filled or bool(
            np.array_equal(
                self._words.astype(self._native) >> self.stored, other._words.astype(other._native) >> other.stored
            )
        )

    @property
    def _mask(self) -> np.ndarray:
        return np.array(2**self.stored - 1, self._native)

    @property
    def _native(self) -> np.dtype:
        return self._kind.newbyteorder("=")

    def _frame(self, frame: int) -> np.ndarray:
        """Returns a view of a frame's words, H×W×C."""
        frames, height, width, channels = self.shape
        size = height * width * channels
        words = self._words[frame * size : (frame + 1) * size]
        if self.planar:
            return np.moveaxis(words.reshape(channels, height, width), 0, -1)
        return words.reshape(height, width, channels)

    def _values(self, words: np.ndarray) -> np.ndarray:
        lower = words.astype(self._native) & self._mask
        if not self.signed:
            return lower
        shift = self._native.itemsize * 8 - self.stored
        return (lower << shift).view(f"i{self._native.itemsize}") >> shift

    def _has_filled_signs(self) -> bool:
        """Returns whether the bits above all values repeat their signs, as computers do, and as no overlay does."""
        if not self.signed:
            return False
        native = self._words.astype(self._native)
        return bool(np.array_equal(self._values(self._words).view(self._native), native))
