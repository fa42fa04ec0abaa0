"""Tables with encoded images in them, as Hugging Face's `datasets` writes them: parquet and arrow files, cell by cell.

Source: the page on the Image feature in the documentation of `datasets`. An image in a table is a struct of `bytes` and
`path`. Tables are read with pyarrow (the extra `huggingface`), without `datasets` itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unseg.data.annotations.table_files import Pieces, arrow_errors, arrow_pieces, import_arrow, parquet_pieces
from unseg.data.samples import Problem, walk
from unseg.errors import UserError
from unseg.storage.image_limits import IMAGE_SUFFIXES, ImageError

PARQUET = ".parquet"
TABLES = (PARQUET, ".arrow")
KEPT = 1 << 26  # bytes of each column


def table_files(path: Path, problems: list[Problem]) -> list[Path]:
    """Returns the tables at or under `path`, without those that `datasets` keeps as its cache."""
    files = [path] if path.is_file() else walk(path, problems)
    return [file for file in files if file.suffix.lower() in TABLES and not file.name.startswith("cache-")]


class _Window:
    """The parts of one piece of a column that were read last, up to `KEPT` bytes; rows are asked for in rising order.

    A row that lies before what is kept makes it start anew.
    """

    def __init__(self, pieces: Pieces, piece: int, column: str) -> None:
        self._parts, self.piece = pieces.read(piece, column), piece
        self._next = 0
        self._kept: deque[tuple[int, Any]] = deque()
        self._bytes = 0

    @property
    def first(self) -> int:
        """Returns the first row that can still be had."""
        return self._kept[0][0] if self._kept else 0

    def cell(self, row: int) -> Any:
        """Returns a cell of the column; row: counted from the piece's first, and not before `first`."""
        while row >= self._next:
            part = next(self._parts)
            part.validate(full=True)  # arrow itself trusts the offsets in a file
            self._kept.append((self._next, part.column(0)))
            self._next += part.num_rows
            self._bytes += part.nbytes
            while self._bytes > KEPT and len(self._kept) > 1:
                self._bytes -= self._kept.popleft()[1].nbytes
        start, cells = next(item for item in reversed(self._kept) if item[0] <= row)
        return cells[row - start]


class ImageTable:
    """A file of rows, in pieces; of each column what was used last is kept."""

    def __init__(self, path: Path, pieces: Pieces) -> None:
        self.path, self.pieces = path, pieces
        self._first_rows = np.cumsum([0, *pieces.lengths])
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    @classmethod
    def open(cls, path: Path) -> ImageTable:
        """Opens a file; UserError where it is none, or would take too much memory."""
        return cls(path, open_pieces(path))

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process open the table anew."""
        return ImageTable.open, (self.path,)

    @property
    def row_count(self) -> int:
        """Returns the number of rows."""
        return int(self._first_rows[-1])

    @cached_property
    def image_columns(self) -> list[str]:
        """Returns the names of the columns that hold images, in their order."""
        return [field.name for field in self.pieces.schema if holds_images(field.type)]

    def image_paths(self, column: str) -> Iterator[tuple[bool, str | None]]:
        """Yields for each row whether its cell is there, and the path that it holds, None where it has none."""
        for row in range(self.row_count):
            value = self._cell(row, f"{column}.path")
            yield value.is_valid, value["path"].as_py() if value.is_valid else None

    def encoded(self, row: int, column: str) -> bytes:
        """Returns the file that a cell holds; ImageError where it holds none."""
        with self._lock:
            cell = self._cell(row, column).as_py()
        if not cell or not cell["bytes"]:
            there = "only a path" if cell and cell["path"] else "which is empty"
            raise ImageError(self.path, f"row {row}: the column {column} holds no bytes, {there}")
        return cell["bytes"]

    def _cell(self, row: int, column: str) -> Any:
        piece = int(np.searchsorted(self._first_rows, row, "right")) - 1
        within = row - int(self._first_rows[piece])
        window = self._windows.get(column)
        if window is None or window.piece != piece or within < window.first:
            window = self._windows[column] = _Window(self.pieces, piece, column)
        broken: tuple[type[Exception], ...] = (StopIteration, *arrow_errors())
        try:
            return window.cell(within)
        except broken as error:
            del self._windows[column]
            raise ImageError(self.path, f"is broken: {_one_line(error)}") from error


def open_pieces(path: Path) -> Pieces:
    """Opens a parquet or arrow file in pieces; UserError where it is none, or would take too much memory."""
    try:
        return parquet_pieces(path) if path.suffix.lower() == PARQUET else arrow_pieces(path)
    except arrow_errors() as error:
        raise UserError(f"{path}: is broken: {_one_line(error)}") from error


def row_name(row: int, path: str | None, mark: str = "") -> str:
    """Returns the name of the image in a row. path: what its cell says, anyone's text. mark: tells columns apart."""
    suffix = Path((path or "").replace("\\", "/").rpartition("/")[2]).suffix.lower()
    return f"{row:06d}{mark}{suffix if suffix in IMAGE_SUFFIXES else '.png'}"


def holds_images(kind: Any) -> bool:
    """Returns whether an arrow type is that of encoded images: a struct of bytes and path."""
    types = import_arrow("pyarrow").types
    if not types.is_struct(kind):
        return False
    fields = {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
    if fields.keys() != {"bytes", "path"}:
        return False
    data, path = fields["bytes"], fields["path"]
    is_data = types.is_binary(data) or types.is_large_binary(data)
    return is_data and (types.is_string(path) or types.is_large_string(path))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
