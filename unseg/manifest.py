"""The manifest: what a run wrote, line by line, so that it can be verified and resumed and never overwrites a stranger.

`unseg-manifest.jsonl` in the output folder. The first line holds the run's settings, each other line one input. Names
use forward slashes; folders are relative to the output folder, so that a tree that moves as a whole stays valid. No
line holds a time: two runs write the same bytes.
"""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from unseg.errors import UserError
from unseg.images import write_bytes

MANIFEST = "unseg-manifest.jsonl"
FORMAT = 1
Status = Literal["protected", "copied", "failed", "started"]
Key = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """What became of one input.

    input: name relative to `input_root`, which is relative to the output folder. status: "protected"; "copied" byte for
    byte without protection; "failed", nothing written; "started" by a run that was cut off. reason: why it is not
    protected. note: a conversion or a changed name. output: name relative to the output folder. boxes: XYXY.
    object_share: of the pixels, 0 to 1. psnr: dB, None where nothing changed. over_budget and max_over (lossy formats
    only): the share of values beyond the budget and the most grey levels beyond it. claims: names that a started
    input may have written.
    """

    input: str
    input_root: str
    status: Status
    output: str | None = None
    reason: str | None = None
    note: str | None = None
    width: int | None = None
    height: int | None = None
    input_sha256: str | None = None
    output_sha256: str | None = None
    prompt: str | None = None
    mask: str | None = None
    mask_root: str | None = None
    mask_sha256: str | None = None
    boxes: tuple[tuple[float, ...], ...] | None = None
    object_budget: float | None = None
    background_budget: float | None = None
    generator: str | None = None
    object_share: float | None = None
    psnr: float | None = None
    over_budget: float | None = None
    max_over: int | None = None
    claims: tuple[str, ...] | None = None

    @property
    def key(self) -> Key:
        return self.input, self.input_root

    @property
    def owned(self) -> tuple[str, ...]:
        """The output names that belong to this input."""
        return (*((self.output,) if self.output else ()), *(self.claims or ()))


@dataclass(frozen=True)
class Manifest:
    """header: the run's settings. entries: the last line of each input, by key."""

    header: dict[str, Any]
    entries: dict[Key, Entry]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an output folder, or None where there is none. A last line cut short by a crash is left out."""
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --out") from error
    lines = text.split("\n")
    whole, torn = lines[:-1], lines[-1]  # every complete line ends in a line feed
    if torn:
        whole = whole or [torn]
    try:
        header = json.loads(whole[0])
        if header.get("format") != FORMAT:
            raise UserError(f"{path}: format {header.get('format')}, this version reads {FORMAT}; choose another --out")
        entries = [_entry(json.loads(line)) for line in whole[1:]]
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: not a manifest of unseg ({error}); choose another --out or remove it") from error
    return Manifest(header, {entry.key: entry for entry in entries})


class ManifestWriter:
    """Keeps the manifest of a run: whole and sorted at the start and at the end, a line appended for each step between.

    Between, the last line of an input counts, so that a killed run loses nothing.
    """

    def __init__(self, folder: Path, header: dict[str, Any], earlier: Iterable[Entry]) -> None:
        self.path, self.header = folder / MANIFEST, header
        self.entries = {entry.key: entry for entry in earlier}
        self._rewrite()
        self._file = open(self.path, "a", encoding="utf-8")

    def add(self, entry: Entry) -> None:
        self.entries[entry.key] = entry
        self._file.write(_line(entry))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        self._rewrite()

    def _rewrite(self) -> None:
        lines = [json.dumps(self.header) + "\n", *(_line(self.entries[key]) for key in sorted(self.entries))]
        write_bytes(self.path, "".join(lines).encode())


def _line(entry: Entry) -> str:
    """Fields without a value are left out."""
    return json.dumps({name: value for name, value in asdict(entry).items() if value is not None}) + "\n"


def _entry(values: dict[str, Any]) -> Entry:
    known = {field.name for field in fields(Entry)}
    values = {name: value for name, value in values.items() if name in known}
    if values.get("boxes") is not None:
        values["boxes"] = tuple(tuple(box) for box in values["boxes"])
    if values.get("claims") is not None:
        values["claims"] = tuple(values["claims"])
    return Entry(**values)
