"""What a sample is, lists of them, and how folders are walked for their files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from unseg.storage.files import is_link, walk_folders
from unseg.storage.picture_kinds import is_picture_name, without_suffix
from unseg.storage.sequences import Made, Spooled, order_of

MOST_LINKS = 100  # times that one folder is read because links lead to it


@dataclass(frozen=True, order=True, slots=True)
class SampleFile:
    """Names one image on disk.

    name: path relative to `root`, with forward slashes: the image's identity in manifests and seeds. file: its path;
    empty where that is the name under the root. root: the folder that it was found under. mask_file: the paired mask's
    path or None. mask_name: relative to its folder. within: the folders that links on its way may not lead out of,
    where there are such. data: the file's bytes, where there are these alone and no file.

    Paths are kept as texts, which take a quarter of the memory. Of long lists, see `kept_samples`.
    """

    name: str
    file: str | Path
    root: Path
    mask_file: str | Path | None = None
    mask_name: str | None = None
    within: tuple[Path, ...] = ()
    data: bytes | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        path = os.fspath(self.file)
        if path:
            object.__setattr__(self, "file", "" if path == os.path.join(self.root, self.name) else path)
        if isinstance(self.mask_file, Path):
            object.__setattr__(self, "mask_file", os.fspath(self.mask_file))

    @property
    def image(self) -> Path:
        """Returns the file."""
        return Path(self.file) if self.file else self.root / self.name

    @property
    def mask(self) -> Path | None:
        """Returns the paired mask's file or None."""
        return None if self.mask_file is None else Path(self.mask_file)


@dataclass(frozen=True, order=True)
class Problem:
    """Says what cannot become a sample, by its name relative to the input, and why."""

    name: str
    reason: str


UNREADABLE = "folder cannot be read"  # how the reason of a problem begins that may hide any number of files
OF_MASKS = "masks: "  # how the name of a problem begins that lies in the folder of masks


@dataclass(frozen=True)
class SampleList:
    """Holds what `unseg.data.finding.find_samples` found.

    samples: sorted by name. problems: unreadable folders. unused_masks: masks without an image. other_files: no images.
    into_output: links that lead into the folder where protected images are written.
    """

    samples: Sequence[SampleFile]
    problems: list[Problem] = field(default_factory=list)
    unused_masks: Sequence[str] = ()
    other_files: Sequence[str] = ()
    into_output: Sequence[str] = ()


def kept_samples(samples: Iterable[SampleFile]) -> Sequence[SampleFile]:
    """Returns samples, sorted, as a sequence that takes little memory however long it is."""
    kept = spooled_samples(samples)
    return Made(order_of(kept, _place), kept.at)


def kept_texts(texts: Iterable[str], once: bool = False) -> Sequence[str]:
    """Returns texts, sorted, as a sequence that takes little memory however long it is. once: none of them twice."""
    kept = spooled_texts(texts)
    return Made(order_of(kept, str, last_only=once), kept.at)


def spooled_texts(texts: Iterable[str] = ()) -> Spooled[str]:
    """Returns texts, in the order given, as a sequence that takes little memory."""
    return Spooled(texts, str, str, str)


def spooled_samples(samples: Iterable[SampleFile]) -> Spooled[SampleFile]:
    """Returns samples, in the order given, as a sequence that takes little memory."""
    return Spooled(samples, _taken_apart, _put_together, _place)


def _place(sample: SampleFile) -> tuple[Any, ...]:
    return sample.name, sample.file, sample.root


def _taken_apart(sample: SampleFile) -> tuple[Any, ...]:
    assert sample.data is None, "an image without a file is the only one of its list"
    mask = None if sample.mask_file is None else os.fspath(sample.mask_file)
    within = tuple(map(os.fspath, sample.within))
    return sample.name, os.fspath(sample.file), os.fspath(sample.root), mask, sample.mask_name, within


def _put_together(values: Sequence[Any]) -> SampleFile:
    name, file, root, mask_file, mask_name, within = values
    return SampleFile(name, file, _folder(root), mask_file, mask_name, tuple(map(_folder, within)))


_folder = lru_cache(Path)  # one object for all samples of a root


def stem_of(name: str) -> str:
    """Returns a relative name without its last suffix, by which images and masks are paired."""
    return without_suffix(name)


def stem_of_image(name: str) -> str:
    """Returns the stem of an image, whose name may have no suffix of a picture: 2024.01.05 is whole."""
    return stem_of(name) if is_picture_name(name) else name


def name_in(folder: Path, path: str) -> str:
    """Returns a path that `walk_texts` found, relative to its folder and with forward slashes."""
    text = os.fspath(folder)
    name = path if text == os.curdir else path[len(text) :].lstrip(os.sep)
    return name if os.sep == "/" else name.replace(os.sep, "/")


