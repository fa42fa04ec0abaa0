"""SA-1B: one json an image, with run lengths of masks that have no class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from unseg.data.annotations import NO_CLASS, ObjectRule, open_annotations
from unseg.errors import UserError
from unseg.storage.image_limits import ImageError

HEIGHT, WIDTH = 30, 50


def region(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


FIRST, SECOND = region(3, 5, 9, 31), region(7, 20, 28, 40)


def entry(number: int, mask: np.ndarray) -> dict[str, Any]:
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    return {"id": number, "segmentation": {"size": list(mask.shape), "counts": counts}, "stability_score": 0.98}


def content(*masks: np.ndarray, name: str = "sa_1.jpg", **more: Any) -> dict[str, Any]:
    image = {"image_id": 7, "width": WIDTH, "height": HEIGHT, "file_name": name}
    return {"image": image, "annotations": [entry(*item) for item in enumerate(masks)], **more}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Images, and the jsons of two: one has its image's name, the other says it."""
    for name in ("sub/sa_1.jpg", "sub/b.jpg", "c.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    (tmp_path / "jsons" / "sub").mkdir(parents=True)
    write(tmp_path / "jsons" / "sub" / "sa_1.json", content(FIRST, SECOND, name="other.jpg"))
    write(tmp_path / "jsons" / "sub" / "2.json", content(SECOND, name="b.jpg"))
    return tmp_path / "jsons", tmp_path / "images"


def write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))


def test_a_folder_is_recognised_and_read(folders: tuple[Path, Path]) -> None:
    write(folders[0] / "empty.json", content(name="c.jpg"))
    opened = open_annotations(*folders)
    assert opened.format == "sa-1b" and opened.statement.startswith("SA-1B: 3 files in ")
    assert [problem.name for problem in opened.missing] == []
    annotated = opened.read("sub/sa_1.jpg", HEIGHT, WIDTH)
    assert np.array_equal(annotated.object_mask(ObjectRule()), FIRST | SECOND)
    codes = annotated.class_codes(ObjectRule(by_class=True))
    assert np.array_equal(codes, np.where(FIRST | SECOND, 1, NO_CLASS))
    assert np.array_equal(opened.read("sub/b.jpg", HEIGHT, WIDTH).object_mask(ObjectRule()), SECOND)
    with pytest.raises(ImageError, match="no json of SA-1B for it"):
        opened.read("d.jpg", HEIGHT, WIDTH)
    assert not opened.read("c.jpg", HEIGHT, WIDTH).object_mask(ObjectRule()).any()


def test_what_is_wrong_with_one_file_concerns_its_image(folders: tuple[Path, Path]) -> None:
    for name, values, told in (
        ("c", content(FIRST[:, :40], name="c.jpg"), "its run-length mask is of 40×30 pixels"),
        ("c", {**content(FIRST), "image": {"width": 4, "height": HEIGHT}}, "the image there is 4×30"),
        ("c", {**content(FIRST), "image": {"width": "x", "height": HEIGHT}}, "image.width: expected a whole number"),
        ("c", {"annotations": [entry(1, FIRST)]}, 'has no "image" and "annotations"; is it a json of SA-1B'),
        ("c", content(FIRST, annotations=[4]), r"annotations\[0\]: expected an object"),
    ):
        write(folders[0] / f"{name}.json", values)
        opened = open_annotations(*folders, "sa-1b")
        with pytest.raises(ImageError, match=told):
            opened.read(f"{name}.jpg", HEIGHT, WIDTH)
        assert opened.read("sub/b.jpg", HEIGHT, WIDTH).object_mask(ObjectRule()).any()


def test_files_without_an_image_are_told(folders: tuple[Path, Path]) -> None:
    write(folders[0] / "z.json", content(FIRST, name="z.jpg"))
    (problem,) = open_annotations(*folders).missing
    assert (problem.name, problem.reason) == ("z.json", "a json of SA-1B without an image")
    write(folders[0] / "sa_1.json", content(FIRST, name="sub/sa_1.jpg"))
    with pytest.raises(UserError, match=r"sa_1.json: is for sub/sa_1.jpg, as is .*; remove one"):
        open_annotations(*folders)
    for path in folders[0].rglob("*.json"):
        write(path, {"image": 3})
    with pytest.raises(UserError, match="image: expected an object"):
        open_annotations(*folders, "sa-1b")
