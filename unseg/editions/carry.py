"""Brings over what an edition holds beside its protected images: annotations, lists, untouched images.

Everything is a file of its own, copied, so that no later change in the edition reaches the originals; evaluation images
may be links where the user asks for that. Each file has a line in the record (see `unseg.editions.carried`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from unseg.compute.progress import SILENT, Progress, track
from unseg.counts import count_of
from unseg.data.annotations.core import first_few
from unseg.data.annotations.json_stream import JsonStream, stamp
from unseg.data.edition_layout import EditionRow, Located, locate
from unseg.data.samples import Problem, walk
from unseg.editions.carried import Carried, How, line_of, read_carried, sha256_of_record, write_carried
from unseg.editions.data_set import list_images, open_data_set
from unseg.editions.renamed_files import JSON, Renaming, Renamings, rewritten_blocks
from unseg.errors import UserError
from unseg.protecting.manifest import CARRIED, cannot_go_on
from unseg.storage.files import (
    blocks_of,
    link_on_the_way,
    make_folders,
    open_for_appending,
    open_within,
    sha256_of,
    sha256_of_blocks,
    sync_folder,
    write_blocks,
    write_bytes,
)
from unseg.storage.locks import Held
from unseg.storage.mounts import url_of_file


@dataclass(frozen=True)
class Item:
    """A file to carry over: its name relative to the root, and how.

    images: the folder, relative to the root, whose images a json or a list names; it is rewritten where these get new
    names.
    """

    name: str
    how: Literal["copied", "linked"]
    images: str | None = None


# --- which files -----------------------------------------------------------------------------------------------------


def list_items(
    row: EditionRow,
    root: Path,
    places: Sequence[Located],
    protected: frozenset[str],
    untouched: Literal["copy", "link", "none"],
) -> tuple[list[Item], list[str]]:
    """Returns what an evaluator of these sets reads besides the protected images, and notes of what is not there.

    protected: names of the images that the run protects. untouched: how evaluation images come along.
    """
    items: dict[str, Item] = {}
    notes: list[str] = []
    for place in places:
        for item in _annotation_items(place, protected):
            items.setdefault(item.name, item)
    for place in evaluation_places(row, root, places, notes if untouched != "none" else []):
        for item in _annotation_items(place, protected):
            items.setdefault(item.name, Item(item.name, item.how))  # what belongs to untouched images stays as it is
        both = []
        for name in _image_names(place) if untouched != "none" else ():
            if name in protected:
                both.append(name)
            else:
                items.setdefault(name, Item(name, "linked" if untouched == "link" else "copied"))
        if both:
            notes.append(
                f"{count_of(len(both), 'image')} of {place.set.name} for evaluation ({place.split}) with noise, since"
                f" the protected split lists them, too: {first_few(both)}"
            )
    return [items[name] for name in sorted(items)], notes


def evaluation_places(row: EditionRow, root: Path, places: Sequence[Located], notes: list[str]) -> Iterator[Located]:
    """Yields the sets that stay untouched and the evaluation splits of protected ones, as far as they are there.

    notes: gets a line for each that is not.
    """
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
    """Yields the files of a place's annotations and of what else its set carries, without the images among them."""
    source, images = place.source, place.relative(place.source.images)
    patterns = [source.annotations, source.segments, source.listing, *place.set.carried]
    for pattern in filter(None, patterns):
        path = place.path(pattern)
        among_images = place.relative(pattern) == images
        for file in _files_at(path):
            name = file.relative_to(place.root).as_posix()
            if among_images and file.suffix.lower() != ".png" or name in protected:
                continue
            names_images = file.suffix.lower() == JSON or pattern == source.listing
            yield Item(name, "copied", images if names_images else None)


def _files_at(path: Path) -> list[Path]:
    """Returns a file, or what is under a folder; nothing where there is neither."""
    if os.path.exists(path) and not os.path.isdir(path):
        return [path]
    problems: list[Problem] = []
    files = walk(path, problems) if os.path.isdir(path) else []
    if problems:
        raise UserError(f"{path}: {problems[0].name}: {problems[0].reason}")
    return files


# --- carrying them over ----------------------------------------------------------------------------------------------


