"""Pictures in a table that lie elsewhere than in a column of images of their own, and would stay as they are."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from unseg.data.annotations.image_tables import ImageTable, holds_images
from unseg.data.annotations.table_files import import_arrow, sound_parts
from unseg.errors import UserError
from unseg.storage.picture_kinds import START, kind_of

# Values of a column that are looked at before a run begins, and forbid it. One value in 50,000 of bytes drawn at random
# looks like a picture: further behind, it costs its row alone.
LOOKED = 20


def refuse_stray_pictures(table: ImageTable) -> None:
    """Raises UserError where a column holds images in lists or structs, or pictures as plain bytes at any depth."""
    for field in table.pieces.schema:
        if holds_images(field.type):
            continue
        if _has_images_within(field.type):
            raise UserError(
                f"{table.path}: the column {field.name} holds images in lists or structs, which would stay as they are;"
                " remove it, or make columns of images of it"
            )
        if _has_bytes(field.type) and _starts_like_pictures(table, field.name):
            raise UserError(
                f"{table.path}: the column {field.name} holds pictures as plain bytes, which would stay as they are;"
                " make it a column of images (cast_column), or remove it"
            )


def rows_with_pictures(table: ImageTable) -> dict[int, str]:
    """Returns row → the first column that holds a picture in it as plain bytes, at any depth; looks at every value."""
    found: dict[int, str] = {}
    for field in table.pieces.schema:
        if holds_images(field.type) or not _has_bytes(field.type):
            continue
        start = 0
        for chunk in _chunks(table, field.name):
            if any(kind_of(one) is not None for array in _bytes_within(chunk) for one in _starts(array)):
                for row in range(len(chunk)):
                    if _holds_picture(chunk[row].as_py()):
                        found.setdefault(start + row, field.name)
            start += len(chunk)
    return found


def _holds_picture(value: object) -> bool:
    if isinstance(value, bytes):
        return kind_of(value[:START]) is not None
    if isinstance(value, dict):
        return any(map(_holds_picture, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_picture, value))


def _has_images_within(kind: Any) -> bool:
    return holds_images(kind) or any(_has_images_within(kind.field(number).type) for number in range(kind.num_fields))


def _has_bytes(kind: Any) -> bool:
    arrow = import_arrow("pyarrow")
    if arrow.types.is_dictionary(kind):
        return _has_bytes(kind.value_type)
    if isinstance(kind, arrow.BaseExtensionType):
        return _has_bytes(kind.storage_type)
    return _is_bytes(kind) or any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields))


def _is_bytes(kind: Any) -> bool:
    types = import_arrow("pyarrow").types
    plain = types.is_binary(kind) or types.is_large_binary(kind)
    return plain or types.is_binary_view(kind) or types.is_fixed_size_binary(kind)


def _starts_like_pictures(table: ImageTable, column: str) -> bool:
    """Returns whether one of the first values of a column's bytes is a picture, wherever in it they lie.

    Of a dictionary's words all are looked at: those of rows that are left out stay in the table.
    """
    looked = Counter[int]()
    most = sys.maxsize if _has_words(table.pieces.schema.field(column).type) else LOOKED
    for chunk in _chunks(table, column):
        places = list(_bytes_within(chunk))
        for place, array in enumerate(places):
            for start in islice(_starts(array), most - looked[place]):
                if kind_of(start) is not None:
                    return True
                looked[place] += 1
        if all(looked[place] == most for place in range(len(places))):
            return False
    return False


def _has_words(kind: Any) -> bool:
    """Returns whether there is a dictionary in a type, at any depth."""
    arrow = import_arrow("pyarrow")
    if isinstance(kind, arrow.BaseExtensionType):
        return _has_words(kind.storage_type)
    return arrow.types.is_dictionary(kind) or any(
        _has_words(kind.field(number).type) for number in range(kind.num_fields)
    )


def _chunks(table: ImageTable, column: str) -> Iterator[Any]:
    for piece in range(len(table.pieces.lengths)):
        for part in sound_parts(table.pieces.read(piece, column), table.path):
            yield from part.column(column).chunks


def _bytes_within(array: Any) -> Iterator[Any]:
    """Yields the arrays of bytes in an array: itself, the words of a dictionary, parts of structs, items of lists."""
    arrow = import_arrow("pyarrow")
    if _is_bytes(array.type):
        yield array
    elif isinstance(array, arrow.DictionaryArray):
        yield from _bytes_within(array.dictionary)
    elif isinstance(array, arrow.ExtensionArray):
        yield from _bytes_within(array.storage)
    elif isinstance(array, arrow.MapArray):
        yield from chain(_bytes_within(array.keys), _bytes_within(array.items))
    elif isinstance(array, arrow.StructArray):
        yield from chain.from_iterable(map(_bytes_within, array.flatten()))
    elif array.type.num_fields == 1:  # lists of all kinds
        yield from _bytes_within(array.flatten())


def _starts(array: Any) -> Iterator[bytes]:
    """Yields how the values of an array of bytes start, of those that are not empty."""
    for value in array:
        start = bytes(memoryview(value.as_buffer())[:START]) if value.is_valid else b""
        if start:
            yield start
