"""This project's own noise as conditions: which class has which code, and what the images are then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segment_anything_training.coded import CodedGenerator
from tests.support.measuring_folders import mini_camvid, mini_carparts
from unseg.compute.progress import SILENT
from unseg.data.annotations import NO_CLASS, ObjectRule
from unseg.data.measuring_sets import measuring_set
from unseg.evaluation import coded_images
from unseg.evaluation.coded_images import CODED, UNLABELLED, Allocation, Labels, allocate, coded, coded_identity, key_of
from unseg.evaluation.measuring_images import OpenedSet, open_measuring_set
from unseg.evaluation.on_the_way import object_rule
from unseg.evaluation.sets import truth_by
from unseg.evaluation.sources import Sources
from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.patterns import BOOK, ONE_CODE_BOOK
from unseg.storage.coded_weights import save_coded
from unseg.storage.image_decoding import decode_samples
from unseg.storage.image_encoding import encode_jpeg

BUDGET = Budget(8, 2)


def opened_set(root: Path, name: str) -> OpenedSet:
    make = mini_carparts if name == "carparts" else mini_camvid
    return open_measuring_set(make(root), measuring_set(name))


def sources_of(opened: OpenedSet) -> Sources:
    rule = object_rule(opened.rule, binary=opened.row.binary, by_class=True)
    return Sources(opened.train, truth_by(rule), opened.rule, BUDGET, binary=opened.row.binary, by_class=True)


def noised(opened: OpenedSet, name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first training image as the condition has it, its clean pixels and its labels."""
    sources, train = sources_of(opened), opened.train
    pixels = train.pixels(0)
    mask, classes = sources.truth(train.annotated(0))
    change = sources.coded(name).change_of(seed, SILENT)
    return change(train.stem(0), pixels, mask, classes), pixels, train.annotated(0).values


def allocation_of(opened: OpenedSet, name: str) -> Allocation:
    sources = sources_of(opened)
    labels = Labels(opened.rule.ignore_label, opened.row.binary)
    return allocate(opened.train, sources.truth, labels, CODED[name].told_apart, SILENT)


def test_one_code_on_objects_where_there_is_a_background(tmp_path: Path) -> None:
    opened = opened_set(tmp_path, "carparts")
    changed, clean, labels = noised(opened, "codes")
    codes = np.where(labels > 0, 1, 0).astype(np.uint8)
    assert np.array_equal(changed, apply_codes(clean, codes, ONE_CODE_BOOK, key_of("comparison", 0), BUDGET))
    assert np.array_equal(changed, noised(opened, "codes-one")[0])
    assert (changed[labels == 0] == clean[labels == 0]).all() and (changed[labels > 0] != clean[labels > 0]).any()


