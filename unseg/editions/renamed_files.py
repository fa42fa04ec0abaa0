"""Writes new names of images into a COCO json or a list, where an edition's images cannot keep theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from unseg.data.annotations.json_stream import JsonStream, open_json
from unseg.data.annotations.names import ImagesFolder, safe_name
from unseg.data.name_list import ListedFolder, has_suffix
from unseg.errors import UserError
from unseg.storage.files import BLOCK
from unseg.storage.image_limits import read_bytes
from unseg.storage.text_encoding import encoding_of

LARGEST_NAME = 4096  # characters
JSON = ".json"


@dataclass(frozen=True)
class Renaming:
    """The new names of the images of one folder.

    folder: finds an image by the name that a json has for it. names: name in the folder → new name. sha256: of the
    names.
    """

    folder: ImagesFolder | None
    names: Mapping[str, str]
    sha256: str | None

    @property
    def changes(self) -> bool:
        """Returns whether any image has a new name."""
        return bool(self.names)

    def of(self, file_name: object, where: str) -> str | None:
        """Returns the new file_name of a json's image; None where it stays."""
        if self.folder is None or not isinstance(file_name, str) or len(file_name) > LARGEST_NAME:
            return None
        try:
            name = safe_name(file_name, where)
        except UserError:  # nothing in the folder has such a name
            return None
        found = self.folder.find(name, where)
        output = None if found is None else self.names.get(found)
        if output is None:
            return None
        last = max(file_name.rfind("/"), file_name.rfind("\\"))  # the folder stays as it is written
        return file_name[: last + 1] + PurePosixPath(output).name

    def is_in_list(self, path: Path) -> bool:
        """Returns whether a list of names changes."""
        data = read_bytes(path)
        return self.rewritten_list(data, path) != data

    def rewritten_list(self, data: bytes, path: Path) -> bytes:
        """Returns a list of images with the new names of those that it names with their suffix. path: for errors."""
        if self.folder is None:
            return data
        folder = ListedFolder([name for name in self.folder.names if "/" not in name])
        encoding, start = encoding_of(data)
        lines = []
        for number, line in enumerate(data[start:].decode(encoding).splitlines(keepends=True), 1):
            named = folder.named_in(line, f"{path}: line {number}")
            output = None if named is None else self.names.get(named.image or "")
            if named is not None and output is not None and has_suffix(line[named.start : named.end]):
                line = line[: named.start] + PurePosixPath(output).name + line[named.end :]
            lines.append(line)
        return data[:start] + "".join(lines).encode(encoding)


class Renamings:
    """Makes a `Renaming` for each folder of images when it is first asked for.

    root: of the data set. outputs: an image's name → the name of its protected version.
    """

    NONE = Renaming(None, {}, None)

    def __init__(self, root: Path, outputs: Mapping[str, str]) -> None:
        self.root, self.outputs = root, outputs
        self._known: dict[str, Renaming] = {}

    def of(self, name: str, images: str | None) -> Renaming:
        """Returns what changes in the json or list `name`, whose images lie in `images`, both relative to the root."""
        if images is None or not self.outputs:
            return self.NONE
        if images not in self._known:
            self._known[images] = self._renaming(images)
        renaming = self._known[images]
        path = self.root / name
        is_named = _has_images if path.suffix.lower() == JSON else renaming.is_in_list
        return renaming if renaming.changes and is_named(path) else self.NONE

    def _renaming(self, images: str) -> Renaming:
        prefix = f"{images}/"
        names = {
            name[len(prefix) :]: output for name, output in sorted(self.outputs.items()) if name.startswith(prefix)
        }
        if not names:
            return self.NONE
        return Renaming(ImagesFolder.open(self.root / images), names, _sha256_of_names(names))


def _has_images(path: Path) -> bool:
    """Returns whether a json has COCO's list of images."""
    with open_json(path) as stream:
        for key in stream.members():
            if key == "images":
                return True
            stream.skip()
    return False


def rewritten_blocks(stream: JsonStream, original: BinaryIO, renaming: Renaming) -> Iterator[bytes]:
    """Yields a COCO json with new file_names: changed entries of `images` are written anew, other bytes as they are.

    stream, original: the same file, opened twice. It is read as a stream, so that memory does not grow with it.
    """
    done = 0
    for key in stream.members():
        if key != "images":
            stream.skip()
            continue
        for place, (image, begin, end) in enumerate(stream.elements()):
            if not isinstance(image, dict):
                continue
            name = renaming.of(image.get("file_name"), f"{stream.path}: images[{place}]")
            if name is not None:
                yield from _part(original, done, begin)
                yield json.dumps({**image, "file_name": name}).encode(stream.encoding)
                done = end
        break  # what follows is not looked at: nothing of it changes
    yield from _part(original, done, None)


def _part(file: BinaryIO, begin: int, end: int | None) -> Iterator[bytes]:
    file.seek(begin)
    while end is None or begin < end:
        block = file.read(BLOCK if end is None else min(BLOCK, end - begin))
        if not block:
            return
        begin += len(block)
        yield block


def _sha256_of_names(names: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(names.items())).encode()).hexdigest()
