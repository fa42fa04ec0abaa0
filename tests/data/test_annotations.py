"""Every annotation format against the masks it was made from, and against independent readers and drawings."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw
from pycocotools.coco import COCO
from scipy import ndimage
from skimage.measure import points_in_poly

from tests.support import annotation_sets
from tests.support.annotation_sets import (
    BUILDERS,
    Built,
    build,
    class_map,
    expected,
    photographs,
    write_images,
    write_json,
)
from tests.support.told_progress import Told
from unseg.data.annotations import FORMATS, NO_CLASS, ObjectRule, Unannotated, open_annotations
from unseg.data.annotations.label_files import CITYSCAPES_THINGS, CITYSCAPES_VOID, voc_palette
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError

ALL = ObjectRule()


def opened(built: Built, format: str = "auto"):
    return open_annotations(built.path, built.images, format)


def read(annotations, built: Built, name: str):
    return annotations.read(built.name(name), *photographs()[name][0].shape[:2])


def near(mask: np.ndarray, truth: np.ndarray) -> bool:
    """Whether two masks differ at most at the truth's border."""
    around = np.ones((3, 3))
    border = ndimage.binary_dilation(truth, around) & ~ndimage.binary_erosion(truth, around)
    return not ((mask != truth) & ~border).any()


# --- every format ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_format_is_detected_told_and_gives_the_masks_it_was_made_from(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    annotations = opened(built)
    assert annotations.format == name.split()[0] and annotations.format in FORMATS
    assert annotations.statement.endswith("(if they are something else, give --annotations-format)")
    assert list(annotations.names()) == sorted(built.name(image) for image in photographs())
    assert list(annotations.missing) == []
    for image in photographs():
        annotated = read(annotations, built, image)
        mask = annotated.object_mask(ALL)
        assert mask.shape == expected(image).shape and mask.dtype == bool
        if built.exact:
            assert np.array_equal(mask, expected(image))
        else:
            assert near(mask, expected(image)) and mask.any() == expected(image).any()
        union = np.any(
            [segment.mask for segment in annotated.segments if segment.taken(ALL)] or [np.zeros_like(mask)], axis=0
        )
        if name.split()[0] in ("voc", "index", "huggingface"):  # what is background is the rule's, not the segments'
            union = (
                np.any([segment.mask for segment in annotated.segments if segment.class_id], axis=0)
                if expected(image).any()
                else np.zeros_like(mask)
            )
        assert np.array_equal(union, mask)


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("binary", "cityscapes", "sa-1b")])
def test_classes_can_be_chosen_and_told_apart(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    annotations = opened(built)
    for image in photographs():
        annotated = read(annotations, built, image)
        codes = annotated.select(ObjectRule(by_class=True))
        assert codes.dtype == np.int32 and codes.shape == expected(image).shape
        for class_id in (1, 2):
            rule = ObjectRule((class_id,))
            annotations.check_rule(rule)
            mask = annotated.select(rule)
            assert np.array_equal(mask, codes == class_id)
            assert (
                np.array_equal(mask, expected(image, (class_id,)))
                if built.exact
                else near(mask, expected(image, (class_id,)))
            )
        assert set(np.unique(codes)) <= {NO_CLASS, 1, 2}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("coco polygons", "coco"),
        ("voc", "voc"),
        ("voc", "index"),
        ("index", "index"),
        ("binary", "binary"),
        ("labelme masks", "labelme"),
        ("huggingface parquet", "huggingface:label"),
    ],
)
def test_a_format_can_be_named(name: str, named: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    annotations = opened(built, named)
    assert annotations.format == named.partition(":")[0] and "--annotations-format" not in annotations.statement
    assert near(read(annotations, built, "a.png").object_mask(ALL), expected("a.png"))


@pytest.mark.parametrize("name", BUILDERS)
def test_an_image_without_annotation_and_annotations_without_an_image_are_told(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    (built.images / built.name("b.png")).rename(built.images / "stranger.png")
    annotations = opened(built)
    (problem,) = annotations.missing
    assert (
        "image" in problem.reason
        and Path(problem.name).stem in (Path(built.name("b.png")).stem, "b")
        or problem.name.startswith("train/ulm/ulm_000001_000019")
    )
    assert "stranger.png" not in annotations.names() and len(annotations.names()) == 3
    with pytest.raises(Unannotated, match="stranger|no "):
        annotations.read("stranger.png", 50, 66)
    assert read(annotations, built, "a.png").object_mask(ALL).any()


@pytest.mark.parametrize("name", sorted(BUILDERS.keys() - {"yolo"}))  # whose outlines are shares of any size
def test_an_image_of_another_size_is_refused_by_itself(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    annotations = opened(built)
    for size in ((80, 121), (120, 80)):
        with pytest.raises(ImageError, match="120×80|9600 pixels"):
            annotations.read(built.name("a.png"), *size)
    assert read(annotations, built, "a.png").object_mask(ALL).any()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("index", "masks"),
        ("huggingface arrow", "masks"),
        ("huggingface csv", "masks"),
        ("labelme masks", "annotations"),
    ],
)
def test_looking_at_all_files_is_told_and_may_use_threads(name: str, what: str, tmp_path: Path) -> None:
    built, told = build(name, tmp_path), Told()
    with ThreadPoolExecutor(2) as pool:
        annotations = open_annotations(built.path, built.images, pool=pool, progress=told)
    assert told.bars == [(what, 3, 3)] and annotations.statement == opened(built).statement
    assert np.array_equal(read(annotations, built, "a.png").object_mask(ALL), expected("a.png"))


# --- rules -----------------------------------------------------------------------------------------------------------


def test_rules_are_parsed() -> None:
    assert ObjectRule.parse("all") == ObjectRule()
    assert ObjectRule.parse(" Things ").which == ObjectRule.parse("multi").which == "things"
    assert ObjectRule.parse("by-class") == ObjectRule(by_class=True)
    assert ObjectRule.parse("3,5-6", ignore_label=None).which == (3, 5, 6)
    with pytest.raises(UserError, match="--objects cats"):
        ObjectRule.parse("cats")


def test_rules_that_the_annotations_cannot_answer_are_refused(tmp_path: Path) -> None:
    index, binary, coco = (opened(build(name, tmp_path / name)) for name in ("index", "binary", "coco polygons"))
    with pytest.raises(UserError, match="index annotations do not tell things from stuff"):
        index.check_rule(ObjectRule("things"))
    with pytest.raises(UserError, match="binary"):
        binary.check_rule(ObjectRule((1,)))
    with pytest.raises(UserError, match="class 3 is not among the annotations' classes: 1 coin, 2 horse"):
        coco.check_rule(ObjectRule((1, 3)))
    for fine in (ObjectRule(), ObjectRule("things"), ObjectRule((1,))):
        coco.check_rule(fine)


def test_overlaps_go_to_the_smaller_segment_and_of_two_equal_ones_to_the_earlier(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "x.png", 6, 8)

    def square(left: int, top: int, side: int) -> list[list[int]]:
        return [[left, top, left + side, top, left + side, top + side, left, top + side]]

    shapes = [
        (1, square(0, 0, 5)),
        (2, square(1, 1, 2)),
        (3, square(3, 0, 2)),
        (4, square(4, 0, 2)),
        (5, square(0, 0, 6)),
    ]
    path = coco_file(
        tmp_path,
        6,
        8,
        [{"category_id": class_id, "segmentation": shape} for class_id, shape in shapes],
        categories=range(1, 6),
    )
    codes = open_annotations(path, tmp_path / "images").read("x.png", 6, 8).class_codes(ALL)
    assert codes.tolist() == [
        [1, 1, 1, 3, 3, 4, -1, -1],
        [1, 2, 2, 3, 3, 4, -1, -1],
        [1, 2, 2, 1, 1, 5, -1, -1],
        [1, 1, 1, 1, 1, 5, -1, -1],
        [1, 1, 1, 1, 1, 5, -1, -1],
        [5, 5, 5, 5, 5, 5, -1, -1],
    ]


# --- COCO instances --------------------------------------------------------------------------------------------------


def write_image(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", (width, height)).save(path)


def coco_file(root: Path, height: int, width: int, annotations: list[dict], categories=(1,), **image: object) -> Path:
    """One image x.png of id 1; annotations get what they do not say."""
    entries = [
        {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, **annotation}
        for number, annotation in enumerate(annotations)
    ]
    return write_json(
        root / "coco.json",
        {
            "images": [{"id": 1, "file_name": "x.png", "height": height, "width": width, **image}],
            "annotations": entries,
            "categories": [{"id": number, "name": f"c{number}"} for number in categories],
        },
    )


def read_coco(root: Path, height: int, width: int, *annotations: dict):
    write_image(root / "images" / "x.png", height, width)
    return open_annotations(coco_file(root, height, width, list(annotations)), root / "images").read(
        "x.png", height, width
    )


def test_coco_hand_written_runs(tmp_path: Path) -> None:
    """Down the columns: of 3×4 pixels 4 out, 3 in, 1 out, 1 in, 3 out."""
    plain = {"segmentation": {"size": [3, 4], "counts": [4, 3, 1, 1, 3]}}
    wanted = [[0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0]]
    assert read_coco(tmp_path, 3, 4, plain).object_mask(ALL).astype(int).tolist() == wanted
    # 4 3 1, then differences to the one two before: 1 − 3 = −2, 3 − 1 = 2. 48 + 5 bits; −2 is 30 in 5 bits with sign.
    packed = {"segmentation": {"size": [3, 4], "counts": "431" + chr(48 + 30) + "2"}}
    assert read_coco(tmp_path, 3, 4, packed).object_mask(ALL).astype(int).tolist() == wanted


def test_coco_crowds_are_left_out_and_listed(tmp_path: Path) -> None:
    one = {"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
    crowd = {"segmentation": {"size": [4, 4], "counts": [0, 16]}, "iscrowd": 1}
    annotated = read_coco(tmp_path, 4, 4, one, crowd)
    assert [segment.crowd for segment in annotated.segments] == [False, True]
    assert annotated.segments[1].mask.all() and annotated.segments[1].instance_id == 1
    for rule in (ALL, ObjectRule("things"), ObjectRule((1,))):
        assert annotated.object_mask(rule).sum() == 4


@pytest.mark.parametrize("name", ["coco polygons", "coco compressed", "coco uncompressed"])
def test_coco_equals_the_official_reader(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    built = build(name, tmp_path)
    official, annotations = COCO(str(built.path)), opened(built)
    for image_id, info in official.imgs.items():
        annotated = annotations.read(info["file_name"], info["height"], info["width"])
        theirs = official.imgToAnns[image_id]
        assert len(annotated.segments) == len(theirs)
        for ours, entry in zip(annotated.segments, theirs, strict=True):
            assert np.array_equal(ours.mask, official.annToMask(entry).astype(bool))
            assert (ours.class_id, ours.instance_id) == (entry["category_id"], entry["id"])
            assert ours.class_name == official.cats[ours.class_id]["name"] and ours.thing


def test_coco_polygons_of_several_parts_are_one_segment_and_outlines_over_the_border_are_cut(tmp_path: Path) -> None:
    parts = [[0, 0, 1, 0, 1, 1, 0, 1], [3, 3, 5.5, 3, 5.5, 5.5, 3, 5.5]]
    annotated = read_coco(tmp_path, 4, 4, {"segmentation": parts})
    assert len(annotated.segments) == 1 and np.argwhere(annotated.object_mask(ALL)).tolist() == [[0, 0], [3, 3]]
    assert annotated.notes == ("1 outlines reach outside the image and are cut at its border (annotations[0])",)


def distance_to_outline(points_N2: np.ndarray, corners_K2: np.ndarray) -> np.ndarray:
    """From each point to the nearest of the sides."""
    sides = np.roll(corners_K2, -1, 0) - corners_K2
    offsets = points_N2[:, None] - corners_K2
    along = ((offsets * sides).sum(-1) / (sides**2).sum(-1)).clip(0, 1)
    return np.linalg.norm(offsets - along[..., None] * sides, axis=-1).min(1)


def test_coco_polygons_against_pillow_and_against_the_pixels_centres(tmp_path: Path) -> None:
    """Random polygons. A pixel whose centre is inside is in, but for centres within 0.3 pixels of the outline, which
    pycocotools rounds; Pillow rounds corners and draws the outline too, and differs up to 2 pixels from it."""
    generator = np.random.default_rng(5)
    rows, columns = np.mgrid[:48, :64] + 0.5
    centres = np.stack([columns.ravel(), rows.ravel()], 1)
    for _ in range(20):
        angles = np.sort(generator.uniform(0, 2 * np.pi, 9))
        corners = np.stack([32 + 28 * np.cos(angles), 24 + 20 * np.sin(angles)], 1)
        mask = read_coco(tmp_path, 48, 64, {"segmentation": [corners.ravel().tolist()]}).object_mask(ALL).ravel()
        distance = distance_to_outline(centres, corners)
        canvas = Pillow.new("1", (64, 48))
        ImageDraw.Draw(canvas).polygon([tuple(corner - 0.5) for corner in corners], fill=1, outline=1)
        assert mask.any()
        assert distance[mask != points_in_poly(centres, corners)].max(initial=0) < 0.3
        assert distance[mask != np.array(canvas).ravel()].max(initial=0) < 2


SQUARE = [[0, 0, 2, 0, 2, 2, 0, 2]]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segmentation": [[9, 9, 12, 9, 12, 12]]}, r"annotations\[0\]: a polygon outside the image: x 9 to 12"),
        ({"segmentation": [[0, 0, 99, 0, 1, 1]]}, "a corner far outside the image"),
        ({"segmentation": [[0, 0, 1, 1]]}, "a polygon with 2 corners; it needs 3"),
        ({"segmentation": [[0, 0, 1, 1, 2]]}, "expected a list of numbers x1, y1, x2, y2"),
        ({"segmentation": [[0, 0, 1, "1", 2, 2]]}, "expected a list of numbers"),
        ({"segmentation": [[0, 0, 1, 10**400, 2, 2]]}, "a number that is too large"),
        ({"segmentation": [[0, 0, 1, float("nan"), 2, 2]]}, "not a finite number"),
        ({"segmentation": [[0, 0, 1, float("inf"), 2, 2]]}, "not a finite number"),
        ({"segmentation": []}, "has no segmentation"),
        ({}, "has no segmentation"),
        ({"segmentation": "polygon"}, "expected polygons or {size, counts}"),
        ({"segmentation": {"size": [3, 4], "counts": [4, 3, 1, 1, 2]}}, "add up to 11 pixels, the image has 12"),
        ({"segmentation": {"size": [3, 4], "counts": [4, -3, 11]}}, "whole numbers from 0"),
        ({"segmentation": {"size": [3, 4], "counts": [4, 3.5, 4.5]}}, "whole numbers from 0"),
        ({"segmentation": {"size": [4, 3], "counts": [12]}}, "of 3×4 pixels, the image .upright. is 4×3"),
        ({"segmentation": {"size": [10**9, 10**9], "counts": [12]}}, "of 1000000000×1000000000 pixels"),
        ({"segmentation": {"size": [3, 4], "counts": "431"}}, "add up to 8 pixels"),
        ({"segmentation": {"size": [3, 4], "counts": "43P"}}, "end within a number"),
        ({"segmentation": {"size": [3, 4], "counts": "ooooooooooooooooo0"}}, "a number that is too long"),
        ({"segmentation": {"size": [3, 4], "counts": "43\u20ac"}}, "outside ASCII"),
        ({"segmentation": {"size": [3, 4], "counts": "43 1"}}, "a character that cannot be there"),
        ({"segmentation": {"size": [3, 4], "counts": "4@000"}}, "negative or longer"),
        ({"segmentation": SQUARE, "iscrowd": 2}, "iscrowd: expected 0 or 1"),
    ],
)
def test_coco_bad_segments_fail_their_image(annotation: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message):
        read_coco(tmp_path, 3, 4, annotation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(category_id=9), r"annotations\[0\]: the category 9 is not among"),
        (
            lambda c: c["annotations"][0].update(category_id="1 "),
            r"category_id: expected a whole number from 0 on, found '1 '",
        ),
        (lambda c: c["annotations"][0].update(image_id=3), "the image 3 is not among the file's images"),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            r"ids are there twice, such as that of annotations\[1\]",
        ),
        (lambda c: c["annotations"][0].update(id=[3]), "id: expected a whole number"),
        (lambda c: c["annotations"][0].update(id="x" * 1001), "id: has over 1000 characters"),
        (
            lambda c: (
                [entry.update(id="5f3c") for entry in c["annotations"]] and c["annotations"].append(c["annotations"][0])
            ),
            "1 annotation ids are there twice",
        ),
        (lambda c: c["images"].append(c["images"][0]), r"images\[1\]: the id 1 is there twice"),
        (lambda c: c["images"].append({**c["images"][0], "id": 2}), r"the image 'x.png' is there twice"),
        (lambda c: c["categories"].append(c["categories"][0]), r"categories\[1\]: the id 1 is there twice"),
        (lambda c: c["images"][0].update(height=-3), "height: expected a whole number from 1 on, found -3"),
        (
            lambda c: c["images"][0].update(width=10**30),
            "width: expected a whole number from 1 on, found a number of over",
        ),
        (lambda c: c["images"][0].update(width=None), "width: expected a whole number"),
        (lambda c: c.pop("categories"), 'has no list "categories"'),
        (lambda c: c.update(images={}), "expected a list"),
        (lambda c: c.update(annotations=[3]), r"annotations\[0\]: expected an object, found 3"),
        (lambda c: c["categories"][0].update(name=[]), "name: expected a text, found a list"),
    ],
)
def test_coco_broken_references_are_a_user_error(change, message: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "x.png", 3, 4)
    path = coco_file(tmp_path, 3, 4, [{"segmentation": SQUARE}])
    content = json.loads(path.read_text())
    change(content)
    with pytest.raises(UserError, match=message):
        open_annotations(write_json(path, content), tmp_path / "images", "coco")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x.png", "leads out of its folder"),
        ("a/../../x.png", "leads out"),
        ("..\\x.png", "leads out"),
        ("/".join(["", "etc", "x.png"]), "is absolute"),
        ("\\\\server\\x.png", "is absolute"),
        ("C" + ":\\x.png", "is absolute"),
        ("x\0.png", "no file name has"),
        ("x\ud800.png", "no file name has"),
        ("a" * 300, "no usable file name"),
        ("", "expected a file name"),
        (".", "no usable file name"),
        (7, "expected a file name, found 7"),
        (None, "expected a file name"),
    ],
)
def test_names_that_leave_the_folder_are_refused(name: object, message: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "x.png", 3, 4)
    path = coco_file(tmp_path, 3, 4, [{"segmentation": SQUARE}], file_name=name)
    with pytest.raises(UserError, match=rf"coco.json: images\[0\].file_name: .*{message}") as caught:
        open_annotations(path, tmp_path / "images")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_images_are_found_in_sub_folders_and_under_their_folders_own_name(tmp_path: Path) -> None:
    for name, there in (
        ("x.png", "city/x.png"),
        ("images/x.png", "x.png"),
        ("city\\x.png", "city/x.png"),
        ("./x.png", "x.png"),
    ):
        root = tmp_path / there.replace("/", "_") / name.replace("/", "_")
        write_image(root / "images" / there, 3, 4)
        annotations = open_annotations(
            coco_file(root, 3, 4, [{"segmentation": SQUARE}], file_name=name), root / "images"
        )
        assert annotations.names() == [there] and annotations.read(there, 3, 4).object_mask(ALL).sum() == 4
    root = tmp_path / "other"  # train/x.png is not val/x.png
    write_image(root / "val" / "x.png", 3, 4)
    annotations = open_annotations(
        coco_file(root, 3, 4, [{"segmentation": SQUARE}], file_name="train/x.png"), root / "val"
    )
    assert [problem.name for problem in annotations.missing] == ["train/x.png"] == annotations.names()
    root = tmp_path / "two"
    for folder in ("a", "b"):
        write_image(root / "images" / folder / "x.png", 3, 4)
    with pytest.raises(UserError, match="x.png may be a/x.png or b/x.png"):
        open_annotations(coco_file(root, 3, 4, [{"segmentation": SQUARE}]), root / "images")


