"""Folders that stand for something else: a store such as S3, or tar files, whose contents come when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from unseg.errors import UserError


class Mount(Protocol):
    """A folder whose files have their contents elsewhere until they are read."""

    def bring(self, path: str | Path) -> None:
        """Brings the content of a file of the folder that is about to be opened; OSError where there is none."""

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


def bring(path: str | Path) -> None:
    """Brings the content of a file that is about to be opened, where a mount has it; OSError where there is none."""
    for mount in _mounts:
        mount.bring(path)


def is_mounted(path: str | Path) -> bool:
    """Returns whether a path is in a folder that stands for something else."""
    return any(mount.url(path) is not None for mount in _mounts)


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
