"""What an edition holds beside its protected images: annotations, lists, and the images that stay untouched.

Everything is a file of its own, copied, so that no later change in the edition reaches the originals; evaluation images may
be links where the user asks for that. Each file has a line in `unseg-edition-files.jsonl`: what was done, its sha256, and
the size and time of its source, by which a second run knows that there is nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from unseg.data.annotations.json_stream import open_json, stamp
from unseg.data.annotations.names import ImagesFolder
from unseg.data.edition_catalog import EditionRow, Located, locate
from unseg.data.samples import Problem, walk
from unseg.editions.gather import list_images, open_data_set
from unseg.errors import UserError
from unseg.protecting.manifest import cannot_go_on
from unseg.storage.files import (
    BLOCK,
    blocks_of,
    link_on_the_way,
    sha256_of,
    stays_inside,
    sync_folder,
    write_blocks,
    write_bytes,
)

CARRIED = "unseg-edition-files.jsonl"
How = Literal["copied", "linked", "rewritten"]
LARGEST_NAME = 4096


@dataclass(frozen=True)
class Item:
    """A file to carry over: its name relative to the root, and how. images: the folder, relative to the root, whose images
    a json names, where it may have to be rewritten."""

    name: str
    how: Literal["copied", "linked"]
    images: str | None = None


@dataclass(frozen=True)
class Carried:
    """A file that was carried over. sha256: of its content, for links of what they lead to. source_bytes, source_time_ns: its
    source's size and time of change. renamed: for rewritten ones the sha256 of the new names that went in."""

    name: str
    how: How
    sha256: str
    source_bytes: int
    source_time_ns: int
    renamed: str | None = None


# --- which files -----------------------------------------------------------------------------------------------------


def list_items(
    row: EditionRow,
    root: Path,
    places: Sequence[Located],
    protected: frozenset[str],
    untouched: Literal["copy", "link", "none"],
) -> tuple[list[Item], list[str]]:
    """Everything that an evaluator of these sets reads besides the protected images, sorted; and notes of what is not there.

    protected: names of the images that the run protects. untouched: how evaluation images come along.
    """
    items: dict[str, Item] = {}
    notes = []
    for place in places:
        for item in _annotation_items(place, protected):
            items.setdefault(item.name, item)
    for place in _evaluation_places(row, root, places, notes if untouched != "none" else []):
        for item in _annotation_items(place, protected):
            items.setdefault(item.name, Item(item.name, item.how))  # what belongs to untouched images stays as it is
        if untouched != "none":
            for name in _image_names(place):
                if name not in protected:
                    items.setdefault(name, Item(name, "linked" if untouched == "link" else "copied"))
    return [items[name] for name in sorted(items)], notes


def _evaluation_places(row: EditionRow, root: Path, places: Sequence[Located], notes: list[str]) -> Iterator[Located]:
    """The sets that stay untouched, and the evaluation splits of those that are protected, as far as they are there."""
    wanted = [
        (place.set, split, place.source.kind) for place in places for split in row.evaluation if split != place.split
    ]
    wanted += [(set_row, places[0].split, set_row.sources[0].kind) for set_row in row.sets if set_row.untouched]
    for set_row, split, kind in wanted:
        kinds = (kind, *(source.kind for source in set_row.sources))
        found = next(filter(None, (locate(root, row, set_row, split, one) for one in kinds)), None)
        if found is not None:
            yield found
        else:
            name = set_row.name if set_row.untouched else f"{set_row.name}, split {split}"
            notes.append(f"{name} is not on disk, so the edition has none for evaluation")


def _image_names(place: Located) -> Iterator[str]:
    folder = place.relative(place.source.images)
    if place.source.named_only:
        for sample in open_data_set([place]).samples.samples:
            yield sample.name
        return
    for name in list_images(place):
        if place.source.listing is None or (place.root / folder / name).is_file():
            yield f"{folder}/{name}"


def _annotation_items(place: Located, protected: frozenset[str]) -> Iterator[Item]:
    """The files of a place's annotations and of what else its set carries. Images that they lie among are left out."""
    source, images = place.source, place.relative(place.source.images)
    patterns = [source.annotations, source.segments, source.listing, *place.set.carried]
    for pattern in filter(None, patterns):
        path = place.path(pattern)
        files = [path] if path.is_file() else _files_of(path) if path.is_dir() else []
        among_images = place.relative(pattern) == images
        for file in files:
            name = file.relative_to(place.root).as_posix()
            if among_images and file.suffix.lower() != ".png" or name in protected:
                continue
            yield Item(name, "copied", images if file.suffix.lower() == ".json" else None)


