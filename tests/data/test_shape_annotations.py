"""CVAT, VOC's boxes, Label Studio, Supervisely and VIA: one scene written in each, and what is broken or hostile."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from unseg.data.annotations import NO_CLASS, ObjectRule, open_annotations
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError

HEIGHT, WIDTH = 40, 60
NAMES = ("a.jpg", "sub/b.jpg")
# In pixels: a box of a dog, whole pixels 5…19 across and 8…17 down; a right-angled polygon of a cat; a mask of a dog.
BOX = (5, 8, 20, 18)
POLYGON = [(30, 5), (50, 5), (50, 15), (40, 15), (40, 25), (30, 25)]
HOLE = [(32, 7), (36, 7), (36, 11), (32, 11)]
MASK_PLACE = (3, 28)  # left, top
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], bool)


def _image(root: Path) -> Path:
    for name in NAMES:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / name)
    return root / "images"


def _truth(*, hole: bool = False, mask: bool = False, polygon: bool = True) -> np.ndarray:
    """Returns 0 for nothing, 1 for cat, 2 for dog: labels are numbered by name."""
    classes = np.zeros((HEIGHT, WIDTH), int)
    classes[8:18, 5:20] = 2
    if polygon:
        classes[5:15, 30:50] = classes[5:25, 30:40] = 1
    if hole:
        classes[7:11, 32:36] = 0
    if mask:
        classes[28:30, 3:7][MASK] = 2
    return classes


def _cvat(root: Path) -> tuple[Path, np.ndarray]:
    points = ";".join(f"{x}.0,{y}.0" for x, y in POLYGON)
    shapes = (
        f'<polygon label="cat" points="{points}"/><box label="dog" xtl="5" ytl="8" xbr="20" ybr="18"/>'
        '<mask label="dog" rle="0, 2, 1, 1, 1, 3" left="3" top="28" width="4" height="2"/>'
        '<polyline label="cat" points="1,1;2,2"/>'
    )
    images = "".join(
        f'<image id="{number}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
        for number, name in enumerate(NAMES)
    )
    labels = "<labels><label><name>cat</name></label><label><name>dog</name></label></labels>"
    text = f"<annotations><version>1.1</version><meta><task>{labels}</task></meta>{images}</annotations>"
    (root / "cvat.xml").write_text(text)
    return root / "cvat.xml", _truth(mask=True)


def _voc(root: Path) -> tuple[Path, np.ndarray]:
    for name in NAMES:
        path = (root / "voc" / name).with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        box = "<bndbox><xmin>6</xmin><ymin>9</ymin><xmax>20</xmax><ymax>18</ymax></bndbox>"  # from 1, both ends in it
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        path.write_text(
            f"<annotation><folder>x</folder><filename>{Path(name).name}</filename>{size}"
            f"<object><name>dog</name>{box}</object></annotation>"
        )
    return root / "voc", np.where(_truth(polygon=False) == 2, 1, 0)


def _studio(root: Path) -> tuple[Path, np.ndarray]:
    def result(kind: str, value: dict[str, Any], label: str) -> dict[str, Any]:
        return {"type": kind, "original_width": WIDTH, "original_height": HEIGHT, "value": {**value, kind: [label]}}

    corners = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in POLYGON]
    box = {"x": 5 / 0.6, "y": 8 / 0.4, "width": 15 / 0.6, "height": 10 / 0.4, "rotation": 0}
    results = [result("polygonlabels", {"points": corners}, "cat"), result("rectanglelabels", box, "dog")]
    made = [{"result": [*results, {"type": "choices", "value": {}}]}]
    addresses = ("/data/upload/1/0a1b2c3d-a.jpg", "/data/local-files/?d=sub%2Fb.jpg")
    tasks = [{"id": 1, "data": {"image": address}, "annotations": made} for address in addresses]
    (root / "studio.json").write_text(json.dumps(tasks))
    return root / "studio.json", _truth()


def _supervisely(root: Path) -> tuple[Path, np.ndarray]:
    buffer = io.BytesIO()
    Pillow.fromarray(np.dstack([MASK * np.uint8(255)] * 4), "RGBA").save(buffer, "PNG")
    bitmap = {"data": base64.b64encode(zlib.compress(buffer.getvalue())).decode(), "origin": list(MASK_PLACE)}
    objects = [
        {"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": POLYGON, "interior": [HOLE]}},
        {"classTitle": "dog", "geometryType": "rectangle", "points": {"exterior": [[5, 8], [19, 17]], "interior": []}},
        {"classTitle": "dog", "geometryType": "bitmap", "bitmap": bitmap},
        {"classTitle": "dog", "geometryType": "point", "points": {"exterior": [[1, 1]], "interior": []}},
    ]
    for name in NAMES:
        path = root / "project" / "ann" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"size": {"height": HEIGHT, "width": WIDTH}, "tags": [], "objects": objects}))
    (root / "project" / "meta.json").write_text(json.dumps({"classes": [{"title": "cat"}, {"title": "dog"}]}))
    return root / "project", _truth(hole=True, mask=True)


def _via(root: Path) -> tuple[Path, np.ndarray]:
    xs, ys = ([corner[axis] for corner in POLYGON] for axis in (0, 1))
    regions = [
        {
            "shape_attributes": {"name": "polygon", "all_points_x": xs, "all_points_y": ys},
            "region_attributes": {"class": "cat"},
        },
        {
            "shape_attributes": {"name": "rect", "x": 5, "y": 8, "width": 15, "height": 10},
            "region_attributes": {"class": {"dog": True}},
        },
        {"shape_attributes": {"name": "point", "cx": 1, "cy": 1}, "region_attributes": {"class": "dog"}},
    ]
    images = {f"{name}123": {"filename": name, "size": 123, "regions": regions} for name in NAMES}
    (root / "via.json").write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": images}))
    return root / "via.json", _truth()


WRITERS = {"cvat": _cvat, "voc-xml": _voc, "label-studio": _studio, "supervisely": _supervisely, "via": _via}


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("named", [False, True])
def test_a_scene_is_detected_and_read(tmp_path: Path, format: str, named: bool) -> None:
    images = _image(tmp_path)
    path, truth = WRITERS[format](tmp_path)
    annotations = open_annotations(path, images, format if named else "auto")
    assert annotations.format == format and list(annotations.names()) == list(NAMES) and not annotations.missing
    for name in NAMES:
        annotated = annotations.read(name, HEIGHT, WIDTH)
        codes = annotated.class_codes(ObjectRule("all", by_class=True))
        assert np.array_equal(np.where(codes == NO_CLASS, 0, codes), truth)
        assert np.array_equal(annotated.object_mask(ObjectRule()), truth > 0)
    assert {annotations.classes.names[number] for number in annotations.classes.names} <= {"cat", "dog"}
    with pytest.raises(ImageError):
        annotations.read("c.jpg", HEIGHT, WIDTH)
    if format != "via":  # which names no size
        with pytest.raises(ImageError, match="make them one size"):
            annotations.read("a.jpg", HEIGHT + 1, WIDTH)


@pytest.mark.parametrize("format", WRITERS)
def test_what_has_no_image_is_told(tmp_path: Path, format: str) -> None:
    images = _image(tmp_path)
    (images / "sub" / "b.jpg").unlink()
    annotations = open_annotations(WRITERS[format](tmp_path)[0], images)
    assert len(annotations.missing) == 1 and "b" in annotations.missing[0].name


def test_a_box_is_turned_clockwise_about_its_middle(tmp_path: Path) -> None:
    image = f'<image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">'
    box = '<box label="x" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
    (tmp_path / "a.xml").write_text(f"<annotations>{image}{box}</image></annotations>")
    mask = open_annotations(tmp_path / "a.xml", _image(tmp_path)).read("a.jpg", HEIGHT, WIDTH).object_mask(ObjectRule())
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[5:25, 15:25] = True
    assert np.array_equal(mask, expected)


LAUGHS = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>'
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>'


@pytest.mark.parametrize(
    "text", [LAUGHS, OUTSIDE, "<annotations>" + "<a>" * 60, "<annotations><image", "<annotations/>x"]
)
def test_hostile_xml_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError) as raised:
        open_annotations(tmp_path / "a.xml", _image(tmp_path), "cvat")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ('<box label="x" xtl="nan" ytl="1" xbr="2" ybr="2"/>', "expected a number"),
        ('<box label="" xtl="1" ytl="1" xbr="2" ybr="2"/>', "expected a label"),
        ('<polygon label="x" points="1,2,3;4"/>', "expected points"),
        ('<blob label="x"/>', "unknown shape"),
    ],
)
def test_a_broken_shape_is_named(tmp_path: Path, shape: str, reason: str) -> None:
    image = f'<image id="7" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">{shape}</image>'
    (tmp_path / "a.xml").write_text(f"<annotations>{image}</annotations>")
    with pytest.raises(UserError, match=reason):
        open_annotations(tmp_path / "a.xml", _image(tmp_path))


@pytest.mark.parametrize("runs", ["0, 99999999, 1", "0, -3", "x", "4, 5"])
def test_run_lengths_that_do_not_fill_their_box_concern_one_image(tmp_path: Path, runs: str) -> None:
    mask = f'<mask label="x" rle="{runs}" left="0" top="0" width="4" height="2"/>'
    image = f'<image id="7" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">{mask}</image>'
    (tmp_path / "a.xml").write_text(f"<annotations>{image}</annotations>")
    annotations = open_annotations(tmp_path / "a.xml", _image(tmp_path))
    with pytest.raises(ImageError):
        annotations.read("a.jpg", HEIGHT, WIDTH)


@pytest.mark.filterwarnings("error")
def test_a_bitmap_far_outside_is_told(tmp_path: Path) -> None:
    path, _ = _supervisely(tmp_path)
    file = path / "ann" / "a.jpg.json"
    values = json.loads(file.read_text())
    values["objects"][2]["bitmap"]["origin"] = [1e300, 4]
    file.write_text(json.dumps(values))
    told = [problem.reason for problem in open_annotations(path, _image(tmp_path)).missing]
    assert len(told) == 1 and told[0].endswith("object 2: its bitmap lies far outside the image")


def test_a_bitmap_that_unfolds_is_refused(tmp_path: Path) -> None:
    path, _ = _supervisely(tmp_path)
    file = path / "ann" / "a.jpg.json"
    values = json.loads(file.read_text())
    values["objects"][2]["bitmap"]["data"] = base64.b64encode(zlib.compress(bytes(300_000_000), 9)).decode()
    file.write_text(json.dumps(values))
    annotations = open_annotations(path, _image(tmp_path))
    with pytest.raises(ImageError, match="bitmap"):
        annotations.read("a.jpg", HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"annotations": 1.5}, "annotations: expected a list"),
        ({"annotations": [{"result": 3}]}, "result: expected a list"),
        ({"data": {"image": "https://host/"}}, "names no image"),
        ({"data": {"image": 7}}, "names no image"),
    ],
)
def test_a_broken_task_is_one_line(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    path, _ = _studio(tmp_path)
    tasks = json.loads(path.read_text())
    path.write_text(json.dumps([tasks[0], {**tasks[1], **changed}]))
    with pytest.raises(UserError, match=reason):
        open_annotations(path, _image(tmp_path))


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    text = '<annotations><image id="0" name="../../a.jpg" width="1" height="1"/></annotations>'
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match="leads out"):
        open_annotations(tmp_path / "a.xml", _image(tmp_path))


@pytest.mark.parametrize(
    ("name", "start", "format"),
    [("a.json", b'[{"data": ', "label-studio"), ("a.xml", b"<annotations>", "cvat")],
)
def test_nothing_is_read_of_a_document_that_is_too_large(tmp_path: Path, name: str, start: bytes, format: str) -> None:
    with open(tmp_path / name, "wb") as file:  # sparse: the disk holds a few bytes of it
        file.write(start)
        file.truncate(300 << 20)
    images = _image(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=rf"{name}: over 256 MB: export it in parts"):
            open_annotations(tmp_path / name, images, format)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def _studio_task(root: Path, results: list[dict[str, Any]], **data: str) -> Path:
    sized = [{"original_width": WIDTH, "original_height": HEIGHT, **result} for result in results]
    (root / "studio.json").write_text(json.dumps([{"data": data, "annotations": [{"result": sized}]}]))
    return root / "studio.json"


BOX = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}


def test_a_shape_whose_label_is_a_result_of_its_own_is_read(tmp_path: Path) -> None:
    """As projects with <Rectangle> and <Labels> export them: the same id, the sides in both."""
    Pillow.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "cat.png")
    results = [
        {"id": "a", "type": "rectangle", "value": BOX},
        {"id": "a", "type": "labels", "value": {**BOX, "labels": ["cat"]}},
    ]
    path = _studio_task(tmp_path, results, caption="a cat", photo="/data/upload/1/0a1b2c3d-cat.png")
    annotated = open_annotations(path, tmp_path).read("cat.png", HEIGHT, WIDTH)
    found = annotated.object_mask(ObjectRule("all"))
    top, left = HEIGHT * 2 // 10, WIDTH // 10
    assert found[top : top + HEIGHT * 4 // 10, left : left + WIDTH * 3 // 10].all()
    assert found.sum() == (HEIGHT * 4 // 10) * (WIDTH * 3 // 10)


def test_a_shape_without_a_label_is_no_reason_to_leave_an_object_out(tmp_path: Path) -> None:
    Pillow.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "cat.png")
    for own in ("a", ["a"], {}):  # whatever a stranger's export has for an id
        path = _studio_task(tmp_path, [{"id": own, "type": "rectangle", "value": BOX}], image="cat.png")
        with pytest.raises(UserError, match="result 0: a rectangle without a label: give it one in Label Studio"):
            open_annotations(path, tmp_path)


@pytest.mark.parametrize("said", ["cat.jpg", "cat", ""])
def test_a_voc_file_is_for_the_image_of_its_name_whatever_suffix_it_says(said: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "xml").mkdir()
    Pillow.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "cat.png")
    box = "<xmin>11</xmin><ymin>11</ymin><xmax>20</xmax><ymax>15</ymax>"
    (tmp_path / "xml" / "cat.xml").write_text(
        f"<annotation><filename>{said}</filename><object><name>x</name><bndbox>{box}</bndbox></object></annotation>"
    )
    annotations = open_annotations(tmp_path / "xml", tmp_path / "images")
    assert list(annotations.names()) == ["cat.png"] and not annotations.missing
    assert annotations.read("cat.png", HEIGHT, WIDTH).object_mask(ObjectRule("all")).sum() == 50
