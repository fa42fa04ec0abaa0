"""Instance, panoptic, detection, remote and Mask2Former's semantic task: metrics by hand, views by property, small
sets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

from tests.support import annotation_sets
from tests.support.killed_runs import Killed, KillingAt
from tests.support.told_progress import Told
from unseg.cli import main
from unseg.data.annotations import ClassTable, ObjectRule, open_annotations
from unseg.errors import UserError
from unseg.evaluation.coco_metrics import (
    NOTHING,
    Detections,
    PanopticQuality,
    TrueRegion,
    average_precision,
    decode,
    encode,
)
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.region_views import (
    GEOMETRY_DRAWS,
    View,
    draw_view,
    reduced,
    restore,
    tight_boxes,
    view_pixels,
    view_targets,
    whole,
)
from unseg.evaluation.regions import (
    ClassList,
    all_regions,
    check_same_numbering,
    class_ids,
    class_list,
    components,
    painted,
    pieces,
    read_regions,
    told_apart,
)
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import CleanImages, Images, PartOfImages
from unseg.evaluation.tasks import region_learner
from unseg.evaluation.tasks.instance import make_detection, make_instance, make_remote
from unseg.evaluation.tasks.mask2former_semantic import make_mask2former_semantic as make_semantic
from unseg.evaluation.tasks.panoptic import make_panoptic
from unseg.evaluation.trainer import Checkpoint, Trained, train
from unseg.victims import detectors, mask2former
from unseg.victims.targets import FoundObjects, Targets

SIZE = (64, 48)
CPU = torch.device("cpu")


def options(size: tuple[int, int], weights: Path | None = None, **more: object) -> LearnerOptions:
    """As the command gives them, where class 0 of class-id masks is background."""
    return LearnerOptions(size, weights, rule=ObjectRule(), **more)


def box_mask(left: int, top: int, right: int, bottom: int, shape: tuple[int, int] = (100, 120)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def region(label: int, mask: np.ndarray, crowd: bool = False) -> TrueRegion:
    return TrueRegion(label, crowd, encode(mask))


def detections(*found: tuple[float, int, np.ndarray]) -> Detections:
    """score, label, mask of each."""
    masks = np.stack([mask for _, _, mask in found])
    return Detections(
        np.array([score for score, _, _ in found]),
        np.array([label for _, label, _ in found]),
        tight_boxes(masks),
        [encode(mask) for mask in masks],
    )


def perfect(regions: list[TrueRegion]) -> Detections:
    own = [one for one in regions if not one.crowd]
    return detections(*((1.0, one.label, decode(one.mask)) for one in own)) if own else Detections.none(True)


# --- average precision -----------------------------------------------------------------------------------------------

SMALL, LARGE = box_mask(5, 5, 15, 15), box_mask(20, 0, 119, 99)  # 100 and 9,801 pixels: COCO's small and large


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_ap_of_a_perfect_answer_is_one_and_of_none_is_zero(kind: str) -> None:
    truths = [[region(0, SMALL), region(1, LARGE)], [region(0, LARGE, crowd=True), region(1, SMALL)]]
    numbers, per_class = average_precision(truths, [perfect(regions) for regions in truths], 3, kind)
    assert numbers.pop("ap_medium") is None
    assert numbers == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1, "ap_small": 1, "ap_large": 1})
    assert per_class == [pytest.approx(1), pytest.approx(1), None]  # class 2 is shown nowhere and counts for nothing
    numbers, per_class = average_precision(truths, [Detections.none(kind == "segm")] * 2, 3, kind)
    assert numbers == {"ap": 0, "ap50": 0, "ap75": 0, "ap_small": 0, "ap_medium": None, "ap_large": 0}
    assert per_class == [0, 0, None]


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_ap_by_hand(kind: str) -> None:
    """One of two objects found, with an IoU of 0.62: right at the thresholds 0.50, 0.55, 0.60 of ten, and there up to a
    recall of a half, which is 51 of COCO's 101 recalls.
    """
    truths = [[region(0, box_mask(0, 0, 50, 50)), region(0, box_mask(60, 60, 70, 70))]]
    numbers, _ = average_precision(truths, [detections((0.9, 0, box_mask(0, 0, 50, 31)))], 1, kind)
    assert numbers["ap50"] == pytest.approx(51 / 101)
    assert numbers["ap75"] == 0
    assert numbers["ap"] == pytest.approx(3 / 10 * 51 / 101)


def test_ap_counts_a_wrong_answer_before_the_right_one() -> None:
    """Precision is 1/2 wherever the only object is found."""
    truths = [[region(0, SMALL)]]
    answer = detections((0.9, 0, box_mask(60, 60, 70, 70)), (0.8, 0, SMALL))
    assert average_precision(truths, [answer], 1, "segm")[0]["ap"] == pytest.approx(0.5)
    assert average_precision(truths, [detections((0.9, 1, SMALL))], 2, "segm")[0]["ap"] == 0  # the other class


def test_answers_on_a_crowd_are_neither_right_nor_wrong() -> None:
    truths = [[region(0, SMALL), region(0, box_mask(50, 50, 100, 100), crowd=True)]]
    answer = detections((0.9, 0, box_mask(60, 60, 70, 70)), (0.8, 0, SMALL))
    assert average_precision(truths, [answer], 1, "segm")[0]["ap"] == pytest.approx(1)


# --- panoptic quality ------------------------------------------------------------------------------------------------

FIELDS = np.repeat(np.arange(4), 25).reshape(1, 100).repeat(10, 0)  # four segments of 250 pixels
THINGS = (True, True, False)


def quality(
    truth: np.ndarray, labels: list[int], answer: np.ndarray, answer_labels: list[int], crowds: list[bool] | None = None
) -> PanopticQuality:
    judge = PanopticQuality(THINGS)
    judge.add(truth, labels, crowds or [False] * len(labels), answer, answer_labels)
    return judge


def test_pq_of_a_perfect_answer_is_one_and_of_none_is_zero() -> None:
    found = quality(FIELDS, [0, 0, 2, 0], FIELDS, [0, 0, 2, 0])
    assert set(found.numbers().values()) == {1.0}
    assert found.class_pq() == [1, None, 1]
    empty = np.full(FIELDS.shape, NOTHING)
    found = quality(FIELDS, [0, 0, 2, 0], empty, [])
    assert set(found.numbers().values()) == {0.0}
    only_stuff = quality(FIELDS, [2, 2, 2, 2], FIELDS, [2, 2, 2, 2]).numbers()
    assert only_stuff["pq_things"] is None and only_stuff["pq"] == only_stuff["pq_stuff"] == 1


def test_pq_by_hand() -> None:
    """Class 0: one match of IoU 200/250, one missed, one wrong: SQ 0.8, RQ 1/(1 + ½ + ½). Class 2: all right."""
    answer = FIELDS.copy()
    answer[:, 20:25] = 4  # 50 pixels of the first segment, as a segment of its own
    found = quality(FIELDS, [0, 0, 2, 2], answer, [0, 2, 2, 2, 0])
    numbers = found.numbers()
    assert (numbers["sq_things"], numbers["rq_things"]) == (pytest.approx(0.8), pytest.approx(0.5))
    assert numbers["pq_things"] == pytest.approx(0.4)
    assert found.class_pq()[2] == pytest.approx(2 / 2.5)  # two matches, one wrong: the second segment
    assert found.class_iou() == [pytest.approx(0.5), None, pytest.approx(2 / 3)]


def test_pq_leaves_void_and_crowds_out() -> None:
    truth = FIELDS.copy()
    truth[:, :25] = NOTHING
    wrong_on_void = quality(truth, [0, 0, 2, 2], FIELDS, [1, 0, 2, 2])
    assert wrong_on_void.numbers()["pq"] == 1
    assert wrong_on_void.class_pq()[1] is None
    on_crowd = quality(FIELDS, [0, 0, 2, 2], FIELDS, [0, 0, 2, 2], [True, False, False, False])
    assert on_crowd.numbers()["pq"] == 1
    other_class_on_crowd = quality(FIELDS, [0, 0, 2, 2], FIELDS, [2, 0, 2, 2], [True, False, False, False])
    assert other_class_on_crowd.class_pq()[2] == pytest.approx(2 / 2.5)
    partly_void = FIELDS.copy()
    partly_void[:, 20:25] = NOTHING  # the union leaves the answer's void pixels out, so that the match is whole
    assert quality(partly_void, [0, 0, 2, 2], FIELDS, [0, 0, 2, 2]).numbers()["sq"] == 1


def test_pq_is_that_of_torchmetrics() -> None:
    from torchmetrics.detection import PanopticQuality as Reference

    random = np.random.default_rng(0)
    judge, reference = PanopticQuality(THINGS), Reference(things={0, 1}, stuffs={2})
    for _ in range(5):
        truth = cv2.resize(
            random.integers(0, 5, (6, 8)).astype(np.uint8), (64, 48), interpolation=cv2.INTER_NEAREST
        ).astype(int)
        answer = np.where(random.random((48, 64)) < 0.15, random.integers(0, 5, (48, 64)), truth)
        labels, answer_labels = [0, 0, 1, 2, 1], [0, 1, 1, 2, 1]
        judge.add(truth, labels, [False] * 5, answer, answer_labels)
        maps = [
            np.stack([np.array(classes)[segments], np.where(np.array(classes)[segments] == 2, 0, segments)], -1)
            for segments, classes in ((answer, answer_labels), (truth, labels))
        ]
        reference.update(*(torch.from_numpy(one)[None] for one in maps))
    assert 0.1 < judge.numbers()["pq"] < 0.9
    assert judge.numbers()["pq"] == pytest.approx(float(reference.compute()), abs=1e-6)


# --- views -----------------------------------------------------------------------------------------------------------

rectangles = st.tuples(st.integers(0, 89), st.integers(0, 69), st.integers(1, 30), st.integers(1, 30)).map(
    lambda at: box_mask(at[0], at[1], at[0] + at[2], at[1] + at[3])
)
draws = st.lists(st.floats(0, 1, exclude_max=True), min_size=GEOMETRY_DRAWS, max_size=GEOMETRY_DRAWS)


@settings(max_examples=60, deadline=None)
@given(st.lists(rectangles, max_size=4), draws)
def test_boxes_are_the_tight_boxes_of_what_is_left_of_masks(masks: list[np.ndarray], drawn: list[float]) -> None:
    view = draw_view(drawn, (120, 100), size=SIZE, colour=None)
    targets = view_targets([region(place, mask) for place, mask in enumerate(masks)], view)
    assert targets.masks.shape[1:] == SIZE[::-1]
    for mask, box in zip(targets.masks.numpy(), targets.boxes.numpy(), strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    kept = targets.labels.tolist()
    for place, mask in enumerate(masks):  # what has no pixel left is dropped, nothing else
        shown = cv2.resize(mask.astype(np.uint8), view.content, interpolation=cv2.INTER_NEAREST_EXACT)
        shown = shown[:, ::-1] if view.flip else shown
        assert (place in kept) == shown[view.top : view.top + SIZE[1], view.left : view.left + SIZE[0]].any()
    assert sorted(kept) == kept


@settings(max_examples=40, deadline=None)
@given(rectangles.filter(lambda mask: min(mask.any(0).sum(), mask.any(1).sum()) > 8), draws)
def test_masks_lie_where_the_image_shows_the_object(mask: np.ndarray, drawn: list[float]) -> None:
    image = np.where(mask[..., None], np.uint8(255), np.uint8(0)).repeat(3, 2)
    view = draw_view(drawn, (120, 100), size=SIZE, colour=None)
    shown = view_pixels(image, view)[0].numpy() > (0.5 - 0.485) / 0.229
    target = view_targets([region(0, mask)], view).masks.any(0).numpy()
    outline = cv2.dilate(target.astype(np.uint8), np.ones((3, 3))) - cv2.erode(target.astype(np.uint8), np.ones((3, 3)))
    assert not ((shown != target) & (outline == 0)).any()  # all of the difference is at the outline


def test_a_view_by_hand() -> None:
    """Twice as large, flipped, the window at the right lower corner."""
    view = View((6, 4), (12, 8), flip=True, left=6, top=4)
    mask = np.zeros((4, 6), bool)
    mask[3, 0:2] = True  # after flip and doubling: rows 6 and 7, columns 8 to 11
    targets = view_targets(
        [region(1, mask), region(0, box_mask(5, 0, 6, 1, (4, 6))), region(0, mask, crowd=True)], view
    )
    assert targets.labels.tolist() == [1]  # the second lies outside, the crowd is not learnt
    assert targets.boxes.tolist() == [[2, 2, 6, 4]]


def test_what_the_window_has_beyond_the_image_is_empty() -> None:
    view = View((8, 6), (4, 3))
    pixels = view_pixels(np.full((3, 4, 3), 255, np.uint8), view)
    assert (pixels[:, :3, :4] > 1).all() and (pixels[:, 3:] == 0).all() and (pixels[:, :, 4:] == 0).all()
    assert region_learner.filled(view).sum() == 12


def test_a_kept_image_is_no_larger_than_its_largest_view() -> None:
    pixels, regions = reduced(
        np.zeros((1000, 2000, 3), np.uint8), [region(0, box_mask(0, 0, 1000, 500, (1000, 2000)))], (64, 64)
    )
    assert pixels.shape == (51, 102, 3)
    assert decode(regions[0].mask).mean() == pytest.approx(0.25, abs=0.02)
    small = np.zeros((50, 60, 3), np.uint8)
    assert reduced(small, [], (64, 64))[0] is small


def test_restored_maps_lie_on_the_image() -> None:
    view = View((8, 8), whole((8, 8), (40, 20)))
    assert view.content == (8, 4)
    frame = torch.zeros(1, 8, 8)
    frame[0, :4, :4] = 1
    restored = restore(frame, view, (40, 20))[0] > 0.5
    assert restored.shape == (20, 40)
    assert (restored.numpy() == (np.arange(40) < 20)).all()


def test_smaller_regions_are_painted_on_top() -> None:
    inner, outer = box_mask(2, 2, 4, 4, (6, 6)), box_mask(0, 0, 5, 5, (6, 6))
    owner = painted([encode(inner), encode(outer)], 6, 6)
    assert owner[3, 3] == 0 and owner[0, 0] == 1 and owner[5, 5] == NOTHING


# --- from annotations to regions -------------------------------------------------------------------------------------


def opened(name: str, root: Path) -> Images:
    built = annotation_sets.build(name, root)
    return CleanImages.find(built.images, open_annotations(built.path, built.images), "--clean")


class Dark(PartOfImages):
    """The same annotations over black pixels."""

    def _pixels(self, index: int) -> np.ndarray:
        return np.zeros_like(super()._pixels(index))


@pytest.mark.parametrize("name", ["coco compressed", "yolo", "voc", "index", "labelme masks", "huggingface parquet"])
def test_instances_of_every_format(name: str, tmp_path: Path) -> None:
    images = opened(name, tmp_path)
    classes = class_list(images, images, "instances")
    regions = read_regions(images, 0, classes, "instances")
    truth = annotation_sets.photographs()["a.png"][1]
    found = sorted(int(decode(one.mask).sum()) for one in regions)
    wanted = sorted(int(mask.sum()) for _, mask in truth)
    assert len(found) == len(wanted)
    assert found == pytest.approx(wanted, rel=0 if name != "yolo" else 0.1)
    assert {classes.ids[one.label] for one in regions} == {1, 2}
    assert read_regions(images, 2, classes, "instances") == []
    for place in range(3):
        ids = class_ids(images.annotated(place), "instances")
        assert ids == {class_id for class_id, _, _ in pieces(images.annotated(place), "instances")}


def test_components_are_the_instances_of_a_merged_mask(tmp_path: Path) -> None:
    images = opened("binary", tmp_path)
    classes = class_list(images, images, "instances")
    assert classes.ids == (1,)
    truth = annotation_sets.photographs()["a.png"][1]
    assert len(read_regions(images, 0, classes, "instances")) == len(truth)
    touching = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], bool)  # corners touch
    assert sorted(int(part.sum()) for part in components(touching)) == [2, 2]


def test_regions_are_read_once_for_all_runs(tmp_path: Path) -> None:
    images, told = opened("coco compressed", tmp_path), Told()
    classes = class_list(images, images, "instances")
    found = all_regions(images, classes, "instances", told)
    assert [len(regions) for regions in found] == [
        len(pieces(images.annotated(place), "instances")) for place in range(3)
    ]
    assert all_regions(images, classes, "instances", told) is found
    assert told.bars == [("reading annotations", 3, 3)]


def test_background_is_what_the_rule_says(tmp_path: Path) -> None:
    images = opened("index", tmp_path)
    assert class_list(images, images, "instances").ids == (1, 2)
    assert class_list(images, images, "instances", ObjectRule(background_label=None)).ids == (0, 1, 2)
    only_two = class_list(images, images, "instances", ObjectRule(ignore_label=1))
    assert only_two.ids == (2,)
    assert {one.label for one in read_regions(images, 0, only_two, "instances")} == {0}


def test_cityscapes_instances_are_things_and_its_stuff_is_one_segment_a_class(tmp_path: Path) -> None:
    images = opened("cityscapes", tmp_path)
    classes = class_list(images, images, "instances")
    assert classes.names == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    truth = annotation_sets.photographs()["a.png"][1]
    assert [classes.names[one.label] for one in read_regions(images, 0, classes, "instances")] == ["car"] * len(truth)
    everything = class_list(images, images, "panoptic")
    assert len(everything.ids) == 19 and sum(everything.things) == 8


def test_without_instance_files_cityscapes_is_refused_for_panoptic(tmp_path: Path) -> None:
    built = annotation_sets.build("cityscapes", tmp_path)
    for path in built.path.rglob("*_instanceIds.png"):
        path.unlink()
    images = CleanImages.find(built.images, open_annotations(built.path, built.images), "--clean")
    with pytest.raises(UserError, match="instanceIds"):
        read_regions(images, 0, class_list(images, images, "panoptic"), "panoptic")
    assert pieces(images.annotated(0), "instances")  # there, components stand for instances


def test_stuff_of_one_class_is_one_region(tmp_path: Path) -> None:
    images = opened("coco-panoptic", tmp_path)  # coins of class 1 are stuff, those of class 2 things
    classes = class_list(images, images, "panoptic")
    regions = read_regions(images, 0, classes, "panoptic")
    truth = annotation_sets.photographs()["a.png"][1]
    assert sum(one.label == 0 for one in regions) == 1
    assert sum(one.label == 1 for one in regions) == sum(class_id == 2 for class_id, _ in truth)


def test_classes_of_both_sets_must_agree(tmp_path: Path) -> None:
    train = ClassTable({1: "car", 2: "dog"}, ids=frozenset((1, 2)))
    check_same_numbering(train, ClassTable({2: "dog"}, ids=frozenset((2,))))
    with pytest.raises(UserError, match="class 3 .cat. is not among"):
        check_same_numbering(train, ClassTable({3: "cat"}, ids=frozenset((3,))))
    with pytest.raises(UserError, match="class 1 is dog, in --annotations it is car"):
        check_same_numbering(train, ClassTable({1: "dog"}, ids=frozenset((1,))))
    images = opened("labelme masks", tmp_path)
    with pytest.raises(UserError, match="do not tell things from stuff"):
        class_list(images, images, "panoptic")


# --- what networks say -----------------------------------------------------------------------------------------------


def said_perfectly(regions: list[TrueRegion], class_count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits and mask probabilities of queries that know the truth, and two that say "nothing"."""
    logits = torch.full((len(regions) + 2, class_count + 1), -20.0)
    for query, one in enumerate(regions):
        logits[query, one.label] = 20
    logits[-2:, -1] = 20
    masks = torch.stack([torch.from_numpy(decode(one.mask)).float() for one in regions] * 1)
    return logits, torch.cat([masks, torch.zeros(2, *masks.shape[1:])])