def test_a_json_that_changes_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    built = build("coco polygons", tmp_path)
    annotations = opened(built)
    built.path.write_text(built.path.read_text().replace("coin", "coins"))
    with pytest.raises(ImageError, match="changed while it was in use"):
        read(annotations, built, "a.png")


# --- panoptic --------------------------------------------------------------------------------------------------------


def panoptic(root: Path, ids: np.ndarray, segments: list[dict], categories: list[dict], **annotation: object) -> Path:
    """ids: H×W; the PNG is written with plain arithmetic."""
    height, width = ids.shape
    write_image(root / "images" / "x.jpg", height, width)
    (root / "pan").mkdir(parents=True, exist_ok=True)
    coded = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Pillow.fromarray(coded).save(root / "pan" / "x.png")
    return write_json(
        root / "pan.json",
        {
            "images": [{"id": 1, "file_name": "x.jpg", "height": height, "width": width}],
            "categories": categories,
            "annotations": [{"image_id": 1, "file_name": "x.png", "segments_info": segments, **annotation}],
        },
    )


CATEGORIES = [{"id": 7, "name": "sky", "isthing": 0}, {"id": 9, "name": "cat", "isthing": 1}]
IDS = np.array([[0, 300, 300, 5], [70000, 70000, 300, 5]])
SEGMENTS = [
    {"id": 300, "category_id": 9, "iscrowd": 0},
    {"id": 5, "category_id": 7, "iscrowd": 0},
    {"id": 70000, "category_id": 9, "iscrowd": 1},
]


