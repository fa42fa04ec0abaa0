"""What careless tools write and is sound all the same, kind by kind; and limits that keep small files from taking long.

The seeded sets of test_odd_annotations.py mix all of it; here stands what a reader says of each, by hand.
"""

from __future__ import annotations

import json
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.annotation_sets import image_table, labelme_mask, write_json
from unseg.data.annotations import Annotations, ObjectRule, Unannotated, open_annotations, outlines
from unseg.data.annotations.names import ImagesFolder
from unseg.data.finding import find_samples
from unseg.data.name_list import listed_images
from unseg.data.name_matching import file_form, paired_names
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError

ALL = ObjectRule()
NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # 6 pixels
MARKS = ("utf-8-sig", "utf-16")


def image(path: Path, height: int = 6, width: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", (width, height)).save(path)
    return path


def coco(root: Path, *entries: dict, name: str = "x.png", there: tuple[str, ...] = ("x.png",)) -> Annotations:
    for one in there:
        image(root / "images" / one)
    content = {
        "images": [{"id": 1, "file_name": name, "height": 6, "width": 8}],
        "annotations": [{"image_id": 1, "category_id": 1, **entry} for entry in entries],
        "categories": [{"id": 1, "name": "a"}],
    }
    return open_annotations(write_json(root / "coco.json", content), root / "images")


# --- entries without an area -----------------------------------------------------------------------------------------


def test_coco_entries_without_area_are_left_out_with_a_note(tmp_path: Path) -> None:
    strays = [
        {"segmentation": [[3, 3]], "bbox": [3, 3, 0, 0]},
        {"segmentation": [], "bbox": [0, 0, 0, 0], "area": 0},
        {"segmentation": None},
        {"segmentation": [SQUARE, [7, 5]]},
        {"segmentation": [[3, 3, 3, 3, 3, 3]]},
        {"bbox": [0, 0, 5, 5], "iscrowd": 1},
        {"segmentation": {"size": [0, 0], "counts": []}},
        {"segmentation": {"size": [6, 8], "counts": ""}, "bbox": [1, 1, 0, 0]},
    ]
    annotated = coco(tmp_path, {"segmentation": [SQUARE]}, *strays).read("x.png", 6, 8)
    assert annotated.object_mask(ALL).sum() == 6
    assert annotated.notes == (
        "1 outlines cover no pixel (annotations[5])",
        "7 outlines without an area are left out (annotations[1], annotations[2], annotations[3], …)",
    )


@pytest.mark.parametrize("size", [[6.0, 8.0], ["6", "8"]])
def test_sides_of_a_run_length_mask_may_be_floats_or_texts(size: list, tmp_path: Path) -> None:
    annotations = coco(tmp_path, {"segmentation": {"size": size, "counts": [6, 2, 40]}})
    assert np.argwhere(annotations.read("x.png", 6, 8).object_mask(ALL)).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("said", [{"bbox": [1, 1, 4, 4]}, {"area": 16.0}])
def test_an_object_of_some_size_without_an_outline_is_not_passed_over(said: dict, tmp_path: Path) -> None:
    annotations = coco(tmp_path, {"segmentation": [SQUARE]}, {"segmentation": [], **said})
    with pytest.raises(ImageError, match=r"annotations\[1\]: has no segmentation \(a box alone"):
        annotations.read("x.png", 6, 8)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ([[]], "its outline has fewer than 3 corners, but it has a box or an area"),
        ([[5, 5, 7, 6]], "its outline has fewer than 3 corners"),
        ([5, 5, 7, 6], "its outline has fewer than 3 corners"),
        ({"size": [6, 8], "counts": [48]}, "its run lengths show no pixel, but it has a box or an area"),
    ],
)
def test_an_outline_without_pixels_of_an_object_of_some_size_is_not_passed_over(
    shape: object, told: str, tmp_path: Path
) -> None:
    annotations = coco(tmp_path, {"segmentation": [SQUARE]}, {"segmentation": shape, "bbox": [5, 5, 2, 1], "area": 2})
    with pytest.raises(ImageError, match=rf"annotations\[1\]: {told}"):
        annotations.read("x.png", 6, 8)
    plain = coco(tmp_path, {"segmentation": [SQUARE]}, {"segmentation": shape}).read("x.png", 6, 8)
    assert plain.object_mask(ALL).sum() == 6 and len(plain.notes) == 1


