"""Disks that take nothing more, here and in the processes that a run starts."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import unseg.storage.files
from tests.support import fake_generator
from unseg.storage.weights import LoadedGenerator


class Disk:
    """Stands for `open`: files for writing take `room` bytes together, then raise; the last write is cut short."""

    def __init__(self, room: int, error: int) -> None:
        self.room, self.error = room, error

    def open(self, path: object, mode: str = "r", *arguments: object, **options: object) -> object:
        file = open(path, mode, *arguments, **options)  # noqa: SIM115  # whoever called `open` closes it
        return file if mode.startswith("r") else _Limited(file, self)


class _Limited:
    def __init__(self, file: io.IOBase, disk: Disk) -> None:
        self.file, self.disk = file, disk

    def write(self, data: bytes | str) -> int:
        if len(data) > self.disk.room:
            self.file.write(data[: self.disk.room])
            self.file.flush()
            self.disk.room = 0
            raise OSError(self.disk.error, os.strerror(self.disk.error))
        self.disk.room -= len(data)
        return self.file.write(data)

    def __enter__(self) -> _Limited:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


class FullDiskGenerator(fake_generator.FakeGenerator):
    """Limits what the process that receives it, a worker of a run, may write. room: bytes; error: an errno."""

    def __init__(self, room: int, error: int) -> None:
        super().__init__()
        self.room, self.error = room, error

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        unseg.storage.files.open = Disk(self.room, self.error).open


def loaded(room: int, error: int) -> LoadedGenerator:
    return replace(fake_generator.loaded(), network=FullDiskGenerator(room, error).eval())
