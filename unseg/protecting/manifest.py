"""The manifest says line by line what a run wrote: it can be verified and resumed, and never overwrites a stranger.

`unseg-manifest.jsonl` in the output folder. The first line holds the run's settings, each other line one input. Names
use forward slashes; folders are relative to the output folder, so that a tree that moves as a whole stays valid. No
line holds a time: two runs write the same bytes.

A manifest may come from anyone, and names in it decide what is read, written and removed: every line is checked.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, get_args

from unseg.errors import UserError
from unseg.protecting.manifest_checks import checked_values, number
from unseg.protecting.points import Points
from unseg.storage.files import open_for_appending, open_for_reading, sync_folder, write_blocks
from unseg.storage.locks import LOCK_FILE, Held
from unseg.storage.mounts import place_of, url_of_file
from unseg.storage.sequences import Keyed, Lazy, Made, Spooled, in_order, order_of

MANIFEST = "unseg-manifest.jsonl"
EDITION, CARRIED = "unseg-edition.json", "unseg-edition-files.jsonl"  # of editions, beside the manifest
SHARDS = ".unseg-shards"  # a folder: of each shard of a run, its lock and its manifest
OWN_NAMES = frozenset(
    (MANIFEST, LOCK_FILE, EDITION, CARRIED, SHARDS)
)  # in an output folder: no image is ever called so
REMEDY = "put the manifest that the run wrote in its place, or protect into another folder"
MAX_LINE = 8 << 20  # bytes; a line with a hundred thousand boxes is shorter
AGREED = "shards"  # in the first line of a plan and of its shards: what all of them share
UNFINISHED = "unfinished"  # in the first line of a run that has not come to its end; later lines may be missing then
LINES = "lines"  # in the first line of a run that has come to its end: how many lines follow
FORMAT = 2  # 1: grey images became RGB, and the settings named no metadata policy
Status = Literal["protected", "weak", "uncoded", "copied", "skipped", "failed", "started"]
WRITTEN: tuple[Status, ...] = ("protected", "weak", "uncoded")  # with noise, as far as there is any
Key = tuple[str, str]


ALL_OVER = 0.99  # share of the pixels from which on hardly any tells the object from the rest


@dataclass(frozen=True, slots=True)
class Entry:
    """The line of one input: what became of it.

    input: name relative to `input_root`, which is relative to the output folder. status: "protected"; "weak", its
    object changed too little; "uncoded", no pixel has a code; "copied" byte for byte without protection; "skipped",
    nothing shows an object and nothing was written; "failed", nothing written; "started" by a run that was cut off.
    reason: why it is not protected. note: a conversion or a changed name. output: name relative to the output folder.
    object: "whole image" where nothing said where it is. mask_placed: "stored", "scaled" or both, where the mask does
    not lie on the image as it is. boxes: XYXY. points: of the object and beside it. outline: the object that GrabCut
    found from boxes or points, as COCO's compressed run lengths. orientation: EXIF's, where pixels were kept as stored.
    kind: of a file of planes, its format; planes: how many; bands: which of its bands are meant; value_ranges: what is
    shown from black to white, one for each, so that a grey level is a 255th of it; range_of: where they come from.
    object_share: of the pixels, 0 to 1. psnr: dB, None where nothing changed. delta_e, s_cielab, ssim: with --quality,
    see `unseg.method.visibility`. over_budget and max_over (lossy formats
    only): the share of values beyond the budget and the most grey levels beyond it. claims: names that a started input
    may have written.
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
    object: str | None = None
    mask: str | None = None
    mask_root: str | None = None
    mask_sha256: str | None = None
    mask_placed: str | None = None
    boxes: tuple[tuple[float, ...], ...] | None = None
    orientation: int | None = None
    kind: str | None = None
    planes: int | None = None
    bands: tuple[int, ...] | None = None
    range_of: str | None = None
    value_ranges: tuple[tuple[float, ...], ...] | None = None
    points: Points | None = None
    outline: str | None = None
    object_budget: float | None = None
    background_budget: float | None = None
    generator: str | None = None
    object_share: float | None = None
    psnr: float | None = None
    delta_e: float | None = None
    s_cielab: float | None = None
    ssim: float | None = None
    over_budget: float | None = None
    max_over: int | None = None
    claims: tuple[str, ...] | None = None

    @property
    def key(self) -> Key:
        """Returns what tells this input from all others."""
        return self.input, self.input_root

    @property
    def is_written(self) -> bool:
        """Returns whether its output is the image with its noise: nothing is left to do for this input."""
        return self.status in WRITTEN

    @property
    def is_all_over(self) -> bool:
        """Returns whether an object's noise is on all of the image, or on all but a little, so that nothing tells the
        object from the rest. Where classes are told apart their noise does."""
        if self.status not in ("protected", "weak"):
            return False
        return self.object is not None or (self.prompt != "classes" and (self.object_share or 0) >= ALL_OVER)

    @property
    def owned(self) -> tuple[str, ...]:
        """Returns the output names that belong to this input."""
        return (*((self.output,) if self.output else ()), *(self.claims or ()))


