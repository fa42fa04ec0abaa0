"""Reads imagefolders of Hugging Face's `datasets`: image files, and metadata that name the mask of each.

Source: the page on ImageFolder in the documentation of `datasets`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unseg.compute.progress import SILENT, Progress
from unseg.data.annotations.core import first_few
from unseg.data.annotations.huggingface import MAX_ROWS, choose_columns
from unseg.data.annotations.label_files import LabelFiles, detected_label_files
from unseg.data.annotations.names import ImagesFolder, absent, safe_name, shown
from unseg.data.samples import Problem, walk
from unseg.errors import UserError
from unseg.storage.image_limits import IMAGE_SUFFIXES
from unseg.storage.text_encoding import open_text

METADATA = ("metadata.jsonl", "metadata.csv")
MAX_LINE = 1 << 20  # characters of metadata a row
MAX_COLUMNS = 1000
FILE = "file_name"  # how the columns are called that `datasets` reads images by


def open_image_folder(
    path: Path, images_root: Path, column: str | None, pool: Executor | None = None, progress: Progress = SILENT
) -> LabelFiles:
    """Reads metadata.jsonl or metadata.csv in a folder or its split folders; names are relative to their own folder."""
    problems: list[Problem] = []
    found = metadata_files(path, problems)
    folder = ImagesFolder.open(images_root)
    files: dict[str, Path] = {}
    without: dict[str, str] = {}
    without_mask: set[str] = set()
    for metadata in found:
        columns = _columns(metadata, column)
        masks = _MaskPlaces(metadata.parent)
        for number, row in enumerate(_rows(metadata), 1):
            where = f"{metadata}: row {number}"
            name, mask = (_name_in(row, one, where) for one in columns)
            if name is None:
                problems.append(Problem(f"{metadata.name} row {number}", f"names no image in {columns[0]}"))
                continue
            there = _image_of(metadata.parent, name, folder, where)
            if there in files or there in without_mask:
                raise UserError(f"{where}: {there} is there twice")
            if there is None:
                without[name] = metadata.name
            elif mask is None:
                without_mask.add(there)  # nothing is said of it, as of an image that has no row
            else:
                files[there] = masks.find(mask, where)
            if number > MAX_ROWS:
                raise UserError(f"{metadata}: over {MAX_ROWS} rows")
    missing = [*problems, *folder.problems, *absent(without)]
    annotations = detected_label_files(path, files, missing, pool, progress)
    annotations.statement = (
        f"Hugging Face imagefolder: {len(files) + len(without)} rows in"
        f" {first_few(file.name for file in found)}; masks are {annotations.statement}"
    )
    annotations.format = "huggingface"
    return annotations


def _columns(metadata: Path, column: str | None) -> tuple[str, str]:
    """Returns the columns of images and of masks, by what all rows hold. column: the masks', as the user named it."""
    names: dict[str, None] = {}
    for row in _rows(metadata):
        names |= dict.fromkeys(key for key, value in row.items() if _is_image_name(value))
        if len(names) > MAX_COLUMNS:
            raise UserError(f"{metadata}: over {MAX_COLUMNS} columns of images")
    return choose_columns(list(names), column, str(metadata))


def _is_image_name(value: object) -> bool:
    return isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)


def _name_in(row: Mapping[str, Any], column: str, where: str) -> str | None:
    """Returns the file name in a row's column; None where the cell is empty."""
    value = row.get(column)
    return None if value is None or value == "" else safe_name(value, f"{where}: {column}")


