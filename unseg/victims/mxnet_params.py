"""MXNet's `.params` files, read without MXNet: first the directory of what is in them, then single arrays.

The format is MXNet's `NDArray::Save` (src/ndarray/ndarray.cc, Apache-2.0), little endian. A file is: magic number 0x112
and a reserved word, 8 bytes each; the number of arrays in 8 bytes, and the arrays; the number of names in 8 bytes, and
for each its length in 8 bytes and its characters. An array is, by its first 4 bytes, 0xF993FAC9 (version 2): storage
type int32 (0 = dense), shape, device, element type, elements; 0xF993FAC8 (version 1): shape, device, element type,
elements; anything else (before versions): that is the number of dimensions, with sizes of uint32; device, element type,
elements. A shape of versions 1 and 2 is a uint32 number of dimensions and int64 sizes; a device is two int32; the
element type an int32. An array of no dimensions ends after its shape.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unseg.errors import UserError
from unseg.storage.files import open_for_reading

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
# MXNet's number of an element type → NumPy's name.
DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
DENSE = 0
# Bounds on what a directory may take, far above any network's.
MAX_ARRAYS, MAX_DIMENSIONS, MAX_NAME = 100_000, 32, 1_000


@dataclass(frozen=True)
class ArrayEntry:
    """One array of a file. shape: () where it is none. offset: of its elements in the file, bytes."""

    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def size(self) -> int:
        """Returns the bytes that the elements take."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize if self.shape else 0


def read_directory(path: Path) -> dict[str, ArrayEntry]:
    """Returns the arrays of a `.params` file by name, in its order, without their elements.

    It takes memory for the directory alone, whatever the file claims: every size is checked against the bytes that are
    left. Raises UserError where the file is damaged or something else.
    """
    with _opened(path) as file:
        reader = _Reader(path, file)
        magic, _ = reader.words("<QQ", "its first 16 bytes")
        if magic != LIST_MAGIC:
            raise UserError(
                f"{path}: is no MXNet .params file (it begins with 0x{magic:X}, not 0x112); give the file as it was "
                "downloaded"
            )
        arrays = [reader.array(number) for number in range(reader.count("arrays", 4))]
        names = [reader.name(number) for number in range(reader.count("names", 8))]
        if len(names) != len(arrays):
            raise reader.damaged(f"{len(arrays)} arrays but {len(names)} names")
        directory = dict(zip(names, arrays, strict=True))
        if len(directory) != len(names):
            raise reader.damaged(f"the name {max(names, key=names.count)} is there twice")
        if reader.left:
            raise reader.damaged(f"{reader.left} bytes behind the last name")
    return directory


def read_array(path: Path, entry: ArrayEntry) -> np.ndarray:
    """Returns the elements of one array of the file, of its shape and type."""
    with _opened(path) as file:
        file.seek(entry.offset)
        data = file.read(entry.size)
    if len(data) != entry.size:
        raise UserError(f"{path}: was cut short while it was read; copy it again")
    return np.frombuffer(bytearray(data), entry.dtype).reshape(entry.shape)


def _opened(path: Path) -> BinaryIO:
    try:
        return open_for_reading(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None


class _Reader:
    """Reads on in a file of known size. left: how many bytes there are still."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.left = os.fstat(file.fileno()).st_size

    def damaged(self, reason: str) -> UserError:
        return UserError(f"{self.path}: damaged MXNet .params file ({reason}); get it again")

    def bytes(self, count: int, what: str) -> bytes:
        data = self.file.read(count) if count <= self.left else b""
        if len(data) != count:
            raise self.damaged(f"it ends within {what}")
        self.left -= count
        return data

    def words(self, layout: str, what: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.bytes(struct.calcsize(layout), what))

    def count(self, what: str, least: int) -> int:
        """Returns how many there are of `what`, each of which takes at least `least` bytes."""
        (count,) = self.words("<Q", f"the number of {what}")
        if count > MAX_ARRAYS or count * least > self.left:
            raise self.damaged(f"it claims {count} {what}")
        return count

    def array(self, number: int) -> ArrayEntry:
        """Reads over one array and returns where it is."""
        what = f"array {number}"
        (magic,) = self.words("<I", what)
        if magic == V3_MAGIC:
            raise UserError(
                f"{self.path}: {what} has version 3 of MXNet's array format, of which networks of 2016 have none; "
                "give the file as downloaded"
            )
        if magic == V2_MAGIC and (storage := self.words("<i", what)[0]) != DENSE:
            raise self.damaged(f"{what} has storage type {storage}, only dense arrays ({DENSE}) are read")
        legacy = magic not in (V1_MAGIC, V2_MAGIC)
        dimensions = magic if legacy else self.words("<I", what)[0]
        if dimensions > MAX_DIMENSIONS:
            raise self.damaged(f"{what} claims {dimensions} dimensions")
        shape = self.words(f"<{dimensions}{'I' if legacy else 'q'}", what)
        if dimensions == 0:
            return ArrayEntry((), DTYPES[0], 0)
        _, _, code = self.words("<iii", what)
        if code not in DTYPES:
            raise self.damaged(f"{what} has the unknown element type {code}")
        if min(shape) < 0:
            raise self.damaged(f"{what} has a side of {min(shape)}")
        entry = ArrayEntry(shape, DTYPES[code], self.file.tell())
        if entry.size > self.left:
            raise self.damaged(f"{what} claims {entry.size} bytes, {self.left} are left")
        self.file.seek(entry.size, os.SEEK_CUR)
        self.left -= entry.size
        return entry

    def name(self, number: int) -> str:
        (length,) = self.words("<Q", "a name's length")
        if length > MAX_NAME:
            raise self.damaged(f"name {number} claims {length} characters")
        try:
            return self.bytes(length, f"name {number}").decode()
        except UnicodeDecodeError:
            raise self.damaged(f"name {number} is no text") from None
