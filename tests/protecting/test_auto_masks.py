"""Proposals from how sure a network is of each pixel: what counts as clear, and as several objects."""

from __future__ import annotations

import numpy as np
import pytest

from unseg.protecting.auto_masks import foreground_of, propose

HEIGHT, WIDTH = 90, 140


def sureness(*parts: tuple[slice, slice, int]) -> np.ndarray:
    found = np.full((HEIGHT, WIDTH), 3, np.uint8)
    for rows, columns, value in parts:
        found[rows, columns] = value
    return found


LEFT = (slice(10, 60), slice(5, 45))  # 2,000 pixels
RIGHT = (slice(30, 70), slice(90, 110))  # 800


def test_two_parts_are_two_objects_the_largest_first() -> None:
    found = foreground_of(sureness((*RIGHT, 255), (*LEFT, 240)))
    assert found.unclear is None
    assert [proposal.box for proposal in found.proposals] == [(5, 10, 44, 59), (90, 30, 109, 69)]
    assert [proposal.share for proposal in found.proposals] == pytest.approx([2000 / 12600, 800 / 12600])
    levels = found.levels(HEIGHT, WIDTH)
    assert set(np.unique(levels)) == {0, 255, 235}
    assert (levels[LEFT] == 255).all() and (levels[RIGHT] == 235).all()


def test_unsure_pixels_between_two_objects_go_to_the_nearer_one() -> None:
    bridge = (slice(40, 44), slice(45, 90), 150)
    found = foreground_of(sureness((*LEFT, 255), (*RIGHT, 255), bridge))
    assert len(found.proposals) == 2
    left, right = (proposal.mask_HW for proposal in found.proposals)
    assert not (left & right).any()
    assert (left | right)[40:44, 45:90].all()
    assert left[41, 60] and right[41, 75]  # columns 44 and 90 are the nearest that are sure


def test_specks_and_what_no_sure_pixel_reaches_are_left_out() -> None:
    speck, haze = (slice(80, 84), slice(5, 9), 255), (slice(75, 85), slice(120, 138), 140)
    found = foreground_of(sureness((*LEFT, 255), speck, haze))
    assert [proposal.box for proposal in found.proposals] == [(5, 10, 44, 59)]


def test_edge_of_an_object_belongs_to_it() -> None:
    edge = (slice(8, 62), slice(3, 47), 128)
    assert foreground_of(sureness(edge, (*LEFT, 255))).proposals[0].box == (3, 8, 46, 61)
    below = (slice(8, 62), slice(3, 47), 127)
    assert foreground_of(sureness(below, (*LEFT, 255))).proposals[0].box == (5, 10, 44, 59)


def test_no_more_objects_than_a_mask_tells_apart() -> None:
    squares = [(slice(8, 20), slice(4 + 16 * i, 14 + 16 * i), 255) for i in range(8)]
    found = foreground_of(sureness(*squares))
    assert len(found.proposals) == 7
    assert sorted(np.unique(found.levels(HEIGHT, WIDTH))) == [0, 135, 155, 175, 195, 215, 235, 255]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (sureness(), "nothing stands out"),
        (sureness((slice(0, 5), slice(0, 5), 255)), "nothing stands out"),  # 25 of 12,600 pixels: under 0.2 %
        (sureness((slice(0, 90), slice(0, 138), 255)), "nothing is background"),
        (
            sureness((slice(0, 60), slice(0, 100), 160), (slice(0, 60), slice(0, 20), 255)),
            "only 20% of what stands out",
        ),
        (sureness((*LEFT, 229)), "nothing stands out"),
    ],
)
def test_what_is_not_clear_is_told(answer: np.ndarray, why: str) -> None:
    found = foreground_of(answer)
    assert found.proposals == ()
    assert found.unclear is not None and found.unclear.startswith(why)
    assert not found.levels(HEIGHT, WIDTH).any()


def test_network_is_asked_with_the_image() -> None:
    image = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[LEFT] = 255

    def network(given: np.ndarray) -> np.ndarray:
        return np.where((given == 255).all(axis=2), np.uint8(255), np.uint8(0))

    assert propose(image, network).proposals[0].box == (5, 10, 44, 59)