def test_queries_that_know_the_truth_are_perfect(tmp_path: Path) -> None:
    images = opened("coco-panoptic", tmp_path)
    learner = make_panoptic("mask2former_tiny", images, images, options(SIZE))
    judge = PanopticQuality(learner.classes.things)
    answers = []
    for place, regions in enumerate(learner.truths):
        logits, masks = said_perfectly(regions, 2) if regions else (torch.zeros(1, 3), torch.zeros(1, 20, 30))
        segments, labels = mask2former.panoptic(logits, masks, learner.classes.things)
        learner._add(judge, place, segments.numpy(), labels)
        scores, found, kept = mask2former.instances(logits, masks)
        answers.append(
            detections(*zip(scores.tolist(), found.tolist(), kept.numpy(), strict=True))
            if len(scores)
            else Detections.none(True)
        )
    numbers = learner._measured(judge)
    assert numbers["pq"] == numbers["sq"] == numbers["rq"] == numbers["miou"] == 1
    assert numbers["class_pq"] == {"coin": 1, "horse": 1}
    assert average_precision(learner.truths, answers, 2, "segm")[0]["ap"] == pytest.approx(1)


class Oracle(torch.nn.Module):
    """Answers with the regions of the test images, as they lie in the view that it is shown."""

    def __init__(self, learner: region_learner.RegionLearner, size: tuple[int, int], queries: bool) -> None:
        super().__init__()
        self.learner, self.size, self.queries, self.place = learner, size, queries, 0

    def forward(self, images: torch.Tensor, valid: torch.Tensor) -> object:
        said = []
        for shown in valid:
            pixels = self.learner.test.pixels(self.place)
            view = View(self.size, whole(self.size, pixels.shape[1::-1]))
            assert torch.equal(shown, region_learner.filled(view))
            said.append(view_targets(self.learner.truths[self.place], view))
            self.place += 1
        if not self.queries:
            return [FoundObjects(torch.ones(len(one.labels)), one.labels, one.boxes, one.masks.float()) for one in said]
        logits = torch.full((len(said), 30, len(self.learner.classes.ids) + 1), -20.0)
        masks = torch.full((len(said), 30, *self.size[::-1]), -20.0)
        for image, one in enumerate(said):
            logits[image, range(len(one.labels)), one.labels] = 20
            logits[image, len(one.labels) :, -1] = 20
            masks[image, : len(one.labels)][one.masks] = 20
        return mask2former.QueryAnswers(logits, masks)


