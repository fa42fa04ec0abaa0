"""HQSeg-44K's folders and plain ones: what pairs up, what is missing, and that both are told before training."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.told_progress import Told
from tests.support.training_folders import make_hqseg, save
from unseg.data.catalog import HQSEG, HQSEG_TRAIN, HQSEG_VALIDATION, NO_IMAGE, NO_MASK, pair_folders, pair_plain
from unseg.data.training_data import TrainingSet, open_training_data
from unseg.errors import UserError


def refused(root: Path, *arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        open_training_data(root, *arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# HQSeg-44K


def test_published_numbers():
    assert len(HQSEG_TRAIN) == 7 and len(HQSEG_VALIDATION) == 4
    assert sum(row.count for row in HQSEG_TRAIN) == 44_320
    assert len({row.name for row in HQSEG}) == 11
    folders = {row.name: (row.images, row.masks) for row in HQSEG}
    assert folders["DIS5K-TR"] == ("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt")
    assert folders["HRSOD"] == ("thin_object_detection/HRSOD/images", "thin_object_detection/HRSOD/masks_max255")
    assert {folders[name][0] for name in ("FSS", "DUTS-TR", "DUTS-TE", "ECSSD", "MSRA_10K")} == {
        "cascade_psp/fss_all",
        "cascade_psp/DUTS-TR",
        "cascade_psp/DUTS-TE",
        "cascade_psp/ecssd",
        "cascade_psp/MSRA_10K",
    }
    assert all(folders[name][0] == folders[name][1] for name in ("FSS", "DUTS-TR", "DUTS-TE", "ECSSD", "MSRA_10K"))


@pytest.mark.parametrize("below", ["", "data"])
def test_all_sets_are_found_and_read(tmp_path, below):
    make_hqseg(tmp_path / below)
    told = Told()
    data = open_training_data(tmp_path, progress=told)
    assert [pair.name for pair in data.train.pairs] == [
        f"{row.name}/{row.name.lower()}_{number}" for row in HQSEG_TRAIN for number in range(2)
    ]
    assert {name: len(samples) for name, samples in data.validation.items()} == {
        row.name: 2 for row in HQSEG_VALIDATION
    }
    assert data.notes == tuple(told.sentences) and "14 images to train on (DIS5K-TR 2, " in told.sentences[0]
    assert "held out: DIS5K-VD 2, COIFT 2, HRSOD 2, ThinObject5K-TE 2" in told.sentences[0]
    assert "DIS5K-TR 2 of 3,000" in told.sentences[1] and "HRSOD 2 of 287" in told.sentences[1]
    for samples in (data.train, *data.validation.values()):
        sample = samples[-1]
        assert sample.grey and sample.pixels.shape == (12, 16, 3) and set(np.unique(sample.labels[0])) == {0, 255}
    # Where images and masks share a folder, no mask is taken for an image.
    assert data.train.pairs[4].image.endswith("fss_0.jpg") and data.train.pairs[4].masks[0].endswith("fss_0.png")


def test_chosen_sets_only(tmp_path):
    make_hqseg(tmp_path)
    (tmp_path / "cascade_psp/ecssd").rename(tmp_path / "cascade_psp/elsewhere")
    data = open_training_data(tmp_path, ("FSS", "DIS5K-TR"), watch=("COIFT",))
    assert {pair.name.split("/")[0] for pair in data.train.pairs} == {"FSS", "DIS5K-TR"} and list(data.validation) == [
        "COIFT"
    ]
    assert "--splits fss: no such set of HQSeg-44K; available: DIS5K-TR, " in refused(tmp_path, ("fss",))
    assert "--watch FSS: no such set" in refused(tmp_path, (), watch=("FSS",))


def test_every_fault_is_named_before_training(tmp_path):
    make_hqseg(tmp_path)
    for path in (tmp_path / "cascade_psp/ecssd").iterdir():
        path.unlink()
    (tmp_path / "thin_object_detection/COIFT/masks").rename(tmp_path / "away")
    (tmp_path / "DIS5K/DIS-TR/gt/dis5k-tr_1.png").unlink()
    (tmp_path / "cascade_psp/fss_all/fss_0.jpg").unlink()
    save(tmp_path / "cascade_psp/DUTS-TR/duts-tr_0.jpeg", np.zeros((9, 9, 3), np.uint8))
    message = refused(tmp_path)
    assert "2 missing sets: ECSSD (cascade_psp/ecssd is empty), COIFT (thin_object_detection/COIFT/masks)" in message
    assert "1 image without a mask: DIS5K-TR/dis5k-tr_1;" in message
    assert "1 mask without an image: FSS/fss_0;" in message
    assert "1 image whose name is taken by another file type: DUTS-TR/duts-tr_0.jp" in message
    assert message.endswith("--allow-missing")

    told = Told()
    data = open_training_data(tmp_path, allow_missing=True, progress=told)
    names = {pair.name for pair in data.train.pairs}
    assert len(names) == len(data.train) == 14 - 2 - 1 - 1 - 1
    assert not names & {"DIS5K-TR/dis5k-tr_1", "FSS/fss_0", "DUTS-TR/duts-tr_0"} and "FSS/fss_1" in names
    assert list(data.validation) == ["DIS5K-VD", "HRSOD", "ThinObject5K-TE"]
    assert told.sentences[-1].startswith("left out, as --allow-missing says: 2 missing sets: ECSSD")
    assert all(
        part in told.sentences[-1] for part in ("COIFT", "DIS5K-TR/dis5k-tr_1", "FSS/fss_0", "DUTS-TR/duts-tr_0.jp")
    )


def test_long_lists_are_counted_and_go_to_a_file(tmp_path):
    make_hqseg(tmp_path, 9)
    gone = sorted((tmp_path / "cascade_psp/fss_all").glob("*.png"))[:7]
    for path in gone:
        path.unlink()
    listing = tmp_path / "run" / "faults.txt"
    message = refused(tmp_path, listing=listing)
    assert "7 images without a mask: FSS/fss_0, FSS/fss_1, FSS/fss_2, FSS/fss_3, FSS/fss_4, …" in message
    assert f"(all 7 in {listing})" in message
    assert listing.read_text() == "".join(f"image without a mask\tFSS/{path.stem}\n" for path in gone)
    assert "FSS/fss_4, …; put them right" in refused(tmp_path), "no list is promised where none is written"


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "cascade_psp").mkdir()
    message = refused(tmp_path, allow_missing=True)
    assert "no image with a mask to train on" in message and "11 missing sets: " in message


def test_masks_of_a_set_are_grey(tmp_path):
    make_hqseg(tmp_path)
    masks = tmp_path / "DIS5K/DIS-TR/gt"
    save(masks / "dis5k-tr_0.png", np.eye(12, 16, dtype=np.uint8))  # 0 and 1
    soft = np.full((12, 16), 77, np.uint8)
    save(masks / "dis5k-tr_1.png", np.repeat(soft[..., None], 3, 2))  # grey in three channels
    samples = open_training_data(tmp_path).train
    assert np.array_equal(samples[0].labels[0], np.eye(12, 16, dtype=np.uint8) * 255)
    assert np.array_equal(samples[1].labels[0], soft)
    palette = Image.fromarray(np.eye(12, 16, dtype=np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white
    palette.save(masks / "dis5k-tr_0.png")
    assert np.array_equal(open_training_data(tmp_path).train[0].labels[0], 255 - np.eye(12, 16, dtype=np.uint8) * 255)
    palette.putpalette([255, 255, 255, 9, 0, 0])
    palette.save(masks / "dis5k-tr_0.png")
    save(masks / "dis5k-tr_1.png", np.full((12, 16), 999, np.uint16))
    samples = open_training_data(tmp_path).train
    for index, part in ((0, "a colour palette"), (1, "values up to 999")):
        with pytest.raises(
            UserError, match=f"dis5k-tr_{index}.png: {part}, where a mask of grey levels 0 to 255 belongs"
        ):
            samples[index]


# Plain folders


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


def test_pairs_by_stem_with_several_annotations_and_splits(folder):
    data = open_training_data(folder, ("train",), watch=("val",))
    assert [pair.name for pair in data.train.pairs] == ["train/a", "train/b"]
    assert [Path(path).name for path in data.train.pairs[0].masks] == ["a.x.png", "a.y.png"]
    assert list(data.validation) == ["val"]
    sample = data.validation["val"][0]
    assert sample.pixels.shape == (60, 80, 3) and len(sample.labels) == 2 and not sample.grey
    assert len(open_training_data(folder).train) == 3 and not open_training_data(folder).validation


@pytest.mark.parametrize(
    "spoil, part",
    [
        (
            lambda root: (root / "segments/train/a.x.png").unlink() or (root / "segments/train/a.y.png").unlink(),
            "1 image without a mask: train/a;",
        ),
        (lambda root: (root / "images/train/b.jpg").unlink(), "2 masks without an image: train/b.x, train/b.y;"),
        (lambda root: save(root / "segments/train/a.x.png", np.ones((8, 9), np.uint8)), "9×8"),
        (lambda root: (root / "images/train/b.jpg").write_bytes(b"\xff\xd8"), "images/train/b.jpg: "),
        (lambda root: (root / "images").rename(root / "pictures"), "images"),
        (lambda root: save(root / "images/train/a.png", np.ones((60, 80, 3), np.uint8)), "train/a."),
    ],
)
def test_faults_are_named(folder, spoil, part):
    spoil(folder)
    with pytest.raises(UserError) as error:
        list(open_training_data(folder).train)
    assert part in str(error.value) and "\n" not in str(error.value)


def test_what_is_left_of_a_plain_folder(folder):
    (folder / "images/train/b.jpg").unlink()
    told = Told()
    assert [pair.name for pair in open_training_data(folder, allow_missing=True, progress=told).train.pairs] == [
        "train/a",
        "val/c",
    ]
    assert "train/b.x, train/b.y" in told.sentences[-1]
    assert len(open_training_data(folder, ("val",)).train) == 1, "a fault in another split is no matter"


def test_unknown_and_shared_splits(folder):
    assert "--splits tain: no such sub-folder" in refused(folder, ("train", "tain"))
    assert "available: train, val" in refused(folder, ("tain",))
    assert "--watch val: 1 of its images are trained on (val/c, …)" in refused(folder, watch=("val",))
    assert "no such folder" in refused(folder / "nowhere")


stems = st.sets(st.sampled_from(["a", "b", "c", "a.b", "d/a", "d/b", "e.f.g", "ü #1"]))


@given(stems, stems, st.booleans())
def test_pairs_are_what_both_folders_have(images, masks, together):
    with tempfile.TemporaryDirectory() as root:
        folders = (Path(root) / "images", Path(root) / ("images" if together else "masks"))
        for folder, names, suffix in zip(folders, (images, masks), (".jpg", ".PNG"), strict=True):
            folder.mkdir(exist_ok=True)
            for name in names:
                (folder / f"{name}{suffix}").parent.mkdir(exist_ok=True)
                (folder / f"{name}{suffix}").touch()
        pairs, problems = pair_folders(*folders, "set/")
    assert {pair.name for pair in pairs} == {f"set/{name}" for name in images & masks} and len(pairs) == len(
        images & masks
    )
    assert all(len(pair.masks) == 1 and Path(pair.image).stem == Path(pair.masks[0]).stem for pair in pairs)
    faults = {(f"set/{name}", NO_MASK) for name in images - masks} | {
        (f"set/{name}", NO_IMAGE) for name in masks - images
    }
    assert {(problem.name, problem.reason) for problem in problems} == faults and len(problems) == len(faults)


# Reading


def test_a_small_set_is_read_once_and_travels_without_its_images(folder):
    samples = open_training_data(folder).train
    first = samples[0]
    assert samples[0] is first and samples[-3] is first
    assert len(pickle.dumps(samples)) < 2_000
    again = pickle.loads(pickle.dumps(samples))
    assert again.pairs == samples.pairs and np.array_equal(again[0].pixels, first.pixels) and again[0] is not first
    assert [sample.name for sample in samples[1:]] == ["train/b", "val/c"]
    with pytest.raises(IndexError):
        samples[3]


def test_the_cache_is_bounded(folder, monkeypatch):
    pairs = pair_plain(folder).pairs
    size = 60 * 80 * (3 + 2)
    for limit, kept in ((3 * size, 3), (3 * size - 1, 2), (0, 0)):
        monkeypatch.setattr("unseg.data.training_data.CACHE_BYTES", limit)
        samples = TrainingSet(pairs)
        first = list(samples)
        assert sum(samples[index] is first[index] for index in range(3)) == kept
    monkeypatch.setattr("unseg.data.training_data.CACHE_BYTES", 1 << 30)
    monkeypatch.setattr("unseg.data.training_data.CACHED_IMAGES", 2)
    samples = TrainingSet(pairs)
    assert samples[0] is not samples[0]
