"""Standard output and error as commands need them: there, and without tracebacks where they take nothing more."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from unseg.errors import UserError


class _Checked:
    """A stream whose failure is a UserError: whoever reads standard output must not take a part for the whole."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text; UserError where the stream takes nothing more."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise self.failed(error) from error

    def flush(self) -> None:
        """Flushes the stream; UserError where it takes nothing more."""
        try:
            self._stream.flush()
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> UserError:
        """Returns the error to raise where the stream takes nothing more, which is then said once."""
        # The interpreter flushes once more when it ends, which would be a second error.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return UserError(
            f"standard output: cannot be written: {error.strerror or error}; what is finished is kept: send it"
            " elsewhere and run the same command again"
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def write_binary(data: bytes) -> None:
    """Writes bytes to standard output, all of them; UserError where it takes nothing more."""
    stream = sys.stdout
    stream.flush()
    try:
        stream.buffer.write(data)
        stream.buffer.flush()
    except OSError as error:
        raise stream.failed(error) if isinstance(stream, _Checked) else error from error


class _Lossy(_Checked):
    """A stream that drops what it cannot say: a run does not end because the disk of its log is full."""

    def write(self, text: str) -> int:
        """Writes the text, or drops it."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, or drops what is in it."""
        with suppress(OSError):
            self._stream.flush()


@contextmanager
def standard_streams() -> Iterator[None]:
    """Inside, both streams are there even if the process was started without them.

    Standard output raises UserError where it takes nothing more; standard error drops what it cannot say. Characters
    that a stream's encoding lacks are written as escapes.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere, _escaping(sys.stdout), _escaping(sys.stderr):
        sys.stdout, sys.stderr = _Checked(before[0] or nowhere), _Lossy(before[1] or nowhere)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


@contextmanager
def _escaping(stream: TextIO | None) -> Iterator[None]:
    """Inside, the stream takes every text: a name may have characters that the terminal's encoding has not."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


def _open_closed_descriptors() -> None:
    """Gives the descriptors 0, 1 and 2 away where they are free.

    Otherwise the next file that is opened gets one of them, and what a decoder's library prints goes into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