def _files_of(folder: Path) -> list[Path]:
    problems: list[Problem] = []
    files = walk(folder, problems)
    if problems:
        raise UserError(f"{folder}: {problems[0].name}: {problems[0].reason}")
    return files


# --- carrying them over ----------------------------------------------------------------------------------------------


def carry(
    items: Sequence[Item],
    root: Path,
    out: Path,
    outputs: Mapping[str, str],
    track: Callable[[Iterable[Any], int, str], Iterable[Any]],
) -> list[Carried]:
    """Bring every item into `out` under its own name, and keep the record; what is there already is left alone.

    outputs: an image's name → the name that its protected version has, where that is another. UserError where a file that
    this record does not know is in the way, or one of its own was changed since; nothing is ever written through a link.
    """
    earlier = read_carried(out)
    lines = dict(earlier)
    renamings = _Renamings(root, outputs)
    try:
        if (out / CARRIED).exists() and not (out / CARRIED).read_bytes().endswith(b"\n"):
            _write(out, earlier)  # a line that was cut short would spoil the next one
        with open(out / CARRIED, "a", encoding="utf-8", buffering=1) as record:
            for item in track(items, len(items), "annotations and untouched images"):
                done = _carry(item, root, out, earlier.get(item.name), renamings)
                if lines.get(item.name) != done:
                    lines[item.name] = done
                    record.write(_line(done))
        if (out / CARRIED).read_bytes() != _record_of(lines):
            _write(out, lines)
        for folder in {(out / line.name).parent for line in lines.values() if line != earlier.get(line.name)}:
            sync_folder(folder)
    except OSError as error:
        raise cannot_go_on(out, error) from error
    return [lines[name] for name in sorted(lines)]