class _MaskPlaces:
    """Finds masks by the names that metadata in `parent` give them, which may be in another Unicode form."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent

    @cached_property
    def _there(self) -> ImagesFolder:
        return ImagesFolder.open(self.parent)

    def find(self, name: str, where: str) -> Path:
        """Returns the mask of that name, or of another form of it; whether it is there shows when it is read."""
        exact = self.parent / name
        return exact if exact.is_file() else self.parent / (self._there.find_here(name, where) or name)


def _image_of(parent: Path, name: str, folder: ImagesFolder, where: str) -> str | None:
    """Returns the image that metadata in `parent` name; where that lies among the images, only the very file counts."""
    image, root = (parent / name).resolve(), folder.root.resolve()
    if not image.is_relative_to(root):
        return folder.find(name, where)
    there = image.relative_to(root).as_posix()  # a mask may have the same name in another folder
    return folder.find_here(there, where)


def metadata_files(path: Path, problems: list[Problem]) -> list[Path]:
    """Returns the metadata files at or under `path`."""
    if path.is_file():
        return [path] if path.name in METADATA else []
    return [file for file in walk(path, problems) if file.name in METADATA]


def _rows(metadata: Path) -> Iterator[Mapping[str, Any]]:
    yield from (row for row, _ in _rows_and_texts(metadata) if row is not None)


def _rows_and_texts(metadata: Path) -> Iterator[tuple[Mapping[str, Any] | None, str]]:
    """Yields every row with its text in the file; None with what is no row, such as the line of the columns' names."""
    try:
        with open_text(metadata, newline="") as file:
            taken: list[str] = []
            lines = _noted(_bounded(metadata, file), taken)
            if metadata.suffix == ".csv":
                rows = csv.DictReader(lines, restkey="", strict=True)
                yield (None, _text_of(taken)) if rows.fieldnames else (None, "")
                for row in rows:
                    yield row, _text_of(taken)
                return
            for number, line in enumerate(lines, 1):
                value = json.loads(line) if line.strip() else None
                if value is not None and not isinstance(value, dict) or line.strip() == "null":
                    raise UserError(f"{metadata}: line {number}: expected an object, found {shown(value)}")
                yield value, _text_of(taken)
    except OSError as error:
        raise UserError(f"{metadata}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{metadata}: is broken: {str(error)[:200]}") from error


def _noted(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    """Yields lines, and adds each to `taken` before."""
    for line in lines:
        taken.append(line)
        yield line


def _text_of(taken: list[str]) -> str:
    """Returns the lines that were taken, and forgets them."""
    text = "".join(taken)
    taken.clear()
    return text


def _bounded(metadata: Path, file: Any) -> Iterator[str]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise UserError(f"{metadata}: a line of over {MAX_LINE >> 20} million characters")
        yield line


@dataclass(frozen=True)
class MetadataRow:
    """A row of metadata as it is written. image, mask: the files that it names, relative to the folder of the images;
    None where it names none, and both where the text is no row."""

    text: str
    image: str | None
    mask: str | None


def metadata_rows(metadata: Path, folder: Path, column: str | None, has_masks: bool) -> Iterator[MetadataRow]:
    """Yields the rows of a metadata file. column: the masks', None: found by its name; has_masks: whether there is one.

    UserError where a column names images that nobody would look at.
    """
    names: dict[str, None] = {}
    for row in _rows(metadata):
        names |= dict.fromkeys(key for key, value in row.items() if _is_image_name(value))
    columns = choose_columns(list(names), column, str(metadata), "--huggingface COLUMN") if has_masks else None
    image = columns[0] if columns else FILE
    others = [name for name in names if name.endswith(FILE) and name not in (image, *(columns or ()))]
    if others:
        raise UserError(
            f"{metadata}: the column {others[0]} names images, too, which would stay as they are; remove it"
        )
    where = metadata.parent.relative_to(folder)
    for number, (values, text) in enumerate(_rows_and_texts(metadata), 1):
        if values is None:
            yield MetadataRow(text, None, None)
            continue
        found = [_name_in(values, name, f"{metadata}: row {number}") for name in (image, columns[1] if columns else "")]
        placed = [None if name is None else (where / name).as_posix() for name in found]
        yield MetadataRow(text, placed[0] or "", placed[1])