@pytest.mark.parametrize(
    ("make", "network", "layout", "queries"),
    [
        (make_instance, "mask2former_tiny", "coco compressed", True),
        (make_instance, "maskrcnn_mobilenet", "cityscapes", False),
        (make_detection, "rt_detr_tiny", "coco compressed", False),
        (make_panoptic, "mask2former_tiny", "coco-panoptic", True),
    ],
)
def test_what_is_right_in_the_view_is_right_on_the_image(
    make, network: str, layout: str, queries: bool, tmp_path: Path
) -> None:
    """The view is larger than the images and of another shape, so that what rounding costs is little."""
    images, size = opened(layout, tmp_path), (400, 300)
    learner = make(network, images, images, options(size))
    numbers = learner.evaluate(Oracle(learner, size, queries), CPU)
    assert numbers[learner.metric] > 0.97


def test_panoptic_inference_by_hand() -> None:
    """Query 0, stuff, claims all; query 1, a thing, is surer on the right half; query 2 wins too little; query 3 is
    unsure.
    """
    masks = torch.zeros(4, 4, 8)
    masks[0] = 0.6
    masks[1, :, 4:] = 0.9
    masks[2, :, 3:] = 0.55
    masks[3] = 1.0
    logits = torch.full((4, 3), -20.0)
    logits[0, 1], logits[1, 0], logits[2, 0], logits[3, :] = 20, 20, 20, 0
    segments, labels = mask2former.panoptic(logits, masks, (True, False))
    assert labels == [0]  # the stuff wins 16 of the 32 pixels that it claims: less than 0.8 of them
    assert (segments[:, 4:] == 0).all() and (segments[:, :4] == NOTHING).all()
    masks[0, :, 4:] = 0.1
    segments, labels = mask2former.panoptic(logits, masks, (True, False))
    assert labels == [1, 0] and (segments[:, :4] == 0).all() and (segments[:, 4:] == 1).all()