def test_yolo_and_labelme_entries_without_area_are_left_out_with_a_note(tmp_path: Path) -> None:
    image(tmp_path / "images" / "x.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "x.txt").write_text("3\n0 0 0 0.5 0 0.5 1 0 1\n2 0.5 0.5\n")
    annotated = open_annotations(tmp_path / "labels", tmp_path / "images").read("x.png", 6, 8)
    assert annotated.notes == ("2 outlines without an area are left out (line 1, line 3)",)
    assert annotated.object_mask(ALL).sum() == 24
    corners = np.reshape(SQUARE, (4, 2)).tolist()
    shapes = [
        {"shape_type": "rectangle", "points": corners},
        {"shape_type": "rotation", "points": corners[1:] + corners[:1], "group_id": "left"},
        {"shape_type": "polygon", "points": corners[:2]},
        {"shape_type": "circle", "points": corners[:1]},
        {"shape_type": "rectangle", "points": [*corners, corners[0]], "label": 7},
        {"shape_type": "polygon", "points": corners, "label": None},
    ]
    content = {"imagePath": "x.png", "shapes": [{"label": "a", **shape} for shape in shapes]}
    write_json(tmp_path / "json" / "x.json", content)
    annotated = open_annotations(tmp_path / "json", tmp_path / "images").read("x.png", 6, 8)
    assert [segment.mask.sum() for segment in annotated.segments] == [6, 6, 6, 6]
    assert [segment.class_id for segment in annotated.segments] == [3, 3, 2, 1]  # "", "7" and "a"
    assert annotated.notes == ("2 outlines without an area are left out (shapes[2], shapes[3])",)


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_are_paired_by_their_form_where_one_is_left_on_either_side() -> None:
    assert paired_names(["a", NFC], ["b", NFD]) == {NFC: NFD}
    assert paired_names([NFC, NFD], [NFD]) == {NFD: NFD}  # the other image has no mask
    assert paired_names([NFD], [NFC, NFD]) == {NFD: NFD}
    assert paired_names(["a.jpg", "b.JPG"], ["a.JPG", "b.Jpg", "b.jpg"], file_form) == {"a.jpg": "a.JPG"}
    assert paired_names(["A.jpg"], ["a.jpg"], file_form) == {}  # only the suffix may be in another case


@pytest.mark.parametrize("there", [(f"{NFC}.png", f"{NFD}.png"), (f"{NFD}.png",), (f"sub/{NFD}.PNG",)])
def test_the_very_name_goes_before_another_form_of_it(there: tuple[str, ...], tmp_path: Path) -> None:
    annotations = coco(tmp_path, {"segmentation": [SQUARE]}, name=f"{NFC}.png", there=there)
    assert annotations.names() == [there[0]] and not annotations.missing
    assert annotations.read(there[0], 6, 8).object_mask(ALL).sum() == 6


def test_two_forms_of_a_name_are_two_images_where_both_are_named(tmp_path: Path) -> None:
    image(tmp_path / "images" / f"{NFD}.png")
    names = [f"{NFC}.png", f"{NFD}.png"]
    listed = [{"id": number, "file_name": name, "height": 6, "width": 8} for number, name in enumerate(names)]
    content = {"images": listed, "annotations": [], "categories": []}
    annotations = open_annotations(write_json(tmp_path / "x.json", content), tmp_path / "images")
    assert [problem.name for problem in annotations.missing] == [f"{NFC}.png"]
    assert not annotations.read(f"{NFD}.png", 6, 8).object_mask(ALL).any()


def test_two_images_of_one_form_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="x.Png may be x.PNG or x.png in .*; rename one of them"):
        coco(tmp_path, name="x.Png", there=("x.PNG", "x.png"))


def test_masks_of_another_form_belong_to_their_images(tmp_path: Path) -> None:
    for name in (f"images/{NFC}.jpg", f"images/{NFD}.2.jpg", f"masks/{NFD}.png", f"masks/{NFC}.2.png"):
        image(tmp_path / name)
    found = find_samples([tmp_path / "images"], tmp_path / "masks")
    assert not found.unused_masks
    assert {sample.name: sample.mask_name for sample in found.samples} == {
        f"{NFC}.jpg": f"{NFD}.png",
        f"{NFD}.2.jpg": f"{NFC}.2.png",
    }


