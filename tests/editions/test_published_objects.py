"""What the object is in each data set of the paper, against lists that were written down apart from the catalog."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.data.annotations import ClassMap, ClassTable
from unseg.data.edition_catalog import EDITIONS
from unseg.editions.options import object_rule

# ADE20K's SceneParse150 (objectInfo150.txt, counted from 0): the 50 classes that its instance benchmark leaves out.
ADE20K_STUFF = {
    0: "wall",
    1: "building",
    2: "sky",
    3: "floor",
    4: "tree",
    5: "ceiling",
    6: "road",
    9: "grass",
    11: "sidewalk",
    13: "earth",
    16: "mountain",
    17: "plant",
    21: "water",
    25: "house",
    26: "sea",
    28: "rug",
    29: "field",
    34: "rock",
    40: "base",
    46: "sand",
    48: "skyscraper",
    51: "grandstand",
    52: "path",
    54: "runway",
    59: "stairway",
    60: "river",
    61: "bridge",
    63: "blind",
    68: "hill",
    77: "bar",
    79: "hovel",
    84: "tower",
    91: "dirt track",
    94: "land",
    96: "escalator",
    99: "buffet",
    100: "poster",
    101: "stage",
    105: "conveyer belt",
    106: "canopy",
    109: "swimming pool",
    113: "waterfall",
    114: "tent",
    117: "cradle",
    122: "tank",
    128: "lake",
    131: "blanket",
    140: "pier",
    141: "crt screen",
    145: "shower",
}
VOC_FIRST_FIVE = {1: "aeroplane", 2: "bicycle", 3: "bird", 4: "boat", 5: "bottle"}
ALL_VALUES_HW = np.arange(256, dtype=np.uint8).reshape(8, 32)  # every value that a mask of 8 bits can hold, once


def taken(data_set: str, objects: str) -> set[int]:
    """Returns the values of a mask that become object."""
    rule = object_rule(EDITIONS[data_set], objects)
    mask_HW = ClassMap(ALL_VALUES_HW, "index", ClassTable()).object_mask(rule)
    return set(ALL_VALUES_HW[mask_HW].tolist())


def test_ade20k_multi_is_the_hundred_instance_classes() -> None:
    assert len(ADE20K_STUFF) == 50
    assert taken("ade20k", "multi") == set(range(150)) - ADE20K_STUFF.keys()


def test_ade20k_all_has_no_background_the_wall_is_a_class() -> None:
    assert set(range(150)) <= taken("ade20k", "all")
    assert 255 not in taken("ade20k", "all")


def test_voc_multi_is_its_first_five_classes() -> None:
    assert taken("pascal", "multi") == VOC_FIRST_FIVE.keys()


def test_voc_all_is_every_class_but_the_background_and_the_border() -> None:
    assert set(range(1, 21)) <= taken("pascal", "all")
    assert taken("pascal", "all").isdisjoint({0, 255})


@pytest.mark.parametrize("data_set", ["pascal", "ade20k"])
def test_by_class_knows_the_background_and_a_single_id_is_that_class_alone(data_set: str) -> None:
    assert (0 in taken(data_set, "by-class")) == (data_set == "ade20k")  # of PASCAL it is the background
    assert taken(data_set, "102") == {102}


@pytest.mark.parametrize(
    ("data_set", "budget"),
    [("pascal", (8, 2)), ("ade20k", (8, 2)), ("coco", (8, 2)), ("cityscapes", (8, 2)), ("interactive", (8, 2))],
)
def test_budget_is_the_published_one(data_set: str, budget: tuple[int, int]) -> None:
    assert (EDITIONS[data_set].budget.object, EDITIONS[data_set].budget.background) == budget
