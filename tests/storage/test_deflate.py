"""Deflate streams: what goes in comes out, and the same samples give the same bytes wherever their compressor lies."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseg.storage.deflate import FIRST_STEP, deflater


def test_equal_samples_are_equal_bytes_at_any_address() -> None:
    """Flat areas with specks between them. ISA-L alone gives 3 to 9 other streams of 300 at unlike addresses."""
    draw = random.Random(1)
    data = b"".join(bytes(draw.randrange(100, 4000)) + draw.randbytes(draw.randrange(1, 40)) for _ in range(1500))
    kept, streams = [], set()
    for _ in range(300):
        packer = deflater(1)
        kept += [packer, bytearray(2**16)]  # each compressor in another 64 KiB
        streams.add(packer.compress(data) + packer.flush())
    assert len(streams) == 1 and zlib.decompress(streams.pop()) == data


@given(
    st.lists(st.integers(0, 3 * FIRST_STEP), max_size=6).map(lambda sizes: [size // 2 for size in sizes]),
    st.integers(0, 2**32),
)
def test_any_parts_come_back(sizes: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 3, sum(sizes)).astype(np.uint8)
    parts = np.split(values, np.cumsum(sizes)[:-1]) if sizes else []
    packer = deflater(1)
    packed = b"".join(packer.compress(part) for part in parts) + packer.flush()
    assert zlib.decompress(packed) == values.tobytes()


@pytest.mark.parametrize("level", [0, 2, 6, 9])
def test_other_levels_are_those_of_zlib(level: int) -> None:
    data, packer = bytes(range(256)) * 9, deflater(level)
    assert packer.compress(data) + packer.flush() == zlib.compress(data, level)


def test_rows_of_an_array_are_taken_as_they_lie() -> None:
    rows = np.arange(7 * 11, dtype=np.uint8).reshape(7, 11)
    packer = deflater(1)
    assert zlib.decompress(packer.compress(rows) + packer.flush()) == rows.tobytes()