def test_trivial_answers(tmp_path: Path) -> None:
    images = opened("coco compressed", tmp_path / "coco")
    assert make_instance("mask2former_tiny", images, images, options(SIZE)).trivial["ap"] == 0
    assert make_detection("rt_detr_tiny", images, images, options(SIZE)).trivial["ap50"] == 0
    panoptic = opened("coco-panoptic", tmp_path / "panoptic")
    trivial = make_panoptic("mask2former_tiny", panoptic, panoptic, options(SIZE)).trivial
    assert trivial["pq"] == 0 and 0 < trivial["class_iou"]["coin"] < 1 and trivial["class_iou"]["horse"] == 0


def test_a_test_set_without_objects_is_refused(tmp_path: Path) -> None:
    images = opened("coco compressed", tmp_path)
    empty = PartOfImages(images, [2])
    with pytest.raises(UserError, match="nothing to measure"):
        make_instance("maskrcnn_mobilenet", images, empty, options(SIZE))


@pytest.mark.parametrize("make", [make_instance, make_detection, make_panoptic, make_remote])
def test_a_training_set_without_objects_is_refused(make: Callable, tmp_path: Path) -> None:
    images = opened("coco-panoptic", tmp_path)
    empty = PartOfImages(images, [2])
    name = "rt_detr_tiny" if make is make_detection else "mask2former_tiny"
    with pytest.raises(UserError, match="--annotations: no training image has an object of the classes; there is noth"):
        make(name, empty, images, options(SIZE))


