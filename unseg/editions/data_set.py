"""Opens a data set on disk: its images, and what their annotations say. Names are relative to its root."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unseg.data.annotations import Annotated, Annotations, ClassTable, ObjectRule, Unannotated
from unseg.data.annotations.coco import CityscapesPanoptic, CocoInstances, CocoPanoptic
from unseg.data.annotations.label_files import Cityscapes, named_label_files
from unseg.data.annotations.names import ImagesFolder
from unseg.data.edition_catalog import READER
from unseg.data.edition_layout import EditionRow, EditionSet, Located, locate, nearest
from unseg.data.name_list import listed_images
from unseg.data.name_matching import paired_names
from unseg.data.samples import Problem, SampleFile, SampleList, stem_of, walk
from unseg.errors import UserError
from unseg.storage.image_limits import IMAGE_SUFFIXES

MASK_SUFFIX = ".png"  # of masks that lie among their images


class Placed(Annotations):
    """Joins the annotations of several folders of images into one set, with names relative to the root.

    parts: folder of images, relative to the root → its annotations. missing: of all of them.
    """

    format = READER

    def __init__(self, parts: Mapping[str, Annotations]) -> None:
        self.parts = dict(parts)
        statements = [part.statement for part in self.parts.values()]
        self.statement = statements[0] if len(statements) == 1 else f"{len(statements)} sets of masks or annotations"
        self.classes = next(iter(self.parts.values())).classes if len(self.parts) == 1 else ClassTable()
        self.missing = tuple(
            Problem(f"{folder}/{problem.name}", problem.reason)
            for folder, part in self.parts.items()
            for problem in part.missing
        )

    def names(self) -> Sequence[str]:
        return sorted(f"{folder}/{name}" for folder, part in self.parts.items() for name in part.names())

    def read(self, image_name: str, height: int, width: int) -> Annotated:
        for folder, part in self.parts.items():
            if image_name.startswith(f"{folder}/"):
                return part.read(image_name[len(folder) + 1 :], height, width)
        raise Unannotated(Path(image_name), "lies in none of the data set's folders of images")

    def check_rule(self, rule: ObjectRule, option: str = "--objects") -> None:
        for part in self.parts.values():
            part.check_rule(rule, option)


@dataclass(frozen=True)
class DataSet:
    """A data set as one run takes it.

    places: its sets on disk. samples: the images to protect, sorted, with names relative to the root. folders: of these
    images. reader: their annotations.
    """

    places: tuple[Located, ...]
    samples: SampleList
    reader: Placed
    folders: tuple[Path, ...]


def chosen_sets(row: EditionRow, names: Sequence[str]) -> tuple[EditionSet, ...]:
    """Returns the sets that SET names; all that are trained on where it names none."""
    known = {set_row.name.lower(): set_row for set_row in row.trained_on}
    if not names or by_city(row):
        return row.trained_on
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise UserError(f"SET={unknown[0]}: {row.name} has {', '.join(set_row.name for set_row in row.trained_on)}")
    return tuple(set_row for set_row in row.trained_on if set_row.name.lower() in {name.lower() for name in names})


def by_city(row: EditionRow) -> bool:
    """Returns whether SET names cities, not sets."""
    return row.name == "cityscapes"


def place_sets(row: EditionRow, root: Path, split: str, sets: Sequence[str], kind: str | None) -> tuple[Located, ...]:
    """Returns where the chosen sets lie; UserError names what is missing, and what to do."""
    chosen = chosen_sets(row, sets)
    places = {set_row.name: locate(root, row, set_row, split, kind) for set_row in chosen}
    found = tuple(place for place in places.values() if place is not None)
    if len(found) == len(chosen):
        return found
    lacking = []
    for set_row in chosen:
        if places[set_row.name] is None:
            close = nearest(root, row, set_row, split, kind)
            if close is None:
                raise UserError(f"ANNOTATIONS={kind}: {set_row.name} has none of that kind for SPLIT={split}")
            lacking.append(f"{set_row.name} ({', '.join(str(path) for path in close.missing)})")
    other = None if kind is not None else _other_kind(row, root, split, chosen)
    if other:
        remedy = f"prepare them, or use what is there: ANNOTATIONS={other}"
    else:
        remedy = f"give another DATA_ROOT (it should hold {row.layout})"
        if found:
            remedy += f", or protect what is there: SET={','.join(place.set.name for place in found)}"
    raise UserError(f"{row.title}: not on disk: {'; '.join(lacking)}; {remedy}")


def _other_kind(row: EditionRow, root: Path, split: str, chosen: Sequence[EditionSet]) -> str | None:
    """Returns the kind of annotations that are there and need ANNOTATIONS to be used; None where there are none."""
    for set_row in chosen:
        for source in set_row.sources:
            if source.by_option and locate(root, row, set_row, split, source.kind):
                return source.kind
    return None


def open_data_set(places: Sequence[Located], cities: Sequence[str] = (), linked_roots: Sequence[Path] = ()) -> DataSet:
    """Opens and checks the annotations, and lists the images. cities: only these sub-folders of images; empty: all.

    linked_roots: folders outside the data set that links on the way to images may lead to, at the moment of reading.
    UserError for whatever concerns a whole set, as `unseg.data.annotations.open_annotations` has it.
    """
    root, samples = places[0].root, list[SampleFile]()
    parts: dict[str, Annotations] = {}
    for place in places:
        folder = place.relative(place.source.images)
        names = list_images(place)
        reader = _open(place, names)
        absent = {problem.name for problem in reader.missing}
        names = [name for name in (reader.names() if place.source.named_only else names) if name not in absent]
        if cities:
            names = _in_cities(place, names, reader, cities)
        if not names:
            where, listing = place.path(place.source.images), place.source.listing
            if listing is not None:
                raise UserError(f"{place.path(listing)}: none of the images that it names is in {where}; check both")
            raise UserError(f"{where}: no image of {place.set.name} in it ({', '.join(IMAGE_SUFFIXES)})")
        parts[folder] = reader
        samples += [
            SampleFile(f"{folder}/{name}", root / folder / name, root, within=(root, *linked_roots)) for name in names
        ]
    return DataSet(tuple(places), SampleList(sorted(samples)), Placed(parts), tuple(root / folder for folder in parts))


def _in_cities(place: Located, names: Sequence[str], reader: Annotations, cities: Sequence[str]) -> list[str]:
    """Returns the images of the chosen cities, and drops what other cities lack from the reader's list of problems."""
    known = {name.partition("/")[0] for name in names}
    unknown = sorted(set(cities) - known)
    if unknown:
        raise UserError(
            f"SET={unknown[0]}: no such city in {place.path(place.source.images)}; there are {', '.join(sorted(known))}"
        )
    reader.missing = tuple(
        problem
        for problem in reader.missing  # X_….png of city X, with or without its folder
        if problem.name.rpartition("/")[2].partition("_")[0] in cities
    )
    return [name for name in names if name.partition("/")[0] in cities]


