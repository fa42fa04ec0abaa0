"""Prompts drawn from masks: against counting by hand, and properties for any mask and seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segment_anything_training.compact import prompt_planes
from segment_anything_training.prompt_batch import Prompts
from unseg.method.prompts import (
    PromptRule,
    box_of,
    draw_prompts,
    draw_subset,
    noisy_mask_of,
    object_pixels,
    points_of,
    seeded,
)


@st.composite
def labels(draw):
    side = draw(st.integers(16, 40))
    label = torch.zeros(side, side)
    top, left = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
    height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
    label[top : top + height, left : left + width] = draw(st.sampled_from([0.2, 0.6, 1.0]))
    return label


def test_box_corners_are_inclusive():
    label = torch.zeros(20, 30)
    label[4:9, 7:12] = 1.0
    assert box_of(label).tolist() == [7, 4, 11, 8]


def test_label_128_is_not_object_and_129_is():
    label = torch.tensor([[128 / 255, 129 / 255, 1.0]])
    assert object_pixels(label).tolist() == [[0, 1], [0, 2]]


@given(labels(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_points_lie_on_the_object(label, seed):
    points = points_of(label, np.random.default_rng(seed))
    assert points.shape == (10, 2)
    pixels = {tuple(pixel) for pixel in object_pixels(label).flip(-1).tolist()}
    chosen = [tuple(point) for point in points.int().tolist()]
    assert set(chosen) <= pixels
    assert len(set(chosen)) == 10 or len(pixels) < 10


def test_an_empty_label_is_refused():
    with pytest.raises(ValueError, match="no object pixel"):
        points_of(torch.zeros(8, 8), np.random.default_rng(0))


def test_a_noisy_mask_differs_near_the_outline_only():
    label = torch.zeros(1, 1, 128, 128)
    label[..., 32:96, 32:96] = 1.0
    noisy = noisy_mask_of(label, 128, np.random.default_rng(0))
    assert set(noisy.unique().tolist()) == {0.0, 255.0}
    wrong = torch.nonzero((noisy / 255 != label)[0, 0])
    assert len(wrong) > 100
    distance = torch.stack([(wrong - edge).abs() for edge in (31.5, 95.5)]).amin(0).amin(1)
    assert distance.max() < 12  # the 8× reduction reaches no further
    assert noisy[0, 0, 64, 64] == 255 and noisy[0, 0, 4, 4] == 0


def test_rules_change_what_is_drawn():
    label = torch.zeros(1, 1, 128, 128)
    label[..., 32:96, 32:96] = 1.0

    def wrong(rule):
        return int((draw_prompts(label, ("noisy_mask",), 128, seeded(1, "name"), rule).masks / 255 != label).sum())

    assert draw_prompts(label, ("points",), 128, seeded(1, "name"), PromptRule(points=3)).points.shape == (1, 3, 2)
    assert wrong(PromptRule(deviation=0)) == wrong(PromptRule(unsure=2)) == 0  # no noise; no outline
    assert wrong(PromptRule(coarsening=4)) < wrong(PromptRule()) < wrong(PromptRule(coarsening=16))
    assert wrong(PromptRule(unsure=0.4)) < wrong(PromptRule())


def test_subset_sizes_are_uniform_then_members():
    random = np.random.default_rng(0)
    drawn = [draw_subset(("a", "b", "c"), random) for _ in range(3000)]
    sizes = np.bincount([len(subset) for subset in drawn], minlength=4)
    assert sizes[0] == 0 and np.all(np.abs(sizes[1:] - 1000) < 120)
    assert all(len(set(subset)) == len(subset) for subset in drawn)


def test_drawing_depends_on_seed_and_name_alone():
    label = torch.zeros(2, 1, 64, 64)
    label[..., 10:40, 20:50] = 1.0
    kinds = ("box", "points", "noisy_mask")
    first, again = (draw_prompts(label, kinds, 64, seeded(1, "name")) for _ in range(2))
    other = draw_prompts(label, kinds, 64, seeded(1, "other name"))
    assert torch.equal(first.points, again.points) and torch.equal(first.masks, again.masks)
    assert not torch.equal(first.points, other.points)


def test_prompts_of_single_images_make_a_batch():
    box, points, mask = torch.tensor([[1.0, 2, 3, 4]]), torch.full((1, 10, 2), 5.0), torch.full((1, 1, 16, 16), 255.0)
    each = [Prompts(boxes=box), Prompts(masks=mask, points=points), Prompts(), Prompts(mask / 5, box + 1, points + 1)]
    joined = Prompts.join(each)
    assert joined.given.tolist() == [
        [False, True, False],
        [True, False, True],
        [False, False, False],
        [True, True, True],
    ]
    for index, one in enumerate(each):
        back = joined.of_image(index)
        for name in ("masks", "boxes", "points"):
            field = getattr(one, name)
            assert getattr(back, name) is None if field is None else torch.equal(getattr(back, name), field)


def test_alike_prompts_need_no_table_of_what_is_given():
    box, points = torch.tensor([[1.0, 2, 3, 4]]), torch.full((1, 10, 2), 5.0)
    joined = Prompts.join([Prompts(boxes=box, points=points)] * 3)
    assert (
        joined.given is None
        and joined.masks is None
        and joined.boxes.shape == (3, 4)
        and joined.points.shape == (3, 10, 2)
    )
    assert Prompts.join([Prompts()] * 2) == Prompts()
    with pytest.raises(ValueError, match=r"prompts.points: .* \[\(1, 9, 2\), \(1, 10, 2\)\]"):
        Prompts.join([Prompts(points=points), Prompts(points=points[:, 1:])])
    with pytest.raises(ValueError, match="prompts.boxes: expected entries of single images"):
        Prompts.join([Prompts(boxes=box.expand(2, 4))])


def test_drawn_planes_leave_out_what_is_not_given():
    prompts = Prompts(
        torch.full((2, 1, 16, 16), 255.0),
        torch.tensor([[1.0, 1, 9, 9]] * 2),
        torch.full((2, 10, 2), 4.0),
        torch.tensor([[True, False, True], [False, True, False]]),
    )
    planes = prompt_planes(prompts, 2, 16)
    for index, present in enumerate(([0, 2], [1])):
        alone = prompt_planes(prompts.of_image(index), 1, 16)[0]
        assert torch.equal(planes[index], alone)
        assert [plane for plane in range(3) if alone[plane].abs().sum() > 0] == present


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="scribble"):
        draw_prompts(torch.ones(1, 1, 16, 16), ("scribble",), 16, np.random.default_rng(0))


def test_drawn_planes():
    prompts = Prompts(
        masks=torch.tensor([[[[0.0, 255.0], [0.0, 0.0]]]]),
        boxes=torch.tensor([[1.0, 0.0, 2.0, 1.0]]),
        points=torch.tensor([[[3.0, 3.0]]]),
    )
    mask, box, points = prompt_planes(prompts, 1, 4)[0]
    assert (box == 1).nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert (points == 1).nonzero().tolist() == [[3, 3]]  # the radius of 1/64 of 4 pixels reaches no neighbour
    assert mask[0, 3] == 1 and mask[3, 0] == -1
    assert prompt_planes(Prompts(), 2, 16).abs().sum() == 0