def test_panoptic_rules(tmp_path: Path) -> None:
    annotations = open_annotations(panoptic(tmp_path, IDS, SEGMENTS, CATEGORIES), tmp_path / "images")
    annotated = annotations.read("x.jpg", 2, 4)
    assert annotated.object_mask(ALL).astype(int).tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]  # without the crowd
    assert annotated.object_mask(ObjectRule("things")).astype(int).tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert annotated.object_mask(ObjectRule((7,))).astype(int).tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert annotated.class_codes(ALL).tolist() == [[-1, 9, 9, 7], [-1, -1, 9, 7]]
    by_id = {segment.instance_id: segment for segment in annotated.segments}
    assert {number: (segment.class_name, segment.crowd, segment.thing) for number, segment in by_id.items()} == {
        300: ("cat", False, True),
        5: ("sky", False, False),
        70000: ("cat", True, True),
    }
    assert by_id[70000].mask.astype(int).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]


def test_panoptic_without_isthing_cannot_tell_things(tmp_path: Path) -> None:
    categories = [{"id": category["id"], "name": category["name"]} for category in CATEGORIES]
    annotations = open_annotations(panoptic(tmp_path, IDS, SEGMENTS, categories), tmp_path / "images")
    with pytest.raises(UserError, match="do not tell things from stuff"):
        annotations.check_rule(ObjectRule("things"))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (SEGMENTS[:2], "2 pixels have ids such as 70000, which the json does not list"),
        ([*SEGMENTS, SEGMENTS[0]], "two segments have the id 300"),
        ([*SEGMENTS[:2], {**SEGMENTS[2], "iscrowd": "no"}], r"segments_info\[2\].iscrowd: expected 0 or 1, found 'no'"),
    ],
)
def test_panoptic_bad_segments_fail_their_image(segments: list[dict], message: str, tmp_path: Path) -> None:
    annotations = open_annotations(panoptic(tmp_path, IDS, segments, CATEGORIES), tmp_path / "images")
    with pytest.raises(ImageError, match=message):
        annotations.read("x.jpg", 2, 4)


