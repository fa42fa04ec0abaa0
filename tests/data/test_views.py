"""The views drawn from training images, and which step sees which image."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unseg.data.training_data import TrainingImage
from unseg.data.views import draw_crop, draw_mask, draw_object, draw_view, draw_views, shrunk, steps_per_epoch
from unseg.errors import UserError
from unseg.training.recipes import recipe

CONFIG = dataclasses.replace(recipe("smoke"), flip=0.0)


def square(side=100, top=20, left=30, height=40, width=50):
    mask = np.zeros((side, side), np.int32)
    mask[top : top + height, left : left + width] = 255
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    pixels[mask > 0] = (255, 0, 0)
    pixels[mask == 0, 0] = 0
    return TrainingImage("square", pixels, (mask,))


def view_of(sample, config, seed):
    """A view as floats in [0, 1]: 3×V×V and 1×V×V."""
    view = torch.from_numpy(draw_view(sample, config, np.random.default_rng(seed))) / 255.0
    return view[:3], view[3:]


def test_objects_are_unions_of_segments_or_the_mask_itself():
    random = np.random.default_rng(0)
    segments = np.repeat(np.arange(1, 9), 10)[None].repeat(4, 0)
    for _ in range(50):
        mask = draw_object(segments, random)
        for segment in range(1, 9):
            assert len(np.unique(mask[segments == segment])) == 1
        assert 0 < (mask > 0).sum() < mask.size
    assert np.array_equal(draw_object(square().labels[0], random), square().labels[0])


def test_a_view_keeps_image_and_label_together():
    sample = square()
    for seed in range(30):
        image, label = view_of(sample, CONFIG, seed)
        assert image.shape == (3, 64, 64) and label.shape == (1, 64, 64)
        assert image.min() >= 0 and image.max() <= 1 and (label > 0.5).sum() > 0
        sure = (label[0] < 0.02) | (label[0] > 0.98)  # the red object is where the label is, off its resampled outline
        assert ((image[0] - label[0]).abs()[sure] < 0.1).all()


def test_a_small_image_is_padded_right_and_below_with_zeros():
    config = dataclasses.replace(CONFIG, frame_size=32, jitter=(1.0, 1.0))
    image, label = view_of(square(), config, 0)
    assert image[:, 32:].abs().sum() == image[:, :, 32:].abs().sum() == label[:, 32:].sum() == 0
    assert image[:, :32, :32].mean() > 0.1


# Geometry. Images are not square, and every pixel says where it was: red is its row, green its column.


def mapped(height, width, object_rows=slice(None), object_columns=slice(None)):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(height)[:, None], np.arange(width)
    mask = np.zeros((height, width), np.int32)
    mask[object_rows, object_columns] = 255
    return TrainingImage("mapped", pixels, (mask,))


def unscaled(sample, **changes):
    """The smoke recipe with every image at its own size."""
    long_side = max(sample.pixels.shape)
    return dataclasses.replace(CONFIG, frame_size=long_side, jitter=(1.0, 1.0), antialias=False, **changes)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_image_and_label_are_flipped_together_from_left_to_right(flip):
    sample = mapped(48, 80, slice(5, 20), slice(8, 30))  # off the centre both ways
    view = draw_view(sample, unscaled(sample, flip=flip, view_size=96), np.random.default_rng(0))
    turn = -1 if flip else 1
    assert np.array_equal(view[:3, :48, :80], sample.pixels[:, ::turn].transpose(2, 0, 1))
    assert np.array_equal(view[3, :48, :80], sample.labels[0][:, ::turn])
    assert not view[:, 48:].any() and not view[:, :, 80:].any()


def test_half_of_the_views_are_flipped():
    sample = mapped(10, 20)
    config = unscaled(sample, flip=0.5, view_size=32)
    flipped = [draw_view(sample, config, np.random.default_rng(seed))[1, 0, 0] == 19 for seed in range(400)]
    assert 160 < sum(flipped) < 240


def extent(view):
    """Rows and columns that the label reaches."""
    rows, columns = np.nonzero(view[3])
    return rows.max() + 1, columns.max() + 1


@pytest.mark.parametrize(
    ("height", "width", "frame", "scale", "expected"),
    [
        (48, 80, 40, 1.0, (24, 40)),  # the long side, 80, becomes the frame's 40
        (80, 48, 40, 1.0, (40, 24)),
        (48, 80, 40, 1.5, (36, 60)),
        (30, 120, 90, 0.5, (11, 45)),  # 11.25 rows
    ],
)
def test_scales_are_those_of_the_long_side(height, width, frame, scale, expected):
    config = dataclasses.replace(CONFIG, frame_size=frame, jitter=(scale, scale), view_size=128)
    assert extent(draw_view(mapped(height, width), config, np.random.default_rng(0))) == expected


def test_scales_are_uniform():
    """Not so in their logarithm, of which half would lie below 0.45."""
    config = dataclasses.replace(CONFIG, frame_size=100, jitter=(0.1, 2.0), view_size=200)
    sample, random = mapped(8, 40), np.random.default_rng(0)
    scales = np.array([extent(draw_view(sample, config, random))[1] / 100 for _ in range(1000)])
    assert 0.1 <= scales.min() < 0.15 and 1.95 < scales.max() <= 2.0
    for share in (0.25, 0.5, 0.75):
        assert (scales < 0.1 + share * 1.9).mean() == pytest.approx(share, abs=0.06)


def corner(view):
    """Where a crop of a mapped image lies, after a look whether all its pixels are of that place."""
    top, left = int(view[0, 0, 0]), int(view[1, 0, 0])
    side = view.shape[1]
    assert np.array_equal(view[0], np.repeat(np.arange(top, top + side)[:, None], side, 1))
    assert np.array_equal(view[1], np.repeat(np.arange(left, left + side)[None], side, 0))
    return top, left


@pytest.mark.parametrize(("height", "width"), [(34, 35), (35, 34)])
def test_crops_take_every_place_up_to_the_far_edges(height, width):
    sample = mapped(height, width)
    config = unscaled(sample, view_size=32)
    seen = {corner(draw_view(sample, config, np.random.default_rng(seed))) for seed in range(150)}
    assert seen == {(top, left) for top in range(height - 31) for left in range(width - 31)}


@pytest.mark.parametrize(("height", "width"), [(200, 40), (40, 200)])
def test_rows_and_columns_of_a_crop_are_not_exchanged(height, width):
    sample = mapped(height, width)
    config = unscaled(sample, view_size=32)
    places = np.array([corner(draw_view(sample, config, np.random.default_rng(seed))) for seed in range(60)])
    assert places[:, 0].max() <= height - 32 and places[:, 1].max() <= width - 32
    assert places[:, 0].max() > (height - 32) // 2 and places[:, 1].max() > (width - 32) // 2


@pytest.mark.parametrize(("row", "column", "expected"), [(180, 3, (168, 3)), (2, 35, (2, 8))])
def test_a_crop_that_random_places_miss_lies_over_the_objects_first_pixel(row, column, expected):
    mask = np.zeros((200, 40), np.uint8)
    mask[row, column] = 255  # one pixel is fewer than a crop must show
    assert draw_crop(mask, 32, np.random.default_rng(0)) == expected


def test_a_speck_is_found():
    speck = np.zeros((300, 300), np.int32)
    speck[290, 5] = 255
    sample = TrainingImage("speck", np.zeros((300, 300, 3), np.uint8), (speck,))
    config = dataclasses.replace(CONFIG, frame_size=300, jitter=(1.0, 1.0), antialias=False)
    assert view_of(sample, config, 3)[1].max() == 1


def test_an_object_that_interpolation_misses_is_kept():
    mask = np.zeros((90, 90), np.uint8)
    mask[0, 0] = 255  # one pixel of 8,100, read by no pixel of the 4×4 image
    config = dataclasses.replace(CONFIG, frame_size=4, jitter=(1.0, 1.0), antialias=False)
    assert not cv2.resize(mask, (4, 4)).any(), "the case must be the one that is meant"
    _, label = view_of(TrainingImage("thin", np.zeros((90, 90, 3), np.uint8), (mask,)), config, 0)
    assert label[0, 0, 0] == 1 and label.sum() == 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(1, 20), st.data())
def test_no_object_is_lost_in_resizing(height, width, small_height, small_width, data):
    mask = np.zeros((height, width), np.uint8)
    mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = data.draw(st.integers(1, 255))
    small = shrunk(mask, small_width, small_height, data.draw(st.sampled_from([cv2.INTER_LINEAR, cv2.INTER_AREA])))
    assert small.shape == (small_height, small_width) and small.any()


@pytest.mark.parametrize("grey", [True, False])
def test_an_empty_mask_is_named(grey):
    sample = TrainingImage("set/nothing", np.zeros((90, 90, 3), np.uint8), (np.zeros((90, 90), np.uint8),), grey)
    with pytest.raises(UserError, match="set/nothing: its mask has no object pixel; .*check_data"):
        draw_view(sample, CONFIG, np.random.default_rng(0))


def test_a_grey_mask_is_no_segment_map():
    """Its largest value may be any."""
    label = np.zeros((8, 8), np.uint8)
    label[2:5], label[5:] = 100, 250
    for seed in range(20):
        random = np.random.default_rng(seed)
        assert np.array_equal(
            draw_mask(TrainingImage("soft", np.zeros((8, 8, 3), np.uint8), (label,), grey=True), random), label
        )
        drawn = draw_mask(TrainingImage("ids", np.zeros((8, 8, 3), np.uint8), (label,)), random)
        assert set(np.unique(drawn)) == {0, 255}


class Numbered:
    """`count` samples that remember who was asked for; the sample's number is its red."""

    def __init__(self, count):
        self.count, self.asked = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.append(index)
        pixels = np.zeros((90, 90, 3), np.uint8)
        pixels[..., 0] = index
        return TrainingImage(str(index), pixels, (np.full((90, 90), 255, np.uint8),))


