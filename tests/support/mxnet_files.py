"""Writes MXNet `.params` files of all three versions of its array format, for tests."""

from __future__ import annotations

import struct

import numpy as np

CODES = {"<f4": 0, "<f8": 1, "<f2": 2, "|u1": 3, "<i4": 4, "|i1": 5, "<i8": 6}
VERSIONS = (0, 1, 2)


def array_bytes(array: np.ndarray, version: int) -> bytes:
    ndim = struct.pack("<I", array.ndim)
    head = {
        0: ndim + struct.pack(f"<{array.ndim}I", *array.shape),
        1: struct.pack("<I", 0xF993FAC8) + ndim + struct.pack(f"<{array.ndim}q", *array.shape),
        2: struct.pack("<Ii", 0xF993FAC9, 0) + ndim + struct.pack(f"<{array.ndim}q", *array.shape),
    }[version]
    return head + struct.pack("<iii", 1, 0, CODES[array.dtype.str]) + array.tobytes()


def params_bytes(arrays: dict[str, np.ndarray], version: int = 0) -> bytes:
    """version 0 is what MXNet of 2016 wrote, when ResNet38's weights were published."""
    names = [name.encode() for name in arrays]
    return b"".join(
        [
            struct.pack("<QQQ", 0x112, 0, len(arrays)),
            *(array_bytes(array, version) for array in arrays.values()),
            struct.pack("<Q", len(names)),
            *(struct.pack("<Q", len(name)) + name for name in names),
        ]
    )
