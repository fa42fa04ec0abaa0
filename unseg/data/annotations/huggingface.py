"""Folders of Hugging Face's `datasets`: imagefolders with metadata, parquet files, and what `save_to_disk` writes.

Sources: the pages on ImageFolder and on the Image feature in the documentation of `datasets`. An image in a table is a
struct of `bytes` and `path`. Tables are read with pyarrow (the extra `huggingface`), without `datasets` itself.
"""

from __future__ import annotations

import csv
import importlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from unseg.data.annotations.core import (
    Annotated,
    Annotations,
    ClassTable,
    Looking,
    ObjectRule,
    Unannotated,
    check_pixel_count,
    first_few,
)
from unseg.data.annotations.label_files import LabelFiles, check_kind, label_map
from unseg.data.annotations.names import ImagesFolder, absent, safe_name, shown
from unseg.data.samples import Problem, walk
from unseg.errors import UserError
from unseg.storage.image_decoding import Label, decode_label
from unseg.storage.image_limits import IMAGE_SUFFIXES, ImageError

METADATA = ("metadata.jsonl", "metadata.csv")
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
MAX_LINE = 1 << 20  # characters of metadata a row
MAX_ROWS = 2_000_000
MAX_ROW_GROUP = 1 << 29  # bytes, decoded
ARROW_FILE = b"ARROW1"  # how arrow's file form begins; its stream form has no mark


def choose_columns(names: Sequence[str], given: str | None, where: str) -> tuple[str, str]:
    """The image's column and the mask's, among those that hold images. given: the mask's, as the user named it."""
    columns = f"columns of images: {', '.join(names[:30]) or 'none'}"
    images = [name for name in names if name.lower() in IMAGE_COLUMNS]
    if not images:
        raise UserError(f"{where}: none of {', '.join(IMAGE_COLUMNS)} is there ({columns})")
    others = [name for name in names if name not in images]
    if given is not None:
        masks = [name for name in others if name in (given, f"{given}{FILE_NAME}")]
    else:
        masks = [name for name in others if name.lower().removesuffix(FILE_NAME) in MASK_COLUMNS] or others
    if len(masks) != 1:
        problem = (
            f"has no mask column{'' if given is None else f' {given}'}"
            if not masks
            else f"the masks may be {' or '.join(masks[:3])}"
        )
        raise UserError(f"{where}: {problem}; name their column: huggingface:COLUMN ({columns})")
    return images[0], masks[0]


# --- imagefolder -----------------------------------------------------------------------------------------------------


def open_image_folder(path: Path, images_root: Path, column: str | None, looking: Looking = Looking()) -> LabelFiles:
    """metadata.jsonl or metadata.csv in a folder or its split folders; file names are relative to their own folder."""
    problems: list[Problem] = []
    found = metadata_files(path, problems)
    folder = ImagesFolder(images_root)
    files: dict[str, Path] = {}
    without: dict[str, str] = {}
    for metadata in found:
        for number, row in enumerate(_rows(metadata), 1):
            where = f"{metadata}: row {number}"
            names = [
                key for key, value in row.items() if isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)
            ]
            image_column, mask_column = choose_columns(names, column, where)
            name = safe_name(row[image_column], f"{where}: {image_column}")
            mask = metadata.parent / safe_name(row[mask_column], f"{where}: {mask_column}")
            image = metadata.parent / name
            if image.resolve().is_relative_to(folder.root.resolve()):  # then only there: masks may have the same name
                there = image.resolve().relative_to(folder.root.resolve()).as_posix()
                there = there if there in folder else None
            else:
                there = folder.find(name, where)
            if there in files:
                raise UserError(f"{where}: {there} is there twice")
            if there is None:
                without[name] = metadata.name
            else:
                files[there] = mask
            if number > MAX_ROWS:
                raise UserError(f"{metadata}: over {MAX_ROWS} rows")
    annotations = LabelFiles("huggingface", files, [*problems, *folder.problems, *absent(without)], None, path, looking)
    annotations.statement = (
        f"Hugging Face imagefolder: {len(files) + len(without)} rows in"
        f" {first_few(file.name for file in found)}; masks are {annotations.statement}"
    )
    annotations.format = "huggingface"
    return annotations


