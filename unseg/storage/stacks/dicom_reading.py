"""DICOM files, opened by pydicom: what is too large or packed as a whole is refused before it is read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from unseg.storage.image_limits import ImageError, image_errors, said_of
from unseg.storage.looking import seen_in
from unseg.storage.stacks.dicom_elements import instance_in, read_elements, transfer_syntax
from unseg.storage.stacks.stack import bounded_bytes

MOST_FRAMES = 2**16
FIRST = 2**14  # bytes that tell most instances
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def read_data_set(path: Path, max_pixels: int) -> Dataset:
    """Returns the elements of a file; ImageError where it is too large, cut short, packed as a whole, or no DICOM."""
    data = bounded_bytes(path, max_pixels)
    with dicom_errors(path):
        if transfer_syntax(data) == DeflatedExplicitVRLittleEndian:
            raise ImageError(path, "the deflated transfer syntax is not read: save it uncompressed first")
        read_elements(data)  # pydicom reads on where a file is cut short
        return dcmread(io.BytesIO(data))


@contextmanager
def dicom_errors(path: Path) -> Iterator[None]:
    """Turns what pydicom says of odd files into one ImageError."""
    with image_errors(path):
        try:
            yield
        except (BytesLengthException, InvalidDicomError, NotImplementedError, RecursionError) as error:
            raise ImageError(path, f"broken DICOM file: {said_of(error, path)}") from error


def instance_of(path: Path, max_pixels: int) -> str:
    """Returns the identity of the instance in a file; empty where it has none. Most files tell it in their first bytes,
    and no more of them is read."""
    try:
        found = seen_in(path, _first_instance)
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
    return str(read_data_set(path, max_pixels).get("SOPInstanceUID", "")) if found is None else found


def _first_instance(file: BinaryIO) -> str | None:
    return instance_in(file.read(FIRST))


def frames_of(path: Path, data_set: Dataset) -> int:
    """Returns the number of frames; ImageError where it is absurd."""
    frames = int(data_set.get("NumberOfFrames", 1) or 1)
    if not 1 <= frames <= MOST_FRAMES:
        raise ImageError(path, f"its header promises {frames} frames, more than {MOST_FRAMES:,} or none")
    return frames


def listed(value: Any) -> list[Any]:
    """Returns what an element holds, as a list."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else list(value)