def protected_around(path: Path) -> Path | None:
    """Returns the nearest protected folder that a path lies in, also deep in it: what is put there is published."""
    return next((folder for folder in path.parents if os.path.lexists(folder / MANIFEST)), None)


def refuse_published_key(key: Path) -> None:
    """Raises UserError where a new key of that name would be published: in a protected folder."""
    around = protected_around(Path(os.path.realpath(key.parent)) / key.name)
    if around is not None:
        raise UserError(
            f"--key {key}: lies in {around}, a protected folder, with which it would be published; name a file"
            " elsewhere"
        )


@dataclass(frozen=True)
class Manifest:
    """header: the run's settings. entries: the last line of each input, by key; see `lines_of`."""

    header: dict[str, Any]
    entries: Mapping[Key, Entry]


def lines_of(entries: Iterable[Entry]) -> Mapping[Key, Entry]:
    """Returns the last line of each input, by key, in the order of keys; memory holds some bytes of each."""
    return by_key(spooled_lines(entries))


def by_key(lines: Lazy[Entry]) -> Keyed[Key, Entry]:
    """Returns the last of the lines of each input, as `lines_of` does."""
    return Keyed(lines, _key)


def spooled_lines(entries: Iterable[Entry] = ()) -> Spooled[Entry]:
    """Returns lines in the order given; memory holds some bytes of each."""
    return Spooled(entries, _values, _put_together, _key)


def in_key_order(lines: Lazy[Entry]) -> Sequence[Entry]:
    """Returns lines in the order of their keys."""
    return Made(order_of(lines, _key), lines.at)


def _key(entry: Entry) -> Key:
    return entry.key


def _put_together(values: dict[str, Any]) -> Entry:
    for name in LISTS & values.keys():
        values[name] = _unchanging(values[name])
    if "points" in values:
        values["points"] = Points(**{part: _unchanging(points) for part, points in values["points"].items()})
    return Entry(**values)


def _unchanging(value: Any) -> Any:
    """Returns lists, at any depth, as tuples."""
    return tuple(map(_unchanging, value)) if isinstance(value, list) else value


def read_manifest(folder: Path) -> Manifest | None:
    """Returns the manifest of an output folder, or None where there is none.

    A last line that was cut short is left out. Where it is, or where there are not as many lines as the first one says,
    the manifest counts as that of an unfinished run. Raises UserError where the file is no manifest of unseg.
    """
    path = folder / MANIFEST
    if os.path.islink(path):
        raise UserError(f"{path}: is a link, which is not followed; {REMEDY}")
    number = 1
    try:
        with open_for_reading(path) as file:
            torn: list[int] = []
            lines = _lines(file, torn)
            header = json.loads(next(lines, ""))
            if not isinstance(header, dict) or not isinstance(header.get("settings", {}), dict):
                raise ValueError("no object with settings")
            if header.get("format") != FORMAT:
                raise UserError(f"{path}: format {header.get('format')}, this version reads {FORMAT}; {REMEDY}")
            entries = spooled_lines()
            for line in lines:
                number = len(entries) + 2
                entry = _entry(json.loads(line))
                _check_budgets(entry, header.get("settings", {}))
                entries.add(entry)
            if header.pop(LINES, len(entries)) != len(entries) or torn:
                header[UNFINISHED] = True
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; {REMEDY}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a manifest of unseg (line {number}: {str(error)[:100]}); {REMEDY}") from error
    return Manifest(header, by_key(entries))


def _lines(file: BinaryIO, torn: list[int]) -> Iterator[str]:
    """Yields the complete lines, which end in a line feed; where there is none, what is there of the first.

    torn: gets the bytes of a last line that was cut short.
    """
    first = True
    while line := file.readline(MAX_LINE):
        if not line.endswith(b"\n"):
            line = line.rstrip(b"\0")  # zeros: what some file systems put after a loss of power
            if len(line) == MAX_LINE:
                raise ValueError(f"over {MAX_LINE >> 20} MB")
            if not first or not line:
                torn.append(len(line))
                continue
        yield line.decode()
        first = False


def _check_budgets(entry: Entry, settings: Mapping[str, Any]) -> None:
    """Raises ValueError where a line allows its image more than the first line allows all of them."""
    for name in ("object_budget", "background_budget"):
        value, limit = getattr(entry, name), settings.get(name)
        if value is not None and not value <= number(limit):
            raise ValueError(f"{name}: {value:g}, the first line says {limit:g}")


