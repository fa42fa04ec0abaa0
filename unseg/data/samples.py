"""From folders and files to samples: each image with its mask, and everything that did not fit, by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unseg.data.name_matching import paired_names
from unseg.errors import UserError
from unseg.storage.files import is_link, walk_folders
from unseg.storage.image_limits import IMAGE_SUFFIXES
from unseg.storage.picture_kinds import is_mask_name, is_picture, is_picture_name, without_suffix

MOST_LINKS = 100  # times that one folder is read because links lead to it


@dataclass(frozen=True, order=True, slots=True)
class SampleFile:
    """Names one image on disk.

    name: path relative to `root`, with forward slashes: the image's identity in manifests and seeds. file: its path;
    empty where that is the name under the root. root: the folder that it was found under. mask_file: the paired mask's
    path or None. mask_name: relative to its folder. within: the folders that links on its way may not lead out of,
    where there are such. data: the file's bytes, where there are these alone and no file.

    A run holds one for each of its images, so paths are kept as texts, which take a quarter of the memory.
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
        object.__setattr__(self, "file", "" if path == os.path.join(self.root, self.name) else path)
        if self.mask_file is not None:
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
    """Holds what `find_samples` found.

    samples: sorted by name. problems: unreadable folders. unused_masks: masks without an image. other_files: no images.
    into_output: links that lead into the folder where protected images are written.
    """

    samples: list[SampleFile]
    problems: list[Problem] = field(default_factory=list)
    unused_masks: list[str] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)
    into_output: list[str] = field(default_factory=list)


def find_samples(inputs: Sequence[str | Path], masks: str | Path | None = None, out: Path | None = None) -> SampleList:
    """Returns every image under `inputs` (folders, recursive, or single files), paired with its mask by relative stem.

    An image is every file that looks like a picture by its name or by its content. Each of several links to one file
    counts; a file that two inputs name counts once, and the result does not depend on their order. A masks folder
    inside an input folder is not taken for images, nor is what links lead to in `out`, the folder of the outputs. Where
    masks lie beside the images (the same folder), .png files are the masks. Raises UserError where an input or the
    masks' folder is missing, or where there is no image at all.
    """
    masks = None if masks is None else Path(masks)
    if masks is not None and not masks.is_dir():
        raise UserError(f"--masks {masks}: no such folder")
    problems: list[Problem] = []
    beside = SampleList([])
    several = sorted({Path(path) for path in inputs})
    found = [sample for given in several for sample in _samples_of(given, masks, out, problems, beside)]
    if len(several) > 1:
        found = _each_once(found)
    if not found and not problems:
        raise UserError(f"{', '.join(map(str, inputs))}: no image found ({', '.join(IMAGE_SUFFIXES)})")
    samples, unused = sorted(found), list[str]()
    if masks is not None:
        samples, unused = pair_with_masks(samples, masks, problems)
    others, into_output = sorted(beside.other_files), sorted(beside.into_output)
    return SampleList(samples, sorted(set(problems)), unused, others, into_output)


def _each_once(samples: Iterable[SampleFile]) -> list[SampleFile]:
    """Returns samples without those that were there before, under either of their paths: one input may lie in another,
    and be a link to it."""
    found: list[SampleFile] = []
    seen: set[str] = set()
    for sample in samples:
        paths = {os.path.join(where(sample.root), sample.name) for where in (os.path.abspath, os.path.realpath)}
        if not paths & seen:
            found.append(sample)
        seen |= paths
    return found


def stem_of(name: str) -> str:
    """Returns a relative name without its last suffix, by which images and masks are paired."""
    return without_suffix(name)


def stem_of_image(name: str) -> str:
    """Returns the stem of an image, whose name may have no suffix of a picture: 2024.01.05 is whole."""
    return stem_of(name) if is_picture_name(name) else name


def _samples_of(
    given: Path, masks: Path | None, out: Path | None, problems: list[Problem], found: SampleList
) -> Iterable[SampleFile]:
    """Yields the images of one input; what is none is added to `found`."""
    if given.is_file():
        yield SampleFile(given.name, given, given.parent)
        return
    if not given.is_dir():
        raise UserError(f"{given}: no such file or folder")
    masks_here = masks is not None and os.path.realpath(masks) == os.path.realpath(given)
    left_out = [os.path.realpath(folder) for folder in (None if masks_here else masks, out) if folder is not None]
    skipped = [folder for folder in left_out if not _lies_in(os.path.realpath(given), folder)]
    for path in walk_texts(given, problems, skipped):
        name = _name_in(given, path)
        leads_to = os.path.realpath(path) if skipped and is_link(path) else None
        if leads_to is not None and out is not None and _lies_in(leads_to, os.path.realpath(out)):
            found.into_output.append(name)
        elif leads_to is not None and os.path.isdir(path):
            continue  # to the masks
        elif not is_picture(path):
            found.other_files.append(name)
        elif not (masks_here and path.lower().endswith(".png")):
            yield SampleFile(name, path, given)