@pytest.mark.parametrize(
    ("segments", "extra", "message"),
    [
        ([{**SEGMENTS[0], "category_id": 8}], {}, "the category 8 is not among"),
        ([{**SEGMENTS[0], "id": 2**24}], {}, "id: expected a whole number"),
        ([{**SEGMENTS[0], "id": 0}], {}, "id: expected a whole number from 1 on, found 0"),
        ([3], {}, "expected an object, found 3"),
        (SEGMENTS, {"file_name": "../x.png"}, "leads out"),
        (SEGMENTS, {"segments_info": 3}, "segments_info: expected a list"),
    ],
)
def test_panoptic_broken_references_are_a_user_error(segments: list, extra: dict, message: str, tmp_path: Path) -> None:
    path = panoptic(tmp_path, IDS, segments, CATEGORIES, **extra)
    with pytest.raises(UserError, match=message):
        open_annotations(path, tmp_path / "images")


def test_panoptic_says_what_is_missing_and_what_has_no_pixel(tmp_path: Path) -> None:
    path = panoptic(tmp_path, IDS, [*SEGMENTS, {"id": 8, "category_id": 7}], CATEGORIES)
    annotations = open_annotations(path, tmp_path / "images")
    assert annotations.read("x.jpg", 2, 4).notes == ("1 segments of the json have no pixel (8)",)
    (tmp_path / "pan" / "x.png").unlink()
    with pytest.raises(ImageError, match="x.png: cannot be read: No such file"):
        annotations.read("x.jpg", 2, 4)
    shutil.rmtree(tmp_path / "pan")
    with pytest.raises(UserError, match="expected its PNG files in the folder .*pan, which is not there"):
        open_annotations(path, tmp_path / "images")


