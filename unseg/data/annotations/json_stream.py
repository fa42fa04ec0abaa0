"""JSON files of any size, read one entry at a time: no more than MAX_ENTRY characters are ever decoded together.

An instances file of 450 MB would take several GB as Python objects. Here each entry of its long lists is decoded,
looked at and dropped; where it stands in the file is kept, so that it can be decoded again when its image is read.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from unseg.errors import UserError
from unseg.storage.files import open_for_reading
from unseg.storage.image_limits import ImageError
from unseg.storage.text_encoding import LONGEST_MARK, encoding_of

CHUNK = 1 << 20  # bytes
MAX_ENTRY = 8 << 20  # characters; a text of this length can become 240 MB of Python objects
MAX_MEMBERS = 10_000  # of the outermost object
SPACE = re.compile(r"[ \t\n\r]*")
PLAIN = re.compile(r'[^"\\]*')  # of a text, up to its end or what is escaped
NUMBER = re.compile(r"[0-9.eE+-]*")  # what may still belong to a number where the text so far ends
DECODER = json.JSONDecoder()


@contextmanager
def open_json(path: Path) -> Iterator[JsonStream]:
    """Opens the stream of a JSON file whose outermost value is an object; UserError where it cannot be read."""
    try:
        with open_for_reading(path) as file:
            yield JsonStream(path, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


class JsonStream:
    """Reads a JSON object: `for key in stream.members()`, then `value`, `elements` (to its end) or `skip` a key.

    encoding: UTF-8, or what the file's byte order mark says.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self._text, self._at, self._ended = "", 0, False
        self.encoding, self._marked_byte = encoding_of(file.read(LONGEST_MARK))
        self._marked_at = 0
        self._decoder = codecs.getincrementaldecoder(self.encoding)()
        file.seek(self._marked_byte)

    def members(self) -> Iterator[str]:
        """Yields the keys of the outermost object, each once."""
        seen: set[str] = set()
        if self._peek() != "{":
            raise self._error("its outermost value is no object")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                key = self.value() if self._peek() == '"' else None
                if key is None or self._peek() != ":":
                    raise self._error('expected "key": value')
                if key in seen or len(seen) == MAX_MEMBERS:
                    raise self._error(f'the key "{key[:80]}" is there twice' if key in seen else "too many keys")
                seen.add(key)
                self._at += 1
                yield key
                if self._closes("}"):
                    break
        if self._peek():
            raise self._error("there is text after its end")

    def value(self) -> Any:
        """Returns the next value, decoded whole; UserError where it is longer than MAX_ENTRY."""
        self._peek()
        while True:
            failure, end = "", 0
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                failure = error.msg
            except RecursionError:
                raise self._error("lists or objects nested too deeply") from None
            except ValueError as error:  # a whole number of thousands of digits
                raise self._error(str(error)) from None
            if not failure and (self._ended or _end_of(NUMBER, self._text, end) < len(self._text)):
                self._at = end
                return value
            if self._ended:
                raise self._error(f"{failure}; is the file cut short?" if self._at == len(self._text) else failure)
            length = len(self._text) - self._at
            if length > MAX_ENTRY:
                raise self._error(f"an entry of over {MAX_ENTRY >> 20} million characters, or a broken one ({failure})")
            self._more(min(max(CHUNK, length), MAX_ENTRY + 1 - length))  # doubling: not decoded too often

    def elements(self) -> Iterator[tuple[Any, int, int]]:
        """Yields the elements of the list that comes next: (value, begin, end), the bytes of the file that hold it."""
        if self._peek() != "[":
            raise self._error("expected a list")
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            self._peek()
            begin = self._byte()
            value = self.value()
            yield value, begin, self._byte()
            if self._closes("]"):
                return

    def skip(self) -> None:
        """Passes over the next value: a list entry by entry, a text without keeping it, whatever its length."""
        first = self._peek()
        if first == "[":
            for _ in self.elements():
                pass
        elif first == '"':
            self._skip_text()
        else:
            self.value()

    def _skip_text(self) -> None:
        self._at += 1
        while True:
            self._at = _end_of(PLAIN, self._text, self._at)
            if self._at == len(self._text):
                if not self._more():
                    raise self._error("a text without end; is the file cut short?")
            elif self._text[self._at] == '"':
                self._at += 1
                return
            else:
                self._at += 1
                if self._at == len(self._text):
                    self._more()
                self._at += 1  # whatever is escaped, a quote perhaps

    def _closes(self, bracket: str) -> bool:
        """Returns whether the list or object ends here; else its next entry follows."""
        found = self._peek()
        if found not in (",", bracket) or not found:
            raise self._error(f'expected "," or "{bracket}"')
        self._at += 1
        return found == bracket

    def _peek(self) -> str:
        """Returns the next character that is no space, without passing it; "" at the end of the file."""
        while True:
            self._at = _end_of(SPACE, self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self, size: int = CHUNK) -> bool:
        """Reads on, dropping what is passed; returns False at the end of the file."""
        if self._ended:
            return False
        self._byte()
        data = self._file.read(size)
        try:
            added = self._decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            raise self._error(f"not {self.encoding.upper()} ({error.reason}): save it as UTF-8") from error
        self._ended = not data
        self._text = self._text[self._at :] + added
        self._at = self._marked_at = 0
        return not self._ended

    def _byte(self) -> int:
        """Returns where in the file the next character stands."""
        self._marked_byte += len(self._text[self._marked_at : self._at].encode(self.encoding))
        self._marked_at = self._at
        return self._marked_byte

    def _error(self, reason: str) -> UserError:
        return UserError(f"{self.path}: not usable JSON at byte {self._byte()}: {reason}")


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Returns where what the pattern takes at `at` ends; the pattern takes the empty text too."""
    found = pattern.match(text, at)
    return at if found is None else found.end()


def stamp(path: Path) -> tuple[int, int]:
    """Returns what changes when the file does: its size and its time of change; (0, 0) where it cannot be asked."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def read_entries(path: Path, spans: Sequence[tuple[int, int]], known: tuple[int, int]) -> Iterator[Any]:
    """Decodes again, one by one, the entries that `JsonStream.elements` found at these (begin, end) bytes.

    known: the file's `stamp` from before it was first read. ImageError where it is another file now.
    """
    if stamp(path) != known:
        raise ImageError(path, "changed while it was in use: start again")
    try:
        with open_for_reading(path) as file:
            for begin, end in spans:
                file.seek(begin)
                yield json.loads(file.read(end - begin))
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ImageError(path, f"changed while it was in use: {error}") from error
