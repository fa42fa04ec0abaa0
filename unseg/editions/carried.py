"""The record of what an edition holds beside its images: `unseg-edition-files.jsonl`, a line for each file.

A line tells what was done, the file's sha256, and the size and time of its source, by which a second run knows that
there is nothing to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from unseg.errors import UserError
from unseg.protecting.manifest import CARRIED, OWN_NAMES
from unseg.storage.files import read_text, stays_inside, write_bytes

How = Literal["copied", "linked", "rewritten"]


@dataclass(frozen=True)
class Carried:
    """A file that was carried over.

    sha256: of its content, for links of what they lead to. source_bytes, source_time_ns: its source's size and time of
    change. renamed: for rewritten ones the sha256 of the new names that went in.
    """

    name: str
    how: How
    sha256: str
    source_bytes: int
    source_time_ns: int
    renamed: str | None = None


def read_carried(out: Path) -> dict[str, Carried]:
    """Returns the record of an edition, by name; empty where there is none. A line cut by a crash is left out."""
    path = out / CARRIED
    try:
        if path.is_symlink():
            raise UserError(f"{path}: is a link, which is not followed; give another OUT")
        text = read_text(path)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another OUT") from error
    lines = text.split("\n")[:-1]  # every complete line ends in a line feed
    carried = {}
    for number, text in enumerate(lines, 1):
        try:
            line = _carried(json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: not a record of unseg (line {number}: {str(error)[:100]}); give another OUT"
            ) from error
        carried[line.name] = line
    return carried


def write_carried(out: Path, lines: Mapping[str, Carried]) -> None:
    """Writes the whole record anew."""
    write_bytes(out / CARRIED, _record_of(lines), durable=True)


def sha256_of_record(lines: Mapping[str, Carried]) -> str:
    """Returns the sha256 of the record as it is written."""
    return hashlib.sha256(_record_of(lines)).hexdigest()


def _record_of(lines: Mapping[str, Carried]) -> bytes:
    """Returns the record as it is written, sorted by name."""
    return "".join(line_of(lines[name]) for name in sorted(lines)).encode()


def _carried(values: Any) -> Carried:
    if not isinstance(values, dict) or not values.keys() <= {field.name for field in fields(Carried)}:
        raise ValueError("no object with the fields of a carried file")
    line = Carried(**values)
    texts = (line.name, line.sha256, *(() if line.renamed is None else (line.renamed,)))
    numbers = (line.source_bytes, line.source_time_ns)
    if not (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and line.how in ("copied", "linked", "rewritten")
        and stays_inside(line.name)
        and line.name.casefold() not in OWN_NAMES
    ):
        raise ValueError(f"name, how, sha256, source_bytes or source_time_ns: {str(values)[:60]}")
    return line


def line_of(carried: Carried) -> str:
    """Returns a file's line, with its line feed."""
    return json.dumps({name: value for name, value in asdict(carried).items() if value is not None}) + "\n"