def test_panoptic_image_annotated_twice_is_refused(tmp_path: Path) -> None:
    path = panoptic(tmp_path, IDS, SEGMENTS, CATEGORIES)
    content = json.loads(path.read_text())
    content["annotations"] *= 2
    with pytest.raises(UserError, match=r"annotations\[1\]: the image 1 is annotated twice \(also annotations\[0\]\)"):
        open_annotations(write_json(path, content), tmp_path / "images")


# --- label files -----------------------------------------------------------------------------------------------------


def test_voc_palette_and_labels(tmp_path: Path) -> None:
    assert voc_palette()[:63] == annotation_sets.full_voc_palette()
    built = build("voc", tmp_path)
    values = class_map("a.png")
    values[0, :5] = 255
    image = Pillow.fromarray(values).convert("P")
    image.putpalette(annotation_sets.full_voc_palette())
    image.save(built.path / "a.png")
    annotations = opened(built)
    annotated = read(annotations, built, "a.png")
    assert np.array_equal(annotated.object_mask(ALL), np.isin(values, (1, 2)))  # 255 is ignored, 0 background
    assert annotated.object_mask(ObjectRule(ignore_label=None))[0, :5].all()
    assert {segment.class_id: segment.class_name for segment in annotated.segments} == {
        0: "background",
        1: "aeroplane",
        2: "bicycle",
        255: None,
    }


def test_a_palette_of_other_colours_is_not_taken_for_voc(tmp_path: Path) -> None:
    built = build("voc", tmp_path)
    for path in built.path.iterdir():
        with Pillow.open(path) as image:
            changed = image.copy()
        changed.putpalette([10 * number % 256 for number in range(63)])
        changed.save(path)
    assert opened(built).format == "index"


def test_a_voc_folder_with_classes_and_objects_must_be_told_which(tmp_path: Path) -> None:
    built = build("voc", tmp_path)
    voc = tmp_path / "VOC2012"
    voc.mkdir()
    shutil.move(built.path, voc / "SegmentationClass")
    assert open_annotations(voc, built.images).format == "voc"
    shutil.copytree(voc / "SegmentationClass", voc / "SegmentationObject")
    with pytest.raises(UserError, match="holds SegmentationClass, SegmentationObject; give one of these folders"):
        open_annotations(voc, built.images)
    assert open_annotations(voc / "SegmentationObject", built.images).format == "index"


def test_cityscapes_leaves_void_and_crowds_out(tmp_path: Path) -> None:
    """instanceIds 24 is a crowd of persons, 26001 a car, 7 road, 9 parking (not evaluated), 3 out of the region."""
    instances = np.array([[24, 26001, 7, 9, 3, 26002]], np.uint16)
    labels = np.array([[24, 26, 7, 9, 3, 26]], np.uint8)
    write_image(tmp_path / "leftImg8bit" / "ulm" / "ulm_1_leftImg8bit.png", 1, 6)
    folder = tmp_path / "gtFine" / "ulm"
    folder.mkdir(parents=True)
    Pillow.fromarray(labels).save(folder / "ulm_1_gtFine_labelIds.png")
    for with_instances in (False, True):
        if with_instances:
            Pillow.fromarray(instances).save(folder / "ulm_1_gtFine_instanceIds.png")
        annotations = open_annotations(tmp_path / "gtFine", tmp_path / "leftImg8bit")
        annotated = annotations.read("ulm/ulm_1_leftImg8bit.png", 1, 6)
        crowd = int(not with_instances)  # labelIds alone cannot tell a crowd from persons
        assert annotated.object_mask(ALL).astype(int).tolist() == [[crowd, 1, 1, 0, 0, 1]]
        assert annotated.object_mask(ObjectRule("things")).astype(int).tolist() == [[crowd, 1, 0, 0, 0, 1]]
        assert annotated.object_mask(ObjectRule((9,))).astype(int).tolist() == [[0, 0, 0, 1, 0, 0]]
        assert annotated.class_codes(ALL).tolist() == [[24 if crowd else -1, 26, 7, -1, -1, 26]]
        assert f"{int(with_instances)} of them with instances" in annotations.statement
    cars = [segment for segment in annotated.segments if segment.class_name == "car"]
    assert [(car.instance_id, car.crowd, car.mask.sum()) for car in cars] == [(26001, False, 1), (26002, False, 1)]


