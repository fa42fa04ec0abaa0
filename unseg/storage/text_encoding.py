"""The encoding of text files that others wrote: UTF-8, or what their byte order mark says."""

from __future__ import annotations

import codecs
import io
from pathlib import Path

from unseg.storage.files import open_for_reading

# Byte order marks and the encodings that they stand for; UTF-32's first, since one of them begins as UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LONGEST_MARK = 4  # bytes


def encoding_of(start: bytes) -> tuple[str, int]:
    """Returns a text's encoding, and the bytes that its byte order mark takes. Without a mark it is UTF-8.

    start: the file's first LONGEST_MARK bytes or more. Windows' own tools write such marks, some of them with UTF-16.
    """
    return next(((encoding, len(mark)) for mark, encoding in MARKS if start.startswith(mark)), ("utf-8", 0))


def decode_text(data: bytes) -> str:
    """Returns a text file's content without its byte order mark; UnicodeDecodeError where it is no text."""
    encoding, length = encoding_of(data)
    return data[length:].decode(encoding)


def open_text(path: str | Path, errors: str = "strict", newline: str | None = None) -> io.TextIOWrapper:
    """Opens a regular file of text behind its byte order mark; OSError as for `open_for_reading`.

    Reading it raises UnicodeDecodeError where it is no text. errors, newline: as for Python's `open`.
    """
    file = open_for_reading(path)
    encoding, length = encoding_of(file.read(LONGEST_MARK))
    file.seek(length)
    return io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)
