"""A protected DICOM file beside its original, both read byte by byte: every element, and every word of every frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unseg.storage.image_limits import ImageError
from unseg.storage.stacks.dicom_elements import SOP_INSTANCE, DicomElements, Element, ElementsError, read_elements
from unseg.storage.stacks.dicom_words import Words
from unseg.storage.stacks.stack import Part, Proof

IMAGE_TYPE, FRAME_TYPE, DESCRIPTION = 0x00080008, 0x00089007, 0x00082111
MEDIA_INSTANCE = 0x00020003
SOURCES, SOURCE_INSTANCE = 0x00082112, 0x00081155
HEAD_LENGTH, SYNTAX = 0x00020000, 0x00020010
CHANNELS, COLOURS, PLANAR, FRAMES, ROWS, COLUMNS = (
    0x00280002,
    0x00280004,
    0x00280006,
    0x00280008,
    0x00280010,
    0x00280011,
)
ALLOCATED, STORED, HIGH_BIT, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
PIXELS, ICON = 0x7FE00010, 0x00880200
TOLD = {IMAGE_TYPE, SOP_INSTANCE, MEDIA_INSTANCE, DESCRIPTION, SOURCES, HEAD_LENGTH, PIXELS, ICON}  # looked at apart
OF_PACKING = {SYNTAX, COLOURS, PLANAR, ALLOCATED, STORED, HIGH_BIT}  # what unpacking may change
PADDING = {0xFFFCFFFC}  # fills a file up (PS3.10, 7.2)


class DicomProof(Proof):
    """Compares both files. unpacked: the original's words, where those are packed."""

    def __init__(self, path: Path, before: DicomElements, after: DicomElements, unpacked: Words | None) -> None:
        self._path, self._before, self._after, self._unpacked = path, before, after, unpacked
        self._old = None if unpacked is not None else RawPixels.of(before)
        self._new = RawPixels.of(after)

    @classmethod
    def of(cls, path: Path, before: bytes, after: bytes, unpacked: Words | None) -> DicomProof:
        """Reads the bytes of both files; ImageError where they are no DICOM."""
        try:
            return cls(path, read_elements(before), read_elements(after), unpacked)
        except ElementsError as error:
            raise ImageError(path, f"a second reader cannot read it: {error}") from error

    def pair(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        shape = self._new.shape if self._unpacked is None else self._unpacked.shape
        if self._new.shape != shape or (self._old is not None and self._old.shape != shape):
            raise ImageError(self._path, "its frames are not of its original's size")
        new = self._new.values(part.plane)[part.rows, part.columns]
        old = self._old.values(part.plane) if self._old is not None else self._decoded(part.plane)
        return old[part.rows, part.columns], new

    def _decoded(self, frame: int) -> np.ndarray:
        assert self._unpacked is not None, "pixels that are not packed are read here"
        return self._unpacked.values(frame).astype(np.int64)

    def differences(self) -> Iterator[str]:
        before, after = self._before, self._after
        left_out = TOLD | (OF_PACKING if self._unpacked is not None else set()) | PADDING
        for tag in sorted((before.elements.keys() | after.elements.keys()) - left_out):
            if not _is_length(tag) and not _same(before.elements.get(tag), after.elements.get(tag)):
                yield f"its element ({tag >> 16:04x},{tag & 0xFFFF:04x}) is not the original's"
        old = self._unpacked or words_of(before)
        if not words_of(after).same_above(old):
            yield "the bits above its values are not the original's"
        yield from self._marks()

    def _close(self) -> None:
        pass  # all of it was read

    def _marks(self) -> Iterator[str]:
        """Yields what a derived instance should say of itself and does not."""
        before, after = self._before, self._after
        kinds, old_kinds = (file.text(IMAGE_TYPE).split("\\") for file in (after, before))
        if kinds[0] != "DERIVED" or (old_kinds[1:] and kinds[1:] != old_kinds[1:]):
            yield "its image type does not say that it is derived"
        new, old = after.text(SOP_INSTANCE), before.text(SOP_INSTANCE)
        if not new or new == old or new != after.text(MEDIA_INSTANCE):
            yield "it has no identity of its own"
        if not after.text(DESCRIPTION):
            yield "its derivation is not described"
        sources = after.elements.get(SOURCES)
        named = [item[SOURCE_INSTANCE].value for item in (sources and sources.items) or () if SOURCE_INSTANCE in item]
        if old and old not in [value.decode("ascii", "replace").strip("\0 ") for value in named]:
            yield "it does not name the instance that it is derived from"
        if ICON in after.elements:
            yield "it carries an icon, a small picture without noise"


@dataclass(frozen=True)
class RawPixels:
    """Pixel data that are not packed, counted out word by word, in another way than they were written.

    shape: frames, height, width, channels. words: one number each, in the file's order.
    """

    shape: tuple[int, int, int, int]
    words_N: np.ndarray
    stored: int
    signed: bool
    planar: bool

    @classmethod
    def of(cls, file: DicomElements) -> RawPixels:
        """Returns a file's pixel data; ElementsError where they are packed, or not there whole."""
        data, shape = _pixel_data(file)
        bytes_a_word = file.number(ALLOCATED) // 8
        count = shape[0] * shape[1] * shape[2] * shape[3]
        if bytes_a_word not in (1, 2) or len(data) < count * bytes_a_word:
            raise ElementsError("its pixel data are not there whole")
        columns_NB = np.frombuffer(data, np.uint8, count * bytes_a_word).reshape(count, bytes_a_word).astype(np.int64)
        if file.order == ">":
            columns_NB = columns_NB[:, ::-1]
        words_N = sum(columns_NB[:, place] * 256**place for place in range(bytes_a_word))
        planar = shape[3] > 1 and bool(file.number(PLANAR, 0))
        return cls(shape, np.asarray(words_N), file.number(STORED), bool(file.number(SIGNED, 0)), planar)

    def values(self, frame: int) -> np.ndarray:
        """Returns a frame's values, H×W×C int64."""
        frames, height, width, channels = self.shape
        words = self.words_N.reshape(frames, -1)[frame] % 2**self.stored
        if self.signed:
            words = words - (words >= 2 ** (self.stored - 1)) * 2**self.stored
        if self.planar:
            return words.reshape(channels, height, width).transpose(1, 2, 0)
        return words.reshape(height, width, channels)


def _pixel_data(file: DicomElements) -> tuple[bytes, tuple[int, int, int, int]]:
    pixels, frames = file.elements.get(PIXELS), file.text(FRAMES)
    if pixels is None or pixels.items:
        raise ElementsError("no pixel data that are not packed")
    return pixels.value, (
        int(frames) if frames else 1,
        file.number(ROWS),
        file.number(COLUMNS),
        file.number(CHANNELS, 1),
    )


def words_of(file: DicomElements) -> Words:
    """Returns the words of a file whose pixel data are not packed: what lies above their values, and behind them."""
    data, shape = _pixel_data(file)
    return Words(
        data,
        shape,
        allocated=file.number(ALLOCATED),
        stored=file.number(STORED),
        signed=bool(file.number(SIGNED, 0)),
        planar=shape[3] > 1 and bool(file.number(PLANAR, 0)),
        order=file.order,
    )


def _same(first: Element | None, second: Element | None) -> bool:
    """Returns whether two elements say the same; a sequence may end by a mark or by its length."""
    if first is None or second is None or first.kind != second.kind:
        return False
    if first.tag == FRAME_TYPE:
        return second.value.strip(b"\0 ").split(b"\\")[:1] == [b"DERIVED"] and _tail(first) == _tail(second)
    if (first.items is None) != (second.items is None):
        return False
    if first.items is not None and second.items is not None:
        pairs = zip(first.items, second.items, strict=False)
        return len(first.items) == len(second.items) and all(_same_items(one, other) for one, other in pairs)
    return first.value == second.value


def _tail(element: Element) -> list[bytes]:
    return element.value.strip(b"\0 ").split(b"\\")[1:]


def _same_items(first: Mapping[int, Element], second: Mapping[int, Element]) -> bool:
    tags, others = ({tag for tag in item if not _is_length(tag) or tag == 0} for item in (first, second))
    return tags == others and all(_same(first[tag], second[tag]) for tag in tags)


def _is_length(tag: int) -> bool:
    """Returns whether an element says how many bytes a group of others takes, which is retired (PS3.5, 7.2)."""
    return tag & 0xFFFF == 0
