"""Code book: the patterns that stand for codes, each a short formula that a key and an image vary.

A pattern takes one of two values at every pixel, + and −: the sign of a sine (stripes), of a product of two sines at
right angles (checkers), or of the sum of two such waves of different periods. The sign is + where the wave is at least
0. Features of pretrained networks see such patterns at once; a change of phase, period and direction from image to
image, and a smooth drift of the phase within one, leave no fixed tile to subtract and no fixed frequency to filter.

All arithmetic is that of whole numbers, so that every machine computes the same signs: a phase is a uint16 that wraps
around after one turn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

ABSENCE = 0  # the code that has no noise at all
NO_CODE = 255  # of pixels that belong to no class
TURN = 2**16  # of a phase
Axis = tuple[int, int, int]
Shape = Literal["stripes", "checkers"]

DRIFT_ROWS = 4  # rows that share their drift: it changes by less than a pixel's width over them
GREY_AXIS: Axis = (1, 1, 1)
HASHED_BYTES = 2**16  # of an image's samples


@dataclass(frozen=True)
class Grating:
    """The geometry of a pattern, before a key varies it.

    direction: in radians, in which the waves follow one another: 0 from left to right, π/2 from top to bottom. periods:
    pixels from wave to wave, in an image whose long side is the book's `trained_side` or less; the sum of two waves
    where there are two.
    """

    shape: Shape
    direction: float
    periods: tuple[float, ...]


@dataclass(frozen=True)
class Pattern:
    """What one code looks like.

    axis: of the colours that it alternates between: −1, 0 or 1 for each of R, G, B, the sign of the change where the
    pattern is +. colour: the geometry in colour images. grey: that of its twin in grey ones, which only brightness
    tells apart.
    """

    axis: Axis
    colour: Grating
    grey: Grating


@dataclass(frozen=True)
class CodeBook:
    """A named version of the patterns, the most easily detected first: code 1 is the first, code 0 is no noise.

    trained_side: long side of images as people train on them, in pixels; the periods of larger images grow in
    proportion. octaves_from: long side from which a finer wave is added to each, for those who train on crops of the
    image's own size; octave_ratio: how many times finer it is. period_spread: largest relative change of a period.
    direction_spread: largest change of a direction, in radians. drift_turns: largest shift of the phase, in turns.
    drift_cell: distance in pixels of `trained_side` over which it changes from one random value to the next.
    grey_safe_axis: the axis of all patterns where they are to survive in grey copies; they then have the geometry of
    their grey twins.
    """

    version: str
    patterns: tuple[Pattern, ...]
    trained_side: int
    octaves_from: int
    octave_ratio: float
    period_spread: float
    direction_spread: float
    drift_turns: float
    drift_cell: float
    grey_safe_axis: Axis

    @property
    def codes(self) -> int:
        """Returns how many codes have a pattern; they are the numbers from 1 to this."""
        return len(self.patterns)


def _crossed(
    axes: Sequence[Axis], forms: Sequence[Grating], grey_forms: Sequence[Grating], stretches: Sequence[float]
) -> tuple[Pattern, ...]:
    """Returns a pattern for each axis and form, the forms of one axis after another.

    grey_forms: the forms that stand for these in grey images. stretches: for each axis how many times longer their
    periods are, since there is no other colour.
    """
    return tuple(
        Pattern(axis, form, Grating(grey.shape, grey.direction, tuple(stretch * period for period in grey.periods)))
        for axis, stretch in zip(axes, stretches, strict=True)
        for form, grey in zip(forms, grey_forms, strict=True)
    )


GREEN_MAGENTA: Axis = (1, -1, 1)
BLUE_YELLOW: Axis = (1, 1, -1)
RED_CYAN: Axis = (1, -1, -1)

BOOK = CodeBook(
    version="gratings-1",
    patterns=_crossed(
        axes=(GREEN_MAGENTA, BLUE_YELLOW, RED_CYAN),
        forms=(
            Grating("stripes", math.pi / 4, (16 / math.sqrt(2),)),  # 16 pixels along a row
            Grating("stripes", 0.0, (16.0,)),
            Grating("stripes", math.pi / 2, (16.0,)),
            Grating("checkers", 0.0, (16.0,)),
        ),
        # Brightness has less texture of its own the finer it is, so fine waves are found sooner; finer ones than these
        # are gone in images that a trainer shrinks.
        grey_forms=(
            Grating("stripes", 0.0, (5.0,)),
            Grating("stripes", math.pi / 4, (5.0,)),
            Grating("stripes", math.pi / 2, (5.0,)),
            Grating("checkers", 0.0, (5 * math.sqrt(2),)),  # whose waves lie 5 pixels apart along the diagonals
        ),
        stretches=(1.0, 2.0, 4.0),
    ),
    trained_side=724,  # between 512 and 1,024
    octaves_from=2048,
    octave_ratio=4.0,
    period_spread=0.15,
    direction_spread=0.15,
    drift_turns=0.35,
    drift_cell=96.0,
    grey_safe_axis=BLUE_YELLOW,
)
"""The book of patterns that are told apart from one another: every constant of the patterns stands here."""

# Where one pattern stands alone it varies so widely that a notch filter over a data set finds next to nothing: in its
# direction above all, since JPEG takes more of finer waves. Two that vary widely leave networks more to learn.
ONE_CODE_BOOK = replace(BOOK, version="gratings-2", period_spread=0.2, direction_spread=0.6)
"""The book of a pattern that is told from nothing but the lack of one."""

BOOKS = {book.version: book for book in (BOOK, ONE_CODE_BOOK)}
"""The books by version, also those of earlier outputs: their images are made again, and added to, with their own."""


def book_of(codes: Iterable[int]) -> CodeBook:
    """Returns the book that a set's codes go by, all that its classes have: `ONE_CODE_BOOK` where one has a pattern."""
    return BOOK if len(set(codes) - {ABSENCE, NO_CODE}) > 1 else ONE_CODE_BOOK