def _carry(item: Item, root: Path, out: Path, earlier: Carried | None, renamings: _Renamings) -> Carried:
    source, target = root / item.name, out / item.name
    size, time_ns = stamp(source)
    names = renamings.of(item)
    how: How = "rewritten" if names.changes else item.how
    if (
        earlier is not None
        and (earlier.how, earlier.source_bytes, earlier.source_time_ns, earlier.renamed)
        == (how, size, time_ns, names.sha256)
        and _is_there(target, earlier, source)
    ):
        return earlier
    link = link_on_the_way(out, str(PurePosixPath(item.name).parent))
    if link is not None:
        raise UserError(f"OUT={out}: {link} in it is a link, which is not followed; remove it or give another folder")
    if os.path.lexists(target):
        _check_ours(target, earlier, source, how, out)
    try:
        if how == "linked":
            sha256 = sha256_of(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                target.unlink()
            target.symlink_to(os.path.realpath(source))
        else:
            blocks = rewritten_blocks(source, names) if how == "rewritten" else _blocks(source)
            sha256 = write_blocks(target, blocks, durable=True, times=(time_ns, time_ns))
    except OSError as error:
        if error.filename is not None and Path(error.filename) == source:
            raise UserError(f"{source}: cannot be read: {error.strerror}; the edition needs it") from error
        raise
    if sha256 is None:
        raise UserError(f"{source}: cannot be read; the edition needs it")
    return Carried(item.name, how, sha256, size, time_ns, names.sha256)


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from blocks_of(file)


def _is_there(target: Path, line: Carried, source: Path) -> bool:
    """Whether what a line speaks of is there still, by size and time, which both are the source's for copies."""
    if line.how == "linked":
        return target.is_symlink() and os.readlink(target) == os.path.realpath(source)
    if target.is_symlink() or not target.is_file():
        return False
    size, time_ns = stamp(target)
    return time_ns == line.source_time_ns and (line.how == "rewritten" or size == line.source_bytes)


def _check_ours(target: Path, earlier: Carried | None, source: Path, how: How, out: Path) -> None:
    """UserError where what is in the way may be the user's own: neither as recorded nor, after a run that was cut off, the
    very thing that would be written."""
    name = target.relative_to(out).as_posix()
    if target.is_symlink():
        good = os.readlink(target) == os.path.realpath(source)
    else:
        there = sha256_of(target)
        good = there is not None and (earlier is not None and there == earlier.sha256 or there == sha256_of(source))
    if not good and not (earlier is None and how == "rewritten" and stamp(target)[1] == stamp(source)[1]):
        state = "changed since it was written" if earlier else "exists and was not written by unseg"
        raise UserError(f"OUT={out}: {name} {state}; remove it or give another folder")


# --- new names in a json ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Renaming:
    """The new names of the images of one folder. folder: finds an image by the name that a json has for it."""

    folder: ImagesFolder | None
    names: Mapping[str, str]
    sha256: str | None

    @property
    def changes(self) -> bool:
        return bool(self.names)

    def of(self, file_name: object, where: str) -> str | None:
        """The new file_name of a json's image; None where it stays."""
        if self.folder is None or not isinstance(file_name, str) or len(file_name) > LARGEST_NAME:
            return None
        found = self.folder.find(file_name.replace("\\", "/"), where)
        output = None if found is None else self.names.get(found)
        return None if output is None else str(PurePosixPath(file_name).with_name(PurePosixPath(output).name))


class _Renamings:
    """A `Renaming` for each folder of images, made when first asked for."""

    NONE = Renaming(None, {}, None)

    def __init__(self, root: Path, outputs: Mapping[str, str]) -> None:
        self.root, self.outputs = root, outputs
        self.known: dict[str, Renaming] = {}

    def of(self, item: Item) -> Renaming:
        if item.images is None or not self.outputs:
            return self.NONE
        if item.images not in self.known:
            prefix = f"{item.images}/"
            names = {
                name[len(prefix) :]: output for name, output in sorted(self.outputs.items()) if name.startswith(prefix)
            }
            self.known[item.images] = (
                self.NONE
                if not names
                else Renaming(ImagesFolder.open(self.root / item.images), names, _sha256_of_names(names))
            )
        renaming = self.known[item.images]
        return renaming if renaming.changes and _has_images(self.root / item.name) else self.NONE


def _has_images(path: Path) -> bool:
    """Whether a json has COCO's list of images."""
    with open_json(path) as stream:
        for key in stream.members():
            if key == "images":
                return True
            stream.skip()
    return False


def rewritten_blocks(path: Path, renaming: Renaming) -> Iterator[bytes]:
    """A COCO json with new file_names: the entries of `images` that change are written anew, every other byte as it is.

    Read as a stream, so that memory does not grow with the file.
    """
    with open(path, "rb") as original, open_json(path) as stream:
        done = 0
        for key in stream.members():
            if key != "images":
                stream.skip()
                continue
            for place, (image, begin, end) in enumerate(stream.elements()):
                name = (
                    renaming.of(image.get("file_name"), f"{path}: images[{place}]") if isinstance(image, dict) else None
                )
                if name is not None:
                    yield from _part(original, done, begin)
                    yield json.dumps({**image, "file_name": name}).encode()
                    done = end
            break  # what follows is not looked at: nothing of it changes
        yield from _part(original, done, None)


def _part(file: Any, begin: int, end: int | None) -> Iterator[bytes]:
    file.seek(begin)
    while end is None or begin < end:
        block = file.read(BLOCK if end is None else min(BLOCK, end - begin))
        if not block:
            return
        begin += len(block)
        yield block


def _sha256_of_names(names: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(names.items())).encode()).hexdigest()


# --- the record ------------------------------------------------------------------------------------------------------


def read_carried(out: Path) -> dict[str, Carried]:
    """The record of an edition, by name; empty where there is none. A last line cut short by a crash is left out."""
    path = out / CARRIED
    try:
        if path.is_symlink():
            raise UserError(f"{path}: is a link, which is not followed; give another OUT")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another OUT") from error
    lines = text.split("\n")[:-1]  # every complete line ends in a line feed
    number, carried = 0, []
    try:
        for number, line in enumerate(lines, 1):
            carried.append(_carried(json.loads(line)))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: not a record of unseg (line {number}: {str(error)[:100]}); give another OUT"
        ) from error
    return {line.name: line for line in carried}


def _write(out: Path, lines: Mapping[str, Carried]) -> None:
    write_bytes(out / CARRIED, _record_of(lines), durable=True)


def _record_of(lines: Mapping[str, Carried]) -> bytes:
    return "".join(_line(lines[name]) for name in sorted(lines)).encode()


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
    ):
        raise ValueError(f"name, how, sha256, source_bytes or source_time_ns: {str(values)[:60]}")
    return line


def _line(carried: Carried) -> str:
    return json.dumps({name: value for name, value in asdict(carried).items() if value is not None}) + "\n"
