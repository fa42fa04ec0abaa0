"""Parquet and arrow files in pieces: a part of a column at a time, within a budget that no file can exceed.

What a file says of its size is the size of what is stored. A dictionary of one value that two thousand rows share, or
a page that was compressed well, becomes a thousand times that when it is decoded. So the headers of the pages are read
first, which say what decoding them takes, and rows are decoded in batches that fit.
Sources: parquet.thrift and the compact protocol of Apache Thrift; Message.fbs of Apache Arrow.
"""

from __future__ import annotations

import importlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from unseg.errors import UserError, naming_the_extra
from unseg.storage.files import open_for_reading

MAX_ROW_GROUP = 1 << 29  # bytes, as they are stored
MAX_PAGE = 1 << 27  # bytes that one page of a parquet file may become: the largest single cell
MAX_VALUES = 1 << 26  # of a column in a row group
FIXED_WIDTH = 16  # bytes of a number, at most
BATCH = 1 << 25  # bytes that are decoded at a time, as far as one row allows it
READ_AT_A_TIME = 1 << 20  # bytes of a file
LONGEST_HEADER = 1 << 24  # bytes of a page's header, which may hold its smallest and largest value
ARROW_FILE = b"ARROW1\0\0"  # how arrow's file form begins; behind it the same follows as in the stream form


@dataclass(frozen=True)
class Pieces:
    """A table's row groups or record batches.

    lengths: rows of each. read: yields one piece of one column, or of all for None, part by part, in order, each a
    table of its own.
    """

    schema: Any
    lengths: Sequence[int]
    read: Callable[[int, str | None], Iterator[Any]]


def arrow_errors() -> tuple[type[Exception], ...]:
    """Returns what reading a broken table raises."""
    return import_arrow("pyarrow").ArrowException, OSError, UnicodeDecodeError, struct.error, IndexError, OverflowError


def import_arrow(name: str) -> ModuleType:
    """Returns pyarrow or one of its modules; UserError where it is not installed."""
    with naming_the_extra("Hugging Face tables (.parquet, .arrow)"):
        return importlib.import_module(name)


# --- parquet ---------------------------------------------------------------------------------------------------------


