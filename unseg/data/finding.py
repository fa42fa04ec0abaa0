"""From folders and files to samples: each image with its mask, and everything that did not fit, by name."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from unseg.data.name_matching import paired_names, unicode_form
from unseg.data.samples import (
    OF_MASKS,
    Problem,
    SampleFile,
    SampleList,
    by_parts,
    kept_samples,
    kept_texts,
    lies_in,
    name_in,
    spooled_samples,
    spooled_texts,
    stem_of,
    stem_of_image,
    walk_texts,
)
from unseg.errors import UserError
from unseg.storage.files import is_link
from unseg.storage.image_limits import IMAGE_SUFFIXES
from unseg.storage.picture_kinds import is_mask_name, is_picture
from unseg.storage.sequences import Places, Spooled


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
    others, into_output = spooled_texts(), list[str]()
    several = sorted({Path(path) for path in inputs})
    found: Iterable[SampleFile] = (
        sample
        for given in several
        for sample in _samples_of(given, masks, out, problems, others=others, into_output=into_output)
    )
    samples = kept_samples(found if len(several) == 1 else _each_once(spooled_samples(found)))
    if not samples and not problems and masks is not None and any(_is_same(masks, given) for given in several):
        raise UserError(
            f"--masks {masks}: is the folder of the images, where every .png is a mask, and nothing else is there; give"
            " the masks a folder of their own"
        )
    if not samples and not problems:
        raise UserError(f"{', '.join(map(str, inputs))}: no image found ({', '.join(IMAGE_SUFFIXES)})")
    unused: Sequence[str] = ()
    if masks is not None:
        samples, unused = pair_with_masks(samples, masks, problems)
    return SampleList(samples, sorted(set(problems)), unused, kept_texts(others), sorted(into_output))


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _each_once(samples: Sequence[SampleFile]) -> Iterator[SampleFile]:
    """Yields samples without those that were there before, under either of their paths: one input may lie in another,
    and be a link to it."""
    places = Places(path for sample in samples for path in _paths_of(sample))
    for number, sample in enumerate(samples):
        earlier = (
            path in _paths_of(samples[place // 2])
            for path in _paths_of(sample)
            for place in places.of(path)
            if place // 2 < number
        )
        if not any(earlier):
            yield sample


def _paths_of(sample: SampleFile) -> tuple[str, str]:
    return os.path.join(_absolute(sample.root), sample.name), os.path.join(_real(sample.root), sample.name)


_absolute, _real = lru_cache(os.path.abspath), lru_cache(os.path.realpath)


def _samples_of(
    given: Path,
    masks: Path | None,
    out: Path | None,
    problems: list[Problem],
    *,
    others: Spooled[str],
    into_output: list[str],
) -> Iterator[SampleFile]:
    """Yields the images of one input; names of what is none are added to `others` and `into_output`."""
    if given.is_file():
        yield SampleFile(given.name, given, given.parent)
        return
    if not given.is_dir():
        raise UserError(f"{given}: no such file or folder")
    masks_here = masks is not None and os.path.realpath(masks) == os.path.realpath(given)
    left_out = [os.path.realpath(folder) for folder in (None if masks_here else masks, out) if folder is not None]
    skipped = [folder for folder in left_out if not lies_in(os.path.realpath(given), folder)]
    for path in walk_texts(given, problems, skipped):
        name = name_in(given, path)
        leads_to = os.path.realpath(path) if skipped and is_link(path) else None
        if leads_to is not None and out is not None and lies_in(leads_to, os.path.realpath(out)):
            into_output.append(name)
        elif leads_to is not None and os.path.isdir(path):
            continue  # to the masks
        elif not is_picture(path):
            others.add(name)
        elif not (masks_here and path.lower().endswith(".png")):
            yield SampleFile(name, path, given)


def pair_with_masks(
    samples: Sequence[SampleFile], masks: Path, problems: list[Problem]
) -> tuple[Sequence[SampleFile], Sequence[str]]:
    """Returns images with their masks of a folder, paired by relative stem, in the order given, and the names of masks
    that are left. problems: gets folders that cannot be read."""
    mask_problems: list[Problem] = []
    files = spooled_texts(_masks_in(masks, samples, mask_problems))
    closed = next((problem for problem in mask_problems if problem.name == "."), None)
    if closed is not None:
        raise UserError(f"--masks {masks}: {closed.reason}; allow reading it")
    problems += [Problem(f"{OF_MASKS}{problem.name}", problem.reason) for problem in mask_problems]
    pairs = _Pairs(samples, masks, files)
    return spooled_samples(pairs.with_masks()), kept_texts(
        pairs.name(place) for place in range(len(files)) if not pairs.used[place]
    )


def _masks_in(masks: Path, samples: Sequence[SampleFile], problems: list[Problem]) -> Iterator[str]:
    """Yields the masks of a folder; what is one of the images is none."""
    images = Places(os.path.realpath(sample.image) for sample in samples)
    for path in walk_texts(masks, problems):
        real = os.path.realpath(path)
        is_image = any(os.path.realpath(samples[place].image) == real for place in images.of(real))
        if is_mask_name(path) and not is_image:
            yield path


class _Pairs:
    """Images and masks of one stem. files: the masks. used: of each, whether it has an image."""

    def __init__(self, samples: Sequence[SampleFile], masks: Path, files: Sequence[str]) -> None:
        self._samples, self._masks, self._files = samples, masks, files
        self._places = Places(map(self._stem, range(len(files))))
        self.used = bytearray(len(files))
        self._mask_of = array("q", (self._found(stem_of_image(sample.name)) for sample in samples))
        forms = self._other_forms()
        for number in self._lacking() if forms else ():
            there = forms.get(stem_of_image(samples[number].name))
            if there is not None:
                self._mask_of[number] = self._found(there)

    def name(self, place: int) -> str:
        """Returns the name of a mask in its folder."""
        return name_in(self._masks, self._files[place])

    def with_masks(self) -> Iterator[SampleFile]:
        """Yields the images with their masks."""
        for sample, place in zip(self._samples, self._mask_of, strict=True):
            if place < 0:
                yield sample
            else:
                yield SampleFile(sample.name, sample.file, sample.root, self._files[place], self.name(place))

    def _stem(self, place: int) -> str:
        return stem_of(self.name(place))

    def _found(self, stem: str) -> int:
        """Returns the place of the mask of a stem, -1 where there is none; all masks of the stem are used then."""
        places = [place for place in self._places.of(stem) if self._stem(place) == stem]
        for place in places:
            self.used[place] = True
        # PNG first: beside a.png, a.jpg is a picture of the mask rather than the mask.
        return min(places, key=lambda place: _rank(self._files[place]), default=-1)

    def _lacking(self) -> Iterator[int]:
        return (number for number, place in enumerate(self._mask_of) if place < 0)

    def _other_forms(self) -> dict[str, str]:
        """Returns stem of an image → that of its mask, where the two are written in unlike forms."""

        def wanted() -> Iterator[str]:
            return (stem_of_image(self._samples[number].name) for number in self._lacking())

        def there() -> Iterator[str]:
            return (self._stem(place) for place in range(len(self._files)) if not self.used[place])

        forms = {unicode_form(stem) for stems in (wanted, there) for stem in stems() if not stem.isascii()}
        if not forms:
            return {}
        return paired_names(
            (stem for stem in wanted() if unicode_form(stem) in forms),
            (stem for stem in there() if unicode_form(stem) in forms),
        )


def _rank(path: str) -> tuple[bool, str]:
    return not path.lower().endswith(".png"), by_parts(path)
