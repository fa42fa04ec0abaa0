"""The elements of a DICOM file, byte by byte (PS3.5, 7; PS3.10, 7): what pydicom wrote is not checked with pydicom."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PREAMBLE = 128
MARK = b"DICM"
IMPLICIT, DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
TRANSFER_SYNTAX, SOP_INSTANCE = 0x00020010, 0x00080018
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
DEEPEST = 64  # sequences in sequences
ITEM_MARKS = {"<": b"\xfe\xff\x00\xe0", ">": b"\xff\xfe\xe0\x00"}


class ElementsError(ValueError):
    """Says why bytes are no DICOM file."""


@dataclass(frozen=True)
class Element:
    """One element. kind: its two letters, empty where the file does not write them. items: of a sequence, else None."""

    tag: int
    kind: bytes
    value: bytes
    items: tuple[Mapping[int, Element], ...] | None = None


@dataclass(frozen=True)
class DicomElements:
    """A file's elements by tag, those of its head among them. order: of the bytes of numbers."""

    elements: Mapping[int, Element]
    order: str
    packed: bool

    def number(self, tag: int, default: int | None = None) -> int:
        """Returns an element that holds one number of 16 bits."""
        element = self.elements.get(tag)
        if element is None or len(element.value) < 2:
            if default is None:
                raise ElementsError(f"no element {tag:08x}")
            return default
        return int(struct.unpack_from(f"{self.order}H", element.value)[0])

    def text(self, tag: int) -> str:
        """Returns an element that holds text, without what fills it up; empty where there is none."""
        element = self.elements.get(tag)
        return "" if element is None else element.value.decode("ascii", "replace").strip("\0 ")


def read_elements(data: bytes) -> DicomElements:
    """Returns the elements of a file; ElementsError where its bytes are none."""
    elements, place = _head(data)
    syntax = _syntax(elements)
    order = ">" if syntax == BIG_ENDIAN else "<"
    body = _Reader(data, order, explicit=syntax != IMPLICIT)
    for element in body.elements(place, len(data), 0):
        elements[element.tag] = element
    packed = any(element.kind in (b"OB", b"OW") and element.items for element in elements.values())
    return DicomElements(elements, order, packed)


def transfer_syntax(data: bytes) -> str:
    """Returns the identity of the transfer syntax that a file's head names; ElementsError where it names none."""
    syntax = _syntax(_head(data)[0])
    if not syntax:
        raise ElementsError("its head names no transfer syntax")
    return syntax


def instance_in(start: bytes) -> str | None:
    """Returns the identity of the instance that a file's first bytes tell; None where they do not come so far, or the
    file is packed as a whole."""
    try:
        elements, place = _head(start)
        syntax = _syntax(elements)
        if syntax in ("", DEFLATED):
            return None
        body = _Reader(start, ">" if syntax == BIG_ENDIAN else "<", explicit=syntax != IMPLICIT)
        for element in body.elements(place, len(start), 0):
            if element.tag >= SOP_INSTANCE:
                return DicomElements({element.tag: element}, "<", packed=False).text(SOP_INSTANCE)
    except ElementsError:
        return None
    return None


def _head(data: bytes) -> tuple[dict[int, Element], int]:
    """Returns the elements of a file's head, and where the others begin."""
    if data[PREAMBLE : PREAMBLE + len(MARK)] != MARK:
        raise ElementsError("no DICM mark")
    reader, elements = _Reader(data, "<", explicit=True), dict[int, Element]()
    place = PREAMBLE + len(MARK)
    while place + 8 <= len(data) and data[place : place + 2] == b"\2\0":
        element, place = reader.element(place, 0)
        elements[element.tag] = element
    return elements, place


def _syntax(elements: Mapping[int, Element]) -> str:
    element = elements.get(TRANSFER_SYNTAX)
    return "" if element is None else element.value.decode("ascii", "replace").strip("\0 ")


class _Reader:
    def __init__(self, data: bytes, order: str, explicit: bool) -> None:
        self._data, self._order, self._explicit = data, order, explicit

    def elements(self, start: int, end: int, depth: int) -> Iterator[Element]:
        place = start
        while place < end:
            element, place = self.element(place, depth)
            yield element
        if place > end:
            raise ElementsError("an element reaches beyond its sequence")

    def element(self, place: int, depth: int) -> tuple[Element, int]:
        """Returns the element at a place, and where the next one begins."""
        if depth > DEEPEST:
            raise ElementsError("sequences lie too deep in each other")
        tag = self._tag(place)
        kind, length, place = self._length(place + 4)
        if length == UNDEFINED:
            items, end = self._items(place, len(self._data), depth)
            return Element(tag, kind, b"", items), end
        end = place + length
        if end > len(self._data):
            raise ElementsError(f"element ({tag >> 16:04x},{tag & 0xFFFF:04x}) is cut short")
        value = self._data[place:end]
        is_sequence = kind == b"SQ" or (not kind and value.startswith(ITEM_MARKS[self._order]))
        if is_sequence and value:
            items, _ = self._items(place, end, depth)
            return Element(tag, kind, b"", items), end
        return Element(tag, kind, value, () if is_sequence else None), end

    def _items(self, place: int, end: int, depth: int) -> tuple[tuple[Mapping[int, Element], ...], int]:
        """Returns the items of a sequence; of packed frames, each is one element of number 0."""
        items: list[Mapping[int, Element]] = []
        while place < end:
            tag, length = self._tag(place), self._number(place + 4)
            place += 8
            if tag == SEQUENCE_END:
                return tuple(items), place
            if tag != ITEM:
                raise ElementsError(f"{tag:08x} is no item of a sequence")
            item, place = self._item(place, length, end, depth)
            items.append(item)
        return tuple(items), place

    def _item(self, place: int, length: int, end: int, depth: int) -> tuple[Mapping[int, Element], int]:
        found: dict[int, Element] = {}
        if length != UNDEFINED:
            stop = place + length
            if stop > end:
                raise ElementsError("an item reaches beyond its sequence")
            try:
                return {element.tag: element for element in self.elements(place, stop, depth + 1)}, stop
            except ElementsError:
                return {0: Element(0, b"", self._data[place:stop])}, stop  # a packed frame, or what nobody knows
        while self._tag(place) != ITEM_END:
            element, place = self.element(place, depth + 1)
            found[element.tag] = element
        return found, place + 8

    def _length(self, place: int) -> tuple[bytes, int, int]:
        """Returns an element's letters and length, and where its value begins."""
        if not self._explicit:
            return b"", self._number(place), place + 4
        kind = self._data[place : place + 2]
        if kind in LONG:
            return kind, self._number(place + 4), place + 8
        return kind, self._short(place + 2), place + 4

    def _tag(self, place: int) -> int:
        return self._short(place) << 16 | self._short(place + 2)

    def _short(self, place: int) -> int:
        return int(self._unpacked("H", place))

    def _number(self, place: int) -> int:
        return int(self._unpacked("I", place))

    def _unpacked(self, form: str, place: int) -> int:
        try:
            return int(struct.unpack_from(f"{self._order}{form}", self._data, place)[0])
        except struct.error as error:
            raise ElementsError("cut short") from error