def image_digest(image_HWC: np.ndarray) -> bytes:
    """Returns 16 bytes that tell an image from others, by its shape and up to `HASHED_BYTES` bytes of its samples.

    They depend on the decoded samples alone, not on a name or an order. They need not resist forgery: two images of the
    same digest get the same phases, and nothing else.
    """
    rows = np.ascontiguousarray(image_HWC[:: -(-image_HWC.nbytes // HASHED_BYTES)])
    little = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
    shape = f"{image_HWC.shape} {image_HWC.dtype.itemsize}".encode()
    return hashlib.blake2b(little.tobytes(), key=hashlib.sha256(shape).digest(), digest_size=16).digest()


@dataclass(frozen=True)
class _Wave:
    """One wave: its phase at a pixel is the sum of its row's, its column's and the drift there, each a uint16."""

    rows_H: np.ndarray
    columns_W: np.ndarray

    def phases(self, rows: slice, columns: slice, drift_HW: np.ndarray) -> np.ndarray:
        total = drift_HW + self.rows_H[rows, None]
        total += self.columns_W[columns]
        return total


@dataclass(frozen=True)
class DrawnPattern:
    """A pattern as a key and an image vary it. octaves: for each period one wave, or the two that checkers multiply."""

    octaves: tuple[tuple[_Wave, ...], ...]

    def signs(self, rows: slice, columns: slice, drift_HW: np.ndarray) -> np.ndarray:
        """Returns where the pattern is +, for a part of the image: H×W bool. drift: of that part, H×W uint16."""
        if len(self.octaves) == 1:
            halves = [wave.phases(rows, columns, drift_HW).view(np.int16) < 0 for wave in self.octaves[0]]
            return ~halves[0] if len(halves) == 1 else ~(halves[0] ^ halves[1])
        total = np.zeros(drift_HW.shape, np.int16)
        for waves in self.octaves:
            phases = [wave.phases(rows, columns, drift_HW) >> 8 for wave in waves]
            values = [np.asarray(cv2.LUT(phase.astype(np.uint8), _SINES), np.int16) for phase in phases]
            total += values[0] if len(values) == 1 else values[0] * values[1] // _SINE_PEAK
        return total >= 0


_SINE_PEAK = 127
# Taken between the 256 places of a turn, so that no sine is 0 and each has the sign of its half of the turn.
_SINES = np.round(_SINE_PEAK * np.sin(2 * np.pi * (np.arange(256) + 0.5) / 256)).astype(np.int16)


class ImagePatterns:
    """The patterns of one image: what the key, the book and the image's digest make of each code.

    key: up to 64 bytes. grey: whether the codes' grey twins are drawn, as for grey images. Equal arguments give equal
    signs, whatever else is drawn, and in which order.
    """

    def __init__(self, book: CodeBook, height: int, width: int, key: bytes, digest: bytes, grey: bool = False) -> None:
        self.book, self.height, self.width, self.grey = book, height, width, grey
        self._key, self._digest = key, digest
        self.scale = max(1.0, max(height, width) / book.trained_side)
        self._drift = self._drawn_drift()
        self._drawn: dict[int, DrawnPattern] = {}

    def signs(self, code: int, rows: slice, columns: slice) -> np.ndarray:
        """Returns where a code's pattern is +, for a part of the image: H×W bool. code: from 1 to the book's last."""
        if code not in self._drawn:
            self._drawn[code] = self._draw(code)
        drift = np.repeat(self._drift[rows.start // DRIFT_ROWS : -(-rows.stop // DRIFT_ROWS)], DRIFT_ROWS, axis=0)
        top = rows.start % DRIFT_ROWS
        part = drift[top : top + rows.stop - rows.start, columns]
        return self._drawn[code].signs(rows, columns, part)

    def _random(self, purpose: str) -> bytes:
        """Returns 64 bytes that only the key tells."""
        message = "\0".join((self.book.version, purpose)).encode() + b"\0" + self._digest
        return hashlib.blake2b(message, key=self._key, person=b"unseg-patterns").digest()

    def _drawn_drift(self) -> np.ndarray:
        """Returns the shift of the phase: uint16 for every column and every `DRIFT_ROWS`-th row."""
        cell = self.book.drift_cell * self.scale
        rows, columns = (2 + int(side / cell) for side in (self.height, self.width))
        drawn = hashlib.shake_256(self._random("drift")).digest(2 * rows * columns)
        grid = np.frombuffer(drawn, "<i2").astype(np.int16).reshape(rows, columns)  # half a turn either way
        size = (self.width, -(-self.height // DRIFT_ROWS))
        # Of OpenCV's interpolations this is the one that is the same to the last bit on every machine.
        smooth = cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR_EXACT).reshape(size[::-1])
        return (smooth.astype(np.int32) * round(2 * 256 * self.book.drift_turns) >> 8).astype(np.uint16)

    def _draw(self, code: int) -> DrawnPattern:
        if not 1 <= code <= self.book.codes:
            raise ValueError(f"code {code}: the book {self.book.version} has patterns for 1 to {self.book.codes}")
        pattern = self.book.patterns[code - 1]
        grating = pattern.grey if self.grey else pattern.colour
        words = np.frombuffer(self._random(f"code {code}"), "<u4").tolist()
        turn, stretch = (2 * word / 2**32 - 1 for word in words[:2])  # each in [−1, 1)
        direction = grating.direction + turn * self.book.direction_spread
        stretch = self.scale * (1 + stretch * self.book.period_spread)
        periods = [period * stretch for period in grating.periods]
        if max(self.height, self.width) > self.book.octaves_from:
            periods += [period / self.book.octave_ratio for period in periods]
        across = (0.0,) if grating.shape == "stripes" else (0.0, math.pi / 2)
        phases = iter(words[2:])
        return DrawnPattern(
            tuple(tuple(self._wave(direction + angle, period, next(phases)) for angle in across) for period in periods)
        )

    def _wave(self, direction: float, period: float, phase: int) -> _Wave:
        # 32 bits a turn for the slopes: over 10,000 pixels a phase is still right to a hundredth of a degree.
        steps = [round(part / period * 2**32) % 2**32 for part in (math.sin(direction), math.cos(direction))]
        rows, columns = (
            (np.arange(side, dtype=np.uint32) * np.uint32(step) >> 16).astype(np.uint16)
            for side, step in zip((self.height, self.width), steps, strict=True)
        )
        return _Wave(rows + np.uint16(phase % TURN), columns)
