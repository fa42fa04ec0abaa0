"""Reads tables of Hugging Face's `datasets`: parquet files, and the arrow files that `save_to_disk` writes.

Source: the page on the Image feature in the documentation of `datasets`. An image in a table is a struct of `bytes` and
`path`. Tables are read with pyarrow (the extra `huggingface`), without `datasets` itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations.core import (
    Annotated,
    Annotations,
    ClassTable,
    Unannotated,
    check_pixel_count,
)
from unseg.data.annotations.label_files import label_map
from unseg.data.annotations.names import ImagesFolder, absent, safe_name
from unseg.data.annotations.table_files import Pieces, arrow_errors, arrow_pieces, import_arrow, parquet_pieces
from unseg.data.mask_detection import detect_kind
from unseg.data.masks import MaskKind, check_kind
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import Problem, walk
from unseg.errors import UserError
from unseg.storage.image_limits import IMAGE_SUFFIXES, ImageError
from unseg.storage.label_decoding import Label, decode_label

TABLES = (".parquet", ".arrow")
IMAGE_COLUMNS = ("image", "img", "file_name", "image_file_name", "pixel_values")
MASK_COLUMNS = (
    "mask",
    "masks",
    "label",
    "labels",
    "annotation",
    "annotations",
    "segmentation",
    "segmentation_mask",
    "seg_map",
    "semantic_mask",
    "label_map",
    "ground_truth",
    "gt",
)
FILE_NAME = "_file_name"  # mask_file_name is the column mask
MAX_ROWS = 2_000_000
KEPT = 1 << 26  # bytes of each column


def choose_columns(names: Sequence[str], given: str | None, where: str) -> tuple[str, str]:
    """Returns the image's column and the mask's, among those that hold images.

    given: the mask's column, as the user named it. UserError where none or several fit.
    """
    columns = f"columns of images: {', '.join(names[:30]) or 'none'}"
    images = [name for name in names if name.lower() in IMAGE_COLUMNS]
    if not images:
        raise UserError(f"{where}: none of {', '.join(IMAGE_COLUMNS)} is there ({columns})")
    others = [name for name in names if name not in images]
    if given is not None:
        masks = [name for name in others if name in (given, f"{given}{FILE_NAME}")]
    else:
        masks = [name for name in others if name.lower().removesuffix(FILE_NAME) in MASK_COLUMNS] or others
    if len(masks) == 1:
        return images[0], masks[0]
    if masks:
        problem = f"the masks may be {' or '.join(masks[:3])}"
    else:
        problem = f"has no mask column{'' if given is None else f' {given}'}"
    raise UserError(f"{where}: {problem}; name their column: huggingface:COLUMN ({columns})")


class HuggingFaceTables(Annotations):
    """Reads rows with an image and a mask from parquet or arrow files.

    rows: image name → its table and row. kind: what the masks hold. holds_images: whether the images are the tables'
    own.
    """

    format = "huggingface"

    def __init__(
        self, rows: Mapping[str, tuple[_Table, int]], missing: Sequence[Problem], kind: MaskKind, statement: str
    ) -> None:
        self._rows, self.missing, self.kind, self.statement = dict(rows), tuple(missing), kind, statement
        self.classes = ClassTable()

    @classmethod
    def open(
        cls,
        path: Path,
        images_root: Path | None,
        column: str | None,
        pool: Executor | None = None,
        progress: Progress = SILENT,
    ) -> HuggingFaceTables:
        """Opens every table at or under `path` and looks at all masks.

        images_root: the folder that holds the images too, found by the last part of the `path` in their column; None:
        the images are taken from the tables (`image_bytes`) and named TABLE/ROW.
        """
        problems: list[Problem] = []
        root = path.parent if path.is_file() else path
        tables = [_Table.open(file, column) for file in table_files(path, problems)]
        if not tables:
            raise UserError(f"{path}: no table (.parquet, .arrow) there")
        if sum(table.row_count for table in tables) > MAX_ROWS:
            raise UserError(f"{path}: over {MAX_ROWS} rows")
        folder = None if images_root is None else ImagesFolder.open(images_root)
        rows: dict[str, tuple[_Table, int]] = {}
        without: dict[str, str] = {}
        for table in tables:
            problems += _match_rows(table, root, folder, rows, without)
        missing = [*problems, *(folder.problems if folder else ()), *absent(without)]
        found = detect_kind(list(rows.values()), pool, progress, opener=lambda item: item[0].mask(item[1]))
        statement = (
            f"Hugging Face tables: {len(rows) + len(without)} rows in {len(tables)} files, masks in"
            f" the column {tables[0].mask_column}: {found.statement}"
        )
        kind = found.settled(f"{path}: column {tables[0].mask_column}", "--masks and --mask-type, once they are files")
        return cls(rows, missing, kind, statement)

    def names(self) -> Sequence[str]:
        return sorted([*self._rows, *(problem.name for problem in self.missing)])

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        table, row = self._find(image_name)
        return label_map(table.mask(row, (height, width)), table.path, height, width, self.kind, self.classes)

    def image_bytes(self, image_name: str) -> bytes | None:
        table, row = self._find(image_name)
        return table.encoded(row, table.image_column)

    def check_rule(self, rule: ObjectRule, option: str = "--objects") -> None:
        super().check_rule(rule, option)
        check_kind(self.kind, rule, "--annotations-format")

    def _find(self, image_name: str) -> tuple[_Table, int]:
        found = self._rows.get(image_name)
        if found is None:
            raise Unannotated(Path(image_name), "no row for it in the tables")
        return found


def _match_rows(
    table: _Table,
    root: Path,
    folder: ImagesFolder | None,
    rows: dict[str, tuple[_Table, int]],
    without: dict[str, str],
) -> list[Problem]:
    """Adds a table's rows to `rows` by image name, and what has no image to `without`, by the name it should have.

    Returns the rows that name no image.
    """
    nameless = []
    stem = table.path.relative_to(root).with_suffix("").as_posix()
    for row, image_path in enumerate(table.image_paths()):
        where = f"{table.path}: row {row}"
        last = None if image_path is None else image_path.replace("\\", "/").rpartition("/")[2]
        if folder is None:
            suffix = Path(last or "").suffix.lower()  # anyone's text: only known ones become part of a name
            name: str | None = f"{stem}/{row:06d}{suffix if suffix in IMAGE_SUFFIXES else '.png'}"
            wanted = ""
        elif not last:
            nameless.append(Problem(f"{stem}/{row:06d}", f"the row {row} of {table.path.name} names no image"))
            continue
        else:
            wanted = safe_name(last, f"{where}: {table.image_column}.path")
            name = folder.find(wanted, where)
        if name in rows:
            raise UserError(f"{where}: the image {name} is there twice")
        if name is None:
            without[wanted] = table.path.name
        else:
            rows[name] = table, row
    return nameless


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


class _Table:
    """A file of rows, in pieces; of each column what was used last is kept."""

    def __init__(self, path: Path, pieces: Pieces, image_column: str, mask_column: str) -> None:
        self.path, self.image_column, self.mask_column = path, image_column, mask_column
        self._pieces = pieces
        self._first_rows = np.cumsum([0, *pieces.lengths])
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    @classmethod
    def open(cls, path: Path, column: str | None) -> _Table:
        """Opens a file and finds the columns of images and masks. column: the masks', where the user names it."""
        try:
            pieces = parquet_pieces(path) if path.suffix.lower() == ".parquet" else arrow_pieces(path)
        except arrow_errors() as error:
            raise UserError(f"{path}: is broken: {_one_line(error)}") from error
        names = [field.name for field in pieces.schema if _holds_images(field.type)]
        return cls(path, pieces, *choose_columns(names, column, str(path)))

    @property
    def row_count(self) -> int:
        """Returns the number of rows."""
        return int(self._first_rows[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process open the table anew."""
        return _Table.open, (self.path, self.mask_column)

    def image_paths(self) -> Iterator[str | None]:
        """Yields for each row the path that its image's cell holds, None where it has none or is null."""
        column = f"{self.image_column}.path"
        for row in range(self.row_count):
            value = self._cell(row, column)
            yield None if not value.is_valid else value["path"].as_py()

    def encoded(self, row: int, column: str) -> bytes:
        """Returns the file that a cell holds; ImageError where it holds none."""
        with self._lock:
            cell = self._cell(row, column).as_py()
        if not cell or not cell["bytes"]:
            there = "only a path" if cell and cell["path"] else "which is empty"
            raise ImageError(self.path, f"row {row}: the column {column} holds no bytes, {there}")
        return cell["bytes"]

    def mask(self, row: int, size: tuple[int, int] | None = None) -> Label:
        """Returns the mask of a row. size: (height, width) that it must have."""
        data = self.encoded(row, self.mask_column)
        try:
            if size is not None:
                check_pixel_count(self.path, size[0], size[1], data)
            return decode_label(self.path, data)
        except ImageError as error:
            raise ImageError(self.path, f"row {row}: {error.reason}") from error

    def _cell(self, row: int, column: str) -> Any:
        piece = int(np.searchsorted(self._first_rows, row, "right")) - 1
        within = row - int(self._first_rows[piece])
        window = self._windows.get(column)
        if window is None or window.piece != piece or within < window.first:
            window = self._windows[column] = _Window(self._pieces, piece, column)
        broken: tuple[type[Exception], ...] = (StopIteration, *arrow_errors())
        try:
            return window.cell(within)
        except broken as error:
            del self._windows[column]
            raise ImageError(self.path, f"is broken: {_one_line(error)}") from error


def _holds_images(kind: Any) -> bool:
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
