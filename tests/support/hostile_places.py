"""Things that lie where a file or folder is expected, and a process that locked folders keep out."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

LONG = "n" * 300  # no common file system has names of over 255 bytes
HALF = "half\ud800"  # no file has half of a character in its name


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def locked(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


KINDS = {kind.__name__: kind for kind in (pipe, device, folder, circle, locked)}


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the main thread where what is inside takes longer: a pipe would be waited for for ever."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


OVERRIDE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (linux/capability.h)


@contextmanager
def without_override() -> Iterator[None]:
    """Inside, permissions hold for this thread even if root runs it (capget(2), capset(2))."""
    libc, header, sets = ctypes.CDLL(None, use_errno=True), Header(0x20080522, 0), (Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    before = sets[0].effective
    sets[0].effective &= ~OVERRIDE
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(ctypes.byref(header), sets) == 0
