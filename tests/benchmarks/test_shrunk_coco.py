"""Images and outlines shrink together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.shrunk_coco import main, shrink_set


def coco_set(folder: Path, **entry: object) -> tuple[Path, Path]:
    """One image, 40 wide and 21 high, whose left quarter is white, and that quarter's outline."""
    pixels = np.zeros((21, 40, 3), np.uint8)
    pixels[:, :10] = 255
    images, annotations = folder / "images", folder / "all.json"
    images.mkdir()
    Image.fromarray(pixels).save(images / "a.png")
    quarter = {"id": 7, "image_id": 3, "category_id": 1, "segmentation": [[0, 0, 10, 0, 10, 21, 0, 21]]}
    quarter |= {"bbox": [0, 0, 10, 21], "area": 210}
    image = {"id": 3, "file_name": "a.png", "width": 40, "height": 21, **entry}
    content = {"images": [image], "annotations": [quarter], "categories": [{"id": 1, "name": "quarter"}]}
    annotations.write_text(json.dumps(content))
    return images, annotations


def test_outlines_stay_on_what_they_outline(tmp_path: Path) -> None:
    assert shrink_set(*coco_set(tmp_path), tmp_path / "out", 8) == 1
    small = np.asarray(Image.open(tmp_path / "out/images/a.png"))
    assert small.shape == (4, 8, 3) and (small[:, :2] == 255).all() and (small[:, 2:] == 0).all()
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    (image,), (quarter,) = content["images"], content["annotations"]
    assert (image["file_name"], image["width"], image["height"]) == ("a.png", 8, 4)
    assert quarter["segmentation"] == [[0, 0, 2, 0, 2, 4, 0, 4]]
    assert quarter["bbox"] == [0, 0, 2, 4] and quarter["area"] == pytest.approx(8)


def test_small_images_stay(tmp_path: Path) -> None:
    shrink_set(*coco_set(tmp_path), tmp_path / "out", 320)
    assert Image.open(tmp_path / "out/images/a.png").size == (40, 21)


def test_an_image_of_another_size_and_a_folder_in_use_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, annotations = coco_set(tmp_path, width=41)
    given = [str(images), str(annotations)]
    assert main([*given, str(tmp_path / "out")]) == 2
    assert "a.png has 40×21 pixels" in capsys.readouterr().err
    assert main([*given, str(images)]) == 2
    assert f"{images} exists; give another folder" in capsys.readouterr().err
    annotations.write_text("[]")
    assert main([*given, str(tmp_path / "new")]) == 2
    assert f"{annotations}: cannot be read (no images" in capsys.readouterr().err
