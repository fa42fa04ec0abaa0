"""unseg protect --webdataset json: the masks of tars' images are outlines in JSON members, in the formats of tools."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.support.told_progress import Told
from unseg import cli
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.manifest import read_manifest
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.shards import Shard
from unseg.protecting.stores import merge_anywhere, verify_anywhere
from unseg.storage import tar_files
from unseg.storage.files import files_under

SETTINGS = ProtectSettings(workers=1)
KEY = bytes(range(32))
SIZE = (33, 47)
TOP, LEFT, BOTTOM, RIGHT = 4, 7, 20, 30  # the object, a rectangle of whole pixels


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def photo(number: int, size: tuple[int, int] = SIZE) -> bytes:
    return png(np.random.default_rng(number).integers(20, 230, (*size, 3)).astype(np.uint8))


def corners(left: int = LEFT, right: int = RIGHT) -> list[list[int]]:
    return [[left, TOP], [right, TOP], [right, BOTTOM], [left, BOTTOM]]


def labelme(label: str = "cat", *more: tuple[str, int, int]) -> Any:
    shapes = [{"label": label, "shape_type": "polygon", "points": corners()}]
    shapes += [{"label": name, "points": corners(left, right)} for name, left, right in more]
    return {"imagePath": "elsewhere.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1], "shapes": shapes}


def coco(name: str = "cat") -> Any:
    flat = [value for corner in corners() for value in corner]
    return {
        "images": [{"id": 5, "file_name": "before.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 3, "segmentation": [flat]}],
        "categories": [{"id": 3, "name": name}, {"id": 4, "name": "dog"}],
    }


def sa_1b() -> Any:
    mask = np.zeros(SIZE, np.uint8)
    mask[TOP:BOTTOM, LEFT:RIGHT] = 1
    counted = coco_mask.encode(np.asfortranarray(mask))
    run_lengths = {"size": list(SIZE), "counts": counted["counts"].decode()}
    image = {"image_id": 1, "width": SIZE[1], "height": SIZE[0], "file_name": "sa_1.jpg"}
    return {"image": image, "annotations": [{"id": 9, "segmentation": run_lengths, "predicted_iou": 0.9}]}


def label_studio() -> Any:
    sizes = {"original_height": SIZE[0], "original_width": SIZE[1], "type": "polygonlabels"}
    points = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in corners()]
    result = [{**sizes, "value": {"points": points, "polygonlabels": ["cat"]}}]
    return [{"data": {"image": "/data/upload/x.jpg"}, "annotations": [{"result": result}]}]


def supervisely() -> Any:
    data = base64.b64encode(zlib.compress(png(np.full((BOTTOM - TOP, RIGHT - LEFT), 255, np.uint8)))).decode()
    item = {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"origin": [LEFT, TOP], "data": data}}
    return {"size": {"height": SIZE[0], "width": SIZE[1]}, "objects": [item]}


def via() -> Any:
    across, down = zip(*corners(), strict=True)
    shape = {"name": "polygon", "all_points_x": across, "all_points_y": down}
    region = {"shape_attributes": shape, "region_attributes": {"label": "cat"}}
    return {"x.jpg1234": {"filename": "x.jpg", "size": 1234, "regions": [region]}}


FORMATS = {
    "labelme": labelme,
    "coco": coco,
    "sa-1b": sa_1b,
    "label-studio": label_studio,
    "supervisely": supervisely,
    "via": via,
}


def tar_of(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.parent


def text(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def content(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


def run(tars: Path, out: str = "out", settings: ProtectSettings = SETTINGS, **given: Any) -> Any:
    return protect(tars, tars.parent / out, settings, **{"webdataset": "json", "key": KEY, **given})


def found(folder: Path) -> Any:
    options = {"originals": None, "masks": None, "annotations": None, "workers": 1, "max_megapixels": 200.0}
    return verify_anywhere(folder, **options, progress=Told())


def changes(before: bytes, after: bytes) -> np.ndarray:
    return np.abs(np.asarray(Image.open(io.BytesIO(after))).astype(int) - Image.open(io.BytesIO(before))).max(axis=2)


@pytest.mark.parametrize("format", FORMATS)
def test_outlines_of_each_format_are_the_objects(tmp_path: Path, format: str) -> None:
    outlines = text(FORMATS[format]())
    other = [("2.jpg", photo(2)), ("2.cls", b"3")]  # without a json
    tars = tar_of(
        tmp_path / "tars" / "a.tar", ("sub/1.png", photo(1)), ("sub/1.json", outlines), ("sub/1.cls", b"7"), *other
    )
    told = Told()
    lines = {entry.input: entry for entry in run(tars, progress=told).entries}
    assert lines["a.tar/sub/1.png"].status == "protected"
    assert (lines["a.tar/2.jpg"].status, lines["a.tar/2.jpg"].reason) == (
        "skipped",
        "not annotated: 2.jpg has no JSON member",
    )
    assert any(sentence.startswith(f"annotations: {format}: 1 JSON members") for sentence in told.sentences)
    there = content(tmp_path / "out" / "a.tar")
    assert list(there) == ["sub/1.png", "sub/1.json", "sub/1.cls"]
    assert there["sub/1.json"] == outlines and there["sub/1.cls"] == b"7"
    changed = changes(photo(1), there["sub/1.png"])
    assert changed[TOP:BOTTOM, LEFT:RIGHT].max() == 8 and changed.sum() == changed[TOP:BOTTOM, LEFT:RIGHT].sum()
    assert (changed[TOP:BOTTOM, LEFT:RIGHT] > 0).mean() > 0.5
    result = found(tmp_path / "out")
    assert (result.failures, result.other_files, len(result.findings)) == ([], (), 1)


def test_the_members_may_have_any_name_that_ends_in_json(tmp_path: Path) -> None:
    members = [("1.png", photo(1)), ("1.Mask.json", text(labelme())), ("1.json", b'{"n": 1}')]
    assert run(tar_of(tmp_path / "tars" / "a.tar", *members), webdataset=".mask.json").exit_code == 0
    assert content(tmp_path / "out" / "a.tar")["1.json"] == b'{"n": 1}'


def test_verify_tells_outlines_that_changed(tmp_path: Path) -> None:
    members = [("1.png", photo(1)), ("1.json", text(labelme()))]
    tars = tar_of(tmp_path / "tars" / "a.tar", *members)
    run(tars)
    tar_of(tmp_path / "tars" / "a.tar", members[0], ("1.json", text(labelme("cat", ("cat", 31, 40)))))
    result = found(tmp_path / "out")
    (failure,) = result.failures
    assert failure.problem == f"its annotations in {tars} changed since (the object is another)"
    assert [fault.name for fault in result.other_files] == ["a.tar/1.json"]


def by_class(tmp_path: Path) -> Path:
    """Two tars; dog is known to the second alone, and ant is the first of all by its name."""
    tar_of(tmp_path / "tars" / "a.tar", ("1.png", photo(1)), ("1.json", text(labelme("eel", ("cat", 31, 40)))))
    second = text(labelme("dog", ("ant", 31, 46), ("__ignore__", 31, 33)))
    return tar_of(tmp_path / "tars" / "b.tar", ("1.png", photo(2)), ("1.json", second))


def test_classes_have_one_number_in_all_tars_and_shards(tmp_path: Path) -> None:
    tars, settings = by_class(tmp_path), ProtectSettings(workers=1, rule=ObjectRule(by_class=True))
    assert run(tars, settings=settings).exit_code == 0
    header = read_manifest(tmp_path / "out").header
    assert header["settings"]["annotations"]["format"] == "labelme"
    assert {"1", "2", "3", "4"} <= set(header["settings"]["codes"])  # ant, cat, dog, eel
    assert found(tmp_path / "out").failures == []
    for number in range(3):
        run(tars, "shards", settings, shard=Shard(number, 2))
    merge_anywhere(tmp_path / "shards")
    run(tars, "processes", settings, processes=2)
    for path in files_under(tmp_path / "out"):
        for other in ("shards", "processes"):
            assert path.read_bytes() == (tmp_path / other / path.relative_to(tmp_path / "out")).read_bytes(), path
    with pytest.raises(UserError, match="--objects: class 7 is not among the annotations' classes: 1 ant, 2 cat"):
        run(tars, "other", ProtectSettings(rule=ObjectRule((7,))))
    chosen = ProtectSettings(workers=1, rule=ObjectRule((4,)))
    lines = [(entry.status, entry.reason) for entry in run(tars, "eels", chosen).entries]
    assert lines[0][0] == "protected" and lines[1][0] == "skipped" and "class ids 1, 3, 5" in lines[1][1]


def test_coco_tells_things_and_its_numbers_have_one_name(tmp_path: Path) -> None:
    tars = tar_of(tmp_path / "tars" / "a.tar", ("1.png", photo(1)), ("1.json", text(coco())))
    assert run(tars, settings=ProtectSettings(workers=1, rule=ObjectRule("things"))).exit_code == 0
    with pytest.raises(UserError, match="--mask-type index: is for --masks"):
        run(tars, "other", ProtectSettings(mask_type="index"))
    tar_of(tmp_path / "tars" / "b.tar", ("2.png", photo(2)), ("2.json", text(coco("cow"))))
    assert run(tars, "all").exit_code == 0
    with pytest.raises(
        UserError, match=rf"^--objects: goes by class numbers, but .*'cat'.*'cow' in {tars}/b.tar/2.json$"
    ):
        run(tars, "other", ProtectSettings(rule=ObjectRule((3,))))


def test_what_is_wrong_with_one_member_is_the_line_of_its_image(tmp_path: Path) -> None:
    wrong = {
        "2": b'{"shapes": [',
        "3": b'{"n": 1}',
        "4": text(labelme()).replace(b"33", b"34"),
        "5": text(labelme("cat", ("cow", 3000, 4000))),
    }
    members = [
        (f"{name}.{suffix}", data)
        for name, text in wrong.items()
        for suffix, data in (("png", photo(1)), ("json", text))
    ]
    tars = tar_of(tmp_path / "tars" / "a.tar", ("1.png", photo(1)), ("1.json", text(labelme())), *members)
    lines = {entry.input: entry for entry in run(tars).entries}
    assert lines["a.tar/1.png"].status == "protected"
    for name, told in {
        "2": "annotations: 2.json: not usable JSON at byte 12",
        "3": 'annotations: 3.json: has no list "shapes"; is it a LabelMe file?',
        "4": "annotations: 4.json: the image there is 47×34, the image (upright) is 47×33",
        "5": "annotations: 5.json: shapes[1]: a polygon outside the image",
    }.items():
        line = lines[f"a.tar/{name}.png"]
        assert line.status == "failed" and line.reason.startswith(told), line
        assert str(tmp_path) not in line.reason and "unseg-" not in line.reason
    assert list(content(tmp_path / "out" / "a.tar")) == ["1.png", "1.json"]


def several(*images: Any) -> Any:
    made = images[0]
    return {**made, "images": [*made["images"], {**made["images"][0], "id": 6, "file_name": "b.jpg"}]}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"n": 1}, "a.tar/1.json: no outlines of one image in a format that is read"),
        ([1, 2], "a.tar/1.json: not usable JSON at byte 0"),
        ({"images": [], "categories": [], "annotations": [{"segments_info": [], "file_name": "x"}]}, "of one image"),
    ],
)
def test_members_of_another_kind_are_refused_by_name(
    tmp_path: Path, values: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = tar_of(tmp_path / "tars" / "a.tar", ("1.png", photo(1)), ("1.json", text(values)))
    assert cli.main(["protect", str(tars), "--webdataset", "json", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said and str(tars / "a.tar" / "1.json") in said
    assert not (tmp_path / "out").exists()


def test_two_formats_and_several_images_are_told(tmp_path: Path) -> None:
    tars = tar_of(tmp_path / "tars" / "a.tar", ("1.png", photo(1)), ("1.json", text(several(coco()))))
    (line,) = run(tars).entries
    assert line.reason == "annotations: 1.json: speaks of 2 images, not of one"
    tar_of(tmp_path / "tars" / "b.tar", ("2.png", photo(1)), ("2.json", text(via())))
    with pytest.raises(UserError, match=r"of two formats: .*a.tar/1.json \(coco\), .*b.tar/2.json \(via\); keep one"):
        run(tars, "other")


@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("suffix", ["json", "mask.png"])
def test_the_picture_itself_does_not_come_along_in_a_json(
    tmp_path: Path, coding: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LabelMe writes it there as base64: behind all else, at the seam of two blocks."""
    monkeypatch.setattr(tar_files, "BLOCK", 301)
    label = png(np.pad(np.full((16, 23), 255, np.uint8), ((TOP, 13), (LEFT, 17))))
    held = {**labelme(), "imageData": base64.b64encode(photo(1)).decode()}

    def sample(number: int, values: Any) -> list[tuple[str, bytes]]:
        data = json.dumps(values).encode(coding)
        return [(f"{number:02}.png", photo(1)), (f"{number:02}.mask.png", label), (f"{number:02}.json", data)]

    without = {**labelme(), "imageData": None}
    first = [member for number in range(21) for member in sample(number, without)]
    tars = tar_of(tmp_path / "tars" / "a.tar", *first, *sample(21, held))
    lines = run(tars, webdataset=suffix).entries
    assert [entry.status for entry in lines] == ["protected"] * 21 + ["failed"]
    assert lines[21].reason == (
        "its sample is left out, since 21.json in it holds a picture as text that would stay as it is"
    )
    assert list(content(tmp_path / "out" / "a.tar")) == [name for name, _ in first]
    assert found(tmp_path / "out").other_files == ()
    tar_of(tmp_path / "tars" / "a.tar", *sample(0, held))
    with pytest.raises(UserError, match=r"a.tar: 00.json holds a picture as text that would stay as it is; write it"):
        run(tars, "other", webdataset=suffix)


def test_addresses_that_are_the_picture_are_told(tmp_path: Path) -> None:
    (task,) = label_studio()
    task["data"]["image"] = "data:image/png;base64," + base64.b64encode(photo(1)).decode()
    tars = tar_of(tmp_path / "tars" / "a.tar", ("1.png", photo(1)), ("1.json", text([task])))
    with pytest.raises(UserError, match="1.json holds a picture as text"):
        run(tars)