def test_cityscapes_table_has_its_19_evaluated_classes() -> None:
    evaluated = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
    assert (
        set(range(34)) - CITYSCAPES_VOID == evaluated
        and {
            24,
            25,
            26,
            27,
            28,
            31,
            32,
            33,
        }
        == CITYSCAPES_THINGS - CITYSCAPES_VOID
    )


def test_cityscapes_label_files_of_one_name_are_refused(tmp_path: Path) -> None:
    built = build("cityscapes", tmp_path)
    label = built.path / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png"
    shutil.copy(label, label.with_name("ulm_000000_000019_gtCoarse_labelIds.png"))
    with pytest.raises(UserError, match="gtCoarse_labelIds.png and .*gtFine_labelIds.png are ulm_000000_000019"):
        opened(built)


# --- YOLO ------------------------------------------------------------------------------------------------------------


def yolo(root: Path, text: str, names: str | None = None):
    write_image(root / "images" / "x.png", 4, 8)
    (root / "labels").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "x.txt").write_text(text)
    if names is not None:
        (root / "data.yaml").write_text(names)
    return open_annotations(root / "labels", root / "images", "yolo")


def test_yolo_hand_computed(tmp_path: Path) -> None:
    """The left half, and the lower right quarter, of 8×4 pixels."""
    annotations = yolo(tmp_path, "0 0 0 0.5 0 0.5 1 0 1\n\n3 0.5 0.5 1 0.5 1 1 0.5 1\n")
    annotated = annotations.read("x.png", 4, 8)
    assert annotated.class_codes(ALL).tolist() == [[0] * 4 + [-1] * 4] * 2 + [[0] * 4 + [3] * 4] * 2
    assert annotated.object_mask(ObjectRule("things")).sum() == 24
    assert [segment.instance_id for segment in annotated.segments] == [1, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 1: five numbers are a box"),
        ("0 0 0 1 1", "a box"),
        ("0 0 0 1 0 1", "expected class x1 y1"),
        ("0 0 0 1 0 1 1 1", "found 8 fields"),
        ("0 0 0 1 0 1 2", "a polygon outside the image: coordinates from 0 to 2"),
        ("0 0 0 1 0 1 -0.5", "outside the image"),
        ("0 0 0 1 0 1 nan", "not finite"),
        ("0 0 0 1 0 1 x", "is no number"),
        ("-1 0 0 1 0 1 1", "'-1' is no class id"),
        ("0.5 0 0 1 0 1 1", "no class id"),
        ("1e30 0 0 1 0 1 1", "no class id"),
        ("2 0 0 1 0 1 1", "class 2 is not among the 2 named classes"),
    ],
)
def test_yolo_bad_lines_fail_their_image(line: str, message: str, tmp_path: Path) -> None:
    annotations = yolo(tmp_path, line, "names: [cat, dog]")
    with pytest.raises(ImageError, match=f"x.txt: line 1: .*{message}|x.txt: {message}"):
        annotations.read("x.png", 4, 8)


@pytest.mark.parametrize(
    ("images", "labels", "path"),
    [
        ("images/train/x.png", "labels/train/x.txt", "."),
        ("images/train/x.png", "labels/train/x.txt", "labels"),
        ("images/train/x.png", "labels/train/x.txt", "data.yaml"),
        ("train/images/x.png", "train/labels/x.txt", "."),
        ("x.png", "x.txt", "."),
    ],
)
def test_yolo_layouts(images: str, labels: str, path: str, tmp_path: Path) -> None:
    write_image(tmp_path / images, 4, 8)
    (tmp_path / labels).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / labels).write_text("1 0 0 0.5 0 0.5 1 0 1\n")
    (tmp_path / "data.yaml").write_text("names: {0: a, 1: b}")
    roots = {tmp_path, (tmp_path / images).parent, tmp_path / "images"} if "images/" in images else {tmp_path}
    for root in sorted(root for root in roots if root.is_dir()):
        annotations = open_annotations(tmp_path / path, root)
        name = (tmp_path / images).relative_to(root).as_posix()
        assert list(annotations.names()) == [name], (path, root)
        (segment,) = annotations.read(name, 4, 8).segments
        assert segment.class_name == "b" and segment.mask.sum() == 16


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("names: [a, [b]]", "expected one text for the id 1, found a list"),
        ("names: 3", "expected a list of names"),
        ("names: {x: y}", "names: expected a whole number"),
        ("names: [", "cannot be read as YAML"),
        ("[" * 900, "cannot be read as YAML"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML|no names"),
        ("x: " + "y" * 300_000, "a file of class names is smaller"),
    ],
)
def test_yolo_bad_names(names: str, message: str, tmp_path: Path) -> None:
    if names.startswith("!!python"):
        assert yolo(tmp_path, "", names).classes.names == {}  # read as plain texts: nothing is run
        return
    with pytest.raises(UserError, match=f"data.yaml: .*{message}"):
        yolo(tmp_path, "", names)


def test_broken_yaml_is_told_by_place_and_not_quoted(tmp_path: Path) -> None:
    """A file given by mistake may hold anything: its lines are not repeated in a message."""
    with pytest.raises(UserError, match="data.yaml: cannot be read as YAML: .* in line 3, column ") as raised:
        yolo(tmp_path, "", "a: 1\npassword: SECRETWORD\n\tb: [\n")
    assert "SECRETWORD" not in str(raised.value)


# --- LabelMe ---------------------------------------------------------------------------------------------------------


def labelme(root: Path, *shapes: dict, **fields: object):
    write_image(root / "images" / "x.png", 40, 60)
    content = {
        "version": "5.0",
        "imagePath": "x.png",
        "imageData": None,
        "imageHeight": 40,
        "imageWidth": 60,
        "shapes": [{"label": "cat", "points": [], **shape} for shape in shapes],
        **fields,
    }
    write_json(root / "labels" / "x.json", content)
    return open_annotations(root / "labels", root / "images")