def test_look_ups_take_one_step_however_many_names_end_alike() -> None:
    """Twenty thousand videos with a frame of the same name each; and names of thousands of folders."""
    names = [f"videos/{number:05d}/000001.jpg" for number in range(20_000)]
    folder = ImagesFolder(Path("/data/set"), names)
    begun = time.process_time()
    for name in names:
        assert folder.find(name.removeprefix("videos/"), "x") == name
        assert folder.find(f"set/{name}", "x") == name
    for number in range(200):
        assert folder.find("a/" * 2_000 + f"{number}.jpg", "x") is None
    assert time.process_time() - begun < 5


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", *MARKS])
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("2007_000032", "2007_000032.jpg"),
        ("2007_000032 -1", "2007_000032.jpg"),
        ("/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png", "2007_000032.jpg"),
        ("JPEGImages\\2007_000032.jpg", "2007_000032.jpg"),
        ("  my photo 1\t", "my photo 1.JPG"),
        ("photos/my photo 1.jpg", "my photo 1.JPG"),
        ("scan", "scan.PNG"),
        (NFC, f"{NFD}.jpeg"),
        ("v1.2", "v1.2.jpg"),
        ("not there", "not.jpg"),
    ],
)
def test_a_list_names_images(line: str, found: str, encoding: str, tmp_path: Path) -> None:
    there = ["2007_000032.jpg", "my photo 1.JPG", "scan.PNG", f"{NFD}.jpeg", "v1.2.jpg", "v1.jpg"]
    (tmp_path / "list.txt").write_bytes(f"{line}\r\n\r\n{line}\r\n".encode(encoding))
    assert listed_images(tmp_path / "list.txt", there) == [found]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "names no image"),
        (b"\xff\xfea", "cannot be read as a list of names"),
        (b"a/../../x\n", "line 1: .* leads out"),
        (b"y\n", "line 1: y may be y.png or y.webp; name it with its suffix"),
    ],
)
def test_a_list_that_names_nothing_is_told(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(UserError, match=f"list.txt: {message}"):
        listed_images(tmp_path / "list.txt", ["y.png", "y.webp"])


# --- YOLO ------------------------------------------------------------------------------------------------------------

OUTLINE = "0 0 0 0.5 0 0.5 1 0 1\n"


def yolo(root: Path, labels: dict[str, bytes | str], names: tuple[str, ...] = ()) -> Annotations:
    (root / "labels").mkdir(parents=True)
    for name, text in labels.items():
        (root / "labels" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        image(root / "images" / f"{Path(name).stem}.png")
    return open_annotations(root / "labels", root / "images")


@pytest.mark.parametrize(
    "text",
    [
        *(OUTLINE.encode(mark) for mark in MARKS),
        "0.0" + OUTLINE[1:],
        f"0\n{OUTLINE}",
        f"\n\n+0\t{OUTLINE[2:]}",
        OUTLINE.replace("\n", "\r\n"),
    ],
)
def test_yolo_labels_that_are_read_are_recognised(text: bytes | str, tmp_path: Path) -> None:
    annotations = yolo(tmp_path, {"x.txt": text})
    assert annotations.format == "yolo" and annotations.read("x.png", 6, 8).object_mask(ALL).sum() == 24


def test_yolo_is_recognised_behind_many_images_without_objects(tmp_path: Path) -> None:
    annotations = yolo(tmp_path, {**{f"{number:03d}.txt": "" for number in range(30)}, "x.txt": OUTLINE})
    assert annotations.format == "yolo" and len(annotations.names()) == 31


def test_yolo_lists_and_notes_beside_labels_are_none_unless_they_hold_some(tmp_path: Path) -> None:
    held = {"train.txt": OUTLINE, "classes.txt": OUTLINE, "license.txt": "", "x.txt": OUTLINE}
    annotations = yolo(tmp_path, {**held, "notes.txt": "bring milk", "readme.txt": "images/a.png\nimages/b.png\n"})
    for name in ("train.png", "classes.png", "x.png"):
        assert annotations.read(name, 6, 8).object_mask(ALL).sum() == 24
    assert not annotations.read("license.png", 6, 8).object_mask(ALL).any()
    for name in ("notes.png", "readme.png"):
        with pytest.raises(Unannotated):
            annotations.read(name, 6, 8)
    assert not annotations.missing and "no file of class names" in annotations.statement


# --- panoptic, tables, metadata --------------------------------------------------------------------------------------


def test_a_panoptic_png_that_is_there_twice_by_name_fails_its_image(tmp_path: Path) -> None:
    for place in ("a", "b"):
        image(tmp_path / "pan" / place / "x.png")
    image(tmp_path / "images" / "x.png")
    content = {
        "images": [{"id": 1, "file_name": "x.png", "height": 6, "width": 8}],
        "annotations": [{"image_id": 1, "file_name": "x.png", "segments_info": []}],
        "categories": [],
    }
    annotations = open_annotations(write_json(tmp_path / "pan.json", content), tmp_path / "images")
    with pytest.raises(ImageError, match="x.png may be a/x.png or b/x.png"):
        annotations.read("x.png", 6, 8)


@pytest.mark.parametrize("held", [True, False])
def test_null_cells_of_a_table_concern_their_row(held: bool, tmp_path: Path) -> None:
    """Row 1 has no image, row 2 no mask. held: the images are in the table."""
    import pyarrow
    import pyarrow.parquet

    table = image_table()
    kind = table.schema.field("image").type
    images, masks = table.column("image").to_pylist(), table.column("label").to_pylist()
    for name in ("a.png", "c.png"):
        image(tmp_path / "images" / name)
    cells = {"image": [images[0], None, images[2]], "label": [masks[0], masks[1], None]}
    columns = {name: pyarrow.array(column, kind) for name, column in cells.items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    annotations = open_annotations(tmp_path / "t.parquet", None if held else tmp_path / "images")
    if held:
        assert annotations.names() == [f"t/{row:06d}.png" for row in range(3)]
        with pytest.raises(ImageError, match="row 1: the column image holds no bytes, which is empty"):
            annotations.image_bytes("t/000001.png")
    else:
        (problem,) = annotations.missing
        assert problem.reason == "the row 1 of t.parquet names no image"
    first, last = ("t/000000.png", "t/000002.png") if held else ("a.png", "c.png")
    assert annotations.read(first, 80, 120).object_mask(ALL).any()
    with pytest.raises(ImageError, match="row 2: the column label holds no bytes"):
        annotations.read(last, 20, 30)


def test_metadata_without_an_image_or_a_mask_concern_their_row(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "masks/m.png"):
        image(tmp_path / name)
    rows = [
        {"file_name": "b.png", "mask_file_name": None},
        {"file_name": "", "mask_file_name": "masks/m.png"},
        {"file_name": "a.png", "mask_file_name": "masks/m.png"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    annotations = open_annotations(tmp_path, tmp_path)
    assert [(problem.name, problem.reason) for problem in annotations.missing] == [
        ("metadata.jsonl row 2", "names no image in file_name")
    ]
    annotations.read("a.png", 6, 8)
    with pytest.raises(Unannotated):
        annotations.read("b.png", 6, 8)


# --- limits by image -------------------------------------------------------------------------------------------------


def test_outlines_and_masks_of_an_image_are_limited_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each square has 2 × (3 + 2) = 10 pixels of outline; each mask 3 × 3 of 48 pixels, which count whole."""
    annotations = coco(tmp_path, *[{"segmentation": [SQUARE]}] * 4)
    monkeypatch.setattr(outlines, "MAX_OUTLINES", 40)
    assert annotations.read("x.png", 6, 8).object_mask(ALL).sum() == 6
    monkeypatch.setattr(outlines, "MAX_OUTLINES", 39)
    with pytest.raises(ImageError, match=r"annotations\[3\]: over 39 pixels of outline in one image"):
        annotations.read("x.png", 6, 8)
    mask = np.zeros((6, 8), bool)
    mask[2:5, 1:4] = True
    content = {"imagePath": "x.png", "shapes": [{"label": "a", **labelme_mask(mask)}] * 3}
    write_json(tmp_path / "json" / "x.json", content)
    labelled = open_annotations(tmp_path / "json", tmp_path / "images")
    monkeypatch.setattr(outlines, "MAX_MASK_PIXELS", 3 * 48)
    assert np.array_equal(labelled.read("x.png", 6, 8).object_mask(ALL), mask)
    monkeypatch.setattr(outlines, "MAX_MASK_PIXELS", 3 * 48 - 1)
    with pytest.raises(ImageError, match=r"shapes\[2\]: over 143 pixels of masks in one image"):
        labelled.read("x.png", 6, 8)


@pytest.mark.parametrize("text", ["1-200000", "3,0-99999999999"])
def test_a_range_of_more_class_ids_than_any_set_has_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a range of over 100,000 class ids"):
        ObjectRule.parse(text)
