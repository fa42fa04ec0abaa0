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
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from unseg.errors import UserError
from unseg.storage.containers import Container
from unseg.storage.files import BLOCK, open_for_reading, sha256_of_blocks, stays_inside, writing
from unseg.storage.picture_kinds import START, is_picture_name, kind_of

TAR = ".tar"
IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("png", "tif", "tiff")  # behind a further dot, beside an image: not pictures
LOOKED = 20  # members of a suffix whose first bytes are looked at before a run begins
STAYS = "that would stay as it is"
IS_PICTURE, HOLDS_PICTURE = "is a picture", "holds a picture as text"
# In JSON: what LabelMe writes unless it is told not to, and addresses that are the picture itself (RFC 2397).
LONGEST = 256  # bytes that the beginning of one takes, spaces included
PICTURE_TEXT = re.compile(rb'"imageData"\s*:\s*"[^"]|"data:image/[^",]{1,60};base64,')
MEMBERS = 1_000_000  # of a tar file, at most
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """A file in a tar. sample, suffix: its name before and behind the first dot. start: its first byte in the tar."""

    name: str
    sample: str
    suffix: str
    start: int
    size: int


def members(tar: Path) -> list[Member]:
    """Returns the files in a tar, in their order; UserError where it is none, or holds what no folder can.

    Folders among the members are left out: they hold nothing.
    """
    found: list[Member] = []
    try:
        with open_for_reading(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                match = _NAME.fullmatch(info.name)
                if not info.isreg() or info.issparse() or not stays_inside(info.name):
                    raise UserError(f"{tar}: the member {info.name[:80]!r} is no plain file in a folder")
                sample, suffix = (info.name, "") if match is None else (match[1], match[2])
                found.append(Member(info.name, sample, suffix.lower(), info.offset_data, info.size))
                archive.members = []  # type: ignore[attr-defined] # else it keeps all of them
                if len(found) > MEMBERS:
                    raise UserError(f"{tar}: over {MEMBERS:,} members; split it")
    except tarfile.TarError as error:
        raise UserError(f"{tar}: is no plain tar file, or it is damaged ({str(error)[:80]})") from error
    except OSError as error:
        raise UserError(f"{tar}: cannot be read: {error.strerror or error}") from error
    names = {member.name for member in found}
    if len(names) < len(found):
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
    """A tar of samples. suffix: of the members that hold masks. members: name → member, in their order."""

    path: Path
    place: str
    suffix: str
    members: dict[str, Member]

    @classmethod
    def open(cls, path: Path, place: str, suffix: str) -> TarContainer:
        """Reads the names in a tar; UserError where it is none, or holds a picture that would stay as it is."""
        found = members(path)
        _refuse_strays(path, found, suffix)
        return cls(path, place, suffix, {member.name: member for member in found})

    def images(self) -> Iterator[tuple[str, str | None]]:
        masks = {member.sample: member.name for member in self.members.values() if member.suffix == self.suffix}
        several: set[str] = set()
        for member in self.members.values():
            if self._is_image(member):
                if member.sample in several:
                    raise UserError(
                        f"{self.path}: a sample holds two images ({', '.join(IMAGES)}); which one is meant is not known"
                    )
                several.add(member.sample)
                yield member.name, masks.get(member.sample)

    def _is_image(self, member: Member) -> bool:
        return member.suffix in IMAGES and member.suffix != self.suffix

    def holds(self, name: str) -> bool:
        return name in self.members

    def size(self, name: str) -> int:
        return max(1, self.members[name].size)

    def blocks(self, name: str) -> Iterator[bytes]:
        member = self.members[name]
        with open_for_reading(self.path) as file:
            yield from content(file, member)

    @cached_property
    def _strays(self) -> dict[str, tuple[str, str]]:
        """Returns sample → a member of it that would stay as it is, and what it is: a picture, or what holds one."""
        return {one.sample: (one.name, what) for one, what in _strays(self.path, self.members.values(), self.suffix)}

    def left_out(self, written: Collection[str]) -> dict[str, str]:
        images = {one.sample: one.name for one in self.members.values() if self._is_image(one)}
        found: dict[str, str] = {}
        for sample, (stray, what) in self._strays.items():
            image = images.get(sample)
            if image is None:
                found[stray] = f"{what} {STAYS}; its sample is left out"
            elif image in written:
                found[image] = f"its sample is left out, since {stray} in it {what} {STAYS}"
        return found

    def _stay(self, written: Collection[str]) -> list[Member]:
        """Returns the members of samples whose image has its noise, or that have no image, without stray pictures."""
        gone = {one.sample for one in self.members.values() if one.suffix in IMAGES and one.name not in written}
        gone = (gone - {self.members[name].sample for name in written}) | self._strays.keys()
        return [one for one in self.members.values() if one.sample not in gone]

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
        return TarContainer(path, self.place, self.suffix, {member.name: member for member in members(path)})

    def of(self, names: Collection[str]) -> TarContainer:
        return replace(self, members={name: self.members[name] for name in names})

    def faults(self, path: Path, written: Collection[str]) -> Iterator[tuple[str, str]]:
        new, expected = members(path), self._stay(written)
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


def _strays(tar: Path, found: Iterable[Member], masks: str, most: int = MEMBERS) -> Iterator[tuple[Member, str]]:
    """Yields what would stay as it is, and pass for protected: pictures, by their names or first bytes, and JSON that
    holds one.

    A label map beside a sample's image, such as 000012.depth.png, is none. masks: the suffix of members with masks.
    most: members of a suffix whose contents are looked at.
    """
    found = list(found)
    pictured = {member.sample for member in found if member.suffix in IMAGES and member.suffix != masks}
    labels = set() if holds_outlines(masks) else {masks}
    looked = Counter[str]()
    with open_for_reading(tar) as file:
        for member in found:
            if member.suffix in labels or member.suffix in IMAGES or _is_label_map(member, pictured):
                continue
            if is_picture_name(f"name.{member.suffix}"):
                yield member, IS_PICTURE
            elif member.size and looked[member.suffix] < most:
                looked[member.suffix] += 1
                file.seek(member.start)
                if kind_of(file.read(min(START, member.size))) is not None:
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


def _is_label_map(member: Member, pictured: Collection[str]) -> bool:
    name, _, last = member.suffix.rpartition(".")
    return bool(name) and last in LABELS and member.sample in pictured


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
