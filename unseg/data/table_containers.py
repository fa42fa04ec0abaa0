"""Tables of Hugging Face's `datasets` as containers of images: parquet files, and the arrow files of `save_to_disk`.

Every column that holds images is protected, but for that of the masks. All other columns, their order, their types and
what the table says of itself stay. Rows are read, changed and written part by part.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unseg.data.annotations.core import first_few
from unseg.data.annotations.huggingface import choose_mask_column
from unseg.data.annotations.image_tables import PARQUET, ImageTable, open_pieces, row_name
from unseg.data.annotations.table_files import ARROW_FILE, Pieces, import_arrow, sound_parts
from unseg.data.stray_pictures import refuse_stray_pictures, rows_with_pictures
from unseg.errors import UserError
from unseg.storage.containers import Container
from unseg.storage.files import open_for_reading, writing
from unseg.storage.image_limits import ImageError

MASK = ".mask.png"
STRAY = "holds a picture that would stay as it is"
PART = 1 << 26  # bytes that are written at a time: a row group, or a record batch
ROWS = 1000  # of them, as `datasets` has it
_NAME = re.compile(r"(\d{6,9})(?:\.(\d{1,5}))?(?:\.[a-z0-9]+|\.nii\.gz)")
Cell = tuple[int, int]  # row and column, both from 0


@dataclass(frozen=True)
class TableContainer(Container):
    """A table of samples, a row each: 000012.jpg is the image in row 12, 000012.mask.png its mask.

    Where several columns hold images, 000012.3.jpg is that in the column 3. columns: number → name of those that hold
    images to protect. mask_column: None where masks come from elsewhere. rows: the numbers of its rows in the original.
    """

    path: Path
    place: str
    table: ImageTable
    columns: Mapping[int, str]
    mask_column: str | None
    rows: Sequence[int]

    @classmethod
    def open(cls, path: Path, place: str, masks: str | None, needs_masks: bool) -> TableContainer:
        """Opens a table. masks: the column of masks; None: found by its name, where they are needed.

        UserError where no column holds images, or one would stay as it is.
        """
        table = ImageTable.open(path)
        images, names = table.image_columns, table.pieces.schema.names
        if not images:
            raise UserError(f"{path}: no column holds images to protect ({first_few(names, 30)})")
        if masks is None and needs_masks:
            masks = choose_mask_column(images, None, str(path), "--huggingface COLUMN")
        if masks is not None and masks not in images:
            raise UserError(
                f"--huggingface {masks}: {path} has no such column of images ({', '.join(images[:30]) or 'none'})"
            )
        columns = {number: name for number, name in enumerate(names) if name in images and name != masks}
        if not columns:
            raise UserError(f"{path}: no column holds images to protect ({first_few(names, 30)})")
        if len(set(names)) < len(names):
            raise UserError(f"{path}: has two columns of one name; rename one of them")
        refuse_stray_pictures(table)
        return cls(path, place, table, columns, masks, range(table.row_count))

    def images(self) -> Iterator[tuple[str, str | None]]:
        masked = np.zeros(self.table.row_count, bool)
        if self.mask_column is not None:
            masked[[row for row, (there, _) in enumerate(self.table.image_paths(self.mask_column)) if there]] = True
        for row, name, _ in self._cells():
            yield name, f"{row:06d}{MASK}" if masked[row] else None

    def named(self) -> Iterator[tuple[str, str | None]]:
        """Yields the name of every image and what its cell calls it, None where it does not."""
        for _, name, path in self._cells():
            yield name, (path or "").replace("\\", "/").rpartition("/")[2] or None

    def _cells(self) -> Iterator[tuple[int, str, str | None]]:
        """Yields row, name and path of every image."""
        for column, name in self.columns.items():
            mark = f".{column}" if len(self.columns) > 1 else ""
            for row, (there, path) in enumerate(self.table.image_paths(name)):
                if there:
                    yield row, row_name(row, path, mark), path

    def holds(self, name: str) -> bool:
        place, row = self._place(name)
        return place < len(self.rows) and self.rows[place] == row

    def _place(self, name: str) -> Cell:
        """Returns which of the table's rows an image or mask lies in, if it is there, and which of the original's."""
        row = int(name[: name.index(".")])
        return bisect_left(self.rows, row), row

    def size(self, name: str) -> int:
        return self.path.stat().st_size // max(1, len(self.rows)) + 1

    def blocks(self, name: str) -> Iterator[bytes]:
        column = self.mask_column if name.endswith(MASK) else self.columns[self._cell(name)[1]]
        assert column is not None, "a table without a column of masks has none"
        try:
            yield self.table.encoded(self._place(name)[0], column)
        except ImageError as error:
            raise OSError(None, error.reason, name) from error

    def _cell(self, name: str) -> Cell:
        """Returns row and column of an image; ValueError for a name that is none's."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"{name} is no name of an image in a table")
        return int(found[1]), int(found[2]) if found[2] else next(iter(self.columns))

    # --- which rows stay

    @cached_property
    def _there(self) -> dict[int, np.ndarray]:
        """Returns column → which rows hold an image in it."""
        count = self.table.row_count
        return {
            column: np.fromiter((there for there, _ in self.table.image_paths(name)), bool, count)
            for column, name in self.columns.items()
        }

    @cached_property
    def _strays(self) -> dict[int, str]:
        """Returns row → a column that holds a picture in it which would stay as it is."""
        return rows_with_pictures(self.table)

    def _rows_that_stay(self, written: Collection[str]) -> list[int]:
        """Returns the rows all of whose images have their noise, without stray pictures; a row without an image is one
        of them."""
        lacking = {column: there.copy() for column, there in self._there.items()}
        for row, column in map(self._cell, written):
            lacking[column][row] = False
        goes = np.any(list(lacking.values()), axis=0)
        goes[list(self._strays)] = True
        return np.flatnonzero(~goes).tolist()

    def left_out(self, written: Collection[str]) -> dict[str, str]:
        rows, found = set(self._rows_that_stay(written)), dict[str, str]()
        for name in written:
            row = self._cell(name)[0]
            if row in self._strays:
                found[name] = f"its row is left out, since its column {self._strays[row]} {STRAY}"
            elif row not in rows:
                found[name] = "its row is left out, since another image in it could not be protected"
        for row, column in self._strays.items():
            if not any(there[row] for there in self._there.values()):
                found[f"{row:06d}"] = f"the column {column} of this row {STRAY}; the row is left out"
        return found

    # --- written anew

    def rewrite(self, target: Path, replaced: Mapping[str, Path], within: Path) -> None:
        files = {self._cell(name): path for name, path in replaced.items()}
        rows = self._rows_that_stay(replaced.keys())
        try:
            with writing(target, durable=True, within=within) as file:
                writer = _writer(file, self.path, self.table.pieces.schema)
                try:
                    for part in self._parts(rows, files):
                        writer.write_table(part)
                finally:
                    writer.close()
        except ImageError as error:
            raise UserError(f"{self.path}: {error.reason}") from error

    def _parts(self, rows: Sequence[int], files: Mapping[Cell, Path]) -> Iterator[Any]:
        """Yields the rows that stay with their new images, in tables of a bounded size."""
        arrow = import_arrow("pyarrow")
        waiting: list[Any] = []
        size = count = 0
        for start, part, is_last in _whole_rows(self.table.pieces, self.path):
            width = part.nbytes // max(part.num_rows, 1)
            first, end = bisect_left(rows, start), bisect_left(rows, start + part.num_rows)
            taken: list[int] = []
            for row in rows[first:end]:
                taken.append(row - start)
                size += width + sum(_size(files.get((row, column))) for column in self.columns)
                if size >= PART or count + len(taken) >= ROWS:
                    yield arrow.concat_tables([*waiting, self._changed(part, start, taken, files)])
                    waiting, taken, size, count = [], [], 0, 0
            if taken:
                waiting.append(self._changed(part, start, taken, files))
                count += len(taken)
            if is_last and waiting:
                yield arrow.concat_tables(waiting)
                waiting, size, count = [], 0, 0

    def _changed(self, part: Any, start: int, taken: list[int], files: Mapping[Cell, Path]) -> Any:
        """Returns rows of a part of the table, numbered from `start`, with their new images."""
        arrow = import_arrow("pyarrow")
        table = part.take(taken)
        for column, name in self.columns.items():
            field = table.schema.field(name)
            old = table.column(name).combine_chunks()
            old = old.combine_chunks() if isinstance(old, arrow.ChunkedArray) else old
            contents = [_content(files.get((start + row, column))) for row in taken]
            data = arrow.array(contents, field.type.field("bytes").type)
            fields = [field.type.field(number) for number in range(field.type.num_fields)]
            cells = [data if one.name == "bytes" else old.field(one.name) for one in fields]
            new = arrow.StructArray.from_arrays(cells, fields=fields, mask=old.is_null())
            table = table.set_column(column, field, new)
        return table

    # --- read back

    def rewritten(self, path: Path, written: Collection[str]) -> TableContainer:
        rows = self._rows_that_stay(written)
        table = ImageTable.open(path)
        if table.row_count != len(rows):
            rows = []  # `faults` tells
        return TableContainer(path, self.place, table, self.columns, self.mask_column, rows)

    def faults(self, path: Path, written: Collection[str]) -> Iterator[tuple[str, str]]:
        rows = self._rows_that_stay(written)
        try:
            there = open_pieces(path)
            if not there.schema.equals(self.table.pieces.schema, check_metadata=True):
                yield "", "its columns, or what it says of them, are not those of its original"
            elif sum(there.lengths) != len(rows):
                yield "", f"has {sum(there.lengths):,} rows, not the {len(rows):,} of its original that stay"
            else:
                yield from self._differences(there, path, rows)
        except UserError as error:
            yield "", str(error)

    def _differences(self, there: Pieces, path: Path, rows: Sequence[int]) -> Iterator[tuple[str, str]]:
        found: dict[str, int] = {}
        for first, before, after in _side_by_side(self._kept(rows), (part for _, part, _ in _whole_rows(there, path))):
            for name in before.column_names:
                if name not in found and not _are_same(self._but_images(before, name), self._but_images(after, name)):
                    found[name] = first
        for name, first in found.items():
            yield f"column {name}", f"differs from its original, from the row {first} on or a little later"

    def _kept(self, rows: Sequence[int]) -> Iterator[Any]:
        for start, part, _ in _whole_rows(self.table.pieces, self.path):
            first, end = bisect_left(rows, start), bisect_left(rows, start + part.num_rows)
            if first < end:
                yield part.take([row - start for row in rows[first:end]])

    def _but_images(self, table: Any, name: str) -> Any:
        """Returns a column, without the contents of its images where these were changed."""
        column = table.column(name)
        if name not in self.columns.values():
            return column
        return [cell["path"].as_py() if cell.is_valid else False for cell in column]


