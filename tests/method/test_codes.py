"""Codes of classes: the largest class has code 0, whatever the classes are called."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unseg.method.codes
from unseg.method.codes import (
    Areas,
    Looks,
    absent_class,
    areas_of,
    class_areas,
    class_codes,
    code_map,
    codes_with_absence,
    total_of,
)
from unseg.method.patterns import NO_CODE

AREAS = st.dictionaries(st.integers(0, 70_000), st.integers(1, 50), max_size=40)


def test_codes_fall_with_area_and_ties_go_by_class() -> None:
    assert class_codes({3: 10, 7: 50, 0: 10, 11: 1}, 12) == {7: 0, 0: 1, 3: 2, 11: 3}
    assert class_codes({}, 12) == {}


def test_classes_beyond_the_codes_begin_again_at_the_first() -> None:
    assert class_codes({3: 10, 7: 50, 0: 10, 11: 1}, 3) == {7: 0, 0: 1, 3: 2, 11: 0}


@given(AREAS)
def test_codes_are_a_ranking(areas: dict[int, int]) -> None:
    codes = class_codes(areas, 40)
    assert sorted(codes.values()) == list(range(len(areas)))
    assert codes == class_codes(dict(reversed(areas.items())), 40)
    for one in areas:
        for other in areas:
            if areas[one] > areas[other] or (areas[one] == areas[other] and one < other):
                assert codes[one] < codes[other]


def test_areas_add_up_over_maps_of_any_size() -> None:
    maps = [np.array([[0, 255, 4]], np.uint8), np.array([[4, 4], [300, 0]], np.uint16)]
    assert class_areas(maps) == {0: 2, 4: 3, 300: 1}
    assert class_areas(maps, ignore_label=None) == {0: 2, 4: 3, 300: 1, 255: 1}
    assert class_areas([]) == {}


@given(st.lists(st.sampled_from([0, 1, 9, 255, 4000]), min_size=6, max_size=6))
def test_a_map_holds_the_code_of_every_pixels_class(classes: list[int]) -> None:
    codes = {0: 2, 1: 0, 9: 254, 4000: 1}
    coded = code_map(np.array(classes).reshape(2, 3), codes)
    assert coded.dtype == np.uint8 and coded.shape == (2, 3)
    assert coded.ravel().tolist() == [NO_CODE if value == 255 else codes[value] for value in classes]


@pytest.mark.parametrize("codes", [{0: 1}, {0: 1, 5: 255}, {0: 1, 5: -1}])
def test_a_class_without_a_usable_code_is_an_error(codes: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="class 5 has (no code$|code 255, and|code -1, and)"):
        code_map(np.array([[0, 5]], np.uint8), codes)


def test_all_classes_without_a_code_are_named_or_as_many_as_a_line_bears() -> None:
    labels = np.arange(-1, 12)[None]
    with pytest.raises(ValueError, match=r"^classes -1 and 3 have no code$"):
        code_map(labels, {label: 1 for label in range(12) if label != 3})
    with pytest.raises(ValueError, match=r"^classes -1, 0, 1, 2, 4, 5, 6 and others have no code$"):
        code_map(labels, {3: 1})


@pytest.mark.parametrize("lowest", [2**63, 2**63 - 2])
def test_a_class_beyond_64_bits_with_a_sign_has_no_code(lowest: int) -> None:
    with pytest.raises(ValueError, match=f"classes {lowest} and {lowest + 3} have no code"):
        code_map(np.array([[lowest, lowest + 3]], np.uint64), {0: 1})


def test_where_no_label_is_ignored_every_value_needs_a_code() -> None:
    with pytest.raises(ValueError, match="class 255"):
        code_map(np.array([[255]], np.uint8), {0: 0}, ignore_label=None)


@given(
    st.integers(0, 2**31 - 1), st.integers(1, 4), st.sampled_from([1, 7, 300, 70_000]), st.sampled_from([1, 20, 2**20])
)
def test_counting_in_tables_and_bands_is_counting(seed: int, height: int, span: int, band: int) -> None:
    """Against numpy's own counting and one comparison a class; −1 stands for no class, as in annotations."""
    random = np.random.default_rng(seed)
    classes = random.integers(-1, span, (height, 9)).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unseg.method.codes, "BAND", band)
        areas = class_areas([classes], ignore_label=-1)
        codes = {value: random.integers(0, 255).item() for value in areas}
        coded = code_map(classes, codes, ignore_label=-1)
    values, counts = np.unique(classes[classes >= 0], return_counts=True)
    assert areas == dict(zip(values.tolist(), counts.tolist(), strict=True))
    for value in (-1, *areas):
        assert (coded[classes == value] == codes.get(value, NO_CODE)).all()


