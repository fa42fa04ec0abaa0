"""A protected DICOM file beside its original, both read byte by byte: every element, and every word of every frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from unseg.storage.image_limits import ImageError
from unseg.storage.stacks.dicom_elements import DicomElements, Element, ElementsError, read_elements
from unseg.storage.stacks.dicom_words import Words
from unseg.storage.stacks.stack import Part, Proof

IMAGE_TYPE, FRAME_TYPE, DESCRIPTION = 0x00080008, 0x00089007, 0x00082111
SOP_INSTANCE, MEDIA_INSTANCE = 0x00080018, 0x00020003
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
        self._path, self._before, self._after, self._packed = path, before, after, unpacked is not None
        self._old = words_of(before) if unpacked is None else unpacked
        self._new = words_of(after)

    @classmethod
    def of(cls, path: Path, before: bytes, after: bytes, unpacked: Words | None) -> DicomProof:
        """Reads the bytes of both files; ImageError where they are no DICOM."""
        try:
            return cls(path, read_elements(before), read_elements(after), unpacked)
        except ElementsError as error:
            raise ImageError(path, f"a second reader cannot read it: {error}") from error

    def pair(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        if self._new.shape != self._old.shape:
            raise ImageError(self._path, f"its frames are {self._new.shape}, its original's {self._old.shape}")
        both = (words.values(part.plane)[part.rows, part.columns] for words in (self._old, self._new))
        old, new = both
        return old, new

    def differences(self) -> Iterator[str]:
        before, after = self._before, self._after
        left_out = TOLD | (OF_PACKING if self._packed else set()) | PADDING
        for tag in sorted((before.elements.keys() | after.elements.keys()) - left_out):
            if not _is_length(tag) and not _same(before.elements.get(tag), after.elements.get(tag)):
                yield f"its element ({tag >> 16:04x},{tag & 0xFFFF:04x}) is not the original's"
        if not self._new.same_above(self._old):
            yield "the bits above its values are not the original's"
        yield from self._marks()

    def close(self) -> None:
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


def words_of(file: DicomElements) -> Words:
    """Returns the words of a file whose pixel data are not packed; ElementsError where they are not there whole."""
    pixels = file.elements.get(PIXELS)
    if pixels is None or pixels.items:
        raise ElementsError("no pixel data that are not packed")
    frames = file.text(FRAMES)
    words = Words(
        pixels.value,
        (int(frames) if frames else 1, file.number(ROWS), file.number(COLUMNS), file.number(CHANNELS, 1)),
        allocated=file.number(ALLOCATED),
        stored=file.number(STORED),
        signed=bool(file.number(SIGNED, 0)),
        planar=file.number(CHANNELS, 1) > 1 and bool(file.number(PLANAR, 0)),
        order=file.order,
    )
    if words.missing:
        raise ElementsError(f"{words.missing:,} bytes of its pixel data are missing")
    return words


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