def test_labelme_shapes_against_plain_geometry(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:40, :60] + 0.5  # centres of the pixels
    shapes = [
        {"label": "disc", "shape_type": "circle", "points": [[30, 20], [30, 32.5]]},
        {"label": "box", "shape_type": "rectangle", "points": [[50, 38], [41, 2]]},
    ]
    annotated = labelme(tmp_path, *shapes).read("x.png", 40, 60)
    disc, box = (segment.mask for segment in annotated.segments)
    assert near(disc, (rows - 20) ** 2 + (columns - 30) ** 2 <= 12.5**2) and abs(disc.sum() - np.pi * 12.5**2) < 20
    assert np.array_equal(box, (rows > 2) & (rows < 38) & (columns > 41) & (columns < 50))
    assert [(segment.class_id, segment.class_name) for segment in annotated.segments] == [(2, "disc"), (1, "box")]


def test_labelme_labels_txt_numbers_and_void_labels(tmp_path: Path) -> None:
    square = {"points": [[0, 0], [2, 0], [2, 2], [0, 2]]}  # before version 3.9: no shape_type
    corner = {"points": [[10, 10], [12, 10], [12, 12], [10, 12]], "label": "__ignore__"}
    annotations = labelme(tmp_path, {**square, "group_id": 4}, corner)
    annotated = annotations.read("x.png", 40, 60)
    assert annotated.object_mask(ALL).sum() == 4 and annotated.segments[0].instance_id == 4
    assert [(segment.class_id, segment.void) for segment in annotated.segments] == [(1, False), (2, True)]
    (tmp_path / "labels" / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    annotations = open_annotations(tmp_path / "labels", tmp_path / "images")
    assert annotations.classes.names == {0: "_background_", 1: "dog", 2: "cat", 3: "__ignore__"}
    assert [segment.class_id for segment in annotations.read("x.png", 40, 60).segments] == [2, 3]
    (tmp_path / "labels" / "labels.txt").write_text("dog\n")
    with pytest.raises(ImageError, match=r"shapes\[0\]: the label 'cat' is not in labels.txt"):
        open_annotations(tmp_path / "labels", tmp_path / "images").read("x.png", 40, 60)


def test_labelme_shapes_without_area_are_told(tmp_path: Path) -> None:
    point = {"shape_type": "point", "points": [[3, 3]]}
    annotated = labelme(tmp_path, point, {"shape_type": "rectangle", "points": [[0, 0], [2, 2]]}).read("x.png", 40, 60)
    assert annotated.notes == ("1 shapes without an area are left out (shapes[0]: point)",)
    assert annotated.object_mask(ALL).sum() == 4


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": [[0, 0], [1, 1]]}, "a polygon with 2 corners"),
        ({"points": [0, 0, 1]}, "expected points as"),
        ({"points": [[0, 0], [1, 1], [1, None]]}, "expected points as"),
        ({"points": [[0, 0], [9, 9], [1, 10**400]]}, "too large"),
        ({"shape_type": "circle", "points": [[0, 0]]}, "a circle has two points, this one 1"),
        ({"shape_type": "circle", "points": [[0, 0], [1e9, 0]]}, "far outside"),
        ({"shape_type": "spline", "points": [[0, 0]]}, "unknown shape_type 'spline'"),
        ({"shape_type": {}, "points": [[0, 0]]}, "a polygon with 1 corners"),
        ({"shape_type": [3], "points": [[0, 0]]}, "unknown shape_type a list"),
        ({"shape_type": "mask", "points": [[0, 0], [1, 1]]}, "expected a mask as PNG in base64"),
        ({"shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "@@"}, "is not base64"),
        ({"shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "QUJD"}, "its mask: not an image"),
        ({"shape_type": "mask", "points": [[0, 0], [60, 1]], "mask": "QUJD"}, "lies outside the image of 60×40"),
        ({"shape_type": "mask", "points": [[5, 5], [1, 1]], "mask": "QUJD"}, "ends before it begins"),
        ({**annotation_sets.labelme_mask(np.eye(9, dtype=bool)), "points": [[0, 0], [2, 2]]}, "has 81 pixels, 3×3 are"),
        ({"group_id": [1], "points": [[0, 0], [9, 9], [1, 9]]}, "group_id: expected a whole number"),
        ({"shape_type": "rectangle", "points": [[0, 0]]}, "a rectangle has two points, this one 1"),
        ({"shape_type": "rectangle", "points": [[0, 0], [1, 1], [2, 0]]}, "a rectangle has two points, this one 3"),
    ],
)
def test_labelme_bad_shapes_fail_their_image(shape: dict, message: str, tmp_path: Path) -> None:
    annotations = labelme(tmp_path, shape)
    with pytest.raises(ImageError, match=message):
        annotations.read("x.png", 40, 60)


def test_labelme_one_broken_file_fails_its_image_alone(tmp_path: Path) -> None:
    built = build("labelme polygons", tmp_path)
    broken = built.path / "b.json"
    broken.write_text(broken.read_text()[:200])
    annotations = opened(built)
    assert read(annotations, built, "a.png").object_mask(ALL).any()
    with pytest.raises(ImageError, match="b.json: not usable JSON at byte"):
        read(annotations, built, "b.png")


def test_labelme_image_path_is_used_where_the_stem_is_not_the_images(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "sub" / "photo.png", 40, 60)
    labelme(tmp_path / "other")
    (tmp_path / "labels" / "sub").mkdir(parents=True)
    content = json.loads((tmp_path / "other" / "labels" / "x.json").read_text())
    write_json(tmp_path / "labels" / "sub" / "1.json", {**content, "imagePath": "..\\..\\images\\sub\\photo.png"})
    annotations = open_annotations(tmp_path / "labels", tmp_path / "images")
    assert annotations.names() == ["sub/photo.png"] and not annotations.missing
    with pytest.raises(UserError, match="1.json: imagePath: .* holds a character that no file name has"):
        write_json(tmp_path / "labels" / "sub" / "1.json", {**content, "imagePath": "\0"})
        open_annotations(tmp_path / "labels", tmp_path / "images")


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def test_tables_that_hold_the_images_need_no_folder(tmp_path: Path) -> None:
    built = build("huggingface parquet", tmp_path)
    annotations = open_annotations(built.path, None)
    names = annotations.names()
    assert names == [f"train-00000-of-00001/{row:06d}.png" for row in range(3)]
    for name, (image, (pixels, _)) in zip(names, photographs().items(), strict=True):
        (tmp_path / "decoded.png").write_bytes(annotations.image_bytes(name))
        assert np.array_equal(np.array(Pillow.open(tmp_path / "decoded.png")), pixels)
        assert np.array_equal(annotations.read(name, *pixels.shape[:2]).object_mask(ALL), expected(image))
    assert (
        open_annotations(build("coco polygons", tmp_path / "coco").path, tmp_path / "coco" / "images").image_bytes(
            "a.png"
        )
        is None
    )
    with pytest.raises(UserError, match="coco annotations need a folder of images"):
        open_annotations(tmp_path / "coco" / "instances.json", None)


def test_tables_say_which_columns_they_have(tmp_path: Path) -> None:
    import pyarrow.parquet

    table = annotation_sets.image_table()
    table = table.append_column("segmentation", table.column("label"))
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "data" / "x.parquet")
    write_images(tmp_path / "images")
    with pytest.raises(UserError, match="may be label or segmentation; name their column: huggingface:COLUMN"):
        open_annotations(tmp_path / "data", tmp_path / "images")
    with pytest.raises(UserError, match=r"no mask column masks.*\(columns of images: image, label, segmentation\)"):
        open_annotations(tmp_path / "data", tmp_path / "images", "huggingface:masks")
    annotations = open_annotations(tmp_path / "data", tmp_path / "images", "huggingface:label")
    assert np.array_equal(annotations.read("a.png", 80, 120).object_mask(ALL), expected("a.png"))


def test_tables_without_pyarrow_say_what_to_install(tmp_path: Path) -> None:
    built = build("huggingface parquet", tmp_path)
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from unseg.data.annotations import open_annotations\n"
        "from unseg.errors import UserError\n"
        f"try:\n    open_annotations({str(built.path)!r}, {str(built.images)!r})\n"
        "except UserError as error:\n    print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "needs pyarrow, which is not installed; run: pip install 'unseg[huggingface]'" in told


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"file_name": "../a.png", "mask_file_name": "masks/a.png"}', "row 1: file_name: '../a.png' leads out"),
        ('{"file_name": "a.png", "mask_file_name": "../a.png"}', "row 1: mask_file_name: .* leads out"),
        ('{"file_name": "a.png"}', "has no mask column; name their column"),
        ("[]", "line 1: expected an object"),
        ('{"file_name": "a.png", "mask_file_name": "masks/a.png"}\n' * 2, "row 2: a.png is there twice"),
        ('{"file_name": ', "is broken"),
        ("[" * 100_000, "is broken"),
        ("x" * (1 << 20), "a line of over 1 million"),
    ],
)
def test_bad_metadata(row: str, message: str, tmp_path: Path) -> None:
    built = build("huggingface jsonl", tmp_path)
    (built.path / "metadata.jsonl").write_text(row)
    with pytest.raises(UserError, match=f"metadata.jsonl: .*{message}"):
        opened(built)