def test_many_classes_of_one_name_are_told_apart_at_once() -> None:
    begun = time.process_time()
    ids = range(100_000)
    assert told_apart(["a"] * 99_999 + ["b"], ids)[-2:] == ["a (99998)", "b"]
    classes = ClassList(tuple(ids), ("a",) * 100_000, (True,) * 100_000)
    assert [classes.label(class_id) for class_id in (*ids, -1)] == [*ids, None]
    assert time.process_time() - begun < 5


def test_names_of_networks() -> None:
    for make in (make_instance, make_detection, make_panoptic, make_remote, make_semantic):
        with pytest.raises(UserError, match="unknown network 'yolo'.*available: "):
            make("yolo", None, None, options(SIZE))  # before any set is looked at
    with pytest.raises(UserError, match="available: mask2former_swin_t"):
        mask2former.build_mask2former("swin", 2, None)
    with pytest.raises(UserError, match="available: maskrcnn"):
        detectors.build_detector("yolo", 2, size=SIZE, weights=None)


# --- training and testing --------------------------------------------------------------------------------------------

MAKERS = {
    "instance mask2former": (make_instance, "mask2former_tiny", "coco compressed"),
    "instance maskrcnn": (make_instance, "maskrcnn_mobilenet", "coco polygons"),
    "panoptic": (make_panoptic, "mask2former_tiny", "cityscapes-panoptic"),
    "semantic": (make_semantic, "mask2former_tiny", "index"),
    "detection fasterrcnn": (make_detection, "fasterrcnn_mobilenet", "coco uncompressed"),
    "detection deformable": (make_detection, "deformable_detr_tiny", "cityscapes"),
    "detection rt": (make_detection, "rt_detr_tiny", "yolo"),
    "remote merged": (make_remote, "mask2former_tiny", "binary"),
}


@pytest.mark.parametrize("case", MAKERS)
def test_loss_has_gradients_and_metrics_are_numbers(case: str, tmp_path: Path) -> None:
    make, network, annotations = MAKERS[case]
    images = opened(annotations, tmp_path)
    learner = make(network, images, images, options(SIZE))
    torch.manual_seed(0)
    model = learner.build()
    model.train()
    draw = torch.Generator().manual_seed(0)
    loss = learner.loss(model, [0, 1, 2], draw, CPU)  # the third shows no object
    loss.backward()
    assert loss.shape == () and loss.isfinite()
    without = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []  # else several processes would wait for each other
    model.eval()
    with torch.no_grad():
        numbers = learner.evaluate(model, CPU)
        examples = learner.examples(model, CPU, 2)
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers.keys() == learner.trivial.keys()
    assert 0 <= numbers[learner.metric] <= 1
    assert [example.name for example in examples] == images.names[:2]
    assert all(
        picture.shape == example.image.shape and picture.dtype == np.uint8
        for example in examples
        for picture in (example.truth, example.prediction)
    )
    assert (examples[0].truth != examples[0].image).any()


def test_parts_of_a_batch_are_the_batch(tmp_path: Path) -> None:
    """Two processes see the views that one sees, and leave the generator where one leaves it."""
    images = opened("coco compressed", tmp_path)
    learner = make_instance("mask2former_tiny", images, images, options(SIZE))
    seen: list[torch.Tensor] = []

    def look(shown: torch.Tensor, valid: torch.Tensor, targets: list[Targets]) -> torch.Tensor:
        seen.extend(shown)
        return torch.zeros(())

    generators = [torch.Generator().manual_seed(3) for _ in range(3)]
    learner.part_loss(look, [0, 1, 0], generators[0], CPU, 0, 2)
    learner.part_loss(look, [0, 1, 0], generators[1], CPU, 1, 2)
    learner.loss(look, [0, 1, 0], generators[2], CPU)
    first, third, second, *all_three = seen
    assert all(torch.equal(one, other) for one, other in zip((first, second, third), all_three, strict=True))
    assert not torch.equal(first, third)  # the same image in another view
    assert len({tuple(generator.get_state().tolist()) for generator in generators}) == 1


