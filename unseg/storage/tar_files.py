"""Tar files of samples, as `webdataset` reads them.

Source: the page "WebDataset Format" of the webdataset library. Members whose names differ only behind the first dot of
their last part are one sample. Only plain tar files are read, and of these only members that a folder can hold.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unseg.errors import UserError
from unseg.storage.containers import Container
from unseg.storage.files import BLOCK, open_for_reading, sha256_of_blocks, stays_inside, writing
from unseg.storage.image_decoding import decode_image
from unseg.storage.image_limits import ImageError
from unseg.storage.picture_kinds import START, is_picture_name, kind_of
from unseg.storage.sequences import Lazy, Places, Spooled

TAR = ".tar"
IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("png", "tif", "tiff")  # behind a further dot, beside an image: not pictures, unless they show many colours
LABEL_COLOURS = 256  # of a map of classes in colours, at most
LOOKED_PIXELS = 2**18  # of a map, whose colours are counted
LOOKED = 20  # members of a suffix whose first bytes are looked at before a run begins
STAYS = "that would stay as it is"
IS_PICTURE, HOLDS_PICTURE = "is a picture", "holds a picture as text"
# In JSON: what LabelMe writes unless it is told not to, and addresses that are the picture itself (RFC 2397).
LONGEST = 256  # bytes that the beginning of one takes, spaces included
PICTURE_TEXT = re.compile(rb'"imageData"\s*:\s*"[^"]|"data:image/[^",]{1,60};base64,')
MEMBERS = 1_000_000  # of a tar file, at most
PNG = b"\x89PNG\r\n\x1a\n"  # its signature; bits and kind of colour follow 16 bytes later
COLOURED = (b"\x08\x02", b"\x08\x06")  # of PNG: 8 bits a channel, colours without a palette
ARRAY = re.compile(rb"\x93NUMPY.{2,6}\{'descr': '\|u1', 'fortran_order': \w+, 'shape': \(([\d, ]+)\)", re.DOTALL)
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """A file in a tar. start: its first byte in the tar."""

    name: str
    start: int
    size: int

    @property
    def sample(self) -> str:
        """Returns the name before the first dot; the whole name where there is none."""
        match = _NAME.fullmatch(self.name)
        return self.name if match is None else match[1]

    @property
    def suffix(self) -> str:
        """Returns what stands behind the first dot, in lower case."""
        match = _NAME.fullmatch(self.name)
        return "" if match is None else match[2].lower()


class Members(Lazy[Member]):
    """The files in a tar, in their order. kept: where they lie, from `first` on, with those of other tars."""

    def __init__(self, kept: Spooled[Member], first: int) -> None:
        self.kept, self._first, self._end = kept, first, len(kept)
        self._places = Places(member.name for member in self)

    def __len__(self) -> int:
        return self._end - self._first

    def at(self, index: int) -> Member:
        return self.kept.at(self._first + index)

    def called(self, name: str) -> Member | None:
        """Returns the file of a name; None where there is none."""
        return next((member for member in map(self.at, self._places.of(name)) if member.name == name), None)


def spooled_members() -> Spooled[Member]:
    """Returns a place for the members of any number of tars, of which memory holds some bytes each."""
    return Spooled((), lambda member: (member.name, member.start, member.size), lambda values: Member(*values))


def members(tar: Path, kept: Spooled[Member]) -> Members:
    """Returns the files in a tar, in their order; UserError where it is none, or holds what no folder can.

    Folders among the members are left out: they hold nothing. kept: where they are put.
    """
    first = len(kept)
    try:
        with open_for_reading(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse() or not stays_inside(info.name):
                    raise UserError(f"{tar}: the member {info.name[:80]!r} is no plain file in a folder")
                kept.add(Member(info.name, info.offset_data, info.size))
                archive.members = []  # type: ignore[attr-defined] # else it keeps all of them
                if len(kept) - first > MEMBERS:
                    raise UserError(f"{tar}: over {MEMBERS:,} members; split it")
    except tarfile.TarError as error:
        raise UserError(f"{tar}: is no plain tar file, or it is damaged ({str(error)[:80]})") from error
    except OSError as error:
        raise UserError(f"{tar}: cannot be read: {error.strerror or error}") from error
    found = Members(kept, first)
    if any(found.called(member.name) != member for member in found):
        raise UserError(f"{tar}: holds two members of one name; webdataset reads no such file")
    return found


def tars_at(place: Path) -> list[Path]:
    """Returns a tar file, or those under a folder, sorted; UserError where there is none."""
    if place.is_file():
        found = [place]
    else:
        found = sorted(Path(at) / name for at, _, names in os.walk(place) for name in names if name.endswith(TAR))
    if not found:
        raise UserError(f"{place}: no tar file (.tar) there")
    return found


@dataclass(frozen=True)
class TarContainer(Container):
    """A tar of samples. suffix: of the members that hold masks. is_part: whether only some of its members are known."""

    path: Path
    place: str
    suffix: str
    members: Members
    is_part: bool = False

    @classmethod
    def open(cls, path: Path, place: str, suffix: str, kept: Spooled[Member]) -> TarContainer:
        """Reads the names in a tar; UserError where it is none, or holds a picture that would stay as it is.

        kept: where the members are put.
        """
        found = members(path, kept)
        _refuse_strays(path, found, suffix)
        return cls(path, place, suffix, found)

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets another process read the names itself, unless it needs some of them only."""
        if self.is_part:
            return _part_here, (self.path, self.place, self.suffix, list(self.members))
        return _here, (self.path, self.place, self.suffix)

    def images(self) -> Iterator[tuple[str, str | None]]:
        masks, several = Places(), Places()
        for place, member in enumerate(self.members):
            if member.suffix == self.suffix:
                masks.add(member.sample, place)
        for place, member in enumerate(self.members):
            if self._is_image(member):
                if any(self.members[other].sample == member.sample for other in several.of(member.sample)):
                    raise UserError(
                        f"{self.path}: a sample holds two images ({', '.join(IMAGES)}); which one is meant is not known"
                    )
                several.add(member.sample, place)
                found = [self.members[other] for other in masks.of(member.sample)]
                yield member.name, next((mask.name for mask in found if mask.sample == member.sample), None)

    def _is_image(self, member: Member) -> bool:
        return member.suffix in IMAGES and member.suffix != self.suffix

    def holds(self, name: str) -> bool:
        return self.members.called(name) is not None

    def size(self, name: str) -> int:
        return max(1, self._called(name).size)

    def _called(self, name: str) -> Member:
        member = self.members.called(name)
        assert member is not None, "whoever asks has the name from here"
        return member

    def blocks(self, name: str) -> Iterator[bytes]:
        member = self._called(name)
        with open_for_reading(self.path) as file:
            yield from content(file, member)

    @cached_property
    def _strays(self) -> dict[str, tuple[str, str]]:
        """Returns sample → a member of it that would stay as it is, and what it is: a picture, or what holds one."""
        return {one.sample: (one.name, what) for one, what in _strays(self.path, self.members, self.suffix)}

    def left_out(self, written: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self._strays:
            return found
        images = {one.sample: one.name for one in self.members if self._is_image(one) and one.sample in self._strays}
        for sample, (stray, what) in self._strays.items():
            image = images.get(sample)
            if image is None:
                found[stray] = f"{what} {STAYS}; its sample is left out"
            elif image in written:
                found[image] = f"its sample is left out, since {stray} in it {what} {STAYS}"
        return found

    def _stay(self, written: Collection[str]) -> list[Member]:
        """Returns the members of samples whose image has its noise, or that have no image, without stray pictures."""
        gone = {one.sample for one in self.members if one.suffix in IMAGES and one.name not in written}
        kept = {self._called(name).sample for name in written} if gone else set[str]()
        return [
            one
            for one in self.members
            if one.sample not in self._strays and (one.sample in kept or one.sample not in gone)
        ]

    def rewrite(self, target: Path, replaced: Mapping[str, Path], within: Path) -> None:
        kept = {member.name for member in self._stay(replaced.keys())}
        with (
            open_for_reading(self.path) as file,
            tarfile.open(fileobj=file, mode="r:") as old,
            writing(target, durable=True, within=within) as out,
            tarfile.open(fileobj=out, mode="w") as new,
        ):
            for info in old:
                old.members = []  # type: ignore[attr-defined] # else it keeps all of them
                if info.isdir():
                    new.addfile(info)
                elif info.name in replaced:
                    with open_for_reading(replaced[info.name]) as changed:
                        info.size = os.fstat(changed.fileno()).st_size
                        new.addfile(info, changed)
                elif info.name in kept:
                    new.addfile(info, old.extractfile(info))
                new.members = []  # type: ignore[attr-defined] # as above

    def rewritten(self, path: Path, written: Collection[str]) -> TarContainer:
        return TarContainer(path, self.place, self.suffix, members(path, self.members.kept))

    def of(self, names: Collection[str]) -> TarContainer:
        return _part_here(self.path, self.place, self.suffix, [self._called(name) for name in names])

    def faults(self, path: Path, written: Collection[str]) -> Iterator[tuple[str, str]]:
        new, expected = members(path, spooled_members()), self._stay(written)
        if [member.name for member in new] != [member.name for member in expected]:
            yield "", "its members are not those of its original, in their order"
            return
        with open_for_reading(self.path) as before, open_for_reading(path) as after:
            for one, other in zip(expected, new, strict=True):
                same = one.name in written or sha256_of_blocks(content(before, one)) == sha256_of_blocks(
                    content(after, other)
                )
                if not same:
                    yield one.name, "differs from its original"


def _here(path: Path, place: str, suffix: str) -> TarContainer:
    return TarContainer(path, place, suffix, members(path, _members_here()))


@cache
def _members_here() -> Spooled[Member]:
    """Returns the place for members of tars that another process opened."""
    return spooled_members()


def _part_here(path: Path, place: str, suffix: str, some: Iterable[Member]) -> TarContainer:
    kept = spooled_members()
    for member in some:
        kept.add(member)
    return TarContainer(path, place, suffix, Members(kept, 0), is_part=True)


def holds_outlines(suffix: str) -> bool:
    """Returns whether members of a suffix hold masks as outlines, and not as pictures."""
    return suffix.lower().rpartition(".")[2] == "json"


def _refuse_strays(tar: Path, found: Sequence[Member], masks: str) -> None:
    """Raises UserError where pictures would stay as they are: by a name, or by the first members of a suffix."""
    for stray, what in _strays(tar, found, masks, LOOKED):
        if what == HOLDS_PICTURE:
            raise UserError(f"{tar}: {stray.name} {what} {STAYS}; write it without (LabelMe: imageData, --nodata)")
        raise UserError(
            f"{tar}: {stray.name} {what} {STAYS}; in tar files only members called NAME.{', NAME.'.join(IMAGES)} are"
            " protected: rename it, convert it, or keep it out of tars"
        )


def _strays(tar: Path, found: Sequence[Member], masks: str, most: int = MEMBERS) -> Iterator[tuple[Member, str]]:
    """Yields what would stay as it is, and pass for protected: pictures, by their names or first bytes, and JSON that
    holds one.

    A label map beside a sample's image, such as 000012.depth.png, is none, if it is grey or shows few colours. masks:
    the suffix of members with masks. most: members of a suffix whose contents are looked at.
    """
    pictured = {member.sample for member in found if member.suffix in IMAGES and member.suffix != masks}
    labels = set() if holds_outlines(masks) else {masks}
    looked = Counter[str]()
    with open_for_reading(tar) as file:
        for member in found:
            if member.suffix in labels or member.suffix in IMAGES:
                continue
            if _is_called_label_map(member, pictured):
                if looked[member.suffix] < most:
                    looked[member.suffix] += 1
                    if _may_show_colours(file, member) and _shows_many_colours(tar, b"".join(content(file, member))):
                        yield member, IS_PICTURE
                continue
            if is_picture_name(f"name.{member.suffix}"):
                yield member, IS_PICTURE
            elif member.size and looked[member.suffix] < most:
                looked[member.suffix] += 1
                file.seek(member.start)
                start = file.read(min(START, member.size))
                if kind_of(start) is not None or _is_array_of_colours(start):
                    yield member, IS_PICTURE
                elif holds_outlines(member.suffix) and _holds_picture_text(file, member):
                    yield member, HOLDS_PICTURE


def _holds_picture_text(file: BinaryIO, member: Member) -> bool:
    """Returns whether a JSON member holds a picture in base64; also in UTF-16, which has a zero in each character."""
    before = b""
    for block in content(file, member):
        text = before + block.replace(b"\0", b"")
        if PICTURE_TEXT.search(text):
            return True
        before = text[-LONGEST:]
    return False


def _is_called_label_map(member: Member, pictured: Collection[str]) -> bool:
    name, _, last = member.suffix.rpartition(".")
    return bool(name) and last in LABELS and member.sample in pictured


def _may_show_colours(file: BinaryIO, member: Member) -> bool:
    """Returns whether an image's first bytes leave it open that it shows colours; so most maps are not read."""
    file.seek(member.start)
    start = file.read(min(len(PNG) + 18, member.size))
    return not start.startswith(PNG) or start[-2:] in COLOURED


def _shows_many_colours(tar: Path, data: bytes) -> bool:
    """Returns whether an image shows more colours than classes have: a photograph, such as the other eye's view."""
    try:
        image = decode_image(tar, data)
    except ImageError:
        return False
    samples = image.samples
    if samples.dtype != np.uint8 or samples.shape[2] != 3:
        return False
    rows = samples[:: max(1, samples.shape[0] * samples.shape[1] // LOOKED_PIXELS)].astype(np.uint32)
    colours = rows[..., 0] << 16 | rows[..., 1] << 8 | rows[..., 2]
    return len(np.unique(colours)) > LABEL_COLOURS


def _is_array_of_colours(start: bytes) -> bool:
    """Returns whether a member begins as a NumPy array of 8-bit pixels of three or four channels (NEP 1)."""
    found = ARRAY.match(start)
    sides = [] if found is None else [int(side) for side in found[1].split(b",") if side.strip()]
    return len(sides) == 3 and (sides[-1] in (3, 4) or sides[0] in (3, 4))


def content(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Yields the content of a member of an open tar; OSError where the tar ends before."""
    file.seek(member.start)
    left = member.size
    while left:
        block = file.read(min(BLOCK, left))
        if not block:
            raise OSError(None, "the tar file ends before its member does", member.name)
        yield block
        left -= len(block)