def parquet_pieces(path: Path) -> Pieces:
    """Opens a parquet file; UserError where a part of it would take more memory than any image."""
    opened = open_for_reading(path)
    file = import_arrow("pyarrow.parquet").ParquetFile(opened, buffer_size=READ_AT_A_TIME)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    largest = max((group.total_byte_size for group in groups), default=0)
    if largest > MAX_ROW_GROUP:
        raise UserError(
            f"{path}: a row group of {largest >> 20} MB; write it anew with row groups of at most"
            f" {MAX_ROW_GROUP >> 20} MB"
        )

    def read(piece: int, column: str | None) -> Iterator[Any]:
        if groups[piece].num_rows == 0:
            return  # its chunks need not have pages
        chunks = [groups[piece].column(number) for number in range(groups[piece].num_columns)]
        if column is not None:
            chunks = [chunk for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{column}.")]
        rows = max(1, BATCH // max(_largest_row(chunks, path), 1))
        arrow, columns = import_arrow("pyarrow"), None if column is None else [column]
        for batch in file.iter_batches(batch_size=rows, row_groups=[piece], columns=columns, use_threads=False):
            yield arrow.Table.from_batches([batch])

    return Pieces(file.schema_arrow, [group.num_rows for group in groups], read)


def _largest_row(chunks: Sequence[Any], path: Path) -> int:
    """Returns the bytes that a row of some column chunks takes at most, as far as its values have no fixed width."""
    largest = 0
    with open_for_reading(path) as pages:  # a file of its own: the other one is at another place
        for chunk in chunks:
            if chunk.num_values > MAX_VALUES:
                raise UserError(f"{path}: a row group of {chunk.num_values:,} values; at most {MAX_VALUES:,} are read")
            page = _largest_page(pages, chunk, path)
            largest += page if chunk.physical_type.endswith("BYTE_ARRAY") else FIXED_WIDTH
    return largest


def _largest_page(file: BinaryIO, chunk: Any, path: Path) -> int:
    """Returns the bytes that the largest page of a column chunk becomes: no value in it, or made of it, is longer."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < at:
        at = chunk.dictionary_page_offset
    end, largest = at + chunk.total_compressed_size, 0
    while at < end:
        length, decoded, stored = _page_header(file, at, end)
        if decoded > MAX_PAGE:
            raise UserError(f"{path}: a page that becomes {decoded >> 20} MB; at most {MAX_PAGE >> 20} MB are decoded")
        if stored < 0 or decoded < 0:
            raise UserError(f"{path}: is broken: a page of a negative size")
        largest = max(largest, decoded)
        at += length + stored
    return largest


def _page_header(file: BinaryIO, at: int, end: int) -> tuple[int, int, int]:
    """Returns the length of a page's header, and the sizes of the page decoded and stored, in bytes."""
    size = 256
    while True:
        file.seek(at)
        data = file.read(min(size, end - at))
        try:
            return _parse_page_header(data)
        except IndexError:  # it goes on behind what was read
            if size >= LONGEST_HEADER or len(data) < size:
                raise
            size *= 16


def _parse_page_header(data: bytes) -> tuple[int, int, int]:
    fields = Compact(data)
    decoded = stored = 0
    for number, kind in fields.struct():
        if number == 2:
            decoded = fields.integer()
        elif number == 3:
            stored = fields.integer()
        else:
            fields.skip(kind)
    return fields.at, decoded, stored


class Compact:
    """Reads Thrift's compact protocol, as far as it is needed to find numbers in a struct; IndexError at the end."""

    NESTED = 16  # deep, at most; what parquet writes is nested less

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self) -> Iterator[tuple[int, int]]:
        """Yields number and kind of each field of a struct, whose value must be read or skipped before the next."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self.integer()
            yield number, head & 15

    def integer(self) -> int:
        """Returns a whole number, stored zigzag: 0, -1, 1, -2, …"""
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0) -> None:
        """Passes over a value of a kind."""
        if depth > self.NESTED:
            raise OverflowError("nested too deeply")
        if kind in (4, 5, 6):  # whole numbers of 16, 32 and 64 bits
            self._unsigned()
        elif kind in (3, 7, 8, 13):  # a byte, a floating-point number, a text, an identifier
            self._pass({3: 1, 7: 8, 13: 16}.get(kind) or self._unsigned())
        elif kind in (9, 10):  # a list or a set
            head = self._byte()
            count = self._unsigned() if head >> 4 == 15 else head >> 4
            for _ in range(count):
                # A truth value takes a byte here, and none as a field.
                self.skip(3 if head & 15 in (1, 2) else head & 15, depth + 1)
        elif kind == 12:
            for _, inner in self.struct():
                self.skip(inner, depth + 1)
        elif kind not in (1, 2):  # truth values of fields
            raise OverflowError(f"an unknown kind of value ({kind})")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise OverflowError("a number of over 64 bits")

    def _pass(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise IndexError("behind the end")


# --- arrow -----------------------------------------------------------------------------------------------------------


def arrow_pieces(path: Path) -> Pieces:
    """Opens an arrow file, as a map of what is on the disk; UserError where it is compressed."""
    arrow, ipc = import_arrow("pyarrow"), import_arrow("pyarrow.ipc")
    with open_for_reading(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise UserError(f"{path}: is empty (0 bytes)")
        start = len(ARROW_FILE) if file.read(len(ARROW_FILE)) == ARROW_FILE else 0
        # The map stays when the file is closed, and as long as a batch of it is used.
        mapped = arrow.py_buffer(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[start:])
    for message in ipc.MessageReader.open_stream(arrow.BufferReader(mapped)):
        if _is_compressed(message.metadata.to_pybytes()):
            raise UserError(
                f"{path}: is compressed, and what it takes to read it is not known; write it anew without compression,"
                " as save_to_disk does, or as parquet"
            )
    reader = ipc.open_stream(arrow.BufferReader(mapped))
    tables = [arrow.Table.from_batches([batch]) for batch in reader]

    def read(piece: int, column: str | None) -> Iterator[Any]:
        table = tables[piece]
        if column is not None:  # image, or image.path: a name may hold a dot, too
            table = table.select([column if column in table.column_names else column.rpartition(".")[0]])
        yield table

    return Pieces(reader.schema, [table.num_rows for table in tables], read)


def sound_parts(parts: Iterator[Any], path: Path) -> Iterator[Any]:
    """Yields parts of a table; UserError where one is broken."""
    while True:
        try:
            part = next(parts, None)
            if part is not None:
                part.validate(full=True)  # arrow itself trusts the offsets in a file
        except arrow_errors() as error:
            raise UserError(f"{path}: is broken: {' '.join(str(error).split())[:200]}") from error
        if part is None:
            return
        yield part


DICTIONARY_BATCH, RECORD_BATCH = 2, 3  # values of Message.header_type


def _is_compressed(message: bytes) -> bool:
    """Returns whether the data that belongs to a message is compressed. message: a flatbuffer, a `Message`."""
    table = _offset(message, 0)
    kind_at, batch_at = _field(message, table, 1), _field(message, table, 2)
    kind = message[kind_at] if kind_at else 0
    if kind not in (DICTIONARY_BATCH, RECORD_BATCH):
        return False
    batch = _offset(message, batch_at)
    if kind == DICTIONARY_BATCH:
        batch = _offset(message, _field(message, batch, 1))
    return bool(_field(message, batch, 3))


def _offset(data: bytes, at: int) -> int:
    """Returns where the thing lies that the offset at `at` leads to."""
    return at + struct.unpack_from("<I", data, at)[0]


def _field(data: bytes, table: int, number: int) -> int:
    """Returns where a field of a flatbuffer's table lies; 0 where the table has none."""
    (back,) = struct.unpack_from("<i", data, table)
    fields = table - back
    (size,) = struct.unpack_from("<H", data, fields)
    if 4 + 2 * number + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", data, fields + 4 + 2 * number)
    return table + offset if offset else 0
