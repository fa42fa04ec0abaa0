"""The sets of `unseg bench`, read from miniatures: classes, order of outlines, shrinking, groups, halves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.measuring_folders import CAMVID_IDS, mini_camvid, mini_carparts, mini_ccp, write_labels
from unseg.data.measuring_sets import CCP_GROUPS, MEASURING_SETS, measuring_set
from unseg.errors import UserError
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.measuring_images import MeasuringImages, open_measuring_set
from unseg.evaluation.sets import truth_by
from unseg.evaluation.tasks.labelling import labelling_of


def labels_of(images: MeasuringImages, index: int = 0) -> np.ndarray:
    images.pixels(index)
    return images.annotated(index).values


def test_camvid_keeps_its_ids_and_what_is_not_labelled(tmp_path: Path) -> None:
    opened = open_measuring_set(mini_camvid(tmp_path), measuring_set("camvid11"))
    assert (list(opened.train.names), list(opened.test.names)) == (
        ["train_000.png", "train_001.png"],
        ["val_000.png"],
    )
    assert labels_of(opened.train)[::8, ::8].tolist() == CAMVID_IDS
    assert opened.train.pixels(0).shape == (24, 48, 3)
    stored = np.asarray(Pillow.open(tmp_path / "camvid/images/train/train_001.png"))
    assert np.array_equal(opened.train.pixels(1), stored)


def test_camvid_binary_is_road_and_pavement_against_the_rest(tmp_path: Path) -> None:
    opened = open_measuring_set(mini_camvid(tmp_path), measuring_set("camvid-binary"))
    assert labels_of(opened.test)[::8, ::8].tolist() == [[0, 0, 0, 0, 1, 255], [0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]]


def test_later_outlines_of_car_parts_count_and_the_rest_is_background(tmp_path: Path) -> None:
    opened = open_measuring_set(mini_carparts(tmp_path), measuring_set("carparts"))
    labels = labels_of(opened.train)
    expected = np.zeros((32, 48), int)
    expected[8:24, 8:40] = 13
    expected[12:20, 16:32] = 18
    expected[0:32, 24:48] = 9
    assert np.array_equal(labels, expected)
    mask, classes = truth_by(opened.rule)(opened.train.annotated(0))
    assert np.array_equal(mask, expected != 0) and np.array_equal(classes, expected)


def test_large_images_shrink_by_area_and_labels_by_the_nearest_pixel(tmp_path: Path) -> None:
    row = replace(measuring_set("carparts"), long_side=24)
    opened = open_measuring_set(mini_carparts(tmp_path), row)
    stored = np.asarray(Pillow.open(tmp_path / "carparts/testset/JPEGImages/car1.png")).astype(int)
    means = stored.reshape(16, 2, 24, 2, 3).mean((1, 3))
    assert opened.test.pixels(0).shape == (16, 24, 3)
    assert np.abs(opened.test.pixels(0) - means).max() <= 0.5
    whole = labels_of(open_measuring_set(tmp_path, measuring_set("carparts")).test)
    small = labels_of(opened.test)
    assert small.shape == (16, 24) and set(np.unique(small)) == {0, 9, 13, 18}
    assert np.array_equal(small, whole[1::2, 1::2])  # of an even factor, the nearest centre is the later one


def test_small_images_are_not_enlarged(tmp_path: Path) -> None:
    opened = open_measuring_set(mini_carparts(tmp_path), measuring_set("carparts"))
    assert opened.test.pixels(0).shape == (32, 48, 3)


def test_ccp_has_seven_groups_and_the_second_half_of_its_training_images(tmp_path: Path) -> None:
    opened = open_measuring_set(mini_ccp(tmp_path), measuring_set("ccp"))
    assert opened.train.names == ["0301.png", "0302.png"] and opened.test.names == ["0001.png"]
    labels = labels_of(opened.train)[0]
    groups = {0: 0, 41: 1, 19: 2, 4: 3, 51: 3, 14: 4, 53: 4, 39: 5, 44: 5, 2: 6, 57: 6}
    assert {number: int(labels[number]) for number in groups} == groups
    assert sorted(number for ids in CCP_GROUPS.values() for number in ids) == list(range(59))


def test_a_row_may_turn_its_images_grey_before_any_noise(tmp_path: Path) -> None:
    root, row = mini_carparts(tmp_path), measuring_set("carparts-grey")
    plain, grey = (open_measuring_set(root, measuring_set(name)) for name in ("carparts", "carparts-grey"))
    for before, after in ((plain.train, grey.train), (plain.test, grey.test)):
        pixels = after.pixels(0).astype(int)
        exact = before.pixels(0).astype(float) @ [0.299, 0.587, 0.114]
        assert (pixels == pixels[..., :1]).all() and np.abs(pixels[..., 0] - exact).max() <= 1
        assert np.array_equal(before.annotated(0).values, after.annotated(0).values)
    assert replace(row, name="carparts", title=measuring_set("carparts").title, grey=False) == measuring_set("carparts")


@pytest.mark.parametrize("name", list(MEASURING_SETS))
def test_labels_and_names_of_a_row_belong_together(name: str) -> None:
    row = MEASURING_SETS[name]
    assert {*row.labels.values(), *([] if row.between is None else [row.between])} - {255} == set(
        range(len(row.classes))
    )


def test_a_network_learns_every_class_of_the_row_whatever_the_images_show(tmp_path: Path) -> None:
    opened = open_measuring_set(mini_carparts(tmp_path), measuring_set("carparts"))
    labelling = labelling_of(opened.train, LearnerOptions((32, 32), rule=opened.rule))
    labels = labelling.class_map(opened.train.annotated(0))
    assert labelling.names(labels) == list(opened.row.classes)
    assert np.array_equal(labels, opened.train.annotated(0).values)


def test_a_change_of_a_file_changes_the_hash(tmp_path: Path) -> None:
    before = open_measuring_set(mini_camvid(tmp_path), measuring_set("camvid11"))
    hashes = before.train.hash(), before.test.hash()
    write_labels(tmp_path / "camvid/labels/val/val_000.png", np.zeros((24, 48)))
    after = open_measuring_set(tmp_path, measuring_set("camvid11"))
    assert after.train.hash() == hashes[0] and after.test.hash() != hashes[1]


def test_what_is_missing_is_one_line_that_names_the_folder(tmp_path: Path) -> None:
    mini_camvid(tmp_path)
    with pytest.raises(
        UserError, match=r"--data-root .*Car Parts.* is not there; put .*trainingset/annotations.json.*"
    ):
        open_measuring_set(tmp_path, measuring_set("carparts"))
    with pytest.raises(UserError, match="unknown set 'voc'; available: carparts, camvid11"):
        measuring_set("voc")
    (tmp_path / "camvid/images/train/train_000.png").unlink()
    with pytest.raises(UserError, match="train_000.*measured whole"):
        open_measuring_set(tmp_path, measuring_set("camvid11"))


def test_an_unknown_class_is_refused(tmp_path: Path) -> None:
    mini_camvid(tmp_path)
    write_labels(tmp_path / "camvid/labels/train/train_000.png", np.full((24, 48), 11))
    opened = open_measuring_set(tmp_path, measuring_set("camvid11"))
    with pytest.raises(UserError, match="class 11"):
        opened.train.pixels(0)