def test_the_absent_class_has_code_0_and_the_others_rank_by_area() -> None:
    assert codes_with_absence({3: 10, 7: 50, 0: 10, 11: 1}, 7, 12) == {7: 0, 0: 1, 3: 2, 11: 3}
    assert codes_with_absence({3: 10, 7: 50}, None, 12) == {7: 1, 3: 2}
    assert codes_with_absence({}, None, 12) == {}
    assert codes_with_absence({3: 10}, 0, 12) == {0: 0, 3: 1}  # a background that no image shows


def test_codes_are_dealt_in_turns_by_falling_area() -> None:
    areas = {1: 10, 2: 50, 3: 30, 4: 15, 5: 14, 6: 100, 0: 999}
    assert codes_with_absence(areas, 0, 3) == {0: 0, 6: 1, 2: 2, 3: 3, 4: 1, 5: 2, 1: 3}
    assert codes_with_absence(areas, None, 2) == {0: 1, 6: 2, 2: 1, 3: 2, 4: 1, 5: 2, 1: 1}


@given(AREAS, st.integers(1, 15))
def test_every_class_has_a_code_and_all_codes_are_used(areas: dict[int, int], available: int) -> None:
    codes = codes_with_absence(areas, None, available)
    assert codes.keys() == areas.keys()
    assert set(codes.values()) == set(range(1, min(available, len(areas)) + 1))
    assert codes == codes_with_absence(dict(reversed(areas.items())), None, available)


def test_the_absent_class_is_the_most_varied_of_the_large_ones() -> None:
    areas = {1: 500, 2: 400, 3: 79, 4: 21}  # 8 % is 80
    assert absent_class(areas, {1: 3.0, 2: 5.0, 3: 9.0, 4: 9.0}) == 2
    assert absent_class({**areas, 3: 90}, {1: 3.0, 2: 5.0, 3: 9.0}) == 3
    assert absent_class(areas, {1: 5.0, 2: 5.0}) == 1
    assert absent_class(areas, {}) == 1
    assert absent_class({}, {}) is None
    many = dict.fromkeys(range(20), 1)  # 5 % each
    assert absent_class(many, {19: 4.0}) == 0


def test_looks_are_the_variance_of_each_class_over_all_images() -> None:
    draw = np.random.default_rng(3)
    images = [draw.integers(0, 256, (5, 9, 3)).astype(np.uint8) for _ in range(3)]
    labels = [draw.choice([0, 4, 255, 4000], (5, 9)) for _ in range(3)]
    looks = Looks()
    for image, label in zip(images, labels, strict=True):
        looks.add(image, label)
    found = looks.variances()
    assert found.keys() == {0, 4, 4000}
    for label in found:
        values = np.concatenate([image[classes == label] for image, classes in zip(images, labels, strict=True)])
        assert looks.pixels[label] == len(values)
        assert found[label] == pytest.approx(values.astype(float).var(axis=0).mean())


def test_looks_of_grey_images_are_those_of_their_one_channel() -> None:
    looks = Looks()
    looks.add(np.array([[[0], [10]]], np.uint8), np.array([[2, 2]]))
    assert looks.variances() == {2: 25.0}


def test_a_background_has_at_least_8_per_cent_or_one_class_beside_it() -> None:
    assert Areas({0: 8, 1: 60, 2: 32}, unlabelled=900).has_background(0)  # exactly 8 % of the labelled pixels
    assert not Areas({0: 7, 1: 61, 2: 32}).has_background(0)
    assert Areas({0: 1, 2: 999}).has_background(0) and Areas({0: 5}).has_background(0)
    assert not Areas({1: 5, 2: 5}).has_background(0) and not Areas({0: 50, 1: 50}).has_background(None)
    assert not Areas().has_background(0)


def test_areas_add_up_with_what_has_no_class() -> None:
    first = areas_of(np.array([[3, 3, 9], [255, 255, 255]], np.uint8), 255)
    assert first == Areas({3: 2, 9: 1}, 3) and first.unlabelled_share == 0.5 and not first.covers
    both = total_of([first, areas_of(np.full((1, 2), 3), None), Areas()])
    assert both == Areas({3: 4, 9: 1}, 3) and both.share_of(3) == 0.8 and both.share_of(7) == 0
    assert areas_of(np.arange(200).reshape(2, 100), 7).covers and not areas_of(np.array([[1, 2]]), 2).covers