def test_views_do_not_depend_on_pixels(tmp_path: Path) -> None:
    """Clean and protected runs see the same views: black pixels, the same targets."""
    images = opened("coco compressed", tmp_path)
    found = []
    for one in (images, Dark(images, range(len(images)))):
        learner = make_instance("mask2former_tiny", one, one, options(SIZE))
        draw = torch.Generator().manual_seed(1)
        learner.loss(lambda shown, valid, targets: found.append((valid, targets)) or torch.zeros(()), [0, 1], draw, CPU)
    (valid, targets), (other_valid, other_targets) = found
    assert torch.equal(valid, other_valid)
    assert all(torch.equal(one.masks, other.masks) for one, other in zip(targets, other_targets, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "steps", "rate", "share"),
    [
        ("instance mask2former", 25, 1e-3, 0.8),
        ("instance maskrcnn", 8, 3e-4, 0.8),
        ("panoptic", 25, 1e-3, 0.8),
        ("detection deformable", 25, 1e-3, 0.8),
        ("detection rt", 25, 1e-3, 0.8),
    ],
)
def test_loss_falls_on_two_images(case: str, steps: int, rate: float, share: float, tmp_path: Path) -> None:
    make, network, annotations = MAKERS[case]
    images = PartOfImages(opened(annotations, tmp_path), [0, 1])  # the third shows nothing
    learner = make(network, images, images, options(SIZE, colour_jitter=False))
    torch.manual_seed(0)
    model = learner.build().train()
    optimizer = torch.optim.AdamW(learner.parameter_groups(model)[0]["params"], rate)
    draw, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        loss = learner.loss(model, [0, 1], draw, CPU)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < share * np.mean(losses[:3]), losses


@pytest.mark.slow
@pytest.mark.parametrize("case", ["instance mask2former", "detection rt"])
def test_a_killed_run_ends_with_the_same_numbers(case: str, tmp_path: Path) -> None:
    """These networks draw random numbers of their own (points of masks, noised queries): they go on where they stopped,
    too.
    """
    make, network, annotations = MAKERS[case]
    images, schedule = opened(annotations, tmp_path), Schedule(steps=4, batch=2, eval_every=4)
    checkpoint = Checkpoint(tmp_path / "run.pt", {"a": 1}, every=0)

    def run(**more: object) -> Trained:
        return train(make(network, images, images, options(SIZE)), schedule, 5, **more)

    whole = run()
    with pytest.raises(Killed):
        run(checkpoint=checkpoint, progress=KillingAt(3))
    torch.rand(7)
    told = Told()
    again = run(checkpoint=checkpoint, progress=told, what="run")
    assert told.sentences == ["run: goes on from step 2"] and told.bars == [("run", 4, 4)]
    assert again.curve == whole.curve and again.metrics == whole.metrics
    pairs = zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


# --- the command -----------------------------------------------------------------------------------------------------


