"""The tars or tables of a run, open."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unseg.data.annotations.image_tables import table_files
from unseg.data.samples import Problem
from unseg.data.table_containers import TableContainer
from unseg.errors import UserError
from unseg.storage.containers import Container
from unseg.storage.files import stays_inside
from unseg.storage.tar_files import TarContainer, holds_outlines, spooled_members, tars_at

AUTO = "auto"  # in place of a column of masks
TARS, TABLES = "tars", "tables"
# What `datasets` keeps beside its tables, and reads.
DATASET_FILES = ("dataset_info.json", "state.json", "dataset_dict.json", "README.md")


@dataclass(frozen=True)
class Containers:
    """The files of a run.

    source: the folder of all of them. found: sorted as the names of their images are. kind: "tars" or "tables". masks:
    the suffix of the members, or the column, that holds masks. beside: other files that come along as they are, by
    their names in the folder.
    """

    source: Path
    found: tuple[Container, ...]
    kind: str
    masks: str | None
    beside: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """Returns what the files are called."""
        return "tar files" if self.kind == TARS else "tables"

    @property
    def has_outlines(self) -> bool:
        """Returns whether their masks are outlines, as annotations have them."""
        return self.kind == TARS and holds_outlines(self.masks or "")

    @property
    def facts(self) -> dict[str, Any]:
        """Returns what a manifest says of the files, as JSON holds it."""
        places = [container.place for container in self.found]
        return {"kind": self.kind, "masks": self.masks, "places": places, "beside": list(self.beside)}

    def parts(self, count: int, images: Sequence[int]) -> tuple[int, ...]:
        """Returns how many images each of `count` shards has, which take whole files. images: in each file."""
        files = len(self.found)
        ends = [number * files // count for number in range(count + 1)]
        return tuple(sum(images[start:end]) for start, end in zip(ends, ends[1:], strict=False))

    def outlines(self, folder: Path) -> dict[str, Path]:
        """Returns image → the member with its outlines, as a folder has their names. Those without one are left out."""
        return {
            f"{container.place}/{image}": folder / container.place / mask
            for container in self.found
            for image, mask in container.images()
            if mask is not None
        }

    def named(self) -> Iterator[tuple[str, str | None]]:
        """Yields the name of every image in a table and what its cell calls it."""
        for container in self.found:
            if isinstance(container, TableContainer):
                for name, called in container.named():
                    yield f"{container.place}/{name}", called


def open_containers(
    given: Path, webdataset: str | None, huggingface: str | None, has_masks: bool = False
) -> Containers:
    """Opens a file, or those in a folder; UserError where it is none, or holds images that would stay as they are.

    webdataset, huggingface: as the options of that name, one of them. has_masks: masks lie in a folder of their own.
    """
    given = Path(os.path.realpath(given))
    source = given.parent if given.is_file() else given
    if webdataset is not None:
        suffix = webdataset.lower().lstrip(".")
        return opened_at(source, TARS, suffix, [path.relative_to(source).as_posix() for path in tars_at(given)])
    problems: list[Problem] = []
    files = table_files(given, problems)
    if problems:
        raise UserError(f"{given}: {problems[0].name}: {problems[0].reason}")
    if not files:
        raise UserError(f"{given}: no table (.parquet, .arrow) there")
    column = None if huggingface == AUTO else huggingface
    places = [path.relative_to(source).as_posix() for path in files]
    return opened_at(source, TABLES, column, places, needs_masks=not has_masks)


def opened_at(source: Path, kind: str, masks: str | None, places: list[str], needs_masks: bool = False) -> Containers:
    """Opens files in a folder by their names. masks: as for `Containers`; needs_masks: a column is looked for."""
    found: list[Container] = []
    kept = spooled_members()  # one for all tars: each could have a file of its own, and tars may be many
    for place in sorted(places, key=lambda place: f"{place}/"):
        if kind == TARS:
            found.append(TarContainer.open(source / place, place, masks or "", kept))
        else:
            table = TableContainer.open(source / place, place, masks, needs_masks)
            masks = table.mask_column  # one for all
            found.append(table)
    beside = _beside(source, places) if kind == TABLES else ()
    return Containers(source, tuple(found), kind, masks, beside)


def _beside(source: Path, places: list[str]) -> tuple[str, ...]:
    """Returns the files that `datasets` keeps beside tables, in their folders and in those above."""
    folders = {parent for place in places for parent in Path(place).parents}
    names = [(folder / name).as_posix() for folder in folders for name in DATASET_FILES]
    return tuple(sorted(name for name in names if (source / name).is_file()))


def facts_of(value: Any) -> tuple[str, str | None, list[str], list[str]] | None:
    """Returns kind, masks, places and beside as `Containers.facts` says them; None for anything else, since a manifest
    may come from anyone."""
    if not isinstance(value, dict) or value.get("kind") not in (TARS, TABLES):
        return None
    masks, places, beside = value.get("masks"), value.get("places"), value.get("beside")
    if not isinstance(masks, (str, type(None))) or not isinstance(places, list) or not isinstance(beside, list):
        return None
    good = all(isinstance(place, str) and stays_inside(place) for place in (*places, *beside))
    return (value["kind"], masks, places, beside) if good else None
