"""The data sets that `unseg bench` measures on: where each lies under a data root, its classes, its licence.

One frozen row a set. No noise may be fitted to the images of a row, since that would measure itself; of CCP only the
training images after the first 300 are used here, so that noise may be fitted to those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from unseg.data.annotations import Annotations, open_annotations
from unseg.errors import UserError

UNLABELLED = 255  # the label of pixels that are never learnt nor counted


@dataclass(frozen=True)
class MeasuringPart:
    """The training or the test images of a set.

    images, annotations: a folder, and a folder of label maps or a json, relative to the set's home. left_out: how many
    images are not used, the first ones by name. at_most: how many of the others are used; None: all.
    """

    images: str
    annotations: str
    left_out: int = 0
    at_most: int | None = None


@dataclass(frozen=True)
class MeasuringSet:
    """A data set as it is measured on.

    homes: folders under the data root that may hold it. format: of the annotations. classes: names, in the order of the
    labels. labels: the annotations' class id → label; an id that is not listed is an error. between: the label of
    pixels outside all outlines; None in label maps. background: the label whose pixels are no object; None where
    classes tile the picture. binary: whether the label 1 is learnt against the rest. long_side: pixels that images are
    shrunk to before anything else; None: they stay. enlarged: long side in pixels that images are enlarged to first;
    they get their noise at that size, and a trainer shrinks them to `long_side` only then; None: they are not. grey:
    whether all images are turned grey before anything else, as radiographs are. licence: a sentence for whoever wants
    to publish figures.
    """

    name: str
    title: str
    homes: tuple[str, ...]
    format: Literal["index", "coco"]
    classes: tuple[str, ...]
    labels: Mapping[int, int]
    train: MeasuringPart
    test: MeasuringPart
    licence: str
    between: int | None = None
    background: int | None = None
    binary: bool = False
    long_side: int | None = None
    enlarged: int | None = None
    grey: bool = False


@dataclass(frozen=True)
class OpenedPart:
    """The images of a part on disk. files: name → path, sorted by name. annotations: their reader. source: its file or
    folder."""

    files: Mapping[str, Path]
    annotations: Annotations = field(repr=False)
    source: Path


CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
CAMVID_LICENCE = "CamVid (Brostow et al. 2009) is licensed for non-commercial research (CC BY-NC)."
_CAMVID_TRAIN = MeasuringPart("images/train", "labels/train")
_CAMVID_TEST = MeasuringPart("images/val", "labels/val")

CAMVID_11 = MeasuringSet(
    "camvid11",
    "CamVid, 11 classes",
    ("camvid", ""),
    "index",
    CAMVID_CLASSES,
    {**{number: number for number in range(11)}, UNLABELLED: UNLABELLED},
    _CAMVID_TRAIN,
    _CAMVID_TEST,
    CAMVID_LICENCE,
)

CAMVID_BINARY = MeasuringSet(
    "camvid-binary",
    "CamVid, road and pavement against the rest",
    ("camvid", ""),
    "index",
    ("rest", "road and pavement"),
    {**{number: int(number in (3, 4)) for number in range(11)}, UNLABELLED: UNLABELLED},
    _CAMVID_TRAIN,
    _CAMVID_TEST,
    CAMVID_LICENCE,
    binary=True,
)

CARPARTS = MeasuringSet(
    "carparts",
    "Car Parts, 18 parts and background",
    ("carparts", ""),
    "coco",
    (
        "background",
        "back bumper",
        "back glass",
        "back left door",
        "back left light",
        "back right door",
        "back right light",
        "front bumper",
        "front glass",
        "front left door",
        "front left light",
        "front right door",
        "front right light",
        "hood",
        "left mirror",
        "right mirror",
        "tailgate",
        "trunk",
        "wheel",
    ),
    {number: number - 1 for number in range(1, 20)},
    MeasuringPart("trainingset/JPEGImages", "trainingset/annotations.json"),
    MeasuringPart("testset/JPEGImages", "testset/annotations.json"),
    "Car Parts Segmentation (Pasupa et al. 2022) is shared for research; ask its authors for other uses.",
    between=0,
    background=0,
    long_side=320,
)

# As large as photographs are that a trainer shrinks: noise must outlive that.
CARPARTS_4000 = replace(
    CARPARTS,
    name="carparts4000",
    title="Car Parts enlarged to 4,000 pixels and shrunk to 640 by the trainer",
    long_side=640,
    enlarged=4000,
)

CARPARTS_GREY = replace(CARPARTS, name="carparts-grey", title="Car Parts turned grey before any noise", grey=True)

# CCP's 59 class ids in seven groups; ids as in its classes.txt.
CCP_GROUPS: dict[str, tuple[int, ...]] = {
    "background": (0,),
    "skin": (41,),
    "hair": (19,),
    # blazer, blouse, bodysuit, bra, cape, cardigan, coat, hoodie, jacket, jumper, shirt, suit, sweater, sweatshirt,
    # t-shirt, top, vest
    "worn on top": (4, 5, 6, 8, 10, 11, 13, 22, 24, 26, 38, 46, 48, 49, 51, 54, 55),
    # dress, jeans, leggings, panties, pants, romper, shorts, skirt, stockings, tights
    "worn below": (14, 25, 27, 30, 31, 35, 40, 42, 45, 53),
    # boots, clogs, flats, heels, loafers, pumps, sandals, shoes, sneakers, socks, wedges
    "shoes and socks": (7, 12, 16, 21, 28, 32, 36, 39, 43, 44, 58),
    # accessories, bag, belt, bracelet, earrings, glasses, gloves, hat, intimate, necklace, purse, ring, scarf,
    # sunglasses, swimwear, tie, wallet, watch
    "everything else": (1, 2, 3, 9, 15, 17, 18, 20, 23, 29, 33, 34, 37, 47, 50, 52, 56, 57),
}

CCP = MeasuringSet(
    "ccp",
    "CCP, clothing in 7 groups",
    ("ccp", ""),
    "index",
    tuple(CCP_GROUPS),
    {number: label for label, ids in enumerate(CCP_GROUPS.values()) for number in ids},
    MeasuringPart("images/train", "labels/train", left_out=300),
    MeasuringPart("images/val", "labels/val"),
    "CCP (Yang et al. 2014) is licensed under Apache-2.0.",
    background=0,
)

# Photographs that nothing is measured on, for whoever trains with the public code against the noise.
CCP_OTHERS = MeasuringPart("images/train", "labels/train", at_most=100)

MEASURING_SETS = {row.name: row for row in (CARPARTS, CAMVID_11, CCP, CAMVID_BINARY, CARPARTS_4000, CARPARTS_GREY)}


def measuring_set(name: str) -> MeasuringSet:
    """Returns the row of a set; UserError names those there are."""
    if name not in MEASURING_SETS:
        raise UserError(f"--sets: unknown set '{name}'; available: {', '.join(MEASURING_SETS)}")
    return MEASURING_SETS[name]


def home_of_set(root: Path, row: MeasuringSet, instead: str | None = None) -> Path:
    """Returns the folder under the data root that holds the set. UserError names the one that should.

    instead: what else the user can do where it is not there; None: leave the set out.
    """
    needed = [path for part in (row.train, row.test) for path in (part.images, part.annotations)]
    for home in row.homes:
        if all((root / home / path).exists() for path in needed):
            return root / home
    raise UserError(
        f"--data-root {root}: {row.title} is not there; put {', '.join(needed)} into {root / row.homes[0]}, or "
        f"{instead or f'leave {row.name} out of --sets'}"
    )


def open_part(row: MeasuringSet, home: Path, part: MeasuringPart) -> OpenedPart:
    """Returns the images of a part and their annotations.

    Raises UserError where an annotated image is not on disk, or none is left.
    """
    folder, source = home / part.images, home / part.annotations
    annotations = open_annotations(source, folder, row.format)
    if annotations.missing:
        lacking = annotations.missing[0]
        raise UserError(f"{folder}: {lacking.name}: {lacking.reason}; {row.title} is measured whole")
    names = _used(annotations.names(), part)
    if not names:
        raise UserError(f"{folder}: no image is left after the first {part.left_out}, which {row.title} leaves out")
    return OpenedPart({name: folder / name for name in names}, annotations, source)


def _used(names: Sequence[str], part: MeasuringPart) -> list[str]:
    end = None if part.at_most is None else part.left_out + part.at_most
    return sorted(names)[part.left_out : end]