def test_an_epoch_shows_every_image_once():
    probe = Numbered(6)
    first = [draw_views(probe, CONFIG, step) for step in range(3)]
    assert sorted(probe.asked) == list(range(6))
    again = draw_views(Numbered(6), CONFIG, 1)
    assert torch.equal(first[1].pixels, again.pixels) and first[1].names == again.names
    order, probe.asked = probe.asked, []
    [draw_views(probe, CONFIG, step) for step in range(3, 6)]
    assert sorted(probe.asked) == list(range(6)) and probe.asked != order


def test_processes_share_a_step_as_one_process_with_the_larger_batch_would_see_it():
    config, samples = dataclasses.replace(CONFIG, batch_size=2), Numbered(13)
    whole = dataclasses.replace(config, batch_size=6)
    assert steps_per_epoch(13, config, 3) == steps_per_epoch(13, whole) == 2
    for step in range(5):
        parts = [draw_views(samples, config, step, rank, 3) for rank in range(3)]
        together = draw_views(samples, whole, step)
        assert sum((part.names for part in parts), ()) == together.names
        assert torch.equal(torch.cat([part.pixels for part in parts]), together.pixels)
        assert torch.equal(torch.cat([part.images for part in parts]), together.images)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
def test_shards_of_an_epoch_are_disjoint_and_complete_but_for_the_last_partial_batch(
    count, batch_size, world_size, epoch
):
    config = dataclasses.replace(CONFIG, batch_size=batch_size, view_size=16, frame_size=16, surrogate_sizes=(16,))
    steps = steps_per_epoch(count, config, world_size)
    seen = [
        name
        for step in range(epoch * steps, (epoch + 1) * steps)
        for rank in range(world_size)
        for name in draw_views(Numbered(count), config, step, rank, world_size).names
    ]
    if count >= batch_size * world_size:
        assert len(set(seen)) == len(seen) == count - count % (batch_size * world_size)
    else:  # a folder smaller than a global batch is gone through evenly
        assert len(seen) == batch_size * world_size
        times = [seen.count(str(index)) for index in range(count)]
        assert max(times) - min(times) <= 1


def test_a_batch_carries_bytes_and_gives_floats():
    batch = draw_views(Numbered(3), CONFIG, 0)
    assert batch.step == 0 and batch.pixels.dtype == torch.uint8 and batch.pixels.shape == (2, 4, 64, 64)
    assert batch.images.shape == (2, 3, 64, 64) and batch.labels.shape == (2, 1, 64, 64)
    assert batch.images.dtype == torch.float32 and batch.images.is_contiguous() and batch.labels.is_contiguous()
    for image, label, pixels, name in zip(batch.images, batch.labels, batch.pixels, batch.names, strict=True):
        assert torch.equal(image, pixels[:3].float() / 255)
        assert torch.equal(label[0], pixels[3].float() / 255)
        assert pixels[0].max() == int(name)
