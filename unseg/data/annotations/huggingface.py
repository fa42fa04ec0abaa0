"""Reads tables of Hugging Face's `datasets`: parquet files, and the arrow files that `save_to_disk` writes.

Source: the page on the Image feature in the documentation of `datasets`. An image in a table is a struct of `bytes` and
`path`. Tables are read with pyarrow (the extra `huggingface`), without `datasets` itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations.core import (
    Annotated,
    Annotations,
    ClassTable,
    Unannotated,
    check_pixel_count,
)
from unseg.data.annotations.image_tables import ImageTable, row_name, table_files
from unseg.data.annotations.label_files import label_map
from unseg.data.annotations.names import ImagesFolder, absent, safe_name
from unseg.data.annotations.table_files import Pieces
from unseg.data.mask_detection import detect_kind
from unseg.data.masks import MaskKind, check_kind
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import Problem
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError
from unseg.storage.label_decoding import Label, decode_label

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


def choose_columns(
    names: Sequence[str], given: str | None, where: str, option: str = "huggingface:COLUMN"
) -> tuple[str, str]:
    """Returns the image's column and the mask's, among those that hold images.

    given: the mask's column, as the user named it. option: by which it is named. UserError where none or several fit.
    """
    images = [name for name in names if name.lower() in IMAGE_COLUMNS]
    if not images:
        raise UserError(f"{where}: none of {', '.join(IMAGE_COLUMNS)} is there ({_told(names)})")
    return images[0], choose_mask_column(names, given, where, option)


def choose_mask_column(names: Sequence[str], given: str | None, where: str, option: str) -> str:
    """Returns the masks' column, among those that hold images; UserError where none or several fit.

    given, option: as for `choose_columns`.
    """
    others = [name for name in names if name.lower() not in IMAGE_COLUMNS]
    if given is not None:
        masks = [name for name in others if name in (given, f"{given}{FILE_NAME}")]
    else:
        masks = [name for name in others if name.lower().removesuffix(FILE_NAME) in MASK_COLUMNS] or others
    if len(masks) == 1:
        return masks[0]
    if masks:
        problem = f"the masks may be {' or '.join(masks[:3])}"
    else:
        problem = f"has no mask column{'' if given is None else f' {given}'}"
    raise UserError(f"{where}: {problem}; name their column: {option} ({_told(names)})")


def _told(names: Sequence[str]) -> str:
    return f"columns of images: {', '.join(names[:30]) or 'none'}"


class HuggingFaceTables(Annotations):
    """Reads rows with an image and a mask from parquet or arrow files.

    rows: image name → its table and row. kind: what the masks hold. holds_images: whether the images are the tables'
    own.
    """

    format = "huggingface"

    def __init__(
        self, rows: Mapping[str, tuple[_MaskedTable, int]], missing: Sequence[Problem], kind: MaskKind, statement: str
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
        tables = [_MaskedTable.choose(file, column) for file in table_files(path, problems)]
        if not tables:
            raise UserError(f"{path}: no table (.parquet, .arrow) there")
        if sum(table.row_count for table in tables) > MAX_ROWS:
            raise UserError(f"{path}: over {MAX_ROWS} rows")
        folder = None if images_root is None else ImagesFolder.open(images_root)
        rows: dict[str, tuple[_MaskedTable, int]] = {}
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

    def _find(self, image_name: str) -> tuple[_MaskedTable, int]:
        found = self._rows.get(image_name)
        if found is None:
            raise Unannotated(Path(image_name), "no row for it in the tables")
        return found


def _match_rows(
    table: _MaskedTable,
    root: Path,
    folder: ImagesFolder | None,
    rows: dict[str, tuple[_MaskedTable, int]],
    without: dict[str, str],
) -> list[Problem]:
    """Adds a table's rows to `rows` by image name, and what has no image to `without`, by the name it should have.

    Returns the rows that name no image.
    """
    nameless = []
    stem = table.path.relative_to(root).with_suffix("").as_posix()
    for row, (_, image_path) in enumerate(table.image_paths(table.image_column)):
        where = f"{table.path}: row {row}"
        last = None if image_path is None else image_path.replace("\\", "/").rpartition("/")[2]
        if folder is None:
            name: str | None = f"{stem}/{row_name(row, image_path)}"
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


class _MaskedTable(ImageTable):
    """A table with a column of images and one of masks."""

    def __init__(self, path: Path, pieces: Pieces, image_column: str, mask_column: str) -> None:
        super().__init__(path, pieces)
        self.image_column, self.mask_column = image_column, mask_column

    @classmethod
    def choose(cls, path: Path, column: str | None) -> _MaskedTable:
        """Opens a file and finds the columns of images and masks. column: the masks', where the user names it."""
        table = ImageTable.open(path)
        return cls(path, table.pieces, *choose_columns(table.image_columns, column, str(path)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process open the table anew."""
        return _MaskedTable.choose, (self.path, self.mask_column)

    def mask(self, row: int, size: tuple[int, int] | None = None) -> Label:
        """Returns the mask of a row. size: (height, width) that it must have."""
        data = self.encoded(row, self.mask_column)
        try:
            if size is not None:
                check_pixel_count(self.path, size[0], size[1], data)
            return decode_label(self.path, data)
        except ImageError as error:
            raise ImageError(self.path, f"row {row}: {error.reason}") from error
