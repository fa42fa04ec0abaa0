"""Values on their way to another machine: a place in a mirror is one in the mirror over there.

Both ends are processes of one run; nothing is unpacked that a file or a stranger holds.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unseg.storage.mirror import Mirror


def packed(value: Any, mirror: Mirror | None) -> bytes:
    """Returns a value as bytes. mirror: of this machine; its paths become those of the mirror that unpacks them."""
    content = io.BytesIO()
    _Pickler(content, mirror).dump(value)
    return content.getvalue()


def unpacked(content: bytes, mirror: Mirror) -> Any:
    """Returns the value of bytes that `packed` made. mirror: of this machine."""
    return _Unpickler(io.BytesIO(content), mirror).load()


def packed_with_files(value: Any, files: Iterable[Path], mirror: Mirror | None) -> bytes:
    """Returns a value as bytes, with the names of those files of the mirror that it needs to be of use."""
    names = [] if mirror is None else mirror.names(files)
    return packed((names, packed(value, mirror)), mirror)


@contextmanager
def unpacked_with_files(content: bytes, mirror: Mirror) -> Iterator[Any]:
    """Returns the value of bytes that `packed_with_files` made; inside, its files have their names in the mirror."""
    names, value = unpacked(content, mirror)
    with mirror.lent(names):
        yield unpacked(value, mirror)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, mirror: Mirror | None) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._folder = None if mirror is None else os.fspath(mirror.folder)

    def persistent_id(self, value: Any) -> tuple[type, str] | None:
        """Returns what stands for a path, or a text that is one, below the mirror's folder; None for all else."""
        if self._folder is None or not isinstance(value, (str, Path)):
            return None
        text = os.fspath(value)
        if text != self._folder and not text.startswith(self._folder + os.sep):
            return None
        return (Path if isinstance(value, Path) else str), text[len(self._folder) :]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, mirror: Mirror) -> None:
        super().__init__(file)
        self._folder = os.fspath(mirror.folder)

    def persistent_load(self, place: tuple[type, str]) -> Any:
        """Returns the path or text of a place in this machine's mirror."""
        kind, rest = place
        return kind(self._folder + rest)