# --- detection -------------------------------------------------------------------------------------------------------


def test_ambiguous_folders_are_refused_with_the_choices(tmp_path: Path) -> None:
    coco, labels = build("coco polygons", tmp_path), build("labelme masks", tmp_path)
    assert coco.images == labels.images
    both = tmp_path / "both"
    shutil.copytree(labels.path, both)
    shutil.copy(coco.path, both / "instances.json")
    with pytest.raises(
        UserError, match=r"several formats: coco \(instances.json\); labelme \(a.json, b.json, c.json\)"
    ):
        open_annotations(both, coco.images)
    assert open_annotations(both, coco.images, "coco").format == "coco"
    two = tmp_path / "two"
    two.mkdir()
    for name in ("train.json", "val.json"):
        shutil.copy(coco.path, two / name)
    for named in ("auto", "coco"):
        with pytest.raises(UserError, match=r"2 coco files.*train.json, val.json"):
            open_annotations(two, coco.images, named)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "no annotations of a known format there; name one with --annotations-format"),
        (lambda path: path.write_text("x"), "give a folder, a .json"),
        (lambda path: None, "no such file or folder"),
    ],
)
def test_what_cannot_be_annotations_is_refused(make, message: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    make(tmp_path / "given")
    with pytest.raises(UserError, match=f"--annotations .*given: {message}"):
        open_annotations(tmp_path / "given", tmp_path / "images")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "neither COCO's lists"),
        ("[]", "is no object"),
        ("", "is no object"),
        ('{"images": []', 'expected "," or "}"'),
        ('{"shapes": [], "shapes": []}', "x"),
        ('{"a": 1, "a": 2}', 'the key "a" is there twice'),
        ('{"a": 1} {}', "text after its end"),
        ('{"a": "x', "a text without end"),
        ('{"a": ' + "[" * 10**5, "too deeply"),
        ('{"a": [1, 2', 'expected "," or "]"'),
        ('{"a": {"b": ' + "9" * 5000 + "}}", "digits|limit"),
        ("{\xff}".encode("latin-1"), "not UTF-8"),
        ("\xff\xfe{\x00\x00\xdc".encode("latin-1"), "not UTF-16-LE .*: save it as UTF-8"),
        ('{"a" 1}', 'expected "key": value'),
    ],
)
def test_broken_json_is_told_with_its_place(content: str | bytes, message: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if content == '{"shapes": [], "shapes": []}':
        with pytest.raises(UserError, match='the key "shapes" is there twice'):
            open_annotations(path, tmp_path / "images")
        return
    with pytest.raises(UserError, match=message) as caught:
        open_annotations(path, tmp_path / "images")
    assert "x.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["pascal", "coco:mask", "", "huggingfac"])
def test_unknown_format_names_the_choices(format: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--annotations-format .*choose from auto, coco, coco-panoptic"):
        open_annotations(build("index", tmp_path).path, tmp_path / "images", format)
