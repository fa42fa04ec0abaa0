"""From mask files to objects, and from folders to samples."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from unseg.data.finding import find_samples
from unseg.data.masks import MaskKind, box_mask, fits, object_mask, scaled
from unseg.data.object_rule import ObjectRule, parse_objects
from unseg.data.samples import SampleList, walk, walk_texts
from unseg.errors import UserError

VALUES = np.array([[0, 1, 2, 15, 255]])


@pytest.mark.parametrize(
    ("kind", "rule", "expected"),
    [
        ("index", ObjectRule(), [0, 1, 1, 1, 0]),
        ("index", ObjectRule(ignore_label=None), [0, 1, 1, 1, 1]),
        ("index", ObjectRule(background_label=None), [1, 1, 1, 1, 0]),  # ADE20K: 0 is a class
        ("index", ObjectRule((0, 15)), [1, 0, 0, 1, 0]),
        ("index", ObjectRule((255,)), [0, 0, 0, 0, 0]),  # ignored stays ignored
        ("index", ObjectRule(ignore_label=2), [0, 1, 0, 1, 1]),
        ("index", ObjectRule((0, 255), ignore_label=None), [1, 0, 0, 0, 1]),
        ("binary", ObjectRule(), [0, 0, 0, 0, 1]),
    ],
)
def test_rules(kind: MaskKind, rule: ObjectRule, expected: list[int]) -> None:
    assert object_mask(VALUES, kind, rule).astype(int).tolist() == [expected]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("binary", [0, 127, 128, 255], [0, 0, 1, 1]),  # more than two levels: the upper half
        ("binary", [0, 1, 0, 0], [0, 1, 0, 0]),
        ("binary", [0, 65535, 0, 0], [0, 1, 0, 0]),
        ("binary", [90, 40, 40, 90], [1, 0, 0, 1]),  # the brighter of two levels, whatever they are
        ("binary", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("binary", [1, 1, 1, 1], [1, 1, 1, 1]),
        ("binary", [200, 200, 200, 200], [1, 1, 1, 1]),
        ("soft", [0, 64, 64, 0], [0, 0, 0, 0]),  # edges of something that is not in the picture
        ("soft", [0, 127, 128, 255], [0, 0, 1, 1]),
        ("soft", [0, 32767, 32768, 65535], [0, 0, 1, 1]),  # 16 bits
        ("trimap", [0, 127, 255, 0], [0, 1, 1, 0]),  # what is unknown belongs to the object
        ("trimap", [0, 1, 2, 0], [0, 1, 1, 0]),
        ("trimap", [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_grey_levels(kind: MaskKind, values: list[int], expected: list[int]) -> None:
    assert object_mask(np.array([values]), kind).astype(int).tolist() == [expected]


def test_scaling_takes_the_nearest_pixel_and_only_equal_proportions_fit() -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]])
    assert scaled(values, 4, 6)[1].tolist() == [1, 1, 2, 2, 3, 3] and scaled(values, 4, 6)[2, 5] == 6
    assert scaled(values, 1, 2).tolist() == [[4, 6]]  # centres at 1.0 and 0.75, 2.25 of the mask's pixels
    assert fits((120, 160), (480, 640)) and fits((133, 200), (333, 500)) and fits((167, 250), (333, 500))
    assert not fits((100, 160), (480, 640)) and not fits((160, 120), (480, 640))


def test_class_ids_for_binary_masks_are_a_user_error() -> None:
    with pytest.raises(UserError, match="--objects .* binary"):
        object_mask(VALUES, "binary", ObjectRule((1,)))


def test_objects_are_parsed() -> None:
    assert parse_objects("all") is None and parse_objects("4, 3") == (3, 4) and parse_objects("1-3,9") == (1, 2, 3, 9)
    assert parse_objects(f"{2**64 - 1}") == (2**64 - 1,)
    for text in ("", "a", "3,", "5-1", "-1", "1-", "²", "1-²", f"{2**64}", "9" * 5000):
        with pytest.raises(UserError, match="--objects"):
            parse_objects(text)


@pytest.mark.parametrize("label", [2**64, -(2**63) - 1])
def test_labels_that_no_mask_can_hold_are_refused(label: int) -> None:
    ObjectRule(ignore_label=2**64 - 1, background_label=-(2**63))
    with pytest.raises(UserError, match=f"--ignore-label {label}: a class id is an int of at most 64 bits"):
        ObjectRule(ignore_label=label)
    with pytest.raises(UserError, match=f"--background-label {label}: "):
        ObjectRule(background_label=label)


def test_a_label_that_is_no_int_of_python_is_refused_as_such() -> None:
    for label in (np.int64(5), True, "5", 5.0):
        with pytest.raises(UserError, match=f"--background-label {re.escape(repr(label))}: a class id is an int"):
            ObjectRule(background_label=label)  # type: ignore[arg-type]  # what it tells


def test_box_corners_are_inclusive_and_boxes_are_cut_at_the_border() -> None:
    assert np.argwhere(box_mask([[1, 0, 2, 1]], 3, 4)).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert box_mask([[-5, -5, 0, 0], [3, 2, 99, 99]], 3, 4).sum() == 2
    assert np.argwhere(box_mask([[0.5, 0.5, 2.5, 1.5]], 3, 4)).tolist() == [[1, 1], [1, 2]]
    assert not box_mask([[10, 10, 12, 12], [-9, -9, -2, -2]], 3, 4).any()


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_images_and_masks_are_paired_by_relative_stem(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b/c.PNG", "b/d.jpeg", "notes.txt", ".hidden.png", ".cache/e.png")
    touch(tmp_path / "masks", "a.png", "a.jpg", "b/c.png", "other.png")
    found = find_samples([tmp_path / "images"], tmp_path / "masks")
    assert [(sample.name, sample.mask_name) for sample in found.samples] == [
        ("a.jpg", "a.png"),
        ("b/c.PNG", "b/c.png"),
        ("b/d.jpeg", None),
    ]
    assert found.samples[1].image == tmp_path / "images" / "b" / "c.PNG"
    assert found.samples[1].mask == tmp_path / "masks" / "b" / "c.png"
    assert found.unused_masks == ["other.png"] and found.other_files == ["notes.txt"] and not found.problems


def test_the_order_of_the_inputs_does_not_matter_and_a_file_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg", "y/b.jpg")
    forward = find_samples([tmp_path / "x", tmp_path / "y", tmp_path / "x" / "a.jpg"])
    backward = find_samples([tmp_path / "x" / "a.jpg", tmp_path / "y", tmp_path / "x"])
    assert forward == backward and [sample.name for sample in forward.samples] == ["a.jpg", "b.jpg"]


def test_masks_beside_or_below_the_images_are_not_images(tmp_path: Path) -> None:
    touch(tmp_path / "flat", "a.jpg", "a.png", "b.jpg")
    assert [(s.name, s.mask_name) for s in find_samples([tmp_path / "flat"], tmp_path / "flat").samples] == [
        ("a.jpg", "a.png"),
        ("b.jpg", None),
    ]
    touch(tmp_path / "deep", "a.jpg", "masks/a.png")
    assert [(s.name, s.mask_name) for s in find_samples([tmp_path / "deep"], tmp_path / "deep" / "masks").samples] == [
        ("a.jpg", "a.png")
    ]


def test_boxes_cover_the_pixels_that_a_loop_over_them_covers() -> None:
    random = np.random.default_rng(3)
    for _ in range(100):
        height, width = random.integers(1, 12, 2)
        ends = np.sort(random.uniform(-6, 18, (random.integers(0, 5), 2, 2)).round(int(random.integers(2))), axis=1)
        expected = np.zeros((height, width), bool)
        for (left, top), (right, bottom) in ends:
            for row in range(height):
                for column in range(width):
                    expected[row, column] |= left <= column <= right and top <= row <= bottom
        assert np.array_equal(box_mask(ends.reshape(-1, 4), height, width), expected)


def test_fifty_thousand_boxes_take_no_longer_than_one() -> None:
    begun = time.process_time()
    assert box_mask([[0, 0, 3999, 2999]] * 50_000, 3000, 4000).all()
    assert time.process_time() - begun < 5  # a loop over them takes half a minute


def test_what_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    Pillow.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "both" / "a.png")
    for inputs, masks, message in (
        ([tmp_path / "both"], tmp_path / "both" / ".." / "both", "is the folder of the images, where every .png is a"),
        ([tmp_path / "none"], None, "none: no such file or folder"),
        ([tmp_path / "empty"], None, "no image found"),
        ([tmp_path / "empty"], tmp_path / "none", "--masks .*none: no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            find_samples(inputs, masks)


def names_of(found: SampleList) -> list[str]:
    return [sample.name for sample in found.samples]


def test_every_link_counts_and_circles_end(tmp_path: Path) -> None:
    """Two names of one file are two images; a folder that is linked twice is read twice; a way back is no way on."""
    touch(tmp_path / "real", "a.jpg")
    (tmp_path / "images").mkdir()
    for name in ("link", "other"):
        (tmp_path / "images" / name).symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "images")
    (tmp_path / "real" / "b.jpg").symlink_to("a.jpg")
    found = find_samples([tmp_path / "images", tmp_path / "images" / "link"])
    assert names_of(found) == ["link/a.jpg", "link/b.jpg", "other/a.jpg", "other/b.jpg"]
    assert not found.other_files and not found.problems


def test_links_upon_links_come_to_an_end_that_is_told(tmp_path: Path) -> None:
    """Thirty folders, each with two links to the next: a thousand million paths to one file."""
    for number in range(30):
        (tmp_path / f"d{number}").mkdir()
        for name in ("left", "right"):
            (tmp_path / f"d{number}" / name).symlink_to(tmp_path / f"d{number + 1}")
    touch(tmp_path / "d30", "a.jpg")
    found = find_samples([tmp_path / "d0"])
    assert len(found.samples) == 100 and len({problem.name for problem in found.problems}) > 100
    assert {problem.reason for problem in found.problems} == {"over 100 links lead to this folder: name it as an input"}


def test_links_into_the_output_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path / "out", "sub/a.png")
    touch(tmp_path / "images", "a.jpg")
    (tmp_path / "images" / "folder").symlink_to(tmp_path / "out")
    (tmp_path / "images" / "sub").symlink_to(tmp_path / "out" / "sub")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "out" / "sub" / "a.png")
    (tmp_path / "images" / "later").symlink_to(tmp_path / "out" / "not-there-yet")
    found = find_samples([tmp_path / "images"], out=tmp_path / "out")
    assert names_of(found) == ["a.jpg"] and found.into_output == ["b.png", "folder", "later", "sub"]
    assert not found.other_files


@pytest.mark.parametrize(
    ("name", "start", "is_one"),
    [
        ("a.HEIC", b"?", True),
        ("a.jfif", b"?", True),
        ("a.jp2", b"?", True),
        ("a.nef", b"?", True),
        ("IMG_0001", b"\xff\xd8\xff\xe0", True),
        ("2024.01.05", b"\x89PNG\r\n\x1a\n", True),
        ("scan.dat", b"II*\0", True),
        ("a.bin", b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", True),
        ("a.tmp", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", True),
        ("b", bytes(128) + b"DICM", True),
        ("a.sgi", b"?", True),
        ("a.im", b"?", True),
        ("c", b"\x01\xda\0\1\0\3\0\x28\0\x1e\0\3", True),  # SGI
        ("d", b"#define im_width 40\n#define im_height 30\n", True),  # X bitmap
        ("e", b"\x0a\5\1\x08" + bytes(4), True),  # PCX
        ("f", b"qoif\0\0\0\x28\0\0\0\x1e\3\1", True),
        ("g", b"DDS \x7c\0\0\0", True),
        ("h", b"SIMPLE  =                    T", True),  # FITS
        ("a.h", b"#define SCREEN_WIDTH 640\n", False),
        ("film.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", False),
        ("notes.txt", b"BM is not a picture here, nor is P6", False),
        ("list.txt", b"P64 and P65\n", False),
        ("empty", b"", False),
    ],
)
def test_what_looks_like_a_picture_is_found_by_name_or_content(
    tmp_path: Path, name: str, start: bytes, is_one: bool
) -> None:
    (tmp_path / "z.png").write_bytes(b"?")
    (tmp_path / name).write_bytes(start)
    found = find_samples([tmp_path])
    assert (name in names_of(found)) == is_one and (name in found.other_files) == (not is_one)


def test_a_name_without_suffix_is_paired_whole(tmp_path: Path) -> None:
    touch(tmp_path / "masks", "2024.01.05.png", "2024.01.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "2024.01.05").write_bytes(b"\xff\xd8\xff")
    assert find_samples([tmp_path / "images"], tmp_path / "masks").samples[0].mask_name == "2024.01.05.png"


def test_a_walk_is_in_the_order_of_names(tmp_path: Path) -> None:
    """As sorted texts are: a folder's files come between its folders, and "a-b" before what lies in "a"."""
    names = [
        "a-b.png",
        "a-b/x.png",
        "a/b/z.png",
        "a/b.png",
        "a/b/c/a.png",
        "a.png",
        "b.png",
        "A.png",
        "a0/q.png",
        "é/a.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/b.png.d").mkdir()
    found = [Path(path).relative_to(tmp_path).as_posix() for path in walk_texts(tmp_path, [])]
    assert found == sorted(names) and found[1:4] == ["a-b.png", "a-b/x.png", "a.png"]
    assert [sample.name for sample in find_samples([tmp_path]).samples] == sorted(names)
    assert walk(tmp_path, []) == sorted(tmp_path / name for name in names)


def test_a_walk_holds_one_folder_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in "abc":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").touch()
    looked: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (looked.append(Path(path).name), scandir(path))[1])
    assert Path(next(walk_texts(tmp_path, []))).parent.name == "a" and looked == [tmp_path.name, "a", "b"]