def _name_in(folder: Path, path: str) -> str:
    """Returns a path that `walk_texts` found, relative to its folder and with forward slashes."""
    text = os.fspath(folder)
    name = path if text == os.curdir else path[len(text) :].lstrip(os.sep)
    return name if os.sep == "/" else name.replace(os.sep, "/")


def _lies_in(real: str, folder: str) -> bool:
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
        if any(_lies_in(real, other) for other in self._skipped):
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
    """Returns what `walk_texts` does, as paths."""
    return [Path(path) for path in walk_texts(folder, problems, skipped)]


def walk_texts(folder: Path, problems: list[Problem], skipped: Sequence[str] = ()) -> list[str]:
    """Returns the files under `folder`, sorted and without hidden ones.

    Linked folders are followed, each as often as links lead to it, but not in circles, and not into those of `skipped`
    (real paths): such a link is among the files. problems: gets folders that cannot be read, or that over `MOST_LINKS`
    links lead to.
    """

    def unreadable(error: OSError) -> None:
        name = Path(os.path.relpath(error.filename, folder)).as_posix()
        problems.append(Problem(name, f"{UNREADABLE}: {error.strerror}"))

    ways = _Ways(folder, problems, skipped)
    files = [os.path.join(parent, name) for parent, _, names in _visible(folder, unreadable, ways) for name in names]
    files += map(str, ways.into_skipped)
    if folder == Path():
        files = [path.removeprefix(f"{os.curdir}{os.sep}") for path in files]
    files.sort(key=_by_parts)
    return files


def _by_parts(path: str) -> str:
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
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, folders, [name for name in names if not name.startswith(".")]


def pair_with_masks(
    samples: list[SampleFile], masks: Path, problems: list[Problem]
) -> tuple[list[SampleFile], list[str]]:
    """Returns images with their masks of a folder, paired by relative stem, in the order given, and the names of masks
    that are left. problems: gets folders that cannot be read."""
    by_stem: dict[str, str | list[str]] = {}  # most have one mask
    mask_problems: list[Problem] = []
    images = {os.path.realpath(sample.image) for sample in samples}
    for path in walk_texts(masks, mask_problems):
        if is_mask_name(path) and os.path.realpath(path) not in images:
            stem = stem_of(_name_in(masks, path))
            before = by_stem.setdefault(stem, path)
            if before is not path:
                by_stem[stem] = [*_listed(before), path]
    del images  # as large as all samples
    closed = next((problem for problem in mask_problems if problem.name == "."), None)
    if closed is not None:
        raise UserError(f"--masks {masks}: {closed.reason}; allow reading it")
    problems += [Problem(f"{OF_MASKS}{problem.name}", problem.reason) for problem in mask_problems]
    other_forms = _of_other_forms(samples, by_stem)
    used: set[str] = set()
    paired = []
    for sample in samples:
        stem = stem_of_image(sample.name)
        stem = other_forms.get(stem, stem)
        candidates = _listed(by_stem.get(stem, []))
        if candidates:
            used.add(stem)
            # PNG first: beside a.png, a.jpg is a picture of the mask rather than the mask.
            mask = min(candidates, key=lambda path: (not path.lower().endswith(".png"), _by_parts(path)))
            sample = SampleFile(sample.name, sample.file, sample.root, mask, _name_in(masks, mask))
        paired.append(sample)
    unused = [path for stem, paths in by_stem.items() if stem not in used for path in _listed(paths)]
    return paired, sorted(_name_in(masks, path) for path in unused)


def _of_other_forms(samples: list[SampleFile], there: Mapping[str, object]) -> dict[str, str]:
    """Returns stem of an image → that of its mask, where the two are written in unlike forms."""
    lacking = [stem for sample in samples if (stem := stem_of_image(sample.name)) not in there]
    if not lacking:
        return {}
    taken = {stem for sample in samples if (stem := stem_of_image(sample.name)) in there}
    return paired_names(lacking, there.keys() - taken)


def _listed(found: str | list[str]) -> list[str]:
    return [found] if isinstance(found, str) else found