def metadata_files(path: Path, problems: list[Problem]) -> list[Path]:
    """The metadata files at or under `path`."""
    if path.is_file():
        return [path] if path.name in METADATA else []
    return [file for file in walk(path, problems) if file.name in METADATA]


def _rows(metadata: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with open(metadata, encoding="utf-8-sig", newline="") as file:
            if metadata.suffix == ".csv":
                yield from csv.DictReader(_bounded(metadata, file), restkey="", strict=True)
                return
            for number, line in enumerate(_bounded(metadata, file), 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{metadata}: line {number}: expected an object, found {shown(row)}")
                    yield row
    except OSError as error:
        raise UserError(f"{metadata}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{metadata}: is broken: {str(error)[:200]}") from error


def _bounded(metadata: Path, file: Any) -> Iterator[str]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise UserError(f"{metadata}: a line of over {MAX_LINE >> 20} million characters")
        yield line


# --- tables ----------------------------------------------------------------------------------------------------------


class HuggingFaceTables(Annotations):
    """Rows with an image and a mask, in parquet or arrow files.

    images_root: the folder that holds the images too, found by the last part of the `path` in their column; None: the
    images are taken from the tables (`image_bytes`) and named TABLE/ROW.
    """

    format = "huggingface"

    def __init__(self, path: Path, images_root: Path | None, column: str | None, looking: Looking = Looking()) -> None:
        problems: list[Problem] = []
        root = path.parent if path.is_file() else path
        tables = [_Table(file) for file in table_files(path, problems)]
        if not tables:
            raise UserError(f"{path}: no table (.parquet, .arrow) there")
        if sum(table.rows for table in tables) > MAX_ROWS:
            raise UserError(f"{path}: over {MAX_ROWS} rows")
        folder = None if images_root is None else ImagesFolder(images_root)
        self._rows: dict[str, tuple[_Table, int]] = {}
        without: dict[str, str] = {}
        for table in tables:
            table.choose(column)
            stem = table.path.relative_to(root).with_suffix("").as_posix()
            for row, image_path in enumerate(table.image_paths()):
                where = f"{table.path}: row {row}"
                last = None if image_path is None else image_path.replace("\\", "/").rpartition("/")[2]
                if folder is None:
                    suffix = Path(last or "").suffix.lower()  # anyone's text: only known ones become part of a name
                    name = f"{stem}/{row:06d}{suffix if suffix in IMAGE_SUFFIXES else '.png'}"
                else:
                    name = folder.find(safe_name(last, f"{where}: {table.image_column}.path"), where)
                if name in self._rows:
                    raise UserError(f"{where}: the image {name} is there twice")
                if name is None:
                    without[last] = table.path.name
                else:
                    self._rows[name] = table, row
        self.missing = tuple([*problems, *(folder.problems if folder else ()), *absent(without)])
        detected = looking.kind_of(list(self._rows.values()), opener=lambda item: item[0].mask(item[1]))
        self.kind, self.classes = detected.kind, ClassTable()
        self.statement = (
            f"Hugging Face tables: {len(self._rows) + len(without)} rows in {len(tables)} files, masks in"
            f" the column {tables[0].mask_column}: {detected.statement}"
        )

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
        check_kind(rule, self.kind)

    def _find(self, image_name: str) -> tuple[_Table, int]:
        found = self._rows.get(image_name)
        if found is None:
            raise Unannotated(Path(image_name), "no row for it in the tables")
        return found


def table_files(path: Path, problems: list[Problem]) -> list[Path]:
    """The tables at or under `path`, without those that `datasets` keeps as its cache."""
    files = [path] if path.is_file() else walk(path, problems)
    return [file for file in files if file.suffix.lower() in TABLES and not file.name.startswith("cache-")]


class _Table:
    """A file of rows, in pieces (row groups or record batches); of each column the last one used is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrow = _import("pyarrow")
        self._errors = (self._arrow.ArrowException, OSError, UnicodeDecodeError)
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[int, Any]] = {}
        try:
            if path.suffix.lower() == ".parquet":
                self._open_parquet()
            else:
                self._open_arrow()
        except self._errors as error:
            raise UserError(f"{path}: is broken: {_one_line(error)}") from error
        self._first_rows = np.cumsum([0, *self._lengths])
        self.rows = int(self._first_rows[-1])

    def _open_parquet(self) -> None:
        file = _import("pyarrow.parquet").ParquetFile(self.path)
        self._schema, groups = file.schema_arrow, [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        largest = max((group.total_byte_size for group in groups), default=0)
        if largest > MAX_ROW_GROUP:
            raise UserError(
                f"{self.path}: a row group of {largest >> 20} MB; write it anew with row groups of at most"
                f" {MAX_ROW_GROUP >> 20} MB"
            )
        self._lengths = [group.num_rows for group in groups]
        self._read = lambda piece, column: file.read_row_group(piece, [column], use_threads=False)

    def _open_arrow(self) -> None:
        ipc, source = _import("pyarrow.ipc"), self._arrow.memory_map(str(self.path))
        with open(self.path, "rb") as file:
            is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
        if is_file:
            reader = ipc.open_file(source)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        else:  # what save_to_disk writes
            reader = ipc.open_stream(source)
            batches = list(reader)
        self._schema, self._lengths = reader.schema, [batch.num_rows for batch in batches]
        tables = [self._arrow.Table.from_batches([batch]) for batch in batches]
        self._read = lambda piece, column: tables[piece].select([column.partition(".")[0]])

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: the table is opened anew there."""
        return _reopened, (self.path, self.image_column, self.mask_column)

    def choose(self, column: str | None) -> None:
        """Find the columns of images and masks, and check what they hold."""
        names = [field.name for field in self._schema if self._holds_images(field.type)]
        self.image_column, self.mask_column = choose_columns(names, column, str(self.path))

    def _holds_images(self, kind: Any) -> bool:
        types = self._arrow.types
        if not types.is_struct(kind):
            return False
        fields = {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
        data, path = fields.get("bytes"), fields.get("path")
        return (
            len(fields) == 2
            and data is not None
            and (types.is_binary(data) or types.is_large_binary(data))
            and path is not None
            and (types.is_string(path) or types.is_large_string(path))
        )

    def image_paths(self) -> Iterator[str | None]:
        for piece in range(len(self._lengths)):
            for value in self._piece(piece, f"{self.image_column}.path"):
                yield None if value is None else value.as_py()["path"]

    def encoded(self, row: int, column: str) -> bytes:
        """The file that a cell holds."""
        piece = int(np.searchsorted(self._first_rows, row, "right")) - 1
        with self._lock:
            cell = self._piece(piece, column)[row - int(self._first_rows[piece])].as_py()
        if not cell or not cell["bytes"]:
            raise ImageError(self.path, f"row {row}: the column {column} holds no bytes, only a path")
        return cell["bytes"]

    def mask(self, row: int, size: tuple[int, int] | None = None) -> Label:
        """size: (height, width) that it must have."""
        data = self.encoded(row, self.mask_column)
        try:
            if size is not None:
                check_pixel_count(self.path, *size, data)
            return decode_label(self.path, data)
        except ImageError as error:
            raise ImageError(self.path, f"row {row}: {error.reason}") from error

    def _piece(self, piece: int, column: str) -> Any:
        """A piece of a column as an array, checked: arrow itself trusts the offsets in a file."""
        if column not in self._kept or self._kept[column][0] != piece:
            try:
                table = self._read(piece, column)
                table.validate(full=True)
                self._kept[column] = piece, table.column(0)
            except self._errors as error:
                raise ImageError(self.path, f"is broken: {_one_line(error)}") from error
        return self._kept[column][1]


def _reopened(path: Path, image_column: str, mask_column: str) -> _Table:
    table = _Table(path)
    table.image_column, table.mask_column = image_column, mask_column
    return table


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            "Hugging Face tables (.parquet, .arrow) need pyarrow: pip install 'unseg[huggingface]', or"
            " pip install pyarrow"
        ) from error
