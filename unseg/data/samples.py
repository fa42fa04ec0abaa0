"""From folders and files to samples: each image with its mask, and everything that did not fit, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from unseg.errors import UserError
from unseg.storage.files import walk_folders
from unseg.storage.image_limits import IMAGE_SUFFIXES


@dataclass(frozen=True, order=True)
class SampleFile:
    """Names one image on disk.

    name: path relative to `root`, with forward slashes: the image's identity in manifests and seeds. image: the file.
    root: the folder that it was found under. mask: the paired mask's file or None. mask_name: relative to its folder.
    """

    name: str
    image: Path
    root: Path
    mask: Path | None = None
    mask_name: str | None = None


@dataclass(frozen=True, order=True)
class Problem:
    """Says what cannot become a sample, by its name relative to the input, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class SampleList:
    """Holds what `find_samples` found.

    samples: sorted by name. problems: unreadable folders. unused_masks: masks without an image. other_files: no images.
    """

    samples: list[SampleFile]
    problems: list[Problem] = field(default_factory=list)
    unused_masks: list[str] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)


def find_samples(inputs: Sequence[str | Path], masks: str | Path | None = None) -> SampleList:
    """Returns every image under `inputs` (folders, recursive, or single files), paired with its mask by relative stem.

    The result does not depend on the order of `inputs`; a file named twice counts once. A masks folder inside an input
    folder is not taken for images. Where masks lie beside the images (the same folder), .png files are the masks.
    Raises UserError where an input or the masks' folder is missing, or where there is no image at all.
    """
    masks = None if masks is None else Path(masks)
    if masks is not None and not masks.is_dir():
        raise UserError(f"--masks {masks}: no such folder")
    found: dict[str, SampleFile] = {}
    problems: list[Problem] = []
    other_files: list[str] = []
    for given in sorted({Path(path) for path in inputs}):
        for sample in _samples_of(given, masks, problems, other_files):
            found.setdefault(os.path.realpath(sample.image), sample)
    if not found and not problems:
        raise UserError(f"{', '.join(map(str, inputs))}: no image found ({', '.join(IMAGE_SUFFIXES)})")
    samples = sorted(found.values())
    if masks is None:
        return SampleList(samples, sorted(set(problems)), [], sorted(other_files))
    samples, unused = _pair(samples, masks, problems)
    return SampleList(samples, sorted(set(problems)), unused, sorted(other_files))


def stem_of(name: str) -> str:
    """Returns a relative name without its last suffix, by which images and masks are paired."""
    return str(PurePosixPath(name).with_suffix(""))


def _samples_of(
    given: Path, masks: Path | None, problems: list[Problem], other_files: list[str]
) -> Iterable[SampleFile]:
    if given.is_file():
        yield SampleFile(given.name, given, given.parent)
        return
    if not given.is_dir():
        raise UserError(f"{given}: no such file or folder")
    masks_here = masks is not None and os.path.realpath(masks) == os.path.realpath(given)
    skipped = None if masks is None or masks_here else os.path.realpath(masks)
    for path in walk(given, problems, skipped):
        name = path.relative_to(given).as_posix()
        suffix = path.suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            other_files.append(name)
        elif not (masks_here and suffix == ".png"):
            yield SampleFile(name, path, given)


def walk(folder: Path, problems: list[Problem], skipped: str | None = None) -> list[Path]:
    """Returns the files under `folder`, sorted and without hidden ones. Linked folders are followed, each once."""

    def unreadable(error: OSError) -> None:
        name = os.path.relpath(error.filename, folder)
        problems.append(Problem(name, f"folder cannot be read: {error.strerror}"))

    return sorted(Path(parent) / name for parent, names in _visible(folder, unreadable, skipped) for name in names)


def count_files(folder: Path, at_most: int) -> int:
    """Returns how many files and folders `walk` meets under `folder`; over `at_most` it looks no further."""
    found = 0
    for _, names in _visible(folder, lambda error: None, None):
        found += 1 + len(names)
        if found > at_most:
            break
    return found


def _visible(
    folder: Path, unreadable: Callable[[OSError], None], skipped: str | None
) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder, however it is reached, once, with the names of the files in it; nothing that is hidden."""
    for parent, folders, names in walk_folders(folder, unreadable, follow_links=True, skipped=skipped):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, [name for name in names if not name.startswith(".")]


def _pair(samples: list[SampleFile], masks: Path, problems: list[Problem]) -> tuple[list[SampleFile], list[str]]:
    by_stem: dict[str, list[Path]] = {}
    mask_problems: list[Problem] = []
    images = {os.path.realpath(sample.image) for sample in samples}
    for path in walk(masks, mask_problems):
        if path.suffix.lower() in IMAGE_SUFFIXES and os.path.realpath(path) not in images:
            by_stem.setdefault(stem_of(path.relative_to(masks).as_posix()), []).append(path)
    problems += [Problem(f"masks: {problem.name}", problem.reason) for problem in mask_problems]
    paired, used = [], set()
    for sample in samples:
        stem = stem_of(sample.name)
        candidates = by_stem.get(stem, [])
        used.add(stem)
        if candidates:
            # PNG first: beside a.png, a.jpg is a picture of the mask rather than the mask.
            mask = min(candidates, key=lambda path: (path.suffix.lower() != ".png", path))
            sample = SampleFile(sample.name, sample.image, sample.root, mask, mask.relative_to(masks).as_posix())
        paired.append(sample)
    unused = [path for stem, paths in by_stem.items() if stem not in used for path in paths]
    return paired, sorted(path.relative_to(masks).as_posix() for path in unused)