def relative(path: Path, out: Path) -> str:
    """Returns `path` as the manifest in the folder `out` names it.

    It is an address where the two are in unlike stores, and whole where they are on unlike drives.
    """
    path, out = Path(place_of(os.path.realpath(path))), Path(place_of(os.path.realpath(out)))
    here, there = url_of_file(path), url_of_file(out)
    if (here or "").partition(":")[0] != (there or "").partition(":")[0]:
        return here or path.as_uri()
    try:
        return Path(os.path.relpath(path, out)).as_posix()
    except ValueError:  # of Windows
        return path.as_posix()


class ManifestWriter:
    """Keeps the manifest of a run: whole and sorted at the start and at the end, a line appended for each step between.

    It is a context, which writes from its beginning on. Between, the last line of an input counts, so that a killed
    run loses nothing. An error while writing is a UserError, and what was written before it stays readable. Until the
    context ends without an error, the first line says that the run is unfinished: it may have inputs that no line
    speaks of yet. held: the folder as the run has locked it; nothing is written once it has it no more.
    """

    def __init__(
        self, folder: Path, header: dict[str, Any], earlier: Iterable[Entry], held: Held | None = None
    ) -> None:
        self.path, self.header, self._held, self._earlier = folder / MANIFEST, header, held, earlier
        self._lines, self._added = spooled_lines(), array("Q")
        self._announced: dict[Key, Entry] = {}  # those that no line was added for since

    def add(self, entry: Entry) -> None:
        """Appends the line of one input."""
        self._announced.pop(entry.key, None)
        self._added.append(len(self._lines))
        self._lines.add(entry)
        self._append(_line(entry))

    @property
    def added(self) -> Sequence[Entry]:
        """Returns the lines that were added one by one, in the order of their keys."""
        is_all = len(self._added) == len(self._lines)
        return in_key_order(self._lines if is_all else Made(self._added, self._lines.at))

    def announce(self, entries: Iterable[Entry]) -> None:
        """Writes several lines and waits until the disk has them: before files are written that they speak of."""
        entries = list(entries)
        self._announced.update((entry.key, entry) for entry in entries)
        if entries:
            self._append("".join(map(_line, entries)), durable=True)

    def _check_held(self) -> None:
        if self._held is not None:
            self._held.check()

    def _append(self, lines: str, durable: bool = False) -> None:
        self._check_held()
        try:
            self._file.write(lines.encode())
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_go_on(self.path.parent, error) from error

    def _rewrite(self, finished: bool) -> None:
        self._check_held()
        write_manifest(self.path.parent, Manifest(self.header, by_key(self._lines)), finished)
        self._check_held()

    def __enter__(self) -> ManifestWriter:
        for entry in self._earlier:
            self._lines.add(entry)
        try:
            self._rewrite(finished=False)
            self._file = open_for_appending(self.path)
        except OSError as error:
            raise cannot_go_on(self.path.parent, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what is left in its buffer after a full disk
            self._file.close()
        for line in self._announced.values():
            self._lines.add(line)
        try:
            self._rewrite(finished=error is None)
        except (OSError, UserError) as failure:  # the manifest stays as the lines appended to it: readable, not sorted
            if error is not None:
                return
            if isinstance(failure, UserError):
                raise
            self._check_held()
            raise cannot_go_on(self.path.parent, failure) from failure


def write_manifest(folder: Path, manifest: Manifest, finished: bool) -> None:
    """Writes a manifest whole, its lines sorted, and waits for the disk. finished: as `ManifestWriter` says."""

    def blocks() -> Iterable[bytes]:
        header = {**manifest.header, **({LINES: len(manifest.entries)} if finished else {UNFINISHED: True})}
        yield (json.dumps(header) + "\n").encode()
        for entry in in_order(manifest.entries):
            yield _line(entry).encode()

    write_blocks(folder / MANIFEST, blocks(), durable=True, within=folder)
    sync_folder(folder)


def cannot_go_on(out: Path, error: OSError) -> UserError:
    """Returns the error of a disk that takes nothing more, for the user."""
    return UserError(
        f"--out {out}: cannot be written: {error.strerror or error}; what is finished is kept: make room or allow"
        " writing, and run the same command again to go on"
    )


def _line(entry: Entry) -> str:
    return json.dumps(_values(entry)) + "\n"


def _values(entry: Entry) -> dict[str, Any]:
    """Returns what a line of the manifest holds; fields without a value are left out."""
    values = {name: value for name in _FIELDS if (value := getattr(entry, name)) is not None}
    if entry.points is not None:
        values["points"] = asdict(entry.points)
    return values


_FIELDS = tuple(field.name for field in fields(Entry))
LISTS = frozenset(("boxes", "bands", "value_ranges", "claims"))


def _entry(values: Any) -> Entry:
    """Returns the line of checked values; ValueError names the one that is not as it should be."""
    entry = checked_values(values, _FIELDS, OWN_NAMES)
    if entry.get("status") not in get_args(Status):
        raise ValueError(f"status: {str(entry.get('status'))[:60]!r}")
    return Entry(**entry)