def lies_in(real: str, folder: str) -> bool:
    """Returns whether a path is a folder or lies in it; both are real paths."""
    return real == folder or real.startswith(folder.rstrip(os.sep) + os.sep)


class _Ways:
    """Which folders a walk enters: each once for every way of links to it, in no circle, and not without end.

    into_skipped: links that lead into a folder that is left out. problems: gets a folder for each link from the
    `MOST_LINKS`th on, since links upon links could lead on for ever.
    """

    def __init__(self, folder: Path, problems: list[Problem], skipped: Sequence[str]) -> None:
        self.into_skipped: list[Path] = []
        self._folder, self._problems, self._skipped = folder, problems, skipped
        self._above: dict[str, tuple[str, ...]] = {}  # a folder's path → its real path, behind those it lies in
        self._visits: Counter[str] = Counter()

    def enters(self, path: str) -> bool:
        """Returns whether to look into a folder that lies in one that was entered, or is the first."""
        before = self._above.get(os.path.dirname(path), ())
        linked = bool(before) and is_link(path)
        # Step by step: to follow all parts of every path would take as many looks at the disk as folders are nested.
        real = os.path.join(before[-1], os.path.basename(path)) if before and not linked else os.path.realpath(path)
        if any(lies_in(real, other) for other in self._skipped):
            self.into_skipped += [Path(path)] if linked else []
            return False
        if linked and real in before:
            return False
        self._visits[real] += 1
        if self._visits[real] > MOST_LINKS:
            name = Path(os.path.relpath(path, self._folder)).as_posix()
            self._problems.append(Problem(name, f"over {MOST_LINKS} links lead to this folder: name it as an input"))
            return False
        self._above[path] = (*before, real)
        return True


def walk(folder: Path, problems: list[Problem], skipped: Sequence[str] = ()) -> list[Path]:
    """Returns what `walk_texts` yields, as paths, sorted as these are."""
    return [Path(path) for path in sorted(walk_texts(folder, problems, skipped), key=by_parts)]


def walk_texts(folder: Path, problems: list[Problem], skipped: Sequence[str] = ()) -> Iterator[str]:
    """Yields the files under `folder` in the order of their names, without hidden ones. It holds a folder at a time.

    Linked folders are followed, each as often as links lead to it, but not in circles, and not into those of `skipped`
    (real paths): such links are among the files, the last ones. problems: gets folders that cannot be read, or that
    over `MOST_LINKS` links lead to.
    """

    def unreadable(error: OSError) -> None:
        name = Path(os.path.relpath(error.filename, folder)).as_posix()
        problems.append(Problem(name, f"{UNREADABLE}: {error.strerror}"))

    ways = _Ways(folder, problems, skipped)
    for path in chain(_in_order(_visible(folder, unreadable, ways)), map(str, ways.into_skipped)):
        yield path.removeprefix(f"{os.curdir}{os.sep}") if folder == Path() else path


def _in_order(visible: Iterator[tuple[str, list[str], list[str]]]) -> Iterator[str]:
    """Yields the paths of files in the order of their names: those of a folder come between the folders in it."""
    left: list[
        tuple[str, list[str]]
    ] = []  # folders that lead to where we are, with their files to come, the first last
    for parent, _, names in visible:
        here = os.path.join(parent, "")
        while left and not here.startswith(left[-1][0]):
            yield from _rest_of(*left.pop())
        if left:
            above, files = left[-1]
            yield from _rest_of(above, files, before=here[len(above) :].partition(os.sep)[0] + "/")
        left.append((here, sorted(names, reverse=True)))
    while left:
        yield from _rest_of(*left.pop())


def _rest_of(folder: str, files: list[str], before: str | None = None) -> Iterator[str]:
    while files and (before is None or files[-1] < before):
        yield folder + files.pop()


def by_parts(path: str) -> str:
    """Returns what sorts paths as `Path` does: by their parts, one after the other."""
    return (path.lower() if os.name == "nt" else path).replace(os.sep, "\0")


def count_files(folder: Path, at_most: int) -> int:
    """Returns how many files and folders `walk` meets under `folder`, itself included; over `at_most` it stops."""
    found = 1
    for _, folders, names in _visible(folder, lambda error: None, _Ways(folder, [], ())):
        found += len(folders) + len(names)
        if found > at_most:
            break
    return found


def _visible(
    folder: Path, unreadable: Callable[[OSError], None], ways: _Ways
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields each folder that is entered, with the names of the folders and files in it; nothing that is hidden."""
    for parent, folders, names in walk_folders(folder, unreadable, follow_links=True, enters=ways.enters):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=lambda name: f"{name}/")
        yield parent, folders, [name for name in names if not name.startswith(".")]