def carry(
    items: Sequence[Item],
    roots: Sequence[Path],
    held: Held,
    outputs: Mapping[str, str],
    progress: Progress = SILENT,
) -> list[Carried]:
    """Brings every item into the folder under its own name, and keeps the record; what is there already is left alone.

    roots: the data set's first, then others that its links may lead to. held: the folder as the run has locked it.
    outputs: an image's name → the name that its protected version has, where that is another. UserError where a file
    that this record does not know is in the way, or one of its own was changed since; nothing is ever written through a
    link.
    """
    out = held.folder
    earlier = read_carried(out)
    lines = dict(earlier)
    renamings = Renamings(roots[0], outputs)
    try:
        if sha256_of(out / CARRIED) not in (None, sha256_of_record(earlier)):
            write_carried(out, earlier)  # a line that was cut short would spoil the next one
        with open_for_appending(out / CARRIED) as record:
            for item in track(progress, items, len(items), "annotations and untouched images"):
                held.check()
                done = _carry(item, roots, out, earlier.get(item.name), renamings)
                held.check()
                if lines.get(item.name) != done:
                    lines[item.name] = done
                    record.write(line_of(done).encode())
                    record.flush()
        if sha256_of(out / CARRIED) != sha256_of_record(lines):
            write_carried(out, lines)
        for folder in {(out / line.name).parent for line in lines.values() if line != earlier.get(line.name)}:
            sync_folder(folder)
    except OSError as error:
        held.check()
        raise cannot_go_on(out, error) from error
    return [lines[name] for name in sorted(lines)]


def _carry(item: Item, roots: Sequence[Path], out: Path, earlier: Carried | None, renamings: Renamings) -> Carried:
    source, target = roots[0] / item.name, out / item.name
    size, time_ns = stamp(source)
    names = renamings.of(item.name, item.images)
    how: How = "rewritten" if names.changes else item.how
    if earlier is not None and _is_done(earlier, how, size, time_ns, names) and _is_there(target, earlier, source):
        return earlier
    link = link_on_the_way(out, str(PurePosixPath(item.name).parent))
    if link is not None:
        raise UserError(f"OUT={out}: {link} in it is a link, which is not followed; remove it or give another folder")
    if os.path.lexists(target):
        _check_ours(target, earlier, source, how, out)
    try:
        sha256 = _bring(source, target, roots, how=how, names=names, time_ns=time_ns)
    except OSError as error:
        if error.filename is not None and Path(error.filename) in (source, Path(os.path.realpath(source))):
            raise UserError(f"{source}: cannot be read: {error.strerror}; the edition needs it") from error
        raise
    return Carried(item.name, how, sha256, size, time_ns, names.sha256)


def _bring(source: Path, target: Path, roots: Sequence[Path], *, how: How, names: Renaming, time_ns: int) -> str:
    """Links, rewrites or copies a file and returns the content's sha256.

    time_ns: the source's time of change, which copies get too.
    """
    if how == "linked":
        real = Path(os.path.realpath(source))
        with open_within(real, roots) as file:
            sha256 = sha256_of_blocks(blocks_of(file))
        make_folders(target.parent)
        with suppress(FileNotFoundError):
            target.unlink()
        target.symlink_to(real)
        return sha256
    with open_within(source, roots) as file:
        if how == "copied":
            return write_blocks(target, blocks_of(file), durable=True, times=(time_ns, time_ns))
        if source.suffix.lower() != JSON:
            content = names.rewritten_list(file.read(), source)
            return write_bytes(target, content, durable=True, times=(time_ns, time_ns))
        with open_within(source, roots) as parts:
            blocks = rewritten_blocks(JsonStream(source, parts), file, names)
            return write_blocks(target, blocks, durable=True, times=(time_ns, time_ns))


def _is_done(line: Carried, how: How, size: int, time_ns: int, names: Renaming) -> bool:
    """Returns whether a line tells of the very thing that is to be done."""
    told = line.how, line.source_bytes, line.source_time_ns, line.renamed
    return told == (how, size, time_ns, names.sha256)


def _is_there(target: Path, line: Carried, source: Path) -> bool:
    """Returns whether what a line tells of is there still, by size and time, which copies have from their source.

    Stores keep times of their own: there it is the content.
    """
    if url_of_file(target) is not None:
        return sha256_of(target) == line.sha256
    if line.how == "linked":
        return target.is_symlink() and os.readlink(target) == os.path.realpath(source)
    if target.is_symlink() or not target.is_file():
        return False
    size, time_ns = stamp(target)
    return time_ns == line.source_time_ns and (line.how == "rewritten" or size == line.source_bytes)


def _check_ours(target: Path, earlier: Carried | None, source: Path, how: How, out: Path) -> None:
    """Raises UserError where what is in the way may be the user's own.

    It is ours where it is as recorded or, after a run that was cut off, the very thing that would be written.
    """
    name = target.relative_to(out).as_posix()
    if target.is_symlink():
        good = os.readlink(target) == os.path.realpath(source)
    else:
        there = sha256_of(target)
        good = there is not None and (earlier is not None and there == earlier.sha256 or there == sha256_of(source))
    if not good and not (earlier is None and how == "rewritten" and stamp(target)[1] == stamp(source)[1]):
        state = "changed since it was written" if earlier else "exists and was not written by unseg"
        raise UserError(f"OUT={out}: {name} {state}; remove it or give another folder")
