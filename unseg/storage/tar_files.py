"""Tar files of samples, as `webdataset` reads them, seen as folders: `x.tar/000.jpg` is the member 000.jpg of x.tar.

Source: the page "WebDataset Format" of the webdataset library. Members whose names differ only behind the first dot of
their last part are one sample. Only plain tar files are read, and of these only members that a folder can hold.
"""

from __future__ import annotations

import os
import re
import secrets
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from unseg.errors import UserError
from unseg.storage.files import (
    BLOCK,
    TEMPORARY_PREFIX,
    TEMPORARY_SUFFIX,
    make_folders,
    open_for_reading,
    stays_inside,
    writing,
)
from unseg.storage.mirror import ABSENT, ROOM, Kept, leave_absent

TAR = ".tar"
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
class TarFolder:
    """A mount: a folder of scratch files that stands for another one, in which tar files are folders.

    members: path in `folder` → the tar that holds its content, and where.
    """

    folder: Path
    stands_for: Path
    members: dict[str, tuple[Path, Member]] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)

    def add(self, tar: Path, chosen: Iterable[Member]) -> None:
        """Gives members of a tar their names in the folder; contents come when they are read."""
        made: set[Path] = set()
        for member in chosen:
            path = self.folder / tar.relative_to(self.stands_for) / member.name
            if path.parent not in made:
                make_folders(path.parent)
                made.add(path.parent)
            leave_absent(path, member.size, 0)
            self.members[os.fspath(path)] = tar, member

    def url(self, path: str | Path) -> str | None:
        """Returns the place that a path of the folder stands for."""
        whole = Path(os.path.normpath(os.path.abspath(path)))
        return (
            os.fspath(self.stands_for / whole.relative_to(self.folder)) if whole.is_relative_to(self.folder) else None
        )

    def bring(self, path: str | Path) -> None:
        """Brings the content of a member that is about to be read."""
        whole = os.path.normpath(os.fspath(path))
        if whole not in self.members or os.stat(whole).st_mode & 0o777 != ABSENT:
            return
        tar, member = self.members[whole]
        temporary = Path(whole).parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        with open_for_reading(tar) as file, open(temporary, "xb") as copy:
            _copy(file, member, copy.write)
        os.replace(temporary, whole)
        self.kept.add(Path(whole), ROOM, _give_up)


def _give_up(path: Path) -> None:
    leave_absent(path, os.stat(path).st_size, 0)


def _copy(file: BinaryIO, member: Member, write: Callable[[bytes], object]) -> None:
    file.seek(member.start)
    left = member.size
    while left:
        block = file.read(min(BLOCK, left))
        if not block:
            raise OSError(None, "the tar file ends before its member does", member.name)
        write(block)
        left -= len(block)


def content(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Yields the content of a member of an open tar."""
    blocks: list[bytes] = []
    _copy(file, member, blocks.append)
    yield from blocks


def rewrite(source: Path, target: Path, kept: set[str], replaced: dict[str, Path], within: Path) -> None:
    """Writes a tar with the chosen members of another one, in their order, under their names and dates.

    kept: names of members. replaced: name → the file whose content takes the place of the member's. within: the folder
    that must be there. The target appears whole or not at all.
    """
    with (
        open_for_reading(source) as file,
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
