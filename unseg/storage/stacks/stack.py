"""What every format of planes answers: its values, which may change, what a grey level is, and how all else is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unseg.storage.image_headers import BYTES_A_PIXEL, METADATA_BYTES
from unseg.storage.image_limits import ImageError, check_size, open_regular

GREY_LEVELS = 255
PERCENTILES = "percentiles"  # what a manifest says of ranges that the values themselves tell
LOW, HIGH = 0.1, 99.9  # percentiles


@dataclass(frozen=True)
class ValueRange:
    """The values that are shown from black to white; a budget is a share of it."""

    low: float
    high: float

    @property
    def grey_level(self) -> float:
        """Returns how many of the file's values a grey level of 255 is."""
        return (self.high - self.low) / GREY_LEVELS


@dataclass(frozen=True)
class Part:
    """A part of one plane. plane: its number, from 0."""

    plane: int
    rows: slice
    columns: slice


@dataclass(frozen=True)
class Layout:
    """What a file's header says, checked.

    planes: frames or slices. channels: values a pixel, that are changed together. ranges: one for each channel.
    range_of: where they come from ("window", "stored bits", "type", "percentiles"). lowest, highest: the values that
    may be written; None where the type says it. notes: what the protected file will lack or have changed. bands:
    numbers of the channels in the file, from 1, where it has bands.
    """

    planes: int
    height: int
    width: int
    channels: int
    ranges: tuple[ValueRange, ...]
    range_of: str
    lowest: float | None = None
    highest: float | None = None
    notes: tuple[str, ...] = ()
    bands: tuple[int, ...] | None = None

    @property
    def pixels(self) -> int:
        """Returns the pixels of all planes."""
        return self.planes * self.height * self.width


class Opened(ABC):
    """Files that are open. contents: what holds them here."""

    contents: ExitStack

    def close(self) -> None:
        """Lets go of the files."""
        try:
            self._close()
        finally:
            self.contents.close()

    @abstractmethod
    def _close(self) -> None:
        """Closes what is open of the files."""


class Stack(Opened):
    """An open file of planes, and its mask. kind: the format's name. path: of the file."""

    kind: str
    path: Path
    layout: Layout
    block: int | None = None
    """Side of the parts that planes are worked on in; None: whole planes."""

    def parts(self) -> Iterator[Part]:
        """Yields the parts in which the file is read and written."""
        height, width = self.layout.height, self.layout.width
        step = self.block or max(height, width)
        for plane in range(self.layout.planes):
            for top in range(0, height, step):
                for left in range(0, width, step):
                    yield Part(plane, slice(top, min(top + step, height)), slice(left, min(left + step, width)))

    @abstractmethod
    def read(self, part: Part) -> Samples:
        """Returns the values of a part as they are stored."""

    @abstractmethod
    def write(self, path: Path, changed: Iterable[tuple[Part, np.ndarray]], key: bytes) -> None:
        """Writes the file anew with these values in place of its own, and all else as it is.

        changed: every part, in the order of `parts`, H×W×C each. key: makes new identities, where the format has them.
        """


@dataclass(frozen=True)
class Samples:
    """Values of a part: H×W×C as stored.

    fixed: H×W bool, pixels that stand for no value in any channel and stay as they are. forbidden: the lowest and the
    highest value that mean so: a channel's value among them stays, and no changed one may become one of them.
    """

    values_HWC: np.ndarray
    fixed_HW: np.ndarray
    forbidden: tuple[float, float] | None = None

    def void(self, values_HWC: np.ndarray) -> np.ndarray:
        """Returns which values are among the forbidden ones, H×W×C bool. values: of this part, changed or not."""
        if self.forbidden is None:
            return np.zeros(values_HWC.shape, bool)
        low, high = self.forbidden
        return (values_HWC >= low) & (values_HWC <= high)


class Labels(ABC):
    """A mask of planes, of the size of the file that it is for. highest: its brightest value, in all planes."""

    highest: int

    @abstractmethod
    def values(self, part: Part) -> np.ndarray:
        """Returns the values in a part, H×W integers."""

    @abstractmethod
    def tall(self) -> np.ndarray:
        """Returns the planes one below the other, or a regular choice of their pixels: what tells their kind."""


class Proof(Opened):
    """A protected file beside its original, read by other means than it was written with."""

    @abstractmethod
    def pair(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Returns the values of a part in the original and in the protected file, H×W×C each."""

    @abstractmethod
    def differences(self) -> Iterator[str]:
        """Yields what is not as it should be beside the values that may change, in words."""


def check_pixels(path: Path, planes: int, height: int, width: int, max_pixels: int) -> None:
    """Raises ImageError where a header promises no pixel, or more than `max_pixels`."""
    if min(planes, height, width) < 1:
        raise ImageError(path, f"its header promises {planes} planes of {width}×{height}")
    check_size(path, width, height, max_pixels)
    if planes * height * width > max_pixels:
        raise ImageError(
            path,
            f"{planes} planes of {width}×{height} are over the limit of {max_pixels / 1e6:g} megapixels: raise"
            " --max-megapixels",
        )


def bounded_bytes(path: Path, max_pixels: int) -> bytes:
    """Returns a file's bytes; ImageError where there are more than a file of that many pixels has."""
    limit = max_pixels * BYTES_A_PIXEL + METADATA_BYTES
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ImageError(path, f"over {limit:,} bytes: raise --max-megapixels if it is an image of that size")
    return data


def range_of_values(values: np.ndarray) -> ValueRange | None:
    """Returns the range from the 0.1 to the 99.9 percentile of the finite values; None where that is none."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not finite.size:
        return None
    low, high = (float(value) for value in np.percentile(finite, (LOW, HIGH)))
    return ValueRange(low, high) if high > low and np.isfinite(high - low) else None
