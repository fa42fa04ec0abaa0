"""What training reads: samples opened lazily from a catalogued or a plain folder, every fault told beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from torch.utils.data import get_worker_info

from unseg.compute.progress import SILENT, Progress
from unseg.data.catalog import (
    HQSEG,
    HQSEG_TRAIN,
    HQSEG_VALIDATION,
    NAMES_SHOWN,
    Pair,
    PairedSet,
    Pairing,
    describe,
    hqseg_root,
    pair_plain,
    pair_set,
)
from unseg.data.samples import Problem
from unseg.errors import UserError
from unseg.storage.files import write_durably
from unseg.storage.image_decoding import open_label, read_image
from unseg.storage.image_limits import ImageError

CACHED_IMAGES = 2_000  # a larger set would hardly be met again before it is dropped
CACHE_BYTES = 2 << 30  # shared by the worker processes: 2,000 photographs of BSDS500 with three annotations take 1.5 GB


@dataclass(frozen=True)
class TrainingImage:
    """Holds a photograph and its annotations, read."""

    name: str
    pixels: np.ndarray
    """H×W×3 uint8."""
    labels: tuple[np.ndarray, ...]
    """Each H×W integers: 0 to 255 (a mask) or segment ids."""
    grey: bool = False
    """The labels are masks, whatever values they hold; else a label whose largest value is 255 is one."""


def read_training_image(pair: Pair) -> TrainingImage:
    """Returns a pair, read; ImageError names a file that is broken, has not its image's size, or is no grey mask."""
    pixels = read_image(pair.image).pixels
    labels = []
    for path in pair.masks:
        label = _grey_label(path) if pair.grey else open_label(path).values
        if label.shape != pixels.shape[:2]:
            raise ImageError(
                path,
                f"{label.shape[1]}×{label.shape[0]} pixels, but {pair.image} has {pixels.shape[1]}×"
                f"{pixels.shape[0]}; a mask must have the size of its image",
            )
        labels.append(label)
    return TrainingImage(pair.name, pixels, tuple(labels), pair.grey)


def _grey_label(path: str) -> np.ndarray:
    label = open_label(path)
    values = label.values
    if label.palette:  # the colours are the grey levels, not the indices
        colours = read_image(path).pixels
        values = colours[..., 0]
        if (colours != values[..., None]).any():
            raise ImageError(path, "a colour palette, where a mask of grey levels 0 to 255 belongs; convert it")
    highest = int(values.max(initial=0))
    if highest > 255:
        raise ImageError(path, f"values up to {highest}, where a mask of grey levels 0 to 255 belongs; convert it")
    return values.astype(np.uint8) * np.uint8(255 if highest == 1 else 1)  # some tools write 0 and 1