def test_grey_twins_count_where_images_may_be_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of colour images that were measured stays theirs when another grey form is tried out."""
    plain, safe = CODED["codes"], CODED["codes-grey-safe"]
    before = [coded_identity(plain, False), coded_identity(plain, True), coded_identity(safe, False)]
    for name in ("BOOK", "ONE_CODE_BOOK"):
        book = getattr(coded_images, name)
        first, *others = book.patterns
        grey = replace(book, patterns=(replace(first, grey=replace(first.grey, periods=(7.0,))), *others))
        colour = replace(book, patterns=(replace(first, colour=replace(first.colour, periods=(7.0,))), *others))
        drift = replace(book, drift_turns=0.1)
        for tried, changed in ((grey, [False, True, True]), (colour, [True] * 3), (drift, [True] * 3)):
            with monkeypatch.context() as patched:
                patched.setattr(coded_images, name, tried)
                after = [coded_identity(plain, False), coded_identity(plain, True), coded_identity(safe, False)]
            assert [one != other for one, other in zip(before, after, strict=True)] == changed


def test_codes_for_classes_beside_a_background(tmp_path: Path) -> None:
    """The door (label 9: 768 pixels) covers half of the wheel (18: 64 are left), which lies on the hood (13: 192)."""
    found = allocation_of(opened_set(tmp_path, "carparts"), "codes-by-class")
    assert found.codes == {NO_CLASS: 0, 9: 1, 13: 2, 18: 1}


def test_two_codes_for_all_classes_where_they_cover_the_picture(tmp_path: Path) -> None:
    opened = opened_set(tmp_path, "camvid11")
    found = allocation_of(opened, "codes")
    assert set(found.codes) == set(range(11)) and sorted(found.codes.values()) == [0] + 5 * [1] + 5 * [2]
    assert found == allocation_of(opened, "codes-by-class")
    changed, clean, labels = noised(opened, "codes")
    absent = next(label for label, code in found.codes.items() if code == 0)
    for label in range(11):
        here = labels == label
        assert (changed[here] == clean[here]).all() == (label == absent)
    assert (changed[labels == 255] == clean[labels == 255]).all()
    assert np.abs(changed.astype(int) - clean).max() == 8
    one = allocation_of(opened, "codes-one")
    assert one.codes == {label: int(label != absent) for label in range(11)}


def test_two_classes_are_an_object_and_the_rest(tmp_path: Path) -> None:
    opened = opened_set(tmp_path, "camvid-binary")
    changed, clean, labels = noised(opened, "codes")
    assert (changed[labels != 1] == clean[labels != 1]).all() and (changed[labels == 1] != clean[labels == 1]).any()
    assert allocation_of(opened, "codes").codes == {NO_CLASS: 0, 1: 1}


def test_a_set_of_one_class_is_coded(tmp_path: Path) -> None:
    opened = opened_set(tmp_path, "camvid11")
    whole = replace(opened.row, labels=dict.fromkeys(opened.row.labels, 3))
    opened.train.row = whole
    assert allocation_of(replace(opened, row=whole), "codes").codes == {3: 1}


def test_labels_that_no_training_image_shows() -> None:
    labels = np.array([[UNLABELLED, 5, NO_CLASS, 2]])
    assert Allocation({NO_CLASS: 0, 2: 1}, unseen=1).map_of(labels).tolist() == [[255, 1, 0, 1]]
    assert Allocation({NO_CLASS: 0, 2: 3}, unseen=0).map_of(labels).tolist() == [[255, 0, 0, 3]]


def test_what_nobody_labelled_is_no_background() -> None:
    mask, classes = np.array([[True, False, False]]), np.array([[4, 9, 255]])
    assert Labels(255, binary=False).of(mask, classes).tolist() == [[4, NO_CLASS, UNLABELLED]]
    assert Labels(None, binary=False).of(mask, classes).tolist() == [[4, NO_CLASS, NO_CLASS]]
    assert Labels(255, binary=True).of(np.ones((1, 3), bool), np.array([[1, 0, 255]])).tolist() == [
        [1, NO_CLASS, UNLABELLED]
    ]


def test_the_seed_draws_the_key_and_nothing_else_does(tmp_path: Path) -> None:
    opened = opened_set(tmp_path, "carparts")
    first, again, other = (noised(opened, "codes", seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len({key_of("comparison", 0), key_of("comparison", 1), key_of("denoise", 0)}) == 3


def test_options_are_those_of_the_method_and_of_its_files(tmp_path: Path) -> None:
    opened = opened_set(tmp_path, "carparts")
    plain, clean, labels = noised(opened, "codes")
    codes, key = np.where(labels > 0, 1, 0).astype(np.uint8), key_of("comparison", 0)
    safe, contrast, jpeg = (noised(opened, f"codes-{name}")[0] for name in ("grey-safe", "by-contrast", "jpeg"))
    assert np.array_equal(safe, apply_codes(clean, codes, ONE_CODE_BOOK, key, BUDGET, survive_grey=True))
    assert np.array_equal(contrast, apply_codes(clean, codes, ONE_CODE_BOOK, key, BUDGET, mask_by_contrast=True))
    assert np.array_equal(jpeg, decode_samples(encode_jpeg(plain)))
    identities = {name: str(sources_of(opened).coded(name).identity) for name in CODED}
    assert (
        len(set(identities.values())) == len(CODED)
        and BOOK.version in identities["codes"]
        and ONE_CODE_BOOK.version in identities["codes"]
    )


def test_a_network_changes_the_codes_within_the_bound(tmp_path: Path) -> None:
    opened = opened_set(tmp_path, "carparts")
    plain, clean, labels = noised(opened, "codes")
    train, truth = opened.train, sources_of(opened).truth
    changed, identities = [], []
    for name, strength in (("new", 0.0), ("trained", 0.5)):
        torch.manual_seed(3)
        network = CodedGenerator()
        torch.nn.init.normal_(network.head.weight, std=strength)
        save_coded(network, tmp_path / name, {})
        source = sources_of(opened).learned(tmp_path / name)
        changed.append(source.change_of(0, SILENT)(train.stem(0), clean, *truth(train.annotated(0))))
        identities.append(source.identity)
    assert np.array_equal(changed[0], plain) and not np.array_equal(changed[1], plain)
    assert np.abs(changed[1].astype(int) - clean).max() <= 8
    assert (changed[1][labels == 0] == clean[labels == 0]).all() and identities[0] != identities[1]


@pytest.mark.parametrize("name", sorted(CODED))
def test_the_bound_holds(name: str, tmp_path: Path) -> None:
    changed, clean, _ = noised(opened_set(tmp_path, "camvid11"), name)
    most = np.abs(changed.astype(int) - clean).max()
    assert most == 8 if "jpeg" not in name else most >= 8
    assert changed.dtype == np.uint8


def test_a_rule_that_takes_some_classes_makes_the_others_background(tmp_path: Path) -> None:
    opened = opened_set(tmp_path, "camvid11")
    truth, labels = truth_by(ObjectRule((3, 4))), Labels(255, binary=False)
    found = allocate(opened.train, truth, labels, None, SILENT)
    assert found.codes == {NO_CLASS: 0, 3: 1, 4: 1}
    change = coded(found, labels, BUDGET, CODED["codes"], b"k")
    pixels = opened.train.pixels(0)
    mask, classes = truth(opened.train.annotated(0))
    changed = change("", pixels, mask, classes)
    assert (changed[~mask] == pixels[~mask]).all() and (changed[mask] != pixels[mask]).any()