def changed(folder: Path, other: Path, change) -> Path:
    """The images of a folder, changed, under the same names in another."""
    for path in folder.rglob("*.png"):
        pixels = change(np.array(Pillow.open(path)).astype(int)).clip(0, 255).astype(np.uint8)
        (other / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(pixels).save(other / path.relative_to(folder))
    return other


def test_images_of(built: annotation_sets.Built) -> annotation_sets.Built:
    """Darker ones: a test image must not be a training image."""
    changed(built.images, built.images, lambda pixels: pixels // 2 + 10)
    return built


test_images_of.__test__ = False


def plain_layout(name: str, root: Path) -> dict[str, Path]:
    train, test = (
        annotation_sets.build(name, root / "train"),
        test_images_of(annotation_sets.build(name, root / "test")),
    )
    return {
        "--clean": train.images,
        "--annotations": train.path,
        "--test": test.images,
        "--test-annotations": test.path,
    }


def rsprompter_layout(name: str, root: Path) -> dict[str, Path]:
    """NWPU VHR-10 and SSDD as RSPrompter lays them out: all images in one folder, a json for each split."""
    content = annotation_sets.coco_content(annotation_sets.polygons_of)
    images, folder = root / name / "imgs", root / name / "annotations"
    annotation_sets.write_images(images)
    test = test_images_of(annotation_sets.Built(root, annotation_sets.write_images(root / "other")))
    for path in test.images.iterdir():
        path.rename(images / f"test_{path.name}")
    for split, prefix in (("train", ""), ("val", "test_")):
        listed = [{**image, "file_name": prefix + image["file_name"]} for image in content["images"]]
        annotation_sets.write_json(folder / f"{name}_instances_{split}.json", {**content, "images": listed})
    return {
        "--clean": images,
        "--annotations": folder / f"{name}_instances_train.json",
        "--test": images,
        "--test-annotations": folder / f"{name}_instances_val.json",
    }


def whu_layout(root: Path) -> dict[str, Path]:
    """WHU building: an image and a label folder for each split; a label is one mask of all the houses."""
    found = {}
    for split, options in (("train", ("--clean", "--annotations")), ("val", ("--test", "--test-annotations"))):
        built = annotation_sets.build("binary", root / split / "made")
        built.images.rename(root / split / "image")
        built.path.rename(root / split / "label")
        found |= dict(zip(options, (root / split / "image", root / split / "label"), strict=True))
    test_images_of(annotation_sets.Built(root, root / "val" / "image"))
    return found


LAYOUTS = {"NWPU": partial(rsprompter_layout, "NWPU"), "SSDD": partial(rsprompter_layout, "SSDD"), "WHU": whu_layout}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "network", "layout", "metric"),
    [
        ("instance", "maskrcnn_mobilenet", "coco polygons", "ap"),
        ("instance", "mask2former_tiny", "cityscapes", "ap"),
        ("panoptic", "mask2former_tiny", "coco-panoptic", "pq"),
        ("detection", "rt_detr_tiny", "coco compressed", "ap"),
        ("detection", "deformable_detr_tiny", "yolo", "ap"),
        ("semantic", "mask2former_tiny", "voc", "miou"),
        ("remote", "mask2former_tiny", "NWPU", "ap"),
        ("remote", "mask2former_tiny", "SSDD", "ap"),
        ("remote", "mask2former_tiny", "WHU", "ap"),
    ],
)
def test_the_command_runs_each_task_on_a_small_set_in_its_layout(
    task: str, network: str, layout: str, metric: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = LAYOUTS[layout](tmp_path) if layout in LAYOUTS else plain_layout(layout, tmp_path)
    where["--protected"] = changed(where["--clean"], tmp_path / "protected", lambda pixels: pixels + 4)
    out = tmp_path / "out"
    given = [str(part) for pair in where.items() for part in pair]
    assert (
        main(
            [
                "evaluate",
                "--task",
                task,
                *given,
                "--networks",
                network,
                "--out",
                str(out),
                "--views",
                "whole",
                "--steps",
                "3",
                "--batch",
                "2",
                "--eval-every",
                "3",
                "--size",
                "64x48",
                "--conditions",
                "clean,protected",
                "--device",
                "cpu",
                "--threads",
                "1",
            ]
        )
        == 0
    ), capsys.readouterr()
    results = json.loads((out / "results.json").read_text())
    assert results["tasks"][task]["metric"] == metric
    assert [run["settings"]["condition"] for run in results["runs"]] == ["clean", "protected"]
    for run in results["runs"]:
        assert 0 <= run["result"]["final"] <= 1 and len(run["result"]["curve"]) == 1
        assert np.isfinite(run["result"]["curve"][0]["train_loss"])
    assert list(out.rglob("*-prediction.png"))
    assert ("every connected component" in capsys.readouterr().out) == (layout == "WHU")


@pytest.mark.parametrize("task", ["instance", "panoptic", "detection", "remote"])
def test_the_command_names_networks_and_missing_weights(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = plain_layout("coco-panoptic", tmp_path)
    base = [
        "evaluate",
        "--task",
        task,
        *(str(part) for pair in where.items() for part in pair),
        "--out",
        str(tmp_path / "out"),
        "--conditions",
        "clean",
        "--size",
        "64x48",
        "--steps",
        "2",
        "--batch",
        "2",
        "--device",
        "cpu",
    ]
    assert main([*base, "--networks", "unet_resnet18"]) == 2
    assert "available: " in capsys.readouterr().err
    network = {"detection": "rt_detr_tiny"}.get(task, "mask2former_tiny")
    assert main([*base, "--networks", network, "--weights", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such file or folder; nothing is downloaded" in capsys.readouterr().err
    assert main([*base, "--networks", network, "--set", "depth=3"]) == 2
    assert "--set depth" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", MAKERS)
def test_on_a_gpu_in_bfloat16(case: str, tmp_path: Path) -> None:
    make, network, annotations = MAKERS[case]
    images, device = PartOfImages(opened(annotations, tmp_path), [0, 1]), torch.device("cuda")
    learner = make(network, images, images, options(SIZE))
    torch.manual_seed(0)
    model = learner.build().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    draw, losses = torch.Generator().manual_seed(0), []
    for _ in range(30):
        with torch.autocast("cuda", torch.bfloat16):
            loss = learner.loss(model, [0, 1], draw, device)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    model.eval()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        assert 0 <= learner.evaluate(model, device)[learner.metric] <= 1


def test_a_pretrained_backbone_learns_at_a_tenth_of_the_rate(tmp_path: Path) -> None:
    images = opened("coco compressed", tmp_path)
    for case in ("instance mask2former", "detection rt", "instance maskrcnn"):
        make, network, _ = MAKERS[case]
        plain = make(network, images, images, options(SIZE))
        model = plain.build()
        assert [group.get("rate", 1) for group in plain.parameter_groups(model)] == [1]
        groups = make(network, images, images, options(SIZE, tmp_path)).parameter_groups(model)
        counts = [len(group["params"]) for group in groups]
        assert [group["rate"] for group in groups] == [0.1, 1.0] and min(counts) > 5
        assert sum(counts) == sum(parameter.requires_grad for parameter in model.parameters())


# --- weights ---------------------------------------------------------------------------------------------------------


def test_missing_weights_are_one_clear_line(tmp_path: Path) -> None:
    for name in ("mask2former_tiny", "maskrcnn_mobilenet", "rt_detr_tiny"):
        build = (
            mask2former.build_mask2former
            if name in mask2former.SIZES
            else lambda *given: detectors.build_detector(given[0], given[1], size=SIZE, weights=given[2])
        )
        with pytest.raises(UserError, match="--weights .*nowhere.pth: no such file or folder; nothing is downloaded"):
            build(name, 2, tmp_path / "nowhere.pth")
        with pytest.raises(UserError, match="--weights .*: holds none of model.safetensors"):
            build(name, 2, tmp_path)


def same(one: torch.nn.Module, other: torch.nn.Module, but: str = "nothing") -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0] if but not in name)


@pytest.mark.parametrize(
    ("name", "head"),
    [("mask2former_tiny", "class_predictor"), ("deformable_detr_tiny", "class_embed"), ("rt_detr_tiny", "")],
)
def test_a_hugging_face_folder_is_loaded(name: str, head: str, tmp_path: Path) -> None:
    build = (
        mask2former.build_mask2former
        if name in mask2former.SIZES
        else lambda *given: detectors.build_detector(given[0], given[1], size=SIZE, weights=given[2])
    )
    torch.manual_seed(0)
    first = build(name, 3, None)
    first.network.save_pretrained(tmp_path / "saved")
    again = build(name, 3, tmp_path / "saved")
    assert again.notes == [] and again.training
    assert same(first.network, again.network, "num_batches_tracked") or name.endswith("detr_tiny")
    fewer = build(name, 2, tmp_path / "saved")
    assert len(fewer.notes) == 1 and head in fewer.notes[0] and "start at random" in fewer.notes[0]
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(UserError, match="is a vit, this network is a "):
        build(name, 3, tmp_path / "saved")


def test_a_folder_of_a_swin_classifier_starts_the_backbone_of_mask2former(tmp_path: Path) -> None:
    from transformers import SwinConfig, SwinForImageClassification

    sizes = dict(mask2former.SIZES["mask2former_tiny"]["backbone"])
    classifier = SwinForImageClassification(SwinConfig(**sizes, num_labels=7))
    classifier.save_pretrained(tmp_path / "swin")
    network = mask2former.build_mask2former("mask2former_tiny", 2, tmp_path / "swin")
    assert network.notes == ["--weights swin: of the backbone alone; all else starts from random weights"]
    encoder = network.network.model.pixel_level_module.encoder
    assert torch.equal(encoder.swin.embeddings.norm.weight, classifier.swin.embeddings.norm.weight)
    theirs, ours = classifier.swin.encoder.state_dict(), encoder.swin.encoder.state_dict()
    assert len(theirs) > 30 and all(torch.equal(theirs[name], ours[name]) for name in theirs)
    with pytest.raises(UserError, match="does not fit this network"):
        mask2former.build_mask2former("mask2former_swin_t", 2, tmp_path / "swin")


def test_entries_of_published_folders_that_play_no_part(tmp_path: Path) -> None:
    """Published Mask2Former files have the indices of Swin's windows and no last norm, which this release computes and
    adds.
    """
    first = mask2former.build_mask2former("mask2former_tiny", 2, None)
    first.network.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    plain = {
        name: tensor
        for name, tensor in state.items()
        if "swin.layernorm" not in name and "encoder.layernorm" not in name
    }
    assert len(plain) == len(state) - 2
    place = next(name for name in plain if name.endswith("relative_position_bias_table"))
    plain[place.replace("relative_position_bias_table", "relative_position_index")] = torch.zeros(
        49, 49, dtype=torch.int64
    )
    save_file(plain, tmp_path / "model.safetensors", {"format": "pt"})
    again = mask2former.build_mask2former("mask2former_tiny", 2, tmp_path)
    assert again.notes == [] and same(first.network, again.network)
    lacking = {name: tensor for name, tensor in plain.items() if name != "class_predictor.weight"}
    save_file(lacking, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="does not fit this network: 1 missing .class_predictor.weight"):
        mask2former.build_mask2former("mask2former_tiny", 2, tmp_path)


def test_a_torchvision_file_is_loaded_strictly(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v3_large

    def build(file: Path, classes: int = 3) -> torch.nn.Module:
        return detectors.build_detector("fasterrcnn_mobilenet", classes, size=SIZE, weights=file)

    torch.manual_seed(0)
    first = detectors.build_detector("fasterrcnn_mobilenet", 3, size=SIZE, weights=None)
    torch.save(first.network.state_dict(), tmp_path / "whole.pth")
    again = build(tmp_path / "whole.pth")
    assert again.notes == []
    assert all(
        torch.equal(tensor, first.network.state_dict()[name]) for name, tensor in again.network.state_dict().items()
    )
    fewer = build(tmp_path / "whole.pth", 2)
    assert fewer.notes == [
        "--weights whole.pth: its classes are others; these start at random: "
        + ", ".join(
            f"roi_heads.box_predictor.{part}.{kind}"
            for part in ("cls_score", "bbox_pred")
            for kind in ("weight", "bias")
        )
    ]
    state = first.network.state_dict()
    del state["rpn.head.bbox_pred.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(UserError, match="part.pth: does not fit this network: 1 missing .rpn.head.bbox_pred.weight"):
        build(tmp_path / "part.pth")
    classifier = mobilenet_v3_large(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "backbone.pth")
    started = build(tmp_path / "backbone.pth")
    assert "of the backbone alone" in started.notes[0]
    assert torch.equal(started.network.backbone.body["0"][0].weight, classifier.features[0][0].weight)


def test_torchvisions_older_names_are_read() -> None:
    old = {
        "rpn.head.conv.weight": 0,
        "backbone.fpn.inner_blocks.0.bias": 1,
        "backbone.fpn.layer_blocks.3.weight": 2,
        "roi_heads.mask_head.mask_fcn1.weight": 3,
        "roi_heads.mask_head.mask_fcn4.bias": 4,
        "rpn.head.cls_logits.bias": 5,
    }
    network = detectors.build_detector("maskrcnn_mobilenet", 2, size=SIZE, weights=None).network
    new = detectors.renamed_rcnn(old)
    assert list(new) == [
        "rpn.head.conv.0.0.weight",
        "backbone.fpn.inner_blocks.0.0.bias",
        "backbone.fpn.layer_blocks.3.0.weight",
        "roi_heads.mask_head.0.0.weight",
        "roi_heads.mask_head.3.0.bias",
        "rpn.head.cls_logits.bias",
    ]
    assert detectors.renamed_rcnn(new) == new
    assert {"rpn.head.conv.0.0.weight", "roi_heads.mask_head.0.0.weight", "backbone.fpn.inner_blocks.0.0.bias"} <= set(
        network.state_dict()
    )


def test_a_damaged_hugging_face_folder_is_one_line(tmp_path: Path) -> None:
    mask2former.build_mask2former("mask2former_tiny", 2, None).network.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(UserError, match="not a file of weights that can be read .*get the file again"):
        mask2former.build_mask2former("mask2former_tiny", 2, tmp_path)