class TrainingSet(Sequence[TrainingImage]):
    """Reads samples when they are asked for, and keeps them in memory where the set is small."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = tuple(pairs)
        self._cache: dict[int, TrainingImage] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> TrainingImage: ...

    @overload
    def __getitem__(self, index: slice) -> TrainingSet: ...

    def __getitem__(self, index: int | slice) -> TrainingImage | TrainingSet:
        if isinstance(index, slice):
            return TrainingSet(self.pairs[index])
        index = range(len(self))[index]
        if index in self._cache:
            return self._cache[index]
        sample = read_training_image(self.pairs[index])
        size = sample.pixels.nbytes + sum(label.nbytes for label in sample.labels)
        worker = get_worker_info()
        room = CACHE_BYTES // (worker.num_workers if worker else 1)
        if len(self) <= CACHED_IMAGES and self._cached_bytes + size <= room:
            self._cache[index] = sample
            self._cached_bytes += size
        return sample

    def __getstate__(self) -> dict[str, object]:
        """Returns the paths without the images, for worker processes."""
        return {"pairs": self.pairs, "_cache": {}, "_cached_bytes": 0}


@dataclass(frozen=True)
class TrainingData:
    """Holds the images of a training.

    train: what is trained on. validation: held-out sets by name. notes: what was found and left out, a line each.
    """

    train: TrainingSet
    validation: dict[str, TrainingSet] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_training_data(
    root: Path,
    splits: Sequence[str] = (),
    allow_missing: bool = False,
    *,
    watch: Sequence[str] = (),
    listing: Path | None = None,
    progress: Progress = SILENT,
) -> TrainingData:
    """Returns the samples under `root`: HQSeg-44K where its folders are, else a plain folder of images/ and masks/.

    splits: what to train on, names of HQSeg-44K's training sets or of sub-folders of images/; all if empty. watch:
    what to hold out, likewise (HQSeg-44K: all four validation sets if empty; plain: nothing). Only what is asked for
    is checked. A missing set, an image without a mask or a mask without an image is a UserError that counts all and
    names the first; with allow_missing it is left out and said. progress is told every note. listing: a file that
    receives all the names where there are more than fit a line (None: nowhere, as on all processes but the first).
    """
    base = hqseg_root(root)
    if base is None:
        train, validation, problems, notes = _plain(root, splits, watch)
    else:
        train, validation, problems, notes = _hqseg(base, splits, watch)
    if problems:
        told = describe(problems) + _list(problems, listing)
        if not allow_missing:
            raise UserError(f"{root}: {told}; put them right, or train on what is there with --allow-missing")
        notes.append(f"left out, as --allow-missing says: {told}")
    if not train:
        raise UserError(f"{root}: no image with a mask to train on{f'; {notes[-1]}' if problems else ''}")
    for note in notes:
        progress.say(note)
    return TrainingData(
        TrainingSet(train), {name: TrainingSet(pairs) for name, pairs in validation.items()}, tuple(notes)
    )


def _list(problems: Sequence[Problem], listing: Path | None) -> str:
    """Writes the whole list where a line has no room for it; returns the words that say where."""
    if listing is None or max(Counter(problem.reason for problem in problems).values()) <= NAMES_SHOWN:
        return ""
    lines = "".join(f"{problem.reason}\t{problem.name}\n" for problem in problems)
    try:
        write_durably(listing, lines.encode(errors="surrogateescape"))
    except OSError as error:
        raise UserError(
            f"{listing}: cannot be written ({error.strerror or error}); check space and permissions"
        ) from None
    return f" (all {len(problems):,} in {listing})"


Found = tuple[list[Pair], dict[str, list[Pair]], list[Problem], list[str]]


def _hqseg(base: Path, splits: Sequence[str], watch: Sequence[str]) -> Found:
    training = _chosen_rows(splits, HQSEG_TRAIN, "--splits")
    watched = _chosen_rows(watch, HQSEG_VALIDATION, "--watch")
    found = {row.name: pair_set(base, row) for row in (*training, *watched)}
    train = [pair for row in training for pair in found[row.name].pairs]
    validation = {row.name: found[row.name].pairs for row in watched if found[row.name].pairs}
    notes = [
        f"HQSeg-44K in {base}: {len(train):,} images to train on ({_counts(training, found)}); "
        f"held out: {_counts(watched, found) or 'none'}"
    ]
    short = [
        f"{row.name} {len(found[row.name].pairs):,} of {row.count:,}"
        for row in HQSEG
        if row.name in found and 0 < len(found[row.name].pairs) != row.count
    ]
    if short:
        notes.append(f"other numbers of pairs than published: {', '.join(short)}")
    return train, validation, [problem for pairing in found.values() for problem in pairing.problems], notes


def _counts(rows: Sequence[PairedSet], found: dict[str, Pairing]) -> str:
    return ", ".join(f"{row.name} {len(found[row.name].pairs):,}" for row in rows if found[row.name].pairs)


def _chosen_rows(names: Sequence[str], rows: Sequence[PairedSet], option: str) -> list[PairedSet]:
    unknown = [name for name in names if name not in [row.name for row in rows]]
    if unknown:
        raise UserError(
            f"{option} {unknown[0]}: no such set of HQSeg-44K; available: {', '.join(row.name for row in rows)}"
        )
    return [row for row in rows if not names or row.name in names]


def _plain(root: Path, splits: Sequence[str], watch: Sequence[str]) -> Found:
    pairing = pair_plain(root)
    names = [*(pair.name for pair in pairing.pairs), *(problem.name for problem in pairing.problems)]
    available = sorted({name.split("/")[0] for name in names if "/" in name})
    for option, wanted in (("--splits", splits), ("--watch", watch)):
        for name in wanted:
            if name not in available:
                raise UserError(
                    f"{option} {name}: no such sub-folder of the images in {root}; available: "
                    f"{', '.join(available) or 'none'}"
                )
    train = [pair for pair in pairing.pairs if not splits or pair.name.split("/")[0] in splits]
    validation = {name: [pair for pair in pairing.pairs if pair.name.split("/")[0] == name] for name in watch}
    shared = sorted({pair.name for pair in train} & {pair.name for pairs in validation.values() for pair in pairs})
    if shared:
        raise UserError(
            f"--watch {','.join(watch)}: {len(shared)} of its images are trained on ({shared[0]}, …); name the "
            "training folders with --splits"
        )
    used = {*splits, *watch}
    problems = [problem for problem in pairing.problems if not splits or problem.name.split("/")[0] in used]
    held = sum(map(len, validation.values()))
    apart = f"{held:,} held out" if held else "none held out, so validation looks at training images (see --watch)"
    return train, validation, problems, [f"{root}: {len(train):,} images to train on, {apart}"]
