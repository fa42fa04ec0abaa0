"""Which class of a set has which code, and why: decided once over all masks, kept, and used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unseg.counts import count_of
from unseg.data.object_rule import LONGEST_ID, is_class_id
from unseg.errors import UserError
from unseg.method.codes import OBJECT, codes_with_absence
from unseg.method.patterns import ABSENCE, BOOKS, ONE_CODE_BOOK, CodeBook, book_of
from unseg.storage.strict_json import loads_once
from unseg.storage.text_encoding import open_text

ALL, BY_CLASS = "all", "by-class"
BACKGROUND, OBJECT_NAME = "background", "object"  # what JSON calls them where there are no class ids
ONE_OBJECT = {BACKGROUND: ABSENCE, OBJECT_NAME: OBJECT}


@dataclass(frozen=True)
class Coding:
    """Holds the codes of a set, or that one code stands for the whole object.

    codes: class → code, `ABSENCE` for the class without noise; None where the object has the code `OBJECT` and all else
    none. reason: why it is so, in words. book: whose patterns the codes mean.
    """

    codes: Mapping[int, int] | None
    reason: str
    book: CodeBook

    @property
    def absent(self) -> frozenset[int]:
        """Returns the classes without noise."""
        return frozenset(label for label, code in (self.codes or {}).items() if code == ABSENCE)

    @property
    def is_alike(self) -> bool:
        """Returns whether classes are told apart, but have the same noise, and none is without."""
        return self.codes is not None and len(set(self.codes.values()) - {ABSENCE}) == 1 and not self.absent

    def as_json(self) -> dict[str, Any]:
        """Returns the coding as a manifest's first line and files for `--codes` hold it."""
        if self.codes is None:
            codes = dict(ONE_OBJECT)
        else:
            codes = {str(label): code for label, code in sorted(self.codes.items())}
        objects = ALL if self.codes is None else BY_CLASS
        return {"book": self.book.version, "objects": objects, "codes": codes, "reason": self.reason}

    def sentence(self) -> str:
        """Returns what the user is told."""
        if self.codes is None:
            return f"codes: one pattern on the object, none elsewhere: {self.reason}"
        classes, patterns = len(self.codes) - len(self.absent), len(set(self.codes.values()) - {ABSENCE})
        which = "a pattern for one class" if classes == 1 else f"a pattern for each of {classes} classes"
        if patterns < classes:
            which = f"{count_of(patterns, 'pattern')} for {classes} classes"
        free = ", ".join(str(label) for label in sorted(self.absent))
        elsewhere = f"none for class {free}" if free else "none elsewhere"
        return f"codes: {which}, {elsewhere}: {self.reason}"


def one_object(reason: str) -> Coding:
    """Returns the coding of an object and the rest."""
    return Coding(None, reason, ONE_CODE_BOOK)


def coding_of(areas: Mapping[int, int], absent: int | None, reason: str) -> Coding:
    """Returns the coding of classes with these pixels over all masks."""
    codes = codes_with_absence(areas, absent)
    return Coding(codes, reason, book_of(codes.values()))


def read_coding(path: Path, book: CodeBook | None = None) -> Coding:
    """Returns the coding in a file: a manifest, or JSON as a manifest's first line holds it under "codes".

    By hand, {"codes": {"0": 0, "7": 1}} is enough: class 0 has no noise, class 7 has code 1. book: see `coding_from`.
    UserError for all else.
    """
    try:
        with open_text(path) as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--codes {path}: cannot be read ({why}); name a manifest, or a JSON file of codes") from error
    try:
        values = _first_json(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--codes {path}: is no JSON ({error}); give a manifest of unseg, or JSON of codes") from error
    if isinstance(values, dict) and "settings" in values:
        values = values.get("codes")
        if values is None:
            raise UserError(
                f"--codes {path}: this manifest holds no codes, since its images have another noise;"
                " name that of a folder with noise of codes"
            )
    return coding_from(values, f"--codes {path}", book)


def _first_json(text: str) -> Any:
    """Returns the JSON of a file, or of its first line where it has one a line."""
    try:
        return loads_once(text)
    except json.JSONDecodeError:
        return loads_once(text.split("\n", 1)[0])


def coding_of_mapping(given: Mapping[int, int], book: CodeBook | None = None) -> Coding:
    """Returns the coding of a caller's class → code; numbers of numpy count as Python's. Else as `coding_from`."""
    codes = {str(label): int(code) if isinstance(code, np.integer) else code for label, code in given.items()}
    return coding_from({"codes": codes}, "codes", book)


def coding_from(values: Any, source: str, book: CodeBook | None = None) -> Coding:
    """Returns the coding that JSON holds.

    book: of codes that do not tell it; None: the one that `book_of` has for them. UserError, which names `source`,
    where the JSON holds no codes, or codes of a book that this version has not.
    """
    if not isinstance(values, dict) or not isinstance(values.get("codes"), dict):
        raise UserError(f'{source}: holds no codes; give {{"codes": {{"0": 0, "7": 1}}}}, class → code')
    book = _book_in(values, source) or book
    reason = str(values.get("reason", "given with --codes"))
    objects = values.get("objects", BY_CLASS)
    if objects == ALL:
        if values["codes"] != ONE_OBJECT:
            raise UserError(f"{source}: codes of one object are always {json.dumps(ONE_OBJECT)}; give codes of classes")
        return Coding(None, reason, book or ONE_CODE_BOOK)
    if objects != BY_CLASS:
        raise UserError(f"{source}: objects are {str(objects)[:40]!r}; give {ALL!r} or {BY_CLASS!r}")
    codes: dict[int, int] = {}
    available = min(book.codes for book in BOOKS.values())
    for label, code in values["codes"].items():
        is_code = isinstance(code, int) and not isinstance(code, bool) and ABSENCE <= code <= available
        if not is_class(label) or not is_code:
            raise UserError(
                f"{source}: {str(label)[:40]!r}: {str(code)[:40]}: give class ids, each with a code from 0 (no noise)"
                f" to {available}"
            )
        if int(label) in codes:
            raise UserError(f"{source}: class {int(label)} is there twice; give each class one code")
        codes[int(label)] = code
    if not any(codes.values()):
        raise UserError(f"{source}: no class has a code above 0, so that nothing would be protected")
    return Coding(codes, reason, book or book_of(codes.values()))


def _book_in(values: Mapping[str, Any], source: str) -> CodeBook | None:
    """Returns the book that JSON of codes tells, or None; UserError where this version has no such book."""
    version = values.get("book")
    if version is None:
        return None
    if not isinstance(version, str) or version not in BOOKS:
        known = " and ".join(BOOKS)
        raise UserError(f"{source}: its codes are of the book {str(version)[:40]!r}, this version has {known}")
    return BOOKS[version]


def is_class(label: str) -> bool:
    """Returns whether a text is a class id, as JSON has it."""
    digits = label.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(label) <= LONGEST_ID and is_class_id(int(label))
