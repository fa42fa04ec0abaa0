"""What a file of tensors may hold, whoever wrote it: checked before any of its values is used.

A file's claims are compared with its own size first. What passes is an ordinary tensor: dense, on the CPU, of a number
type that networks are stored in, of few dimensions, and with its elements in the file. Only tensors are ever unpickled
(`weights_only=True`), so that code in a file is not run.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unseg.storage.files import open_for_reading

# The element types of networks: safetensors' name → torch's type.
TYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
# Bounds far above any network's. SAM's ViT-H has 600 entries of at most 4 dimensions, and a header of 70 kB.
MOST_ENTRIES, MOST_DIMENSIONS, MOST_HEADER = 50_000, 8, 8 * 2**20
MOST_OF_OLD_STYLE = 4 * 2**30  # bytes; a file from before PyTorch 1.6 is read whole before anything is known of it
TIED = 2  # entries may share their elements, as tied layers do: together they claim at most so many times what is there
NAME_SHOWN = 80  # characters of a name from a file

# What reading a damaged or foreign pickle raises, besides OSError.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    MemoryError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)


class NoTensorFile(Exception):
    """What is wrong with a file of tensors, as a phrase that follows the file's name."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: the shape and type of each entry, and facts beside them."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, torch.dtype]
    metadata: dict[str, str]


def shown(name: object) -> str:
    """Returns a name from a file, cut where it is too long to be read."""
    text = str(name)
    return text if len(text) <= NAME_SHOWN else f"{text[:NAME_SHOWN]}…"


# --- safetensors -----------------------------------------------------------------------------------------------------


def read_header(path: Path) -> Header | None:
    """Returns the header of a safetensors file, None where the file is of another kind.

    The format: the header's length in 8 bytes, little endian; the header, a JSON object; the elements. Raises OSError,
    or NoTensorFile where the header does not fit its file.
    """
    with open_for_reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        if start[8:] != b"{":
            return None
        (length,) = struct.unpack("<Q", start[:8])
        if length > min(MOST_HEADER, size - 8):
            raise NoTensorFile(f"damaged safetensors file (its header claims {length} bytes)")
        file.seek(8)
        content = file.read(length)
    try:
        header = json.loads(content)
    except (ValueError, RecursionError):
        raise NoTensorFile("damaged safetensors file (its header is no JSON)") from None
    return _checked_header(header, room=size - 8 - length)


def _checked_header(header: Any, room: int) -> Header:
    """Returns a header whose entries can be; `room`: bytes that there are for their elements."""
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise NoTensorFile("damaged safetensors file (its header is not of the format)")
    if len(header) > MOST_ENTRIES:
        raise NoTensorFile(f"no weights that are known here: {len(header)} entries, of at most {MOST_ENTRIES}")
    shapes, types, claimed = {}, {}, 0
    for name, entry in header.items():
        shape, kind = _checked_entry(name, entry)
        shapes[name], types[name] = shape, kind
        claimed += math.prod(shape) * kind.itemsize
    if claimed > room:
        raise NoTensorFile(f"damaged safetensors file (its entries claim {claimed} bytes, {room} are there)")
    return Header(shapes, types, metadata)


def _checked_entry(name: str, entry: Any) -> tuple[tuple[int, ...], torch.dtype]:
    shape, kind = (entry.get("shape"), entry.get("dtype")) if isinstance(entry, dict) else (None, None)
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise NoTensorFile(f"damaged safetensors file ({shown(name)} has no shape)")
    if len(shape) > MOST_DIMENSIONS:
        raise NoTensorFile(_many_dimensions(name, len(shape)))
    if not isinstance(kind, str) or kind not in TYPES:
        raise NoTensorFile(_foreign_type(name, kind))
    return tuple(shape), TYPES[kind]


# --- pickles ---------------------------------------------------------------------------------------------------------


def load_pickle(path: Path, mapped: bool = True) -> Any:
    """Returns what `torch.save` wrote, on the CPU; nothing but tensors and plain values is made, and no code is run.

    mapped: values of tensors are read from the file when they are used, except from files of before PyTorch 1.6. Check
    the tensors with `check_tensors`. Raises OSError, or NoTensorFile where the file cannot be read.
    """
    zipped = _is_sound_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's thoughts on unusual tensors, which are refused afterwards
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped and mapped)
    except _UNREADABLE as error:
        raise NoTensorFile(
            f"not a file of weights that can be read ({type(error).__name__}); it is damaged or holds more than"
            " tensors, which is refused because it could run code"
        ) from None


def _is_sound_archive(path: Path) -> bool:
    """Returns whether the file is an archive as PyTorch writes it since 1.6, False for a plain pickle.

    Raises NoTensorFile where its members, unpacked, would be larger than the file: PyTorch compresses nothing.
    """
    with open_for_reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) != b"PK\x03\x04":
            if size > MOST_OF_OLD_STYLE:
                raise NoTensorFile(f"not a file of weights that can be read: {size} bytes, and no archive of PyTorch's")
            return False
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (*_UNREADABLE, NotImplementedError) as error:
            raise NoTensorFile(
                f"not a file of weights that can be read ({type(error).__name__}); it is damaged"
            ) from None
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > size:
        raise NoTensorFile("not a file of weights that can be read: its archive is compressed, as PyTorch's never are")
    return True


def check_tensors(tensors: Mapping[str, torch.Tensor], bytes_too: bool = False) -> None:
    """Raises NoTensorFile for the first tensor of a pickle that no network could take, or where elements are missing.

    PyTorch reads sparse, quantised, nested and expanded tensors, and ones without elements; the last two may claim any
    size. bytes_too: whether there may be uint8, in which checkpoints hold the states of random numbers.
    """
    if len(tensors) > MOST_ENTRIES:
        raise NoTensorFile(f"no weights that are known here: {len(tensors)} entries, of at most {MOST_ENTRIES}")
    claimed, held = 0, {}
    for name, tensor in tensors.items():
        if fault := _fault(name, tensor, bytes_too):
            raise NoTensorFile(fault)
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        claimed += tensor.numel() * tensor.itemsize
    if claimed > TIED * sum(held.values()):
        raise NoTensorFile(f"its entries claim {claimed} bytes, and it holds {sum(held.values())}")


def _fault(name: str, tensor: torch.Tensor, bytes_too: bool) -> str | None:
    """Returns what a network cannot take in a tensor; None where there is nothing."""
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized:
        return f"{shown(name)} is no dense tensor of plain numbers"
    if tensor.device.type != "cpu":
        return f"{shown(name)} has no elements (it is on the device '{tensor.device.type}')"
    if tensor.dtype not in TYPES.values() and not (bytes_too and tensor.dtype is torch.uint8):
        return _foreign_type(name, str(tensor.dtype).removeprefix("torch."))
    if tensor.dim() > MOST_DIMENSIONS:
        return _many_dimensions(name, tensor.dim())
    return None


def _foreign_type(name: str, kind: object) -> str:
    return f"{shown(name)} has the type {shown(kind)}; weights are float32, float64, float16 or bfloat16"


def _many_dimensions(name: str, count: int) -> str:
    return f"{shown(name)} has {count} dimensions, of at most {MOST_DIMENSIONS}"
