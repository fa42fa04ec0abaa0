"""Values on their way to another machine: a place in a folder of scratch files is one in such a folder over there.

Both ends are processes of one run; nothing is unpacked that a file or a stranger holds.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def packed(value: Any, folders: Sequence[Path | None]) -> bytes:
    """Returns a value as bytes. folders: of this machine, in an order that both ends share; None where there is none.

    Paths below them become those below the other end's.
    """
    content = io.BytesIO()
    _Pickler(content, folders).dump(value)
    return content.getvalue()


def unpacked(content: bytes, folders: Sequence[Path]) -> Any:
    """Returns the value of bytes that `packed` made. folders: of this machine."""
    return _Unpickler(io.BytesIO(content), folders).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, folders: Sequence[Path | None]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._folders = [
            (number, os.fspath(folder), os.fspath(folder) + os.sep)
            for number, folder in enumerate(folders)
            if folder is not None
        ]

    def persistent_id(self, value: Any) -> tuple[type, int, str] | None:
        """Returns what stands for a path, or a text that is one, at or below a folder; None for all else."""
        if not isinstance(value, (str, Path)):
            return None
        text = os.fspath(value)
        for number, folder, start in self._folders:
            if text == folder or text.startswith(start):
                return (Path if isinstance(value, Path) else str), number, text[len(folder) :]
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, folders: Sequence[Path]) -> None:
        super().__init__(file)
        self._folders = [os.fspath(folder) for folder in folders]

    def persistent_load(self, place: tuple[type, int, str]) -> Any:
        """Returns the path or text of a place in this machine's folder."""
        kind, number, rest = place
        return kind(self._folders[number] + rest)
