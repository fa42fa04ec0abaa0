"""Pictures in a table that lie elsewhere than in a column of images of their own, and would stay as they are."""

from __future__ import annotations

import re
import sys
from base64 import b64decode
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
# Texts that may be pictures: addresses that are one (RFC 2397), JSON of LabelMe with one in it, and what base64 may be.
ADDRESS, IN_JSON = r"^\s*data:image/[^\",]{1,60};base64,", r'"imageData"\s*:\s*"[^"]'
PACKED = re.compile(r"\s*([A-Za-z0-9+/]{100,472})")  # the most that becomes `START` bytes
MAY_BE = rf"{ADDRESS}|{IN_JSON}|^\s*[A-Za-z0-9+/]{{100}}"
CERTAIN = re.compile(rf"{ADDRESS}|{IN_JSON}")


def refuse_stray_pictures(table: ImageTable) -> None:
    """Raises UserError where a column holds images in lists or structs, or pictures as plain bytes or texts at any
    depth."""
    for field in table.pieces.schema:
        if holds_images(field.type):
            continue
        if _has_images_within(field.type):
            raise UserError(
                f"{table.path}: the column {field.name} holds images in lists or structs, which would stay as they are;"
                " remove it, or make columns of images of it"
            )
        if _may_hold(field.type) and _starts_like_pictures(table, field.name):
            raise UserError(
                f"{table.path}: the column {field.name} holds pictures as plain bytes or texts, which would stay as"
                " they are; make it a column of images (cast_column), or remove it"
            )


def rows_with_pictures(table: ImageTable) -> dict[int, str]:
    """Returns row → the first column that holds a picture in it as plain bytes or a text, at any depth; looks at all
    values."""
    found: dict[int, str] = {}
    for field in table.pieces.schema:
        if holds_images(field.type) or not _may_hold(field.type):
            continue
        start = 0
        for chunk in _chunks(table, field.name):
            if any(map(_has_picture, _plain_within(chunk))):
                for row in range(len(chunk)):
                    if _holds_picture(chunk[row].as_py()):
                        found.setdefault(start + row, field.name)
            start += len(chunk)
    return found


def _has_picture(array: Any) -> bool:
    """Returns whether a value of an array of bytes or texts is a picture."""
    if not _is_text(array.type):
        return any(map(_holds_picture, _values(array)))
    arrow, compute = import_arrow("pyarrow"), import_arrow("pyarrow.compute")
    texts = array.cast(arrow.large_string())  # those of views are not searched
    found = texts.filter(compute.match_substring_regex(texts, MAY_BE))
    return any(map(_holds_picture, _values(found)))


def _holds_picture(value: object) -> bool:
    if isinstance(value, bytes):
        return kind_of(value[:START]) is not None
    if isinstance(value, str):
        packed = PACKED.match(value)
        is_one = packed is not None and kind_of(b64decode(packed[1][: len(packed[1]) // 4 * 4])) is not None
        return is_one or CERTAIN.search(value) is not None
    if isinstance(value, dict):
        return any(map(_holds_picture, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_picture, value))


def _has_images_within(kind: Any) -> bool:
    return holds_images(kind) or any(_has_images_within(kind.field(number).type) for number in range(kind.num_fields))


def _may_hold(kind: Any) -> bool:
    arrow = import_arrow("pyarrow")
    if arrow.types.is_dictionary(kind):
        return _may_hold(kind.value_type)
    if isinstance(kind, arrow.BaseExtensionType):
        return _may_hold(kind.storage_type)
    return _is_plain(kind) or any(_may_hold(kind.field(number).type) for number in range(kind.num_fields))


def _is_plain(kind: Any) -> bool:
    types = import_arrow("pyarrow").types
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    return is_bytes or types.is_binary_view(kind) or types.is_fixed_size_binary(kind) or _is_text(kind)


def _is_text(kind: Any) -> bool:
    types = import_arrow("pyarrow").types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _starts_like_pictures(table: ImageTable, column: str) -> bool:
    """Returns whether one of the first values of a column is a picture, wherever in it they lie.

    Of a dictionary's words all are looked at: those of rows that are left out stay in the table.
    """
    looked = Counter[int]()
    most = sys.maxsize if _has_words(table.pieces.schema.field(column).type) else LOOKED
    for chunk in _chunks(table, column):
        places = list(_plain_within(chunk))
        for place, array in enumerate(places):
            for value in islice(_values(array), most - looked[place]):
                if _holds_picture(value):
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


def _plain_within(array: Any) -> Iterator[Any]:
    """Yields arrays of bytes and texts in an array: itself, the words of a dictionary, parts of structs, items of
    lists."""
    arrow = import_arrow("pyarrow")
    if _is_plain(array.type):
        yield array
    elif isinstance(array, arrow.DictionaryArray):
        yield from _plain_within(array.dictionary)
    elif isinstance(array, arrow.ExtensionArray):
        yield from _plain_within(array.storage)
    elif isinstance(array, arrow.MapArray):
        yield from chain(_plain_within(array.keys), _plain_within(array.items))
    elif isinstance(array, arrow.StructArray):
        yield from chain.from_iterable(map(_plain_within, array.flatten()))
    elif array.type.num_fields == 1:  # lists of all kinds
        yield from _plain_within(array.flatten())


def _values(array: Any) -> Iterator[bytes | str]:
    """Yields texts, and how bytes start, of the values of an array that are not empty."""
    is_text = _is_text(array.type)
    for value in array:
        if not value.is_valid:
            continue
        start = value.as_py() if is_text else bytes(memoryview(value.as_buffer())[:START])
        if start:
            yield start
