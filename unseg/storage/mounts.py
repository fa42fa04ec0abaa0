"""Folders that stand for something else: a store such as S3, or tar files, whose contents come when they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from unseg.errors import UserError

# Permissions of a file of such a folder: nobody may read it here, its content is elsewhere; its content was brought.
ABSENT, BROUGHT = 0o200, 0o400


class Mount(Protocol):
    """A folder whose files have their contents elsewhere until they are read."""

    def bring(self, path: str | Path) -> bool:
        """Brings the content of a file of the folder; OSError where there is none. Returns whether it brings such."""

    def held(self, path: str | Path) -> AbstractContextManager[None]:
        """Inside, the content of a file of the folder is there, and stays; OSError where there is none."""

    def in_ranges(self, path: str | Path) -> BinaryIO | None:
        """Opens a file of the folder of which only what is read is brought; None where it is there, or comes whole."""

    def url(self, path: str | Path) -> str | None:
        """Returns where a file of the folder has its content; None for any other path."""


_mounts: list[Mount] = []


@contextmanager
def mounted(mount: Mount) -> Iterator[None]:
    """Inside, a mount is asked for the content of every file before it is opened for reading."""
    _mounts.append(mount)
    try:
        yield
    finally:
        _mounts.remove(mount)


def mounts() -> tuple[Mount, ...]:
    """Returns what is mounted now, for other processes to mount it too."""
    return tuple(_mounts)


def url_of_file(path: str | Path) -> str | None:
    """Returns the address of a file that is a store's; None for a file on the disk."""
    return next((url for url in (mount.url(path) for mount in _mounts) if url and "://" in url), None)


def place_of(path: str) -> str:
    """Returns the path that one in a mounted folder stands for; any other as it is."""
    return next((place for place in (mount.url(path) for mount in _mounts) if place and "://" not in place), path)


def is_in_a_file(path: str | Path) -> bool:
    """Returns whether a path is that of a sample in a tar or table."""
    return place_of(os.fspath(path)) != os.fspath(path)


def opened(path: str | Path, open_file: Callable[[], BinaryIO]) -> BinaryIO:
    """Returns what `open_file` opens, a file at `path`, once its content is here; OSError where there is none."""
    while any(mount.bring(path) for mount in _mounts):
        try:
            file = open_file()
        except PermissionError:
            if os.stat(path).st_mode & 0o777 != ABSENT:  # else it was given up again in between
                raise
            continue
        if os.fstat(file.fileno()).st_mode & 0o777 != ABSENT:
            return file
        file.close()
    return open_file()


@contextmanager
def held(*paths: str | Path) -> Iterator[None]:
    """Inside, the contents of files are here, where a mount has them, and stay: they may be opened by their names.

    OSError where there is none.
    """
    with ExitStack() as contents:
        for mount in _mounts:
            for path in paths:
                contents.enter_context(mount.held(path))
        yield


def in_ranges(path: str | Path) -> BinaryIO | None:
    """Opens a file of which a mount brings only what is read; None where none does."""
    return next((file for file in (mount.in_ranges(path) for mount in _mounts) if file is not None), None)


@contextmanager
def telling(names: Mapping[str, str]) -> Iterator[None]:
    """Inside, errors name what the user gave. names: what they say → what they are to say."""
    try:
        yield
    except UserError as error:
        raise UserError(in_words_of(names, str(error))) from error


def in_words_of(names: Mapping[str, str], text: str) -> str:
    """Returns a text that names what the user gave. names: as for `telling`."""
    for here, given in names.items():
        text = text.replace(here, given)
    return text
