"""Describes how a data set's images and annotations lie on disk, and finds them under a root.

A row of `unseg.data.edition_catalog` describes a data set in these terms. Nothing is opened here: a place is found by
the names that are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unseg.method.config import Budget


@dataclass(frozen=True)
class Source:
    """Describes one way in which a set's images and annotations lie on disk.

    Paths are relative to the data set's home; in them {split} stands for the split and {folder} for the split's folder.

    kind: what ANNOTATIONS calls it. format: of `unseg.data.annotations.FORMATS`. annotations: a folder of masks, or a
    json. segments: the folder of a panoptic json's PNG files. listing: the text file that names the split's images;
    without it they are those of the folder. named_only: the folder holds other splits too, only what the annotations
    name is taken. mask_endings: what a mask's stem may have after its image's. by_option: used only where ANNOTATIONS
    says so. splits: those for which it is there; none named: all.
    """

    kind: str
    format: Literal["index", "binary", "coco", "coco-panoptic", "cityscapes", "cityscapes-panoptic"]
    images: str
    annotations: str
    segments: str | None = None
    listing: str | None = None
    named_only: bool = False
    mask_endings: tuple[str, ...] = ("",)
    by_option: bool = False
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class EditionSet:
    """One set of images. sources: the first that is on disk is used. untouched: for evaluation alone, never protected.

    carried: patterns of files and folders that an evaluator reads besides the sources' own annotations. count: images
    of the published training set, None where releases differ.
    """

    name: str
    title: str
    sources: tuple[Source, ...]
    carried: tuple[str, ...] = ()
    untouched: bool = False
    count: int | None = None


@dataclass(frozen=True)
class EditionRow:
    """A data set as one command takes it.

    homes: folders under the root that may hold it, "" being the root itself. splits: what SPLIT may be, the first by
    default, each with its folder; none: it has no splits. evaluation: splits whose images stay untouched in the
    edition. multi: what OBJECTS=multi means, None where it means nothing. classes: whether class ids may be named.
    layout: in words, for whoever has to put the data there.
    """

    name: str
    title: str
    homes: tuple[str, ...]
    sets: tuple[EditionSet, ...]
    layout: str
    splits: Mapping[str, str] = field(default_factory=dict)
    evaluation: tuple[str, ...] = ()
    multi: Literal["things"] | tuple[int, ...] | None = None
    classes: bool = True
    ignore_label: int | None = 255
    background_label: int | None = 0
    budget: Budget = Budget(8, 2)

    @property
    def trained_on(self) -> tuple[EditionSet, ...]:
        """Returns the sets whose images are protected."""
        return tuple(row for row in self.sets if not row.untouched)


@dataclass(frozen=True)
class Located:
    """A source of a set on disk, for one split.

    root: the folder whose layout the edition copies. home: the data set's folder relative to it, with forward slashes,
    "" where it is the root.
    """

    root: Path
    home: str
    row: EditionRow
    set: EditionSet
    source: Source
    split: str

    def relative(self, pattern: str) -> str:
        """Returns a path of the row, relative to the root."""
        filled = fill(pattern, self.row, self.split)
        return f"{self.home}/{filled}" if self.home else filled

    def path(self, pattern: str) -> Path:
        """Returns a path of the row on disk."""
        return self.root / self.relative(pattern)

    @property
    def needed(self) -> tuple[Path, ...]:
        """Returns what must be there."""
        source = self.source
        patterns = (source.images, source.listing, source.segments, source.annotations)
        return tuple(self.path(pattern) for pattern in dict.fromkeys(patterns) if pattern is not None)

    @property
    def missing(self) -> tuple[Path, ...]:
        """Returns what must be there and is not."""
        return tuple(path for path in self.needed if not path.exists())


def fill(pattern: str, row: EditionRow, split: str) -> str:
    """Returns a row's path for one split."""
    return pattern.format(split=split, folder=row.splits.get(split, split))


def home_of(root: Path, row: EditionRow) -> str:
    """Returns where under the root the data set lies.

    It is the first of its homes that shows a folder of images, else its usual one.
    """
    for home in row.homes:
        if any(
            (root / home / fill(source.images, row, split)).is_dir()
            for set_row in row.sets
            for source in set_row.sources
            for split in (*row.splits, "")
        ):
            return home
    return row.homes[0]


def candidates(
    root: Path, row: EditionRow, set_row: EditionSet, split: str, kind: str | None = None
) -> Iterator[Located]:
    """Yields the ways in which a set's split may lie on disk.

    kind: only these annotations; without it, those that need no option.
    """
    home = home_of(root, row)
    for source in set_row.sources:
        wanted = source.kind == kind if kind else not source.by_option
        if wanted and (not source.splits or split in source.splits):
            yield Located(root, home, row, set_row, source, split)


def locate(root: Path, row: EditionRow, set_row: EditionSet, split: str, kind: str | None = None) -> Located | None:
    """Returns the first way in which all that a set's split needs is there; None where there is none."""
    return next((place for place in candidates(root, row, set_row, split, kind) if not place.missing), None)


def nearest(root: Path, row: EditionRow, set_row: EditionSet, split: str, kind: str | None = None) -> Located | None:
    """Returns the way that lacks least, for the message that says what is missing."""
    return min(candidates(root, row, set_row, split, kind), key=lambda place: len(place.missing), default=None)