def list_images(place: Located) -> Sequence[str]:
    """Returns the images of a place's split, relative to its folder of images.

    A listing's images are returned whether they are on disk or not, others as far as they are there.
    """
    names = ImagesFolder.open(place.path(place.source.images)).names
    if place.source.listing is not None:
        here = [name for name in names if "/" not in name]
        return sorted(listed_images(place.path(place.source.listing), here))
    if _is_same_folder(place):
        return [name for name in names if not name.lower().endswith(MASK_SUFFIX)]
    return names


def _is_same_folder(place: Located) -> bool:
    return os.path.realpath(place.path(place.source.images)) == os.path.realpath(place.path(place.source.annotations))


def _open(place: Located, names: Sequence[str]) -> Annotations:
    source, folder = place.source, place.path(place.source.images)
    path = place.path(source.annotations)
    pngs = None if source.segments is None else place.path(source.segments)
    if source.format == "coco":
        return CocoInstances.open(path, folder)
    if source.format == "coco-panoptic":
        return CocoPanoptic.open(path, folder, pngs)
    if source.format == "cityscapes-panoptic":
        return CityscapesPanoptic.open(path, folder, pngs)
    if source.format == "cityscapes":
        return Cityscapes.open(path, folder)
    files, unused = _masks(place, names)
    return named_label_files(source.format, path, files, _absent(place, names, unused))


def _absent(place: Located, names: Sequence[str], unused: Sequence[str]) -> list[Problem]:
    """Returns what a listing names without an image, or masks without one."""
    source, folder = place.source, place.path(place.source.images)
    if source.listing is not None:
        where = place.path(source.listing)
        return [
            Problem(name, f"named in {where}, but there is no such image")
            for name in names
            if not (folder / name).is_file()
        ]
    if ("{" in source.images) != ("{" in source.annotations):  # one folder of masks for the images of all splits
        return []
    return [Problem(name, "a mask without an image") for name in unused]


def _masks(place: Located, names: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Returns image name → its mask, and the masks left over.

    Both are paired by relative stem and the endings that the set's masks have.
    """
    folder = place.path(place.source.annotations)
    same = _is_same_folder(place)
    by_stem: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    for path in walk(folder, problems):
        if path.suffix.lower() == MASK_SUFFIX or (path.suffix.lower() in IMAGE_SUFFIXES and not same):
            by_stem.setdefault(stem_of(path.relative_to(folder).as_posix()), []).append(path)
    if problems:
        raise UserError(f"{folder}: {problems[0].name}: {problems[0].reason}")
    stems = {name: [f"{stem_of(name)}{ending}" for ending in place.source.mask_endings] for name in names}
    pairs = paired_names((stem for wanted in stems.values() for stem in wanted), by_stem)
    found = {}
    for name, wanted in stems.items():
        choices = [path for stem in wanted if stem in pairs for path in by_stem[pairs[stem]]]
        if choices:
            found[name] = min(choices, key=lambda path: path.suffix.lower() != MASK_SUFFIX)
    used = set(found.values())
    return found, sorted(
        path.relative_to(folder).as_posix() for paths in by_stem.values() for path in paths if path not in used
    )
