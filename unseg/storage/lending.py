"""Files of stores, tars and tables that are lent to another machine, with the values that name them.

The sender packs each part of a work with the names of the files that it reads. The receiver gives these files their
names while it works on the part; contents come when they are read, from where the sender has them, too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unseg.storage.containers import Container, ContainerFolder
from unseg.storage.mirror import Mirror, mirror_here, mirrored
from unseg.storage.mounts import in_words_of, mounted, mounts, telling
from unseg.storage.packing import packed, unpacked

FOLDERS = 2  # of tars or tables at most: the protected ones, and their originals
SCRATCH = "containers"  # beside a mirror's folder, so that it goes with it


@dataclass(frozen=True)
class _Lent:
    """What a folder of tars or tables lends. names: of images and masks, with the containers that hold them."""

    stands_for: Path
    names: list[tuple[Container, list[str]]]


@dataclass(frozen=True)
class Sender:
    """This machine, as it has its stores, tars and tables mounted now. mirror: None where there are no stores."""

    mirror: Mirror | None
    folders: tuple[ContainerFolder, ...]

    @staticmethod
    def here() -> Sender:
        """Returns what is mounted in this process."""
        found = tuple(mount for mount in mounts() if isinstance(mount, ContainerFolder) and mount.containers)
        return Sender(mirror_here(), found)

    def common(self, value: Any, paths: Iterable[Path]) -> bytes:
        """Returns a value that all parts need, as bytes. paths: of the files of stores that it reads, in any part."""
        names = [] if self.mirror is None else self.mirror.names(paths)
        return self._packed((names, self._packed(value)))

    def _packed(self, value: Any) -> bytes:
        stores = None if self.mirror is None else self.mirror.folder
        return packed(value, [stores, *(mount.folder for mount in self.folders)])

    def part(self, value: Any, paths: Iterable[Path]) -> bytes:
        """Returns what a part is told, as bytes. paths: of all files that it may read."""
        paths = list(paths)
        lent = [_Lent(mount.stands_for, mount.lent(paths)) for mount in self.folders]
        paths += [container.path for one in lent for container, _ in one.names]
        names = [] if self.mirror is None else self.mirror.names(paths)
        return self._packed((names, self._packed((lent, value))))


@dataclass(frozen=True)
class Receiver:
    """Another machine, which works on one part at a time. told: its folders → what they stand for in the part."""

    mirror: Mirror
    words: dict[str, str] = field(default_factory=dict)

    @property
    def _scratch(self) -> Path:
        return self.mirror.folder.with_name(SCRATCH)

    @contextmanager
    def common(self, content: bytes) -> Iterator[Any]:
        """Yields a value that all parts need; inside, the files that it reads have their names."""
        names, inner = self._unpacked(content)
        with self.mirror.lent(names):
            yield self._unpacked(inner)

    def _unpacked(self, content: bytes) -> Any:
        return unpacked(content, [self.mirror.folder, *(self._scratch / str(number) for number in range(FOLDERS))])

    @contextmanager
    def part(self, content: bytes) -> Iterator[Any]:
        """Yields what a part is told; inside, its files have their names. Errors name what the sender knows."""
        names, inner = self._unpacked(content)
        with self.mirror.lent(names), ExitStack() as within:
            within.callback(shutil.rmtree, self._scratch, ignore_errors=True)
            lent, value = self._unpacked(inner)  # tables are opened as they come
            self.words.clear()
            for number, one in enumerate(lent):
                mount = ContainerFolder(self._scratch / str(number), one.stands_for)
                mount.folder.mkdir(parents=True, exist_ok=True)
                for container, there in one.names:
                    mount.add(container, iter(there))
                self.words[os.fspath(mount.folder)] = os.fspath(one.stands_for)
                within.enter_context(mounted(mount))
            within.enter_context(telling(self.words))
            yield value

    def told(self, text: str) -> str:
        """Returns a text that names what the sender knows in place of this machine's folders."""
        return self.mirror.told(in_words_of(self.words, text))


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Makes this process one that parts are lent to."""
    with mirrored() as mirror:
        yield Receiver(mirror)
