"""Training folders and the views drawn from them."""
import dataclasses

import numpy as np
import pytest
from PIL import Image

from unseg.data.views import TrainingFolder, TrainingImage, draw_batch, draw_object, draw_view, find_pairs
from unseg.errors import UserError
from unseg.recipes import recipe

CONFIG = dataclasses.replace(recipe("smoke"), flip=0.0)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("train/a", "train/b", "val/c"):
        save(tmp_path / f"images/{name}.jpg", random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        for suffix in (".x", ".y"):
            segments = np.ones((60, 80), np.uint8)
            segments[:, 40:] = 2
            segments[30:] += 2
            save(tmp_path / f"segments/{name}{suffix}.png", segments)
    return tmp_path


def square(side=100, top=20, left=30, height=40, width=50):
    mask = np.zeros((side, side), np.int32)
    mask[top:top + height, left:left + width] = 255
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    pixels[mask > 0] = (255, 0, 0)
    pixels[mask == 0, 0] = 0
    return TrainingImage("square", pixels, (mask,))


def test_pairs_by_stem_with_several_annotations_and_splits(folder):
    pairs = find_pairs(folder, ("train",))
    assert [name for name, _, _ in pairs] == ["train/a", "train/b"]
    assert [path.name for path in pairs[0][2]] == ["a.x.png", "a.y.png"]
    assert len(find_pairs(folder)) == 3
    sample = TrainingFolder(folder, ("val",))[0]
    assert sample.pixels.shape == (60, 80, 3) and len(sample.labels) == 2


@pytest.mark.parametrize("spoil, part", [
    (lambda root: (root / "segments/train/a.x.png").unlink() or (root / "segments/train/a.y.png").unlink(), "train/a"),
    (lambda root: (root / "images/train/b.jpg").unlink(), "train/b"),
    (lambda root: save(root / "segments/train/a.x.png", np.ones((8, 9), np.uint8)), "9×8"),
    (lambda root: (root / "images").rename(root / "pictures"), "images"),
    (lambda root: save(root / "images/train/a.png", np.ones((60, 80, 3), np.uint8)), "a.jpg has the same name"),
])
def test_faults_are_named(folder, spoil, part):
    spoil(folder)
    with pytest.raises(UserError) as error:
        data = TrainingFolder(folder)
        [data[index] for index in range(len(data))]
    assert part in str(error.value) and "\n" not in str(error.value)


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
        image, label = draw_view(sample, CONFIG, np.random.default_rng(seed))
        assert image.shape == (3, 64, 64) and label.shape == (1, 64, 64)
        assert image.min() >= 0 and image.max() <= 1 and (label > 0.5).sum() > 0
        sure = (label[0] < 0.02) | (label[0] > 0.98)  # the red object is where the label is, off its resampled outline
        assert ((image[0] - label[0]).abs()[sure] < 0.1).all()


def test_a_small_image_is_padded_right_and_below_with_zeros():
    config = dataclasses.replace(CONFIG, frame_size=32, jitter=(1.0, 1.0))
    image, label = draw_view(square(), config, np.random.default_rng(0))
    assert image[:, 32:].abs().sum() == image[:, :, 32:].abs().sum() == label[:, 32:].sum() == 0
    assert image[:, :32, :32].mean() > 0.1


def test_a_speck_is_found():
    speck = np.zeros((300, 300), np.int32)
    speck[290, 5] = 255
    sample = TrainingImage("speck", np.zeros((300, 300, 3), np.uint8), (speck,))
    config = dataclasses.replace(CONFIG, frame_size=300, jitter=(1.0, 1.0), antialias=False)
    assert draw_view(sample, config, np.random.default_rng(3))[1].max() == 1


def test_an_object_that_shrinks_to_nothing_is_named():
    mask = np.zeros((90, 90), np.int32)
    mask[0, 0] = 255  # one pixel of 8,100, read by no pixel of the 4×4 image
    config = dataclasses.replace(CONFIG, frame_size=4, jitter=(1.0, 1.0), antialias=False)
    with pytest.raises(UserError, match="nothing: its mask"):
        draw_view(TrainingImage("nothing", np.zeros((90, 90, 3), np.uint8), (mask,)), config, np.random.default_rng(0))


def test_an_epoch_shows_every_image_once(folder):
    class Probe:
        def __init__(self):
            self.asked = []

        def __len__(self):
            return 6

        def __getitem__(self, index):
            self.asked.append(int(index))
            return square()

    probe = Probe()
    first = [draw_batch(probe, CONFIG, step) for step in range(3)]
    assert sorted(probe.asked) == list(range(6))
    again = draw_batch(Probe(), CONFIG, 1)
    assert all(np.array_equal(a, b) for a, b in zip(first[1], again))
    probe.asked.clear()
    [draw_batch(probe, CONFIG, step) for step in range(3, 6)]
    assert sorted(probe.asked) == list(range(6))
