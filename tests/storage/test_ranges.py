"""Files of which only what is read is brought."""

from __future__ import annotations

import os

import pytest

from unseg.storage.ranges import BLOCK, BLOCKS, open_ranges

CONTENT = bytes(range(251)) * (5 * BLOCK // 251) + b"the end"


def opened(asked: list[tuple[int, int]]) -> object:
    def read(start: int, end: int) -> bytes:
        asked.append((start, end))
        return CONTENT[start:end]

    return open_ranges(read, len(CONTENT))


def test_only_the_blocks_that_are_read_are_brought_and_each_once() -> None:
    asked: list[tuple[int, int]] = []
    with opened(asked) as file:
        assert file.read(8) == CONTENT[:8]
        assert file.seek(-7, os.SEEK_END) == len(CONTENT) - 7 and file.read() == b"the end"
        file.seek(2 * BLOCK - 3)
        assert file.read(6) == CONTENT[2 * BLOCK - 3 : 2 * BLOCK + 3]
        file.seek(3)
        assert file.read(5) == CONTENT[3:8]
        assert file.seek(2, os.SEEK_CUR) == 10
    last = len(CONTENT) // BLOCK * BLOCK
    assert asked == [(0, BLOCK), (last, len(CONTENT)), (BLOCK, 2 * BLOCK), (2 * BLOCK, 3 * BLOCK)]


@pytest.mark.parametrize("size", [0, 5])
def test_it_ends_where_the_file_does(size: int) -> None:
    with open_ranges(lambda start, end: b"short"[start:end], size) as file:
        assert file.read(100) == b"short"[:size] and file.read() == b""


def test_few_blocks_stay() -> None:
    asked: list[int] = []

    def read(start: int, end: int) -> bytes:
        asked.append(start // BLOCK)
        return bytes(end - start)

    with open_ranges(read, 100 * BLOCK) as file:
        for number in (*range(BLOCKS + 1), BLOCKS, 0):
            file.seek(number * BLOCK)
            file.read(1)
    assert asked == [*range(BLOCKS + 1), 0]