def _whole_rows(pieces: Pieces, path: Path) -> Iterator[tuple[int, Any, bool]]:
    """Yields the number of its first row, a part of a table, and whether it is the last of its piece."""
    start = 0
    for piece in range(len(pieces.lengths)):
        end = start + pieces.lengths[piece]
        for part in sound_parts(pieces.read(piece, None), path):
            yield start, part, start + part.num_rows >= end
            start += part.num_rows


def _side_by_side(left: Iterator[Any], right: Iterator[Any]) -> Iterator[tuple[int, Any, Any]]:
    """Yields the number of the first row, and tables of as many rows from either side, which have equally many."""
    row, one, other = 0, next(left, None), next(right, None)
    while one is not None and other is not None:
        count = min(one.num_rows, other.num_rows)
        if count:
            yield row, one.slice(0, count), other.slice(0, count)
            row += count
        one = one.slice(count) if one.num_rows > count else next(left, None)
        other = other.slice(count) if other.num_rows > count else next(right, None)


def _are_same(left: Any, right: Any) -> bool:
    """Returns whether two columns hold the same; NaN, which is unequal to itself, counts as the same."""
    if isinstance(left, list):
        return left == right
    return left.equals(right) or repr(left.to_pylist()) == repr(right.to_pylist())


def _size(path: Path | None) -> int:
    return 0 if path is None else path.stat().st_size


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    with open_for_reading(path) as file:
        return file.read()


def _writer(file: Any, source: Path, schema: Any) -> Any:
    """Returns a writer of tables in the format of another table, with its compression."""
    if source.suffix.lower() != PARQUET:
        ipc = import_arrow("pyarrow.ipc")
        with open_for_reading(source) as there:
            is_file = there.read(len(ARROW_FILE)) == ARROW_FILE
        options = ipc.IpcWriteOptions(unify_dictionaries=is_file)
        return (ipc.new_file if is_file else ipc.new_stream)(file, schema, options=options)
    parquet = import_arrow("pyarrow.parquet")
    with open_for_reading(source) as opened:
        metadata = parquet.ParquetFile(opened).metadata
        groups = [metadata.row_group(number) for number in range(min(1, metadata.num_row_groups))]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    codecs = {chunk.path_in_schema: _codec(chunk.compression) for chunk in chunks}
    return parquet.ParquetWriter(file, schema, compression=codecs or "snappy")


def _codec(name: str) -> str:
    return "none" if name == "UNCOMPRESSED" else name.lower()
